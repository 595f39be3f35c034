//! Connections whose far end this thread has as well: a server of its own, or another socket. A blocking call without a timeout
//! would wait for itself there. What is on its way still comes; then the call fails.

use std::time::Duration;

use super::Conn;
use crate::engine::{Engine, FarEnd};
use crate::error::{Error, Operation, Result};
use crate::sys::Ends;

/// The interval at which something that is on its way is looked for. It needs no more than the kernel's time.
const PAUSE: Duration = Duration::from_millis(10);

/// A kernel that takes nothing for this long has no room: on one machine the data moves at once.
const STUCK: Duration = Duration::from_millis(250);

/// Returns the part that a connection plays for those ends. If it is the far one, what it still has to send goes out.
pub(super) fn look(conn: &Conn, ends: &Ends) -> FarEnd {
    let is_it = conn.transport.socket_fd().is_some_and(|fd| ends.meet(fd));
    if !is_it {
        return FarEnd::Elsewhere;
    }
    if conn.is_sending() || conn.status.is_lingering() {
        conn.output().flush();
    }
    let is_on_its_way = conn.transport.backlog().is_some_and(|backlog| backlog.unacknowledged > 0);
    if is_on_its_way { FarEnd::Sending } else { FarEnd::Silent }
}

/// Returns once a blocking call without a timeout may wait for input, or for room to send.
///
/// # Errors
/// `Unsupported` if it would wait for this thread.
pub(super) fn check(conn: &Conn, read: bool, write: bool) -> Result {
    let here = Engine::registrations_here();
    if conn.if_cold(|cold| Some(cold.elsewhere_at)) == Some(here) {
        return Ok(());
    }
    let failed = |error| Error::from_io(Operation::Wait, conn.peer_name(), error);
    let wait = |limit| conn.transport.wait(read, write, Some(limit)).map_err(failed);
    loop {
        let far_end = conn.transport.socket_fd().map_or(FarEnd::Elsewhere, Engine::far_end_here);
        if far_end == FarEnd::Elsewhere {
            conn.cold(|cold| cold.elsewhere_at = here);
            return Ok(());
        }
        // It may have sent something just now.
        if wait(Duration::ZERO)? {
            return Ok(());
        }
        let before = conn.transport.backlog();
        let pause = match far_end {
            FarEnd::Sending if read => PAUSE,
            _ if write => STUCK,
            _ => return Err(would_hang(conn)),
        };
        if wait(pause)? {
            return Ok(());
        }
        let will_come = read && far_end == FarEnd::Sending;
        if !will_come && conn.transport.backlog() == before {
            return Err(would_hang(conn));
        }
    }
}

fn would_hang(conn: &Conn) -> Error {
    let peer = conn.peer_name();
    Error::Unsupported(format!(
        "cannot wait for {peer}: the other end of the connection is in this thread, which the call blocks; use callbacks, \
         futures or a timeout"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use super::*;
    use crate::conn::{Options, Transport};

    fn conn(engine: &Rc<Engine>, stream: UnixStream) -> Rc<Conn> {
        let transport = Transport::from_fd(stream.into()).unwrap();
        Conn::new(engine, transport, Options::default().into(), None).unwrap()
    }

    #[test]
    fn it_is_looked_for_again_when_there_is_another_registration() {
        let context = glib::MainContext::new();
        context
            .with_thread_default(|| {
                let engine = Engine::current().unwrap();
                let (one, other) = UnixStream::pair().unwrap();
                let one = conn(&engine, one);
                for _ in 0..2 {
                    assert!(check(&one, true, false).is_ok());
                    assert_eq!(one.cold(|cold| cold.elsewhere_at), Engine::registrations_here());
                }
                let other = conn(&engine, other);
                assert!(check(&one, true, false).is_err());
                assert_eq!(look(&other, &Ends::of(one.transport.lend()).unwrap()), FarEnd::Silent);
                other.send(b"something", false).unwrap();
                assert_eq!(look(&other, &Ends::of(one.transport.lend()).unwrap()), FarEnd::Sending);
                assert!(check(&one, true, false).is_ok() && check(&other, true, false).is_err());
                other.abort_silently();
                assert!(check(&one, true, false).is_ok());
                one.abort_silently();
            })
            .unwrap();
    }
}
