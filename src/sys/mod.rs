//! The operating system: descriptors, socket options, accounts, processes, signals, polling. Knows no main loop. Here and in
//! [`engine`](crate::engine) is all the `unsafe` code of the crate.

mod accounts;
mod descriptor;
mod hangups;
mod inherited;
mod options;
mod polling;
mod process;
mod signals;
mod sockets;
mod sockopt;
mod successor;

pub(crate) use accounts::{group_id, peer_ids, user_id};
pub(crate) use descriptor::{Backlog, Descriptor, backlog, keep_refusals};
pub(crate) use hangups::Hangups;
pub(crate) use inherited::{Inherited, OWN_SOCKET, PID_FILE, READINESS, inherited, take_inherited};
pub use options::{Credentials, KeepAlive};
pub(crate) use options::{Tuning, keep_alive, set_keep_alive, set_tos, tos};
pub(crate) use polling::{INTERRUPTED, poll_for, wait_for};
pub(crate) use process::{Forked, Origin, exit_now, fork, other_threads};
pub(crate) use signals::{Interrupts, interrupts_here, without_sigpipe};
pub(crate) use sockets::{datagram_socket, is_missing_family, stream_socket};
pub(crate) use sockopt::{bind_to_interface, pass_descriptors, passes_descriptors, peer_credentials};
pub(crate) use successor::start_successor;
