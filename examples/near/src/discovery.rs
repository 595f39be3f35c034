//! Being seen and seeing others: datagrams by broadcast and to single addresses, Avahi, and the network's changes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use network::UdpSocket;
use network::link::NetworkWatch;
use network::services::{self, Browser, Event, Publisher, Service};

use crate::packet::{IDENTITY_LIMIT, Identity, Packet};
use crate::place::Place;

const SERVICE: &str = "_kdeconnect._udp";

/// For each identity, datagrams within [`WINDOW`]; and identities altogether. Whoever floods is not listened to.
const PER_IDENTITY: u32 = 2;
const IDENTITIES: usize = 256;
const WINDOW: Duration = Duration::from_secs(1);

/// What is heard and noticed. All are called from the main loop.
pub trait Listener: 'static {
    fn heard(&self, identity: Identity, address: Place);
    fn network_changed(&self);
    fn avahi(&self, is_there: bool);
    fn own(&self) -> Identity;
    /// Whether this device is paired, so that a flood of others does not hide it.
    fn knows(&self, id: &str) -> bool;
}

pub struct Discovery {
    socket: UdpSocket,
    port: u16,
    publisher: Option<Publisher>,
    _browser: Option<Browser>,
    _watch: NetworkWatch,
}

impl Discovery {
    pub fn start<L: Listener>(port: u16, listener: &Rc<L>) -> network::Result<Discovery> {
        let socket = UdpSocket::builder().reuse_address(true).broadcast(true).bind(port)?;
        let (weak, window) = (Rc::downgrade(listener), Window::default());
        socket.read(move |_, data, from| {
            if let (Some(listener), true) = (weak.upgrade(), data.len() <= IDENTITY_LIMIT)
                && let Ok(Packet::Identity(identity)) = Packet::parse(data)
                && identity.id != listener.own().id
                && window.admits(&identity.id, listener.knows(&identity.id))
            {
                listener.heard(identity, from.into());
            }
            Ok(())
        });
        let (weak, answers) = (Rc::downgrade(listener), socket.clone());
        let own = listener.own();
        let browser = services::browse(SERVICE, move |event| {
            let Some(listener) = weak.upgrade() else { return };
            match event {
                Event::Added(service) | Event::Changed(service) => answer(&answers, &listener.own(), &service),
                Event::Unavailable(_) => listener.avahi(false),
                Event::Available => listener.avahi(true),
                _ => {}
            }
        });
        let weak = Rc::downgrade(listener);
        let watch = NetworkWatch::new(move |_| {
            if let Some(listener) = weak.upgrade() {
                listener.network_changed();
            }
        })?;
        let publisher = services::publish(SERVICE, &own.id, port).ok();
        let discovery = Discovery { socket, port, publisher, _browser: browser.ok(), _watch: watch };
        discovery.describe(&own);
        Ok(discovery)
    }

    /// Sets what Avahi says about this device.
    pub fn describe(&self, own: &Identity) {
        if let Some(publisher) = &self.publisher {
            let version = own.version.to_string();
            let txt = [("id", &own.id), ("name", &own.name), ("type", &own.kind), ("protocol", &version)];
            let _ = publisher.set_txt(txt);
        }
    }

    /// Announces this device to everybody around. Where there is no network, nobody hears it.
    pub fn announce(&self, own: &Identity) {
        let data = datagram(own);
        let _ = self.socket.broadcast(&data, self.port);
        let _ = self.socket.send_to(&data, (Ipv4Addr::BROADCAST, self.port));
    }

    /// Announces this device to one address.
    pub fn tell(&self, own: &Identity, address: Place) {
        let _ = self.socket.send_to(datagram(own), address.at(self.port));
    }

    /// Announces this device to a host name or an address.
    pub fn tell_host(&self, own: &Identity, host: &str) {
        let (socket, data, to) = (self.socket.clone(), datagram(own), with_port(host, self.port));
        // A name that is not known now may be later, and the person sees that nobody comes.
        let _ = network::spawn(async move {
            let _ = socket.send_to_future(data, to).await;
            Ok(())
        });
    }
}

/// The newline at the end is wanted by some.
fn datagram(own: &Identity) -> String {
    Packet::Identity(own.clone()).to_line() + "\n"
}

pub fn with_port(host: &str, port: u16) -> String {
    match host.parse::<Place>() {
        Ok(place) => place.at(port).to_string(),
        Err(_) if host.contains(':') => host.into(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// Whoever is seen by Avahi is told of this device, and connects.
fn answer(socket: &UdpSocket, own: &Identity, service: &Service) {
    let id = service.txt.value("id").unwrap_or_default();
    if id == own.id.as_bytes() || service.name == own.id {
        return;
    }
    if let Some(address) = service.addresses.first().filter(|address| (1714..=1764).contains(&address.port())) {
        let _ = socket.send_to(datagram(own), *address);
    }
}

/// Who was heard in the last second.
struct Window {
    began: Cell<Instant>,
    counts: RefCell<HashMap<String, u32>>,
}

impl Default for Window {
    fn default() -> Window {
        Window { began: Instant::now().into(), counts: RefCell::default() }
    }
}

impl Window {
    fn admits(&self, id: &str, is_known: bool) -> bool {
        let mut counts = self.counts.borrow_mut();
        if self.began.get().elapsed() >= WINDOW {
            self.began.set(Instant::now());
            counts.clear();
        }
        if counts.len() >= IDENTITIES && !is_known && !counts.contains_key(id) {
            return false;
        }
        let count = counts.entry(id.into()).or_default();
        *count += 1;
        *count <= PER_IDENTITY
    }
}
