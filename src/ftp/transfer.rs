//! Transfers of files, in both directions.

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gio::prelude::*;

use super::ascii::{FromNetwork, ToNetwork};
use super::data::Start;
use super::local::{self, Original, Partial, Remote};
use super::manner::{Manner, now};
use super::session::Session;
use super::{Mode, words};
use crate::conn::Socket;
use crate::error::ftp::{Response, Status};
use crate::error::{Error, Operation, Result};

/// The progress of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The bytes of the local file that are done, those before a resumed part included.
    pub done: u64,
    /// All of its bytes. `None` if the server does not tell, as for most in ASCII mode.
    pub total: Option<u64>,
}

impl Progress {
    /// Returns the part that is done, from 0 to 1. `None` if the total is not known.
    pub fn fraction(&self) -> Option<f64> {
        match self.total? {
            0 => Some(1.0),
            #[allow(clippy::cast_precision_loss, reason = "it is for a progress bar")]
            total => Some((self.done as f64 / total as f64).min(1.0)),
        }
    }
}

type OnProgress = Box<dyn FnMut(Progress)>;

/// A transfer that is to be made. Ends with [`send`](Self::send), [`send_async`](Self::send_async) or
/// [`send_future`](Self::send_future).
///
/// Returned by the methods of [`Client`](super::Client): `download`, `download_to`, `upload`, `upload_from`, `append`.
#[must_use]
pub struct Transfer {
    session: Rc<Session>,
    job: Job,
    mode: Mode,
    resume: bool,
    on_progress: Option<OnProgress>,
}

enum Job {
    Download { remote: Vec<u8>, to: Target },
    Upload { from: Source, remote: Vec<u8>, append: bool },
}

enum Target {
    File(PathBuf),
    Writer(Box<dyn Write>),
}

enum Source {
    File(PathBuf),
    Reader(Box<dyn Read>, Option<u64>),
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("mode", &self.mode).field("resume", &self.resume).finish_non_exhaustive()
    }
}

impl Transfer {
    pub(super) fn download(session: &Rc<Session>, remote: &[u8], local: &Path) -> Self {
        Self::new(session, Job::Download { remote: remote.to_vec(), to: Target::File(local.to_owned()) })
    }

    pub(super) fn download_to(session: &Rc<Session>, remote: &[u8], writer: Box<dyn Write>) -> Self {
        Self::new(session, Job::Download { remote: remote.to_vec(), to: Target::Writer(writer) })
    }

    pub(super) fn upload(session: &Rc<Session>, local: &Path, remote: &[u8], append: bool) -> Self {
        let remote = local::destination(remote, local);
        Self::new(session, Job::Upload { from: Source::File(local.to_owned()), remote, append })
    }

    pub(super) fn upload_from(
        session: &Rc<Session>,
        reader: Box<dyn Read>,
        length: Option<u64>,
        remote: &[u8],
    ) -> Self {
        let from = Source::Reader(reader, length);
        Self::new(session, Job::Upload { from, remote: remote.to_vec(), append: false })
    }

    fn new(session: &Rc<Session>, job: Job) -> Self {
        Transfer { session: session.clone(), job, mode: Mode::default(), resume: false, on_progress: None }
    }

    /// Sets how the bytes are sent. Default: [`Mode::Binary`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether to go on where an earlier transfer of the same file was interrupted. Default: no.
    ///
    /// A download goes on if its partial file is from a call that had this set as well, and the server still tells the
    /// same time of the last change, and at least that size. Otherwise it begins anew. An upload goes on at the size that the file
    /// has at the server. For files in [`Mode::Binary`] only.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Sets a callback for the progress: called after each piece, and at the end of a transfer.
    ///
    /// It may [abort](super::Client::abort) the transfer.
    pub fn progress(mut self, callback: impl FnMut(Progress) + 'static) -> Self {
        self.on_progress = Some(Box::new(callback));
        self
    }

    /// Makes the transfer. **Blocks** until it is complete.
    ///
    /// # Errors
    /// - [`Error::Ftp`]: the server refuses; or the local file cannot be read or written
    ///   ([`INVALID_FILE`](super::Status::INVALID_FILE)), after which the session is usable.
    /// - [`Error::Cancelled`] after [`abort`](super::Client::abort).
    /// - [`Error::TimedOut`] after 60 seconds of silence, unless the [builder](super::Builder) sets another limit.
    /// - [`Error::InvalidOption`]: a name contains CR, LF, NUL or 0xFF; `resume` is set and not possible.
    /// - Otherwise as [`Socket::connect`](crate::Socket::connect), for the data connection.
    pub fn send(self) -> Result<Response> {
        now(self.run(Manner::Blocks))
    }

    /// Makes the transfer in the background, and calls back once.
    ///
    /// Cancelling aborts it; the session stays usable.
    pub fn send_async(
        self,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Response>) + 'static,
    ) {
        let session = self.session.clone();
        session.call_back(self.run(Manner::Polls), cancellable, callback);
    }

    /// Makes the transfer in the background. Dropping the future aborts it; the session stays usable.
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub fn send_future(self) -> impl Future<Output = Result<Response>> + 'static {
        self.run(Manner::Polls)
    }

    async fn run(self, manner: Manner) -> Result<Response> {
        let Transfer { session, job, mode, resume, on_progress } = self;
        if resume && mode != Mode::Binary {
            return Err(Error::InvalidOption("resume(true) requires Mode::Binary".into()));
        }
        let mut report = Report { on_progress, progress: Progress { done: 0, total: None } };
        let session = &*session;
        match job {
            Job::Download { remote, to } => {
                words::command("RETR", Some(&remote))?;
                let _turn = session.turn(manner).await?;
                session.download(manner, &remote, to, mode, resume, &mut report).await
            }
            Job::Upload { from, remote, append } => {
                words::command("STOR", Some(&remote))?;
                if resume && (append || matches!(from, Source::Reader(..))) {
                    return Err(Error::InvalidOption("resume(true) is for upload and download of files".into()));
                }
                let _turn = session.turn(manner).await?;
                let remote = Upload { remote, append, mode, resume };
                session.upload(manner, from, remote, &mut report).await
            }
        }
    }
}

/// Whoever is told of the progress.
struct Report {
    on_progress: Option<OnProgress>,
    progress: Progress,
}

impl Report {
    fn tell(&mut self, done: u64) {
        self.progress.done = done;
        if let Some(callback) = &mut self.on_progress {
            callback(self.progress);
        }
    }
}

struct Upload {
    remote: Vec<u8>,
    append: bool,
    mode: Mode,
    resume: bool,
}

/// A data connection in use. Dropping it before its end aborts it, and the next operation sees to the rest.
pub(super) struct InUse<'a>(pub(super) &'a Session);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.drop_data();
    }
}

impl Session {
    async fn download(
        &self,
        manner: Manner,
        remote: &[u8],
        to: Target,
        mode: Mode,
        resume: bool,
        report: &mut Report,
    ) -> Result<Response> {
        let to = match to {
            Target::File(local) => Target::File(local::target(&local, remote).map_err(|refused| self.error(refused))?),
            Target::Writer(_) if resume => {
                return Err(Error::InvalidOption("resume(true) is for upload and download of files".into()));
            }
            writer => writer,
        };
        self.set_mode(manner, mode).await?;
        let mut known = Remote::default();
        if mode == Mode::Binary {
            known.size = self.size_now(manner, remote).await?;
        }
        if resume {
            known.modified = self.modified_now(manner, remote).await?;
        }
        let (mut sink, offset) = match to {
            Target::Writer(writer) => (Sink::Writer(writer), 0),
            Target::File(path) => {
                let opened = Partial::open(path, resume, known);
                let (partial, offset) = opened.map_err(|refused| self.error(refused))?;
                (Sink::File(partial), offset)
            }
        };
        report.progress.total = known.size;
        let _in_use = InUse(self);
        let start = Start { name: "RETR", argument: Some(remote), offset };
        let data = match self.start_transfer(manner, start).await {
            Ok(data) => data,
            Err(error) => {
                sink.discard(offset);
                return Err(error);
            }
        };
        let mut ascii = (mode == Mode::Ascii).then(FromNetwork::default);
        let mut done = offset;
        let mut buffer = self.take_buffer();
        loop {
            // The size was told over the control connection: what is complete by that cannot have been cut off.
            let is_complete = mode == Mode::Binary && known.size == Some(done);
            let Some(count) = self.receive(manner, &data, &mut buffer, is_complete).await? else { break };
            let piece = &buffer[..count];
            done += match &mut ascii {
                Some(converter) => self.keep(manner, &mut sink, &converter.convert(piece)).await?,
                None => self.keep(manner, &mut sink, piece).await?,
            };
            report.tell(done);
        }
        self.return_buffer(buffer);
        let rest = ascii.as_mut().map_or(&b""[..], FromNetwork::end);
        done += self.keep(manner, &mut sink, rest).await?;
        let reply = self.finish_transfer(manner, &data).await?;
        if let Some(size) = known.size.filter(|size| *size != done) {
            return Err(self.invalid(format!("{done} bytes came of a file that has {size}")));
        }
        sink.finish(manner).await.map_err(|refused| self.error(refused))?;
        report.tell(done);
        Ok(reply)
    }

    /// Writes a piece to where it belongs, and returns its length. If that fails, the transfer ends.
    async fn keep(&self, manner: Manner, sink: &mut Sink, piece: &[u8]) -> Result<u64> {
        if let Err(refused) = sink.write(piece) {
            self.end_transfer(manner).await?;
            return Err(self.error(refused));
        }
        Ok(piece.len() as u64)
    }

    /// Receives a piece of a data connection. If that fails, the transfer ends: with what the server says of it, if it does.
    /// An end without a close_notify is one only after all of it.
    pub(super) async fn receive(
        &self,
        manner: Manner,
        data: &Socket,
        buffer: &mut [u8],
        is_complete: bool,
    ) -> Result<Option<usize>> {
        let received = manner.receive(data, buffer, self.settings.data_timeout).await;
        match received {
            Err(Error::Truncated { .. }) if is_complete && !self.is_aborted.get() => Ok(None),
            Ok(_) if self.is_aborted.get() => Err(self.aborted(manner).await?),
            Ok(piece) => Ok(piece),
            Err(error) => Err(self.broken(manner, error).await?),
        }
    }

    pub(super) async fn aborted(&self, manner: Manner) -> Result<Error> {
        self.end_transfer(manner).await?;
        Ok(Error::Cancelled { operation: Operation::Transfer, address: self.peer_text() })
    }

    /// The data connection has failed. Returns what it failed by.
    pub(super) async fn broken(&self, manner: Manner, error: Error) -> Result<Error> {
        if self.is_aborted.get() {
            return self.aborted(manner).await;
        }
        if matches!(error, Error::TimedOut { .. }) {
            self.end_transfer(manner).await?;
            return Ok(error);
        }
        self.data.take();
        let reply = self.last_reply(manner).await?;
        Ok(if reply.response.ok() { error } else { self.error(reply.response) })
    }

    /// The data connection is at its end: receives the reply to the transfer.
    pub(super) async fn finish_transfer(&self, manner: Manner, data: &Socket) -> Result<Response> {
        self.data.take();
        data.close();
        let reply = self.last_reply(manner).await?;
        self.is_aborted.set(false);
        Ok(self.accepted(reply)?.response)
    }

    async fn upload(&self, manner: Manner, from: Source, upload: Upload, report: &mut Report) -> Result<Response> {
        let Upload { remote, append, mode, resume } = upload;
        let mut original = match from {
            Source::File(local) => {
                let original = Original::open(&local).map_err(|refused| self.error(refused))?;
                report.progress.total = Some(original.length);
                Input::File(original)
            }
            Source::Reader(reader, length) => {
                report.progress.total = length;
                Input::Reader(reader)
            }
        };
        self.set_mode(manner, mode).await?;
        let mut start = Start { name: if append { "APPE" } else { "STOR" }, argument: Some(&remote), offset: 0 };
        let mut done = 0;
        if resume && let Input::File(original) = &mut original {
            let there = self.size_now(manner, &remote).await?.filter(|size| *size <= original.length).unwrap_or(0);
            if there > 0 {
                original.skip(there).map_err(|refused| self.error(refused))?;
                done = there;
                if self.has_feature(manner, "REST").await? {
                    start.offset = there;
                } else {
                    start.name = "APPE";
                }
            }
        }
        let _in_use = InUse(self);
        let data = self.start_transfer(manner, start).await?;
        let mut ascii = (mode == Mode::Ascii).then(ToNetwork::default);
        let mut buffer = self.take_buffer();
        loop {
            let count = match original.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(refused) => {
                    self.end_transfer(manner).await?;
                    return Err(self.error(refused));
                }
            };
            let piece = &buffer[..count];
            let sent = match &mut ascii {
                Some(converter) => manner.send(&data, &converter.convert(piece), self.settings.data_timeout).await,
                None => manner.send(&data, piece, self.settings.data_timeout).await,
            };
            self.sent(manner, sent).await?;
            done += count as u64;
            report.tell(done - (data.queued() as u64).min(done));
        }
        let missing = report.progress.total.is_some_and(|total| mode == Mode::Binary && total != done);
        if missing {
            self.end_transfer(manner).await?;
            let total = report.progress.total.unwrap_or_default();
            let text = format!("the source has {done} bytes instead of {total}");
            return Err(self.error(Response::new(Status::INVALID_FILE, text)));
        }
        let flushed = manner.flush(&data, self.settings.data_timeout).await.and_then(|()| data.shutdown_write());
        self.sent(manner, flushed).await?;
        // To the end: some servers take what follows for a fault otherwise. What the end is like, the reply tells.
        while let Ok(Some(_)) = manner.receive(&data, &mut buffer, self.settings.data_timeout).await {}
        self.return_buffer(buffer);
        let reply = self.finish_transfer(manner, &data).await?;
        report.tell(done);
        Ok(reply)
    }

    /// Ends the transfer if sending has failed.
    async fn sent(&self, manner: Manner, sent: Result) -> Result {
        match sent {
            Ok(()) if self.is_aborted.get() => Err(self.aborted(manner).await?),
            Ok(()) => Ok(()),
            Err(error) => Err(self.broken(manner, error).await?),
        }
    }

    // ---- facts ----

    /// Returns the size of a file in bytes. `None` if the server does not tell.
    pub(super) async fn size_now(&self, manner: Manner, remote: &[u8]) -> Result<Option<u64>> {
        let reply = self.ask(manner, "SIZE", Some(remote)).await?;
        Ok(words::size(&reply.text).filter(|_| reply.status() == Status::FILE_STATUS))
    }

    /// Returns the time of the last change of a file. `None` if the server does not tell.
    pub(super) async fn modified_now(&self, manner: Manner, remote: &[u8]) -> Result<Option<std::time::SystemTime>> {
        let reply = self.ask(manner, "MDTM", Some(remote)).await?;
        Ok(words::time(&reply.text).filter(|_| reply.status() == Status::FILE_STATUS))
    }
}

/// Where a download goes.
enum Sink {
    File(Partial),
    Writer(Box<dyn Write>),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Response> {
        match self {
            Sink::File(partial) => partial.write(bytes),
            Sink::Writer(writer) => {
                writer.write_all(bytes).map_err(|error| local::refusal("write to", Path::new("the writer"), &error))
            }
        }
    }

    /// Leaves nothing behind of a download that has not begun.
    fn discard(self, offset: u64) {
        match self {
            Sink::File(partial) if offset == 0 => partial.remove(),
            Sink::File(_) | Sink::Writer(_) => {}
        }
    }

    async fn finish(self, manner: Manner) -> Result<(), Response> {
        match self {
            Sink::File(partial) => partial.finish(manner).await,
            Sink::Writer(mut writer) => {
                writer.flush().map_err(|error| local::refusal("write to", Path::new("the writer"), &error))
            }
        }
    }
}

/// Where an upload comes from.
enum Input {
    File(Original),
    Reader(Box<dyn Read>),
}

impl Input {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Response> {
        match self {
            Input::File(original) => original.read(buffer),
            Input::Reader(reader) => {
                let read = local::read_some(reader, buffer);
                read.map_err(|error| local::refusal("read", Path::new("from the reader"), &error))
            }
        }
    }
}
