//! TLS on a connection that is open, by the three faces. The connection goes on: its handles, callbacks and options stay.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_channel::oneshot;

use super::connecting::load_roots;
use super::{CancelWatch, leads_to_this_thread};
use crate::conn::{Conn, Shaken, Socket};
use crate::engine::{Engine, call};
use crate::error::{Error, Operation, Result};
use crate::tls::{ClientTls, PeerName, Role, Session, StartTls};

/// Starts TLS and waits for the end of the handshake. **Blocks**.
pub(crate) fn blocking(socket: &Socket, role: &StartTls) -> Result {
    let conn = socket.conn();
    let session = session(conn, role)?.0;
    conn.handshaking().check_start()?;
    if leads_to_this_thread(conn.transport().lend()) {
        return Err(Error::Unsupported(format!(
            "cannot start TLS with {}: it belongs to this thread, which a blocking TLS handshake would block; use \
             start_tls_async or start_tls_future",
            conn.remote()
        )));
    }
    let outcome = Rc::new(Cell::new(None));
    let place = outcome.clone();
    conn.handshaking().start(session, Some(Box::new(move |_, result| place.set(Some(result)))))?;
    Engine::flush_here();
    conn.shake_blocking();
    outcome.take().unwrap_or_else(|| Err(conn.closed()))
}

/// Starts TLS in the background and passes the result to a callback.
pub(crate) fn in_background(
    socket: &Socket,
    role: &StartTls,
    cancellable: Option<gio::Cancellable>,
    callback: impl FnOnce(&Socket, Result) + 'static,
) {
    let conn = socket.conn();
    let engine = conn.engine().clone();
    let callback = Rc::new(Cell::new(Some(callback)));
    let watch = Rc::new(RefCell::new(None::<CancelWatch>));
    let (later, watched) = (callback.clone(), watch.clone());
    let done: Shaken = Box::new(move |conn, result| {
        // Not here: this may be a handler of the cancellable, during which it must not be let go of.
        let watch = watched.take();
        conn.engine().defer(move |_| drop(watch));
        if let Some(callback) = later.take() {
            // Until it is called, the connection stays open.
            let held = conn.is_open().then(|| Socket::from_conn(conn.clone()));
            conn.handshaking().tell_later(Box::new(move |socket| {
                callback(socket, result);
                drop(held);
            }));
        }
    });
    if let Err(error) = start(socket, role, Some(done)) {
        let socket = socket.clone();
        if let Some(callback) = callback.take() {
            engine.defer(move |engine| {
                call(engine, || callback(&socket, Err(error)));
            });
        }
    } else if let Some(cancellable) = cancellable {
        let me = Rc::downgrade(conn);
        let cancel = move |_: &Rc<Engine>| {
            if let Some(conn) = me.upgrade() {
                conn.handshaking().cancel();
            }
        };
        watch.replace(Some(CancelWatch::start(&engine, cancellable, cancel)));
    }
}

/// Starts TLS in the background. The result is told to whoever awaits it.
pub(crate) async fn future(socket: Socket, role: StartTls) -> Result {
    let (sender, receiver) = oneshot::channel();
    let done: Shaken = Box::new(move |_, result| {
        // The future may have been dropped.
        let _ = sender.send(result);
    });
    start(&socket, &role, Some(done))?;
    let unfinished = Unfinished(&socket);
    let result = receiver.await.unwrap_or_else(|_| Err(socket.conn().closed()));
    std::mem::forget(unfinished);
    result
}

/// A handshake that somebody awaits. Dropping it cancels.
struct Unfinished<'a>(&'a Socket);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.conn().handshaking().cancel();
    }
}

/// Starts TLS in the background on a connection made of descriptors. If it fails, that is the end of the connection.
pub(crate) fn on_descriptor(socket: &Socket, settings: ClientTls) -> Result {
    start(socket, &settings.into(), None)
}

fn start(socket: &Socket, role: &StartTls, done: Option<Shaken>) -> Result {
    let conn = socket.conn();
    let (session, needs_roots) = session(conn, role)?;
    conn.handshaking().start(session, done)?;
    if needs_roots {
        conn.handshaking().hold_up();
        let me = Rc::downgrade(conn);
        let loaded = load_roots(conn.engine(), move || {
            if let Some(conn) = me.upgrade() {
                conn.handshaking().go_on();
            }
        });
        if let Err(source) = loaded {
            let address = conn.remote().to_string();
            conn.handshaking().give_up(Error::Io { operation: Operation::LoadCertificates, address, source });
        }
    }
    Ok(())
}

/// Returns the session, and whether the system roots should be loaded on a thread before it has to judge the peer.
fn session(conn: &Rc<Conn>, role: &StartTls) -> Result<(Session, bool)> {
    let remote = conn.remote();
    match &role.0 {
        Role::Server(settings) => {
            Ok((Session::server(&*settings.setup()?, &remote.to_string())?.on_open_connection(), false))
        }
        Role::Client(settings, named) => {
            settings.check()?;
            if remote.is_unix() && !settings.has_server_name() {
                return Err(Error::Unsupported(format!(
                    "TLS on {remote} is used only with a name to verify: call ClientTls::server_name"
                )));
            }
            let peer = match named.clone().or_else(|| conn.handshaking().named_peer()) {
                Some(peer) => peer,
                None if settings.names_trust() => PeerName { key: remote.to_string(), host: None },
                None => {
                    return Err(Error::TlsSettings(format!(
                        "the connection to {remote} was not made by connecting to an address, so ClientTls must say whom to \
                         trust: pinned, roots, system with server_name, or danger_accept_any"
                    )));
                }
            };
            Ok((Session::client(settings, &peer)?.on_open_connection(), settings.may_load_roots(&peer)))
        }
    }
}
