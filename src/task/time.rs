//! Time for futures.

use std::time::Duration;

use crate::engine::{Sleep, before};
use crate::error::{Error, Operation, Result};

/// Waits for that time.
///
/// The time begins when the future is first polled. Dropping the future ends it. A time of zero lets the loop have a turn. A
/// time that is too long for the clock, as `Duration::MAX` is, never ends. Of several, the one that is due first wakes first, and of
/// those that are due at the same time the one that was polled first.
///
/// Any executor may poll it. The timer belongs to the main context that is the thread-default one at the first poll, which
/// for [`spawn`](crate::spawn) and `glib::spawn_future_local` is the one that runs the future. The timers of a context share one
/// source, and setting one makes no system call. If this thread does not run that context, and has no sockets on it, as under
/// an executor that has nothing to do with GLib, the timer is one of GLib's on that context. Some thread must run it.
///
/// Time in which the program was stopped counts, unlike for [`timeout`].
///
/// # Example
/// ```
/// use std::time::{Duration, Instant};
///
/// let started = Instant::now();
/// network::block_on(network::sleep(Duration::from_millis(5)))?;
/// assert!(started.elapsed() >= Duration::from_millis(5));
/// # Ok::<(), network::Error>(())
/// ```
pub fn sleep(time: Duration) -> impl Future<Output = ()> {
    Sleep::new(time)
}

/// Awaits a future for at most `limit`.
///
/// The limit begins when the future is first polled. `future` is polled first: if it is ready, the limit does not matter, and
/// what came in time is served even if the loop gets to it late. Time in which the loop was held up, as by a slow
/// callback, does not count. When the limit has passed, `future` is dropped; the [futures](crate::Socket#futures) of sockets
/// lose no data by that. A limit of `Duration::MAX` never passes.
///
/// See [`sleep`] for the main context of its timer.
///
/// # Errors
/// [`Error::TimedOut`] if `future` was not ready in time. Its own result, which may be an error too, is in the `Ok`.
///
/// # Example: Wait five seconds for a line
/// ```
/// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// # let socket = network::Socket::from_fd(ours)?;
/// # std::io::Write::write_all(&mut &theirs, b"Hello\n")?;
/// # let task = network::spawn(async move {
/// let line = network::timeout(std::time::Duration::from_secs(5), socket.recv_line_future()).await??;
/// # assert_eq!(line, "Hello");
/// # Ok(())
/// # })?;
/// # network::block_on(task)??;
/// # Ok::<(), network::Error>(())
/// ```
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output> {
    let in_time = before(Sleep::limit(limit), future).await;
    in_time.ok_or_else(|| Error::TimedOut { operation: Operation::Wait, address: "a future".into(), limit })
}
