//! Errors from and to those of std and GLib.

use std::io;

use super::Error;

/// Errors of std that a callback meets while it parses what came. They become [`Error::Other`].
macro_rules! from_foreign {
    ($($error:ty),*) => {
        $(
            impl From<$error> for Error {
                fn from(error: $error) -> Self {
                    Error::Other(error.into())
                }
            }
        )*
    };
}

from_foreign!(
    glib::Error,
    std::net::AddrParseError,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::str::Utf8Error,
    std::string::FromUtf8Error
);

impl From<io::Error> for Error {
    /// Returns the original [`Error`] if the [`io::Error`] was made from one.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(own) => own,
            Err(foreign) => Error::Other(foreign.into()),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}

impl From<Error> for glib::Error {
    fn from(error: Error) -> Self {
        use gio::IOErrorEnum as Code;
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            _ if matches!(error, Error::Proxy { .. }) => Code::ProxyFailed,
            Kind::InvalidInput => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::TimedOut => Code::TimedOut,
            Kind::Interrupted => Code::Cancelled,
            Kind::NotConnected => Code::Closed,
            Kind::ConnectionReset => Code::BrokenPipe,
            Kind::WouldBlock => Code::WouldBlock,
            Kind::InvalidData => Code::InvalidData,
            Kind::Unsupported => Code::NotSupported,
            Kind::ConnectionRefused => Code::ConnectionRefused,
            Kind::HostUnreachable => Code::HostUnreachable,
            Kind::NetworkUnreachable => Code::NetworkUnreachable,
            Kind::AddrInUse => Code::AddressInUse,
            Kind::PermissionDenied => Code::PermissionDenied,
            _ => Code::Failed,
        };
        glib::Error::new(code, &error.to_string())
    }
}
