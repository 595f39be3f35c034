//! Replaces the services in a build without Avahi: everything that needs them is an error. No value of these types
//! exists.

#![allow(dead_code)]

use std::net::SocketAddr;
use std::rc::Rc;

use crate::address::Address;
use crate::engine::Engine;
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub(crate) struct Query(());

impl Query {
    pub(crate) fn new(address: &Address, _kind: &str, _rest: &str) -> Result<Query> {
        Err(Error::Unsupported(format!("cannot connect to {address}: this program was built without Avahi")))
    }
}

pub(crate) fn end_threads() {}

pub(crate) enum SearchEvent {
    Candidate(Rc<str>, SocketAddr),
    End(Option<Error>),
}

pub(crate) struct Find(());

impl Find {
    pub(crate) fn failure(&self) -> Option<Error> {
        None
    }
}

pub(crate) fn find(
    _engine: &Rc<Engine>,
    _address: &Address,
    _query: Query,
    _then: impl Fn(&Rc<Engine>, SearchEvent) + 'static,
) -> Find {
    Find(())
}

pub(crate) enum News {
    Seen,
    Moved,
    Gone,
    Unavailable(String),
}

pub(crate) struct Presence(());

pub(crate) fn presence(_engine: &Rc<Engine>, _query: Query, _then: impl Fn(&Rc<Engine>, News) + 'static) -> Presence {
    Presence(())
}

pub(crate) struct Announcement(());

impl Announcement {
    pub(crate) fn new<'a>(
        address: &Address,
        _kind: &str,
        _name: &str,
        _txt: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Announcement> {
        Err(Error::Unsupported(format!("cannot listen on {address}: this program was built without Avahi")))
    }

    pub(crate) fn at(self, _port: u16, _only_here: bool) -> Announcement {
        self
    }
}

pub(crate) enum Published {
    Established(String),
    Down(String),
}

pub(crate) struct Publication(());

impl Publication {
    pub(crate) fn name(&self) -> Option<String> {
        None
    }
}

pub(crate) fn unpublished(_engine: &Rc<Engine>) -> Option<Vec<String>> {
    Some(Vec::new())
}

pub(crate) fn announce(
    _engine: &Rc<Engine>,
    _what: Announcement,
    _then: impl Fn(&Rc<Engine>, Published) + 'static,
) -> Publication {
    Publication(())
}
