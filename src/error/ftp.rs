//! Replies of FTP servers, which errors carry.

use std::fmt;
use std::io;

use super::Error;

/// The status of an FTP reply: three digits of a server (RFC 959, section 4.2), or one of the numbers from 1000 on, which
/// stand for faults that no server tells.
///
/// Numbers without a name of their own, as 229, are kept as they are.
///
/// # Example
/// ```
/// use network::ftp::Status;
///
/// assert_eq!(Status::FILE_UNAVAILABLE, Status(550));
/// assert_eq!(Status(550).to_string(), "550 FILE_UNAVAILABLE");
/// assert_eq!(Status(229).to_string(), "229");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u16);

/// Declares the statuses that have a name.
macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($number);)*

            /// Returns the name of the constant, as `FILE_UNAVAILABLE`. `None` for numbers that have none.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// A restart marker.
    RESTART_MARKER_REPLY = 110;
    /// The service will be ready in some minutes.
    SERVICE_READY_SOON = 120;
    /// The data connection is open already; the transfer begins.
    DATA_CONNECTION_ALREADY_OPENED = 125;
    /// The data connection is about to be opened.
    OPENING_DATA_CONNECTION = 150;
    /// Done.
    OK = 200;
    /// The command is not needed at this server.
    POINTLESS_COMMAND = 202;
    /// The status of the system, or its features.
    SYSTEM_STATUS = 211;
    /// The status of a directory.
    DIRECTORY_STATUS = 212;
    /// The status of a file: its size, or the time of its last change.
    FILE_STATUS = 213;
    /// A help text.
    HELP_MESSAGE = 214;
    /// The type of the system.
    SYSTEM_TYPE = 215;
    /// Ready for a new user.
    SERVICE_READY = 220;
    /// The server closes the control connection.
    CLOSING_CONNECTION = 221;
    /// The data connection is open, and no transfer is in progress.
    DATA_CONNECTION_OPENED = 225;
    /// The transfer is complete; the data connection closes.
    CLOSING_DATA_CONNECTION = 226;
    /// Passive mode, with the address to connect to.
    ENTERING_PASSIVE_MODE = 227;
    /// Logged in.
    LOGGED_IN = 230;
    /// The action on a file is complete.
    FILE_ACTION_OK = 250;
    /// The name of a directory.
    DIRECTORY_OK = 257;
    /// The user name is accepted; a password is needed.
    NEED_PASSWORD = 331;
    /// An account is needed to log in.
    NEED_ACCOUNT_TO_LOG_IN = 332;
    /// The server waits for the second command of a pair.
    NEED_INFORMATION = 350;
    /// The service is not available; the server closes the control connection.
    SERVICE_UNAVAILABLE = 421;
    /// The data connection cannot be opened.
    DATA_CONNECTION_UNAVAILABLE = 425;
    /// The transfer was aborted.
    TRANSFER_ABORTED = 426;
    /// The action was not taken: the file is busy.
    FILE_ACTION_ABORTED = 450;
    /// A fault of the server.
    LOCAL_ERROR = 451;
    /// The server's disk is full.
    INSUFFICIENT_STORAGE_SPACE = 452;
    /// The command is unknown.
    COMMAND_UNKNOWN = 500;
    /// The arguments are invalid.
    PARAMETERS_UNKNOWN = 501;
    /// The command is not implemented.
    COMMAND_NOT_IMPLEMENTED = 502;
    /// The command cannot follow the one before.
    BAD_COMMAND_SEQUENCE = 503;
    /// The command is not implemented for that argument.
    PARAMETER_NOT_IMPLEMENTED = 504;
    /// Not logged in.
    NOT_LOGGED_IN = 530;
    /// An account is needed to store files.
    NEED_ACCOUNT_TO_STORE = 532;
    /// The file does not exist, or access is denied.
    FILE_UNAVAILABLE = 550;
    /// The page type is unknown.
    PAGE_TYPE_UNKNOWN = 551;
    /// More than the user may store.
    NOT_ENOUGH_MEMORY = 552;
    /// The name is not allowed.
    FILENAME_NOT_ALLOWED = 553;
    /// The reply is not one of FTP. Not sent by servers.
    INVALID_RESPONSE = 1000;
    /// No connection could be established. Not sent by servers.
    CONNECTION_FAILED = 1001;
    /// The connection has ended. Not sent by servers.
    CONNECTION_CLOSED = 1002;
    /// The local file cannot be read or written. Not sent by servers.
    INVALID_FILE = 1003;
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => self.0.fmt(f),
        }
    }
}

/// A reply of an FTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status.
    pub status: Status,
    /// The text, without the status; the lines of a longer one are separated by `\n`. Bytes that are no UTF-8 are replaced
    /// with U+FFFD.
    pub message: String,
}

impl Response {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Response { status, message: message.into() }
    }

    /// Returns whether the server may do it later.
    pub(super) fn is_temporary(&self) -> bool {
        (400..500).contains(&self.status.0)
    }

    pub(super) fn kind(&self) -> io::ErrorKind {
        match self.status {
            Status::NOT_LOGGED_IN | Status::NEED_ACCOUNT_TO_LOG_IN | Status::NEED_ACCOUNT_TO_STORE => {
                io::ErrorKind::PermissionDenied
            }
            Status::FILE_UNAVAILABLE => io::ErrorKind::NotFound,
            Status::COMMAND_NOT_IMPLEMENTED | Status::PARAMETER_NOT_IMPLEMENTED => io::ErrorKind::Unsupported,
            Status::INSUFFICIENT_STORAGE_SPACE | Status::NOT_ENOUGH_MEMORY => io::ErrorKind::StorageFull,
            Status::INVALID_RESPONSE => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        }
    }

    /// Returns whether the server does what was asked: the status is below 400.
    pub fn ok(&self) -> bool {
        self.status.0 < 400
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            // No server says these numbers.
            Status(1000..) => super::Printable(&self.message).fmt(f),
            Status(number) => write!(f, "{number} {}", super::Printable(&self.message)),
        }
    }
}

/// Shows an error of the server, or of the local file, with which the server has nothing to do.
pub(super) fn shown(peer: &str, response: &Response) -> String {
    match response.status {
        Status::INVALID_FILE => response.to_string(),
        _ => format!("{peer}: {response}"),
    }
}

impl Error {
    /// Returns the status that an FTP client reports for this error: that of the server's reply, or one of the numbers from 1000
    /// on.
    ///
    /// # Example
    /// ```
    /// use network::ftp::{Client, Status};
    ///
    /// let error = Client::connect("ftp://127.0.0.1:1").unwrap_err();
    /// assert_eq!(error.ftp_status(), Status::CONNECTION_FAILED);
    /// ```
    pub fn ftp_status(&self) -> Status {
        match self {
            Error::Ftp { response, .. } => response.status,
            Error::LineTooLong { .. } => Status::INVALID_RESPONSE,
            Error::Closed { .. } | Error::Reset { .. } | Error::Truncated { .. } => Status::CONNECTION_CLOSED,
            _ => Status::CONNECTION_FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_printed_without_control_characters() {
        let response = Response::new(Status::FILE_UNAVAILABLE, "no\x1b[2J such\nfile");
        assert!(!response.to_string().contains('\x1b'), "{response}");
        assert!(response.to_string().starts_with("550 no"));
        assert!(!response.ok() && Response::new(Status(350), "").ok());
    }

    #[test]
    fn numbers_that_no_server_says_are_not_printed() {
        let error = |status, text: &str| {
            let response = Box::new(Response::new(status, text));
            Error::Ftp { peer: "h:21".into(), response }.to_string()
        };
        assert_eq!(error(Status::FILE_UNAVAILABLE, "no"), "h:21: 550 no");
        assert_eq!(error(Status::INVALID_RESPONSE, "no port in \"x\""), "h:21: no port in \"x\"");
        assert_eq!(error(Status::INVALID_FILE, "cannot read x: gone"), "cannot read x: gone");
    }

    #[test]
    fn numbers_without_a_name_are_kept() {
        assert_eq!(Status(229).to_string(), "229");
        assert_eq!(Status::INVALID_FILE.to_string(), "1003 INVALID_FILE");
    }
}
