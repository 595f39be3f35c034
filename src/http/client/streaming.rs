//! The body of a response as it comes: by callback or by pieces, and the connection after an upgrade.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::reading::Lines;
use super::response::Response;
use super::taking::Taking;
use crate::conn::Socket;
use crate::conn::copying::append;
use crate::engine::{Called, Engine, UserFuture};
use crate::error::{Error, Result};
use crate::log;

/// # The body as it comes
impl Response {
    /// Sets a callback that receives the body as it comes. It is called from the main loop. Replaces any other one.
    ///
    /// From now on no other call receives the body: they fail with [`Error::Unsupported`]. If the body has been taken already, or a
    /// call is receiving the whole of it, that error goes to [`finished_cb`](Self::finished_cb) instead.
    ///
    /// The response is kept until its end, or [`abort`](Self::abort). An error that the callback returns ends it, and goes to
    /// [`finished_cb`](Self::finished_cb). There is no limit to the body but
    /// [`max_download`](super::ClientBuilder::max_download).
    ///
    /// It has the name of std's `Read::read`, and of `AsyncReadExt::read` of futures-util, and goes before them. Those are called with
    /// their path, as in the second example. Their other methods, such as `read_to_end` and `read_line`, are called as usual.
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
    ///
    /// # Example: std's `read`, in a script
    /// ```no_run
    /// use std::io::Read;
    ///
    /// let mut response = network::http::get("https://example.org/")?;
    /// let mut buffer = [0; 512];
    /// let count = Read::read(&mut response, &mut buffer)?;
    /// println!("{:?}", &buffer[..count]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&self, callback: impl FnMut(&Response, &[u8]) -> Result + 'static) {
        let is_reading = self.inner.taking.get() == Taking::Callback;
        let checked = self.check_context().and_then(|()| if is_reading { Ok(()) } else { self.check_taking(false) });
        if let Err(error) = checked {
            return self.finish_later(Err(error));
        }
        let old = self.inner.reader.replace(Some(Box::new(callback)));
        drop(old);
        if is_reading {
            return;
        }
        self.inner.taking.set(Taking::Callback);
        // Those who wait for a piece hear that they wait in vain.
        self.inner.waiting.take().wake();
        let reading = Reading(self.clone());
        self.inner.engine.spawn(Rc::new(UserFuture::new(async move {
            if let Some(result) = reading.0.deliver().await {
                let response = reading.0.clone();
                drop(reading);
                response.finish(result);
            }
        })));
    }

    /// Calls the read callback until the end of the body. `None` if it panicked.
    async fn deliver(&self) -> Option<Result> {
        let inner = &self.inner;
        loop {
            self.resumed().await;
            match poll_fn(|context| self.poll_chunk(context)).await {
                None => return Some(Ok(())),
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(piece)) => match inner.reader.call(&inner.engine, |callback| callback(self, &piece)) {
                    Called::Returned(Ok(())) | Called::Not => {}
                    Called::Returned(Err(error)) => {
                        self.give_up();
                        return Some(Err(error));
                    }
                    Called::Panicked => return None,
                },
            }
        }
    }

    /// Sets a callback for the end of the body: called once, after [`read`](Self::read) has been called for all of it, or with the
    /// error that ended it. If the end has come already, it is called in the next loop iteration. Without it, an error is
    /// [logged](crate::log). The other ways to take the body have results of their own, and do not call it.
    pub fn finished_cb(&self, callback: impl FnOnce(&Response, Result) + 'static) {
        let old = self.inner.finished.replace(Some(Box::new(callback)));
        drop(old);
        let outcome = self.inner.outcome.take();
        if let Some(outcome) = outcome {
            self.finish_later(outcome);
        }
    }

    fn finish(&self, result: Result) {
        let callback = self.inner.finished.take();
        if let Some(callback) = callback {
            return callback(self, result);
        }
        if let Err(error) = &result {
            log::message("read").error(error).say(format_args!("a response ended early: {error}"));
        }
        self.inner.outcome.replace(Some(result));
    }

    /// Tells the end in the next iteration of the loop that runs here.
    fn finish_later(&self, result: Result) {
        let response = self.clone();
        match Engine::current() {
            Ok(engine) => drop(engine.spawn(Rc::new(UserFuture::new(async move { response.finish(result) })))),
            Err(error) => log::critical("read").error(&error).say(format_args!("http::Response::read: {error}")),
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
            let piece = poll_fn(|context| response.poll_piece(context)).await.transpose()?;
            Ok(piece.map(|piece| {
                let mut owned = Vec::new();
                append(&mut owned, &piece);
                owned
            }))
        }
    }

    /// Returns a stream of the lines of the body.
    ///
    /// With `AsyncBufReadExt` of futures-util in scope, `response.lines()` is that trait's: write `Response::lines(&response)`.
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

/// The body goes to the read callback, until this is dropped.
struct Reading(Response);

impl Drop for Reading {
    fn drop(&mut self) {
        let inner = &self.0.inner;
        // After a failure others are told that, and not that somebody has the body.
        inner.taking.set(if inner.has_failed.get() { Taking::Open } else { Taking::Ended });
        // It may own a handle of the response.
        let callback = inner.reader.take();
        drop(callback);
    }
}
