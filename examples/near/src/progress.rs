//! How far a transfer is.

use std::time::{Duration, Instant};

use crate::core::Core;

/// Between two words about the progress.
const PACE: Duration = Duration::from_millis(250);

/// Bytes and time, told now and then.
pub struct Progress {
    began: Instant,
    told: Instant,
    done: u64,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { began: Instant::now(), told: Instant::now(), done: 0 }
    }

    pub fn add(&mut self, core: &Core, id: u64, bytes: usize) {
        self.done += bytes as u64;
        if self.told.elapsed() >= PACE {
            self.told = Instant::now();
            self.last(core, id);
        }
    }

    pub fn last(&self, core: &Core, id: u64) {
        let speed = (self.done as f64 / self.began.elapsed().as_secs_f64().max(0.001)) as u64;
        core.update(id, |transfer| (transfer.done, transfer.speed) = (self.done, speed));
    }
}
