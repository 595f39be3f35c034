//! A session: the control connection, the order of commands and replies on it, and what the server can do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::manner::Manner;
use super::reply::{Malformed, Replies, Reply};
use super::turns::{Turn, Turns};
use super::{Mode, words};
use crate::address::Address;
use crate::conn::Socket;
use crate::error::ftp::{Response, Status};
use crate::error::{Error, Result};
use crate::socket::Proxy;
use crate::tls::{ClientTls, PeerName};

/// The most that is read at once of a data connection, or of a local file.
const PIECE: usize = 64 << 10;

/// The settings of a session.
pub(super) struct Settings {
    /// `None`: plaintext.
    pub(super) tls: Option<ClientTls>,
    /// TLS begins before the greeting.
    pub(super) is_implicit: bool,
    pub(super) proxy: Proxy,
    pub(super) is_active: bool,
    pub(super) account: Option<Vec<u8>>,
    pub(super) connect_timeout: Duration,
    pub(super) reply_timeout: Option<Duration>,
    pub(super) data_timeout: Option<Duration>,
    pub(super) abort_timeout: Duration,
    pub(super) accept_timeout: Duration,
    pub(super) listing_limit: usize,
}

/// The replies that are still to come for an operation that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// The last reply to a command.
    Reply,
    /// All that a transfer and its end bring.
    Transfer,
}

/// A session, from its greeting on.
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) address: Address,
    pub(super) control: Socket,
    /// As TLS verifies it, on control and data connections alike.
    pub(super) peer: Option<PeerName>,
    turns: Rc<Turns>,
    replies: RefCell<Replies>,
    left: Cell<Left>,
    greeting: RefCell<Option<Response>>,
    /// `None` until the server was asked.
    features: RefCell<Option<Vec<String>>>,
    mode: Cell<Option<Mode>>,
    /// The server knows no EPSV.
    pub(super) is_epsv_refused: Cell<bool>,
    /// The buffer of transfers, between two of them.
    buffer: Cell<Vec<u8>>,
    /// The data connection of the transfer that goes on.
    pub(super) data: RefCell<Option<Socket>>,
    /// The transfer that goes on is to end.
    pub(super) is_aborted: Cell<bool>,
}

impl Session {
    pub(super) fn new(settings: Settings, address: Address, control: Socket) -> Rc<Self> {
        let peer = control.conn().handshaking().named_peer();
        Rc::new(Session {
            settings,
            address,
            control,
            peer,
            turns: Rc::default(),
            replies: RefCell::default(),
            left: Cell::new(Left::Nothing),
            greeting: RefCell::new(None),
            features: RefCell::new(None),
            mode: Cell::new(None),
            is_epsv_refused: Cell::new(false),
            buffer: Cell::default(),
            data: RefCell::new(None),
            is_aborted: Cell::new(false),
        })
    }

    pub(super) fn peer_text(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn error(&self, response: Response) -> Error {
        Error::Ftp { peer: self.peer_text(), response: Box::new(response) }
    }

    pub(super) fn invalid(&self, problem: impl Into<String>) -> Error {
        self.error(Response::new(Status::INVALID_RESPONSE, problem))
    }

    pub(super) fn greeting(&self) -> Response {
        self.greeting.borrow().clone().unwrap_or_else(|| Response::new(Status::INVALID_RESPONSE, ""))
    }

    /// Takes the buffer of transfers.
    pub(super) fn take_buffer(&self) -> Vec<u8> {
        let mut buffer = self.buffer.take();
        buffer.resize(PIECE, 0);
        buffer
    }

    /// Returns the buffer for the next transfer.
    pub(super) fn return_buffer(&self, buffer: Vec<u8>) {
        self.buffer.set(buffer);
    }

    // ---- the turn ----

    /// Waits until it is this operation's turn, and until nothing is left of the ones before.
    pub(super) async fn turn(&self, manner: Manner) -> Result<Turn> {
        let turn = match manner {
            Manner::Polls => self.turns.wait().await,
            Manner::Blocks => self.turns.take().ok_or_else(|| {
                Error::Unsupported(format!(
                    "another operation of the FTP session with {} is in progress on the main loop; await it first",
                    self.address
                ))
            })?,
        };
        match self.left.get() {
            Left::Nothing => {}
            Left::Reply => {
                self.last_reply(manner).await?;
            }
            Left::Transfer => self.end_transfer(manner).await?,
        }
        Ok(turn)
    }

    /// Ends a transfer that goes on: the replies that come for it are read up to the one to a command of another kind, so that
    /// none is taken for the reply to what follows.
    pub(super) async fn end_transfer(&self, manner: Manner) -> Result {
        self.left.set(Left::Transfer);
        self.drop_data();
        let limit = Some(self.settings.abort_timeout);
        let ended = async {
            self.write("ABOR", None)?;
            self.reply(manner, limit).await?;
            self.write("NOOP", None)?;
            while self.reply(manner, limit).await?.status() != Status::OK {}
            Ok(())
        };
        // One that never gets there is of no more use.
        let ended = ended.await.inspect_err(|_| drop(self.control.close()));
        self.left.set(Left::Nothing);
        self.is_aborted.set(false);
        ended
    }

    /// Closes the data connection at once, if there is one.
    pub(super) fn drop_data(&self) {
        let Some(data) = self.data.take() else { return };
        if data.is_tls() {
            // What has come may be the tickets by which the next ones resume the session, for which this one has used up its own.
            data.set_timeout(Duration::ZERO);
            let _ = data.recv(1);
        }
        data.abort();
    }

    /// Notes that the replies of a transfer are to come.
    pub(super) fn begin_transfer(&self) {
        self.left.set(Left::Transfer);
    }

    /// Notes that the last reply of a transfer has come, or that it never began.
    pub(super) fn transfer_ended(&self) {
        self.left.set(Left::Nothing);
    }

    // ---- commands and replies ----

    /// Queues a command.
    pub(super) fn write(&self, name: &str, argument: Option<&[u8]>) -> Result {
        let mut line = words::command(name, argument)?;
        line.extend_from_slice(b"\r\n");
        self.control.send(line)
    }

    /// Receives the next reply.
    pub(super) async fn reply(&self, manner: Manner, limit: Option<Duration>) -> Result<Reply> {
        loop {
            let line = manner.line(&self.control, limit).await?;
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            let taken = self.replies.borrow_mut().line(line);
            match taken {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    if reply.status() == Status::SERVICE_UNAVAILABLE {
                        self.control.close();
                        return Err(self.error(reply.response));
                    }
                    return Ok(reply);
                }
                Err(Malformed(problem)) => {
                    // Whatever follows means nothing.
                    self.control.abort();
                    return Err(self.invalid(problem));
                }
            }
        }
    }

    /// Receives replies up to the last one to a command.
    pub(super) async fn last_reply(&self, manner: Manner) -> Result<Reply> {
        loop {
            let reply = self.reply(manner, self.settings.reply_timeout).await?;
            if !reply.is_preliminary() {
                self.left.set(Left::Nothing);
                return Ok(reply);
            }
        }
    }

    /// Sends a command and receives its reply, whatever that says.
    pub(super) async fn ask(&self, manner: Manner, name: &str, argument: Option<&[u8]>) -> Result<Reply> {
        self.write(name, argument)?;
        self.left.set(Left::Reply);
        self.last_reply(manner).await
    }

    /// Sends a command and receives its reply. Fails if the server refuses.
    pub(super) async fn command(&self, manner: Manner, name: &str, argument: Option<&[u8]>) -> Result<Reply> {
        let reply = self.ask(manner, name, argument).await?;
        self.accepted(reply)
    }

    /// Fails if the server has refused.
    pub(super) fn accepted(&self, reply: Reply) -> Result<Reply> {
        if reply.response.ok() { Ok(reply) } else { Err(self.error(reply.response)) }
    }

    // ---- the beginning ----

    /// Receives the greeting, and secures the connection.
    pub(super) async fn begin(&self, manner: Manner) -> Result {
        if self.settings.is_implicit {
            self.start_tls(manner).await?;
        }
        self.left.set(Left::Reply);
        let greeting = self.last_reply(manner).await?;
        if greeting.status() != Status::SERVICE_READY {
            return Err(self.error(greeting.response));
        }
        self.greeting.replace(Some(greeting.response));
        if self.settings.tls.is_some() && !self.settings.is_implicit {
            self.secure(manner).await?;
        }
        Ok(())
    }

    async fn secure(&self, manner: Manner) -> Result {
        let reply = self.ask(manner, "AUTH", Some(b"TLS")).await?;
        if reply.status() != Status(234) {
            return Err(Error::Unsupported(format!(
                "the FTP server {} does not offer TLS: its reply to AUTH TLS is \"{}\"; connect with ftps:// if it expects \
                 TLS from the beginning, or with ftp:// to use plaintext",
                self.address, reply.response
            )));
        }
        self.start_tls(manner).await
    }

    async fn start_tls(&self, manner: Manner) -> Result {
        let Some(tls) = &self.settings.tls else { return Ok(()) };
        manner.start_tls(&self.control, tls.clone().into()).await
    }

    /// Logs in, and has data connections protected as this one is.
    pub(super) async fn log_in(&self, manner: Manner, user: &[u8], password: &[u8]) -> Result<Response> {
        self.features.replace(None);
        let mut reply = self.command(manner, "USER", Some(user)).await?;
        if reply.status() == Status::NEED_PASSWORD {
            reply = self.command(manner, "PASS", Some(password)).await?;
        }
        if reply.status() == Status::NEED_ACCOUNT_TO_LOG_IN {
            let Some(account) = &self.settings.account else { return Err(self.error(reply.response)) };
            reply = self.command(manner, "ACCT", Some(account)).await?;
        }
        if !matches!(reply.status(), Status::LOGGED_IN | Status::POINTLESS_COMMAND) {
            return Err(self.error(reply.response));
        }
        if self.settings.tls.is_some() {
            self.protect(manner).await?;
        }
        if self.has_feature(manner, "UTF8").await? {
            // Some have it on already, and refuse.
            self.ask(manner, "OPTS", Some(b"UTF8 ON")).await?;
        }
        Ok(reply.response)
    }

    async fn protect(&self, manner: Manner) -> Result {
        for (name, argument) in [("PBSZ", b"0"), ("PROT", b"P")] {
            let reply = self.ask(manner, name, Some(argument)).await?;
            if reply.status() != Status::OK {
                // Without it, files would be sent in plaintext.
                self.control.close();
                return Err(self.error(reply.response));
            }
        }
        Ok(())
    }

    // ---- what the server can do ----

    /// Forgets what is known of the server.
    pub(super) fn forget(&self) {
        self.features.replace(None);
        self.mode.set(None);
    }

    /// Returns the lines of the reply to FEAT, asked for once.
    pub(super) async fn features(&self, manner: Manner) -> Result<Vec<String>> {
        if let Some(known) = self.features.borrow().clone() {
            return Ok(known);
        }
        let reply = self.ask(manner, "FEAT", None).await?;
        let features = if reply.response.ok() { words::features(reply.lines()) } else { Vec::new() };
        self.features.replace(Some(features.clone()));
        Ok(features)
    }

    /// Returns whether the server has a feature, by its first word.
    pub(super) async fn has_feature(&self, manner: Manner, name: &str) -> Result<bool> {
        let features = self.features(manner).await?;
        Ok(features.iter().any(|line| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
                && matches!(line.as_bytes().get(name.len()), None | Some(b' '))
        }))
    }

    /// Sets how bytes are sent over data connections, unless that is set already.
    pub(super) async fn set_mode(&self, manner: Manner, mode: Mode) -> Result {
        if self.mode.get() != Some(mode) {
            self.mode.set(None);
            self.command(manner, "TYPE", Some(mode.letter())).await?;
            self.mode.set(Some(mode));
        }
        Ok(())
    }
}
