//! The process: its main loop and signals, daemonizing, successors, the service manager.

mod block_on;
mod daemon;
mod hand_over;
mod log_file;
mod mainloop;
mod pid_file;
mod reconnect;
mod reload;
mod stand_in;
mod systemd;

pub use block_on::block_on;
pub use daemon::{Daemon, bgloop};
pub use hand_over::hand_over_async;
pub use mainloop::{endloop, fgloop, fgloop_for, iteration, set_fairness, set_grace_period, set_signal_handling};
pub use reload::on_reload;
pub use systemd::notify_systemd;
