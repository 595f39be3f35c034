//! Frames, wake-ups, and the time to the first frame.

use super::checks::Test;

pub const ALL: &[Test] = &[];
