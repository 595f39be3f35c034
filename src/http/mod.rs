//! HTTP by hyper over this crate's own connections. Uses public names of the floors below only.

mod io;
