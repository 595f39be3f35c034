//! A remote file as a byte stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_io::AsyncRead;

use super::Mode;
use super::data::Start;
use super::manner::Manner;
use super::session::Session;
use super::transfer::InUse;
use super::turns::Turn;
use super::words;
use crate::conn::Socket;
use crate::error::{Error, Result};

/// A remote file that is being received, as a byte stream for futures-io. Returned by
/// [`Client::read_future`](super::Client::read_future).
///
/// The end is reported once the server has confirmed that it is the end of the file. Dropping the reader before that aborts
/// the transfer, and the session stays usable. A reader that receives nothing for 60 seconds while it waits fails with
/// `TimedOut`.
pub struct Reader {
    session: Rc<Session>,
    data: Socket,
    state: State,
    /// Held until the end.
    turn: Option<Turn>,
}

enum State {
    Data,
    Ending(Pin<Box<dyn Future<Output = Result>>>),
    Over,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("is_over", &matches!(self.state, State::Over)).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) async fn open(session: Rc<Session>, remote: Vec<u8>) -> Result<Reader> {
        words::command("RETR", Some(&remote))?;
        let manner = Manner::Polls;
        let turn = session.turn(manner).await?;
        session.set_mode(manner, Mode::Binary).await?;
        let in_use = InUse(&session);
        let data = session.start_transfer(manner, Start { name: "RETR", argument: Some(&remote), offset: 0 }).await?;
        data.set_receive_timeout(session.settings.data_timeout);
        std::mem::forget(in_use);
        Ok(Reader { session, data, state: State::Data, turn: Some(turn) })
    }

    /// The data connection has ended: awaits what the server says of it.
    fn end(&mut self, error: Option<Error>) {
        let (session, data) = (self.session.clone(), self.data.clone());
        self.state = State::Ending(Box::pin(async move {
            match error {
                None if !session.is_aborted.get() => session.finish_transfer(Manner::Polls, &data).await.map(drop),
                None => Err(session.aborted(Manner::Polls).await?),
                Some(error) => Err(session.broken(Manner::Polls, error).await?),
            }
        }));
    }
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        loop {
            match &mut me.state {
                State::Data => match ready!(Pin::new(&mut me.data).poll_read(context, into)) {
                    Ok(0) if !into.is_empty() => me.end(None),
                    Ok(count) => return Poll::Ready(Ok(count)),
                    Err(error) => me.end(Some(error.into())),
                },
                State::Ending(ending) => {
                    let ended = ready!(ending.as_mut().poll(context));
                    me.state = State::Over;
                    me.turn = None;
                    return Poll::Ready(ended.map(|()| 0).map_err(io::Error::from));
                }
                State::Over => return Poll::Ready(Ok(0)),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !matches!(self.state, State::Over) {
            self.session.drop_data();
        }
    }
}
