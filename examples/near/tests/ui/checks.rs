//! What each scene must say, and what its controls do.

pub type Test = (&'static str, fn(&adw::Application));

pub const ALL: &[Test] = &[];
