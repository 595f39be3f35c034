//! The operating system: sockets, file descriptors, accounts, processes, signals, polling. Independent of any main loop. All
//! `unsafe` code of the crate is here and in [`engine`](crate::engine).

mod accounts;
mod calls;
mod changes;
mod descriptor;
mod far_end;
mod getaddrinfo;
mod hangups;
mod inherited;
mod interfaces;
mod messages;
mod options;
mod polling;
mod probe;
mod process;
mod res_query;
mod resident;
#[cfg(test)]
pub(crate) mod script;
mod signals;
mod socket_file;
mod sockets;
mod sockopt;
mod standard;
mod successor;

pub use accounts::Account;
pub(crate) use accounts::peer_ids;
#[cfg(feature = "http")]
pub(crate) use calls::receive_uninit;
pub(crate) use calls::{
    SEND, available, end_sending, now, read, readiness, receive, receive_alone, reset_on_close, send, send_pieces,
    write,
};
pub(crate) use changes::{
    RouteChange, address_is_here, clock_changes, network_state, route_changes, take_clock_change, take_route_change,
    time_suspended,
};
pub(crate) use descriptor::{Backlog, Descriptor, backlog, keep_refusals};
pub(crate) use far_end::Ends;
pub(crate) use getaddrinfo::{Family, ResolveError, host_addresses, service_port};
pub(crate) use hangups::Hangups;
pub(crate) use inherited::{Inherited, KEEPER, OWN_SOCKET, PID_FILE, READINESS, inherited, take_inherited};
pub(crate) use interfaces::{InterfaceEntry, interface_entries, interface_name, interface_number, source_address};
pub(crate) use messages::{Beside, ENDED, send_through};
pub use options::{Credentials, KeepAlive};
pub(crate) use options::{Tuning, keep_alive, set_keep_alive, set_tos, set_user_timeout, tos, user_timeout};
pub(crate) use polling::{INTERRUPTED, poll_for, wait_for, wait_for_either};
pub(crate) use probe::Probe;
pub(crate) use process::{Forked, Origin, exit_now, fork, other_threads};
pub(crate) use res_query::srv_answer;
pub(crate) use signals::{Interrupts, interrupts_here, without_sigpipe};
pub(crate) use socket_file::{FileSettings, Making, SocketFile, bind_abstract, bind_path};
pub(crate) use sockets::{
    accept, bind, connect, datagram_socket, is_missing_family, listen, local_address, message_socket, peer_address,
    send_to, socket, socket_pair, stream_socket,
};
pub(crate) use sockopt::{bind_to_interface, bound_interface, pass_descriptors, passes_descriptors, peer_credentials};
pub(crate) use standard::{above_standard, counter, duplicate, pipe, prepare_process};
pub(crate) use successor::start_successor;
