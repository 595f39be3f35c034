//! The command line of "Near".
#![forbid(unsafe_code)]

fn main() {}
