//! The body of a response as it comes: by callback or by pieces, and the connection after an upgrade.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::reading::Lines;
use super::response::Response;
use crate::conn::Socket;
use crate::conn::copying::append;
use crate::engine::{Engine, UserFuture};
use crate::error::{Error, Result};
use crate::log;

/// # The body as it comes
impl Response {
    /// Sets a callback that receives the body as it comes. It is called from the main loop.
    ///
    /// The response is kept until its end, or [`abort`](Self::abort). An error that the callback returns ends it, and goes to
    /// [`finished_cb`](Self::finished_cb). There is no limit to the body but
    /// [`max_download`](super::ClientBuilder::max_download).
    ///
    /// # Example: Count the bytes of a page
    /// ```no_run
    /// use network::http;
    ///
    /// http::get_async("https://example.org/", gio::Cancellable::NONE, |result| {
    ///     let response = result.expect("an answer");
    ///     let mut total = 0;
    ///     response.read(move |_, piece| {
    ///         total += piece.len();
    ///         println!("{total} bytes");
    ///         Ok(())
    ///     });
    ///     response.finished_cb(|_, result| {
    ///         println!("{result:?}");
    ///         network::endloop();
    ///     });
    /// });
    /// network::fgloop();
    /// ```
    pub fn read(&self, mut callback: impl FnMut(&Response, &[u8]) -> Result + 'static) {
        let response = self.clone();
        let reading = async move {
            let result = loop {
                response.resumed().await;
                match poll_fn(|context| response.poll_chunk(context)).await {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(piece)) => {
                        if let Err(error) = callback(&response, &piece) {
                            response.give_up();
                            break Err(error);
                        }
                    }
                }
            };
            drop(callback);
            response.finish(result);
        };
        match (Engine::current(), self.check_context()) {
            (Ok(_), Ok(())) => drop(self.inner.engine.spawn(Rc::new(UserFuture::new(reading)))),
            (Ok(engine), Err(error)) => {
                let response = self.clone();
                engine.spawn(Rc::new(UserFuture::new(async move { response.finish(Err(error)) })));
            }
            (Err(error), _) => log::critical("read").error(&error).say(format_args!("http::Response::read: {error}")),
        }
    }

    /// Sets a callback for the end of the body: called once, after [`read`](Self::read) has been called for all of it, or with the
    /// error that ended it. Without it, an error is [logged](crate::log).
    pub fn finished_cb(&self, callback: impl FnOnce(&Response, Result) + 'static) {
        let old = self.inner.finished.replace(Some(Box::new(callback)));
        drop(old);
    }

    fn finish(&self, result: Result) {
        match (self.inner.finished.take(), result) {
            (Some(callback), result) => callback(self, result),
            (None, Err(error)) => {
                log::message("read").error(&error).say(format_args!("a response ended early: {error}"))
            }
            (None, Ok(())) => {}
        }
    }

    /// Stops calling the [`read`](Self::read) callback. The server has to wait then, and its silence does not count: a response that
    /// nobody resumes or [aborts](Self::abort) keeps its connection.
    pub fn pause(&self) {
        self.inner.is_paused.set(true);
    }

    /// Continues after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.inner.is_paused.set(false);
        let waker = self.inner.resumed.take();
        waker.into_iter().for_each(Waker::wake);
    }

    async fn resumed(&self) {
        poll_fn(|context| {
            if !self.inner.is_paused.get() {
                return Poll::Ready(());
            }
            let old = self.inner.resumed.replace(Some(context.waker().clone()));
            drop(old);
            Poll::Pending
        })
        .await;
    }

    /// Receives the next piece of the body. `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// See [`bytes`](Self::bytes); [`Error::LimitExceeded`] beyond [`max_download`](super::ClientBuilder::max_download).
    pub fn chunk_future(&self) -> impl Future<Output = Result<Option<Vec<u8>>>> + 'static {
        let response = self.clone();
        async move {
            response.check_context()?;
            let piece = poll_fn(|context| response.poll_chunk(context)).await.transpose()?;
            Ok(piece.map(|piece| {
                let mut owned = Vec::new();
                append(&mut owned, &piece);
                owned
            }))
        }
    }

    /// Returns a stream of the lines of the body.
    pub fn lines(&self) -> Lines {
        Lines::new(self.clone())
    }

    /// Takes the connection after a response that has ended HTTP on it: 101, or success of CONNECT.
    ///
    /// What the server has sent after the head is received from the socket. After a blocking call, the socket belongs to the
    /// caller's main context.
    ///
    /// # Errors
    /// [`Error::Http`] if the response is another one.
    pub fn upgrade(&self) -> Result<Socket> {
        let Some(socket) = self.inner.upgraded.take() else {
            let problem = format!("the status is {}, so the connection is still one of HTTP", self.status());
            return Err(Error::Http { peer: self.url().into(), problem });
        };
        if self.inner.private.is_none() {
            return Ok(socket);
        }
        let moved = socket.conn().blocking().move_to(&Engine::current()?)?;
        Ok(Socket::from_conn(moved))
    }
}
