//! The operations of the client, for either manner of waiting. Each takes its turn.

use std::rc::Rc;
use std::time::SystemTime;

use gio::prelude::*;

use super::data::Start;
use super::listing::{Entry, Name, fact_line, list_line};
use super::manner::Manner;
use super::session::Session;
use super::transfer::InUse;
use super::{Mode, words};
use crate::engine::in_background;
use crate::error::ftp::{Response, Status};
use crate::error::{Error, Operation, Result};

/// The reply to a request for the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryResponse {
    /// The reply.
    pub response: Response,
    /// The directory.
    pub directory: Name,
}

/// The reply to a request for the names in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListingResponse {
    /// The reply. Many servers refuse to list an empty directory, and so does this one then, see
    /// [`directory_listing`](super::Client::directory_listing).
    pub response: Response,
    /// The names, as the server writes them: of some servers with the directory.
    pub names: Vec<Name>,
}

/// A future of an operation.
macro_rules! operation {
    ($name:ident($session:ident, $manner:ident $(, $argument:ident)*) -> $output:ty $body:block) => {
        pub(super) async fn $name(self: Rc<Self>, $manner: Manner $(, $argument: Vec<u8>)*) -> Result<$output> {
            let $session = &*self;
            let _turn = $session.turn($manner).await?;
            $body
        }
    };
}

impl Session {
    operation!(login(session, manner, user, password) -> Response {
        // Both before the first is sent.
        words::command("USER", Some(&user))?;
        words::command("PASS", Some(&password))?;
        session.log_in(manner, &user, &password).await
    });

    operation!(login_anonymous(session, manner) -> Response {
        session.log_in(manner, b"anonymous", b"anonymous@").await
    });

    operation!(disconnect(session, manner) -> Response {
        let reply = session.ask(manner, "QUIT", None).await;
        session.control.close();
        Ok(session.accepted(reply?)?.response)
    });

    operation!(keep_alive(session, manner) -> Response {
        Ok(session.command(manner, "NOOP", None).await?.response)
    });

    operation!(working_directory(session, manner) -> DirectoryResponse {
        let reply = session.command(manner, "PWD", None).await?;
        match words::quoted(&reply.text) {
            Some(directory) => Ok(DirectoryResponse { response: reply.response, directory: Name(directory) }),
            None => Err(session.invalid(format!("no directory in quotes in {:?}", reply.response.message))),
        }
    });

    operation!(change_directory(session, manner, path) -> Response {
        Ok(session.command(manner, "CWD", Some(&path)).await?.response)
    });

    operation!(parent_directory(session, manner) -> Response {
        Ok(session.command(manner, "CDUP", None).await?.response)
    });

    operation!(create_directory(session, manner, path) -> Response {
        Ok(session.command(manner, "MKD", Some(&path)).await?.response)
    });

    operation!(delete_directory(session, manner, path) -> Response {
        Ok(session.command(manner, "RMD", Some(&path)).await?.response)
    });

    operation!(delete_file(session, manner, path) -> Response {
        Ok(session.command(manner, "DELE", Some(&path)).await?.response)
    });

    operation!(rename_file(session, manner, from, to) -> Response {
        words::command("RNTO", Some(&to))?;
        session.command(manner, "RNFR", Some(&from)).await?;
        Ok(session.command(manner, "RNTO", Some(&to)).await?.response)
    });

    operation!(size(session, manner, path) -> u64 {
        session.set_mode(manner, Mode::Binary).await?;
        let reply = session.command(manner, "SIZE", Some(&path)).await?;
        words::size(&reply.text).ok_or_else(|| session.invalid(format!("no size in {:?}", reply.response.message)))
    });

    operation!(modified(session, manner, path) -> SystemTime {
        let reply = session.command(manner, "MDTM", Some(&path)).await?;
        words::time(&reply.text).ok_or_else(|| session.invalid(format!("no time in {:?}", reply.response.message)))
    });

    operation!(feature_lines(session, manner) -> Vec<String> {
        session.features(manner).await
    });

    operation!(directory_listing(session, manner, path) -> ListingResponse {
        let listed = session.listing(manner, "NLST", &path).await;
        let (text, response) = match listed {
            Err(Error::Ftp { response, .. }) if response.status == Status::FILE_UNAVAILABLE => (Vec::new(), *response),
            other => other?,
        };
        let names = lines(&text).map(|line| Name(line.to_vec())).collect();
        Ok(ListingResponse { response, names })
    });

    operation!(list(session, manner, path) -> Vec<Entry> {
        let now = SystemTime::now();
        if session.has_feature(manner, "MLST").await? {
            let (text, _) = session.listing(manner, "MLSD", &path).await?;
            return Ok(lines(&text).filter_map(fact_line).collect());
        }
        let (text, _) = session.listing(manner, "LIST", &path).await?;
        Ok(lines(&text).filter_map(|line| list_line(line, now)).collect())
    });

    /// Any command, with any reply.
    pub(super) async fn any_command(
        self: Rc<Self>,
        manner: Manner,
        name: String,
        argument: Option<Vec<u8>>,
    ) -> Result<Response> {
        let _turn = self.turn(manner).await?;
        // It may change what is known of the server.
        self.forget();
        Ok(self.ask(manner, &name, argument.as_deref()).await?.response)
    }

    /// Receives all of a listing.
    async fn listing(&self, manner: Manner, name: &str, path: &[u8]) -> Result<(Vec<u8>, Response)> {
        // Servers take what begins with a hyphen for options.
        let path = if path.first() == Some(&b'-') { [b"./", path].concat() } else { path.to_vec() };
        let argument = (!path.is_empty()).then_some(path.as_slice());
        words::command(name, argument)?;
        self.set_mode(manner, Mode::Ascii).await?;
        let _in_use = InUse(self);
        let data = self.start_transfer(manner, Start { name, argument, offset: 0 }).await?;
        let mut text = Vec::new();
        let mut buffer = self.take_buffer();
        while let Some(count) = self.receive(manner, &data, &mut buffer, false).await? {
            let piece = &buffer[..count];
            let limit = self.settings.listing_limit;
            if text.len() + piece.len() > limit {
                self.end_transfer(manner).await?;
                return Err(Error::LimitExceeded { peer: self.peer_text(), limit });
            }
            text.extend_from_slice(piece);
        }
        self.return_buffer(buffer);
        let response = self.finish_transfer(manner, &data).await?;
        Ok((text, response))
    }

    /// Drives an operation in the background.
    pub(super) fn call_back<T: 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + 'static,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<T>) + 'static,
    ) {
        let cancelled = Error::Cancelled { operation: Operation::Transfer, address: self.peer_text() };
        in_background("ftp::Client", operation, cancellable, cancelled, callback);
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty())
}
