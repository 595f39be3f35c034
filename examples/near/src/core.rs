//! What is behind [`Near`](crate::near::Near): all state, changed in one place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

use crate::near::{Change, Device, Line, Network, OpenError, Options};

type Observer = Rc<dyn Fn(&Change)>;

pub(crate) struct Core {
    options: Options,
    observers: RefCell<Vec<Observer>>,
    changes: RefCell<VecDeque<Change>>,
}

impl Core {
    pub fn open(options: Options) -> Result<Rc<Core>, OpenError> {
        Ok(Rc::new(Core { options, observers: RefCell::default(), changes: RefCell::default() }))
    }
    pub fn observe(&self, observer: Observer) {
        self.observers.borrow_mut().push(observer);
    }
    pub fn own_name(&self) -> String {
        self.options.name.clone().unwrap_or_default()
    }
    pub fn rename(&self, _name: &str) -> Result<(), String> {
        Ok(())
    }
    pub fn devices(&self) -> Vec<Device> {
        Vec::new()
    }
    pub fn device(&self, _id: &str) -> Option<Device> {
        None
    }
    pub fn network(&self) -> Network {
        Network { up: network::link::NetworkWatch::has_network(), avahi: true }
    }
    pub fn search_again(&self) {
        self.changes.borrow_mut().clear();
    }
    pub fn connect_to(&self, _address: &str) -> Result<(), String> {
        Ok(())
    }
    pub fn try_again(&self, _id: &str) {}
    pub fn pair(&self, _id: &str) {}
    pub fn answer(&self, _id: &str, _yes: bool) {}
    pub fn enter_code(&self, _id: &str, _digits: &str) {}
    pub fn cancel_pairing(&self, _id: &str) {}
    pub fn forget(&self, _id: &str) {}
    pub fn keep_apart(&self, _id: &str) {}
    pub fn lines(&self, _id: &str) -> Vec<Line> {
        Vec::new()
    }
    pub fn send_text(&self, _id: &str, _text: &str) -> Result<(), String> {
        Ok(())
    }
    pub fn send_files(&self, _id: &str, _files: &[PathBuf]) -> Result<(), String> {
        Ok(())
    }
    pub fn stop(&self, _transfer: u64) {}
    pub fn again(&self, _transfer: u64) {}
}
