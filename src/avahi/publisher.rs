//! Publishing a service whose port something else serves: another library, another process, or a UDP socket.

use std::cell::RefCell;
use std::fmt;
use std::rc::{Rc, Weak};

use super::events::Announcement;
use super::names::Txt;
use super::publish::{Publication, Published, announce};
use crate::engine::{CallbackSlot, Engine, call};
use crate::error::{Error, Result};

type Callback = dyn FnMut(&str);

/// A handle to a service that is published by [`publish`]. Dropping it withdraws the service.
#[must_use = "the service is withdrawn when this is dropped"]
pub struct Publisher {
    inner: Rc<Inner>,
}

struct Inner {
    me: Weak<Inner>,
    engine: Rc<Engine>,
    kind: String,
    publication: RefCell<Option<Publication>>,
    callback: CallbackSlot<Callback>,
    /// The name that the callback has not been told yet.
    news: RefCell<Option<String>>,
}

/// Publishes a service on the local network until the returned handle is dropped.
///
/// Nothing is listened on: something else serves `port`, such as a [`UdpSocket`](crate::UdpSocket), another library or another
/// process. A [`Server`](crate::Server) that listens on `type|name` publishes itself. `kind` is the service type as
/// [`browse`](super::browse) takes it: `chat` for `_chat._tcp`, or in full, such as `_chat._udp`. `name` is the instance name:
/// 1 to 63 bytes of any characters but NUL. If another service has the name, ` #2` is appended, or the next free number. The
/// service has the port at all addresses of this host, and is published on all interfaces.
///
/// Publishing starts in the next loop iteration and takes about a second. Without a running Avahi daemon, a warning is logged,
/// and the service is published once the daemon is there. It is published again after each restart of the daemon, and when the
/// host is renamed.
///
/// # Errors
/// - [`Error::Address`] if the type, the name or the port is invalid. Port 0 is.
/// - [`Error::WrongThread`] if another thread owns the main context.
///
/// # Example
/// ```no_run
/// use network::{UdpSocket, services};
///
/// let socket = UdpSocket::bind(0)?;
/// let service = services::publish("_chat._udp", "My room", socket.port())?;
/// service.set_txt([("version", "2"), ("colour", "blue")])?;
/// service.published_cb(|name| println!("others see {name:?}"));
/// network::fgloop();
/// # Ok::<(), network::Error>(())
/// ```
pub fn publish(kind: impl AsRef<str>, name: impl AsRef<str>, port: u16) -> Result<Publisher> {
    let (kind, name) = (kind.as_ref(), name.as_ref());
    let unfit = |problem: String| Error::Address { address: format!("{kind}|{name}|{port}"), problem };
    let announcement = Announcement::checked(kind, name, []).map_err(unfit)?;
    if port == 0 {
        return Err(unfit("expected the port of the service, 1 to 65535".into()));
    }
    let engine = Engine::current()?;
    let inner = Rc::new_cyclic(|me: &Weak<Inner>| Inner {
        me: me.clone(),
        engine: engine.clone(),
        kind: announcement.kind.to_string(),
        publication: RefCell::new(None),
        callback: CallbackSlot::default(),
        news: RefCell::new(None),
    });
    let me = inner.me.clone();
    let publication = announce(&engine, announcement.at(port, false), move |_, published| {
        let (Some(me), Published::Established(name)) = (me.upgrade(), published) else { return };
        me.news.replace(Some(name));
        me.deliver();
    });
    inner.publication.replace(Some(publication));
    Ok(Publisher { inner })
}

impl Publisher {
    /// Returns the name under which the service is published. `None` until it is, and while no Avahi daemon is running.
    ///
    /// It is the name passed to [`publish`], or that name with a number if another service has it.
    pub fn name(&self) -> Option<String> {
        self.inner.publication.borrow().as_ref().and_then(Publication::name)
    }

    /// Sets a callback that receives the name whenever the service has been published: the first time, and again under another
    /// name or after a restart of the Avahi daemon. It replaces the previous one, and is not called for the past.
    ///
    /// It runs from the main loop, may call any method, and may drop this handle.
    pub fn published_cb(&self, callback: impl FnMut(&str) + 'static) {
        self.inner.callback.set(Box::new(callback));
    }

    /// Removes the callback set by [`published_cb`](Self::published_cb).
    pub fn unset_published_cb(&self) {
        let callback = self.inner.callback.take();
        drop(callback);
    }

    /// Sets the TXT record: keys with their values, in this order. Default: none.
    ///
    /// A key is printable ASCII without `=`; key and value have up to 254 bytes together, all of them up to 8900. Called before
    /// the next loop iteration, the service has the record from the start. Later, it is changed in place; with the feature
    /// `zeroconf` instead of `avahi`, the service disappears for about a second.
    ///
    /// # Errors
    /// [`Error::Address`] if a key or value is invalid. The earlier record remains then.
    pub fn set_txt<K: AsRef<str>, V: AsRef<[u8]>>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result {
        let mut txt = Txt::default();
        for (key, value) in pairs {
            txt.add(key.as_ref(), value.as_ref()).map_err(|problem| self.unfit(problem))?;
        }
        super::backend::check_txt(&txt).map_err(|problem| self.unfit(problem))?;
        if let Some(publication) = &*self.inner.publication.borrow() {
            publication.set_txt(txt);
        }
        Ok(())
    }

    /// Returns the TXT record set by [`set_txt`](Self::set_txt).
    pub fn txt(&self) -> Txt {
        self.inner.publication.borrow().as_ref().map(Publication::txt).unwrap_or_default()
    }

    fn unfit(&self, problem: String) -> Error {
        let name = self.inner.publication.borrow().as_ref().map(Publication::given_name).unwrap_or_default();
        Error::Address { address: format!("{}|{name}", self.inner.kind), problem }
    }
}

impl Inner {
    fn deliver(&self) {
        // While the callback is on the stack, in a nested loop, the call below continues when it returns.
        while let Some(mut callback) = self.callback.lend() {
            let Some(name) = self.news.take() else { return };
            if call(&self.engine, || callback(&name)).is_none() {
                return;
            }
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let publication = self.inner.publication.take();
        drop(publication);
        let callback = self.inner.callback.take();
        drop(callback);
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("kind", &self.inner.kind).field("name", &self.name()).finish_non_exhaustive()
    }
}
