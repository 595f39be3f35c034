//! What is behind [`Near`](crate::near::Near): the state of all devices, and what the person does with them. How links come and
//! go is in `device.rs`.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::rc::{Rc, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use network::link::NetworkWatch;
use network::task::Task;
use network::{Server, ServerTls, tls};

use crate::device::Peer;
use crate::discovery::{Discovery, with_port};
use crate::holder::holder;
use crate::link::Us;
use crate::near::{Change, Device, Network, OpenError, Options, Paired};
use crate::packet::{self, Identity};
use crate::rests::Rests;
use crate::store::{self, Store};
use crate::transfer::Job;

type Observer = Rc<dyn Fn(&Change)>;

pub(crate) struct Core {
    pub me: Weak<Core>,
    pub options: Options,
    pub tls: tls::Identity,
    pub server_tls: ServerTls,
    pub store: RefCell<Store>,
    pub peers: RefCell<BTreeMap<String, Peer>>,
    pub discovery: OnceCell<Discovery>,
    pub server: OnceCell<Server>,
    pub avahi: Cell<bool>,
    /// Connections that are accepted and no links yet, the oldest first.
    pub accepting: RefCell<VecDeque<Task>>,
    /// Tells links apart.
    pub serial: Cell<u64>,
    pub jobs: RefCell<BTreeMap<u64, Job>>,
    pub rest_until: Cell<Option<Instant>>,
    pub rests: RefCell<Rests>,
    /// Keeps another Near away from the data directory.
    _lock: File,
    observers: RefCell<Vec<Observer>>,
    changes: RefCell<VecDeque<Change>>,
}

impl Core {
    pub fn open(options: Options) -> Result<Rc<Core>, OpenError> {
        let lock = store::lock(&options.data)?;
        let mut store = Store::open(&options.data)?;
        let wanted = options.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| store.name.clone());
        let wanted = if wanted.is_empty() { glib::host_name().to_string() } else { wanted };
        store.name =
            Some(packet::device_name(&wanted)).filter(|name| !name.is_empty()).unwrap_or_else(|| "Near".into());
        let tls = tls::Identity::named_in(&options.data, &store.id).map_err(OpenError::Other)?;
        let port = options.port;
        let core = Rc::new_cyclic(|me| Core {
            me: me.clone(),
            server_tls: Us::server_tls(&tls).unwrap_or_default(),
            tls,
            store: store.into(),
            options,
            peers: RefCell::default(),
            discovery: OnceCell::new(),
            server: OnceCell::new(),
            avahi: true.into(),
            accepting: RefCell::default(),
            serial: Cell::default(),
            jobs: RefCell::default(),
            rest_until: Cell::default(),
            rests: RefCell::default(),
            _lock: lock,
            observers: RefCell::default(),
            changes: RefCell::default(),
        });
        core.start().map_err(|error| match error {
            network::Error::InUse { .. } => OpenError::PortTaken { port, by: holder(port) },
            error => OpenError::Other(error),
        })?;
        Ok(core)
    }

    // ---- telling ----

    pub fn observe(&self, observer: Observer) {
        self.observers.borrow_mut().push(observer);
    }

    /// Tells everybody, in a later turn of the loop. The same change is told once for all that led to it.
    pub fn tell(&self, change: Change) {
        let mut changes = self.changes.borrow_mut();
        if changes.contains(&change) {
            return;
        }
        changes.push_back(change);
        if changes.len() > 1 {
            return;
        }
        let me = self.me.clone();
        let _ = network::spawn(async move {
            while let Some(core) = me.upgrade() {
                // It stays in the queue until then, so that one task at a time tells.
                let Some(change) = core.changes.borrow_mut().pop_front() else { break };
                let observers = core.observers.borrow().clone();
                observers.iter().for_each(|observer| observer(&change));
            }
            Ok(())
        });
    }

    pub fn notice(&self, text: impl Into<String>) {
        self.tell(Change::Notice(text.into()));
    }

    // ---- this device ----

    pub fn identity(&self) -> Identity {
        let (store, port) = (self.store.borrow(), self.options.port);
        let version = packet::VERSION;
        let (id, name, kind) = (store.id.clone(), store.name.clone(), "desktop".to_owned());
        Identity { id, name, kind, version, port: Some(port), near: true, target: None }
    }

    pub fn us(&self) -> Us {
        Us { identity: self.identity(), tls: self.tls.clone(), server: self.server_tls.clone() }
    }

    pub fn own_name(&self) -> String {
        self.store.borrow().name.clone()
    }

    pub fn rename(&self, name: &str) -> Result<(), String> {
        let clean = packet::device_name(name);
        if clean.is_empty() {
            return Err("A name needs a letter or a digit".into());
        }
        self.store.borrow_mut().name = clean;
        self.save();
        if let Some(discovery) = self.discovery.get() {
            discovery.describe(&self.identity());
        }
        self.search_again();
        Ok(())
    }

    pub fn save(&self) {
        let saved = self.store.borrow().save();
        if let Err(why) = saved {
            self.notice(why);
        }
    }

    pub fn network(&self) -> Network {
        Network { up: NetworkWatch::has_network(), avahi: self.avahi.get() }
    }

    // ---- the list ----

    pub fn devices(&self) -> Vec<Device> {
        let peers = self.peers.borrow();
        let mut all: Vec<Device> = peers.values().map(|peer| self.describe(peer)).collect();
        all.sort_by_key(|device| (device.paired.is_none(), device.name.to_lowercase(), device.id.clone()));
        all
    }

    pub fn device(&self, id: &str) -> Option<Device> {
        self.peers.borrow().get(id).map(|peer| self.describe(peer))
    }

    fn describe(&self, peer: &Peer) -> Device {
        let store = self.store.borrow();
        let paired = store.paired.get(&peer.identity.id);
        let date = |paired: &store::Paired| glib::DateTime::from_unix_local(paired.date).ok();
        Device {
            id: peer.identity.id.clone(),
            name: peer.identity.name.clone(),
            kind: peer.identity.kind.clone(),
            address: peer.address.map(|place| place.to_string()),
            state: peer.state(paired.is_some()),
            paired: paired.and_then(|paired| Some(Paired { date: date(paired)?, strong: paired.strong })),
        }
    }

    pub fn is_paired(&self, id: &str) -> bool {
        self.store.borrow().paired.contains_key(id)
    }

    /// Calls `change` with this device, if it is known, and tells that it has changed.
    pub fn with<R>(&self, id: &str, change: impl FnOnce(&mut Peer) -> R) -> Option<R> {
        let result = self.peers.borrow_mut().get_mut(id).map(change);
        if result.is_some() {
            self.tell(Change::Device(id.into()));
        }
        result
    }

    pub fn connect_to(&self, address: &str) -> Result<(), String> {
        let address = address.trim();
        let whole = with_port(address, self.options.port);
        let is_plain = !address.is_empty() && !address.contains(['|', ',', '/', ' ']);
        let checked = network::Address::try_from(whole.as_str()).map_err(|error| error.to_string());
        checked.and_then(|_| is_plain.then_some(()).ok_or_else(|| format!("“{address}” is not an address")))?;
        self.store.borrow_mut().addresses.insert(address.into());
        self.save();
        if let Some(discovery) = self.discovery.get() {
            discovery.tell_host(&self.identity(), address);
        }
        Ok(())
    }
}

pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
