//! The statuses that an HTTP client reports for errors.

use super::Error;

impl Error {
    /// Returns the status that an HTTP client reports for this error: that of the response for [`Error::Status`], 1000 if the
    /// response was invalid, and 1001 if there was none. The numbers are those of SFML's `INVALID_RESPONSE` and
    /// `CONNECTION_FAILED`.
    ///
    /// # Example
    /// ```
    /// let error = network::http::get("http://127.0.0.1:1/").unwrap_err();
    /// assert_eq!(error.http_code(), 1001);
    /// ```
    pub fn http_code(&self) -> u16 {
        match self {
            Error::Status { status, .. } => status.as_u16(),
            Error::Http { .. } | Error::LimitExceeded { .. } | Error::LineTooLong { .. } => 1000,
            _ => 1001,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_numbers_of_sfml() {
        let status = Error::Status { status: ::http::StatusCode::NOT_FOUND, url: "x".into(), body: "".into() };
        let invalid = Error::Http { peer: "x".into(), problem: "y".into() };
        let closed = Error::Closed { peer: "x".into() };
        assert_eq!([status, invalid, closed].map(|error| error.http_code()), [404, 1000, 1001]);
    }
}
