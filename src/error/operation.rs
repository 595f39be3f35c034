//! The operations that errors name.

use std::fmt;

/// Declares [`Operation`], with both phrasings of each variant.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $doing:literal, $failed:literal;)*) => {
        /// The operation during which an [`Error`](crate::Error) occurred.
        ///
        /// Displayed as it reads before an address, as in "connecting to".
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// Returns the phrase for "timed out while … address".
            fn doing(self) -> &'static str {
                match self {
                    $(Operation::$name => $doing,)*
                }
            }

            /// Returns the phrase that begins a message about a failure.
            pub(super) fn failed(self) -> &'static str {
                match self {
                    $(Operation::$name => $failed,)*
                }
            }
        }
    };
}

operations! {
    /// Accepting a client.
    Accept: "waiting for a client of", "cannot accept a client of";
    /// Resolving a user or group name.
    Account: "looking up the account", "cannot look up the account";
    /// Waiting for a client that has sent nothing at all to begin the TLS handshake.
    AwaitedHandshake: "waiting for a TLS handshake (a client without TLS never begins one) with",
        "cannot complete the TLS handshake with";
    /// Forking into the background.
    Background: "forking into", "cannot fork into";
    /// Browsing for services.
    Browse: "browsing for", "cannot browse for";
    /// Connecting.
    Connect: "connecting to", "cannot connect to";
    /// Handing sockets over to a successor.
    HandOver: "handing over to", "cannot hand over to";
    /// Performing the TLS handshake.
    Handshake: "performing the TLS handshake with", "cannot complete the TLS handshake with";
    /// Waiting for data of a silent peer (receive timeout).
    Incoming: "waiting to receive anything from", "cannot wait to receive anything from";
    /// Listing network interfaces.
    Interfaces: "listing", "cannot list";
    /// Joining a multicast group.
    Join: "joining", "cannot join";
    /// Leaving a multicast group.
    Leave: "leaving", "cannot leave";
    /// Listening, or binding a UDP socket.
    Listen: "listening on", "cannot listen on";
    /// Loading certificates.
    LoadCertificates: "loading certificates for", "cannot load certificates for";
    /// Locking a pid file.
    LockPidFile: "locking the pid file", "cannot lock the pid file";
    /// Resolving a host name.
    Lookup: "resolving", "cannot resolve";
    /// Notifying the service manager.
    Notify: "notifying", "cannot notify";
    /// Opening a log file.
    OpenLogFile: "opening the log file", "cannot open the log file";
    /// Reading or changing a socket option.
    Option: "accessing an option of", "cannot access an option of";
    /// Waiting for a proxy to connect.
    Proxy: "connecting through a proxy to", "cannot connect through a proxy to";
    /// Asking for the public address.
    PublicAddress: "asking for the public address at", "cannot get the public address from";
    /// Reading from a connection.
    Read: "reading from", "cannot read from";
    /// Reading a file.
    ReadFile: "reading the file", "cannot read the file";
    /// Receiving a datagram.
    Receive: "receiving from", "cannot receive from";
    /// Waiting for the end of a request and its response.
    Request: "waiting for the end of a request to", "cannot make a request to";
    /// Sending.
    Send: "sending to", "cannot send to";
    /// Setting up what everything else uses.
    SetUp: "setting up", "cannot set up";
    /// Handling a signal.
    Signal: "handling", "cannot handle";
    /// Starting a thread.
    Start: "starting", "cannot start";
    /// Transferring a file.
    Transfer: "exchanging files with", "cannot exchange files with";
    /// Waiting for traffic in either direction (idle timeout).
    Traffic: "waiting for traffic with", "cannot wait for traffic with";
    /// Waiting for the answer to a TLS handshake of a peer that has sent nothing at all.
    UnansweredHandshake: "waiting for a TLS handshake (a server without TLS never answers) with",
        "cannot complete the TLS handshake with";
    /// Waiting for data, a future or a task.
    Wait: "waiting for", "cannot wait for";
    /// Adding a file descriptor to the main loop.
    Watch: "watching", "cannot watch";
    /// Making a socket from a file descriptor.
    Wrap: "wrapping", "cannot wrap";
    /// Writing a file.
    WriteFile: "writing the file", "cannot write the file";
    /// Writing a pid file.
    WritePidFile: "writing the pid file", "cannot write the pid file";
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.doing())
    }
}
