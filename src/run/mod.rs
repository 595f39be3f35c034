//! The process: its main loop and signals, the background, the service manager.

mod daemon;
mod hand_over;
mod log_file;
mod mainloop;
mod pid_file;
mod reload;
mod stand_in;
mod systemd;

pub use daemon::{Daemon, bgloop};
pub use hand_over::hand_over;
pub use mainloop::{catch_signals, endloop, fgloop, fgloop_for, iteration, set_drain, set_fairness};
pub use reload::on_reload;
pub use systemd::notify_systemd;
