//! The addresses of servers that take URLs of their own schemes, and the paths of unix sockets.

use super::{Address, Scheme, Target};
use crate::error::{Error, Result};

impl Address {
    /// Reads what a program has given as the address of such a server. `wanted` says, for the text of another address, what to
    /// write instead: that is less than other servers take.
    ///
    /// # Errors
    /// [`Error::Address`]. Where one of these was meant, it says what is wrong with that.
    pub(crate) fn of_schemes<A>(address: A, schemes: &[&str], wanted: fn(&str) -> &'static str) -> Result<Self>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let has_scheme = |text: &str| {
            let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
            schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known))
        };
        let text = match address.try_into().map_err(Error::from) {
            Ok(address) => {
                let text = address.to_string();
                if matches!(address.target(), Target::Unix(_)) || has_scheme(&text) {
                    return Ok(address);
                }
                text
            }
            Err(Error::Address { address, problem }) => {
                if has_scheme(&address) || is_path(&address) {
                    return Err(Error::Address { address, problem });
                }
                address
            }
            Err(error) => return Err(error),
        };
        let problem = wanted(&text).into();
        Err(Error::Address { address: text, problem })
    }

    /// Returns whether it is a URL that asks for TLS.
    pub(crate) fn is_tls_url(&self) -> bool {
        matches!(self.target(), Target::Inet { scheme: Some(Scheme::Tls | Scheme::StartTls(_)), .. })
    }
}

/// Returns whether a text is meant as a unix socket.
fn is_path(text: &str) -> bool {
    text.starts_with('@') || text.contains('/') && !text.contains("://")
}
