//! Users and groups that may connect to a unix socket, by number or name.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::error::{Error, Operation, Result, os_text};
use crate::sys::{group_id, peer_ids, user_id};

/// A user or a group of this machine. Converts from a number or a name: `1000`, `"www-data"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// The user or group number.
    Id(u32),
    /// The name, looked up when the server starts.
    Name(String),
}

impl From<u32> for Account {
    fn from(id: u32) -> Self {
        Account::Id(id)
    }
}

impl From<&str> for Account {
    fn from(name: &str) -> Self {
        Account::Name(name.into())
    }
}

impl From<String> for Account {
    fn from(name: String) -> Self {
        Account::Name(name)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::Id(id) => id.fmt(f),
            Account::Name(name) => name.fmt(f),
        }
    }
}

impl Account {
    pub(super) fn group(&self) -> Result<u32> {
        self.number("group", group_id)
    }

    fn user(&self) -> Result<u32> {
        self.number("user", user_id)
    }

    fn number(&self, kind: &str, ask: fn(&str) -> io::Result<Option<u32>>) -> Result<u32> {
        match self {
            Account::Id(id) => Ok(*id),
            Account::Name(name) => match ask(name) {
                Ok(Some(id)) => Ok(id),
                Ok(None) => Err(Error::InvalidOption(format!("unknown {kind} {name:?}"))),
                Err(source) => Err(Error::Io { operation: Operation::Account, address: name.clone(), source }),
            },
        }
    }
}

/// The accounts given to the builder.
#[derive(Clone, Debug, Default)]
pub(super) struct AllowList {
    pub(super) users: Option<Vec<Account>>,
    pub(super) groups: Option<Vec<Account>>,
}

impl AllowList {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_none() && self.groups.is_none()
    }

    /// Looks names up. `None` if there is no list.
    pub(super) fn resolve(&self) -> Result<Option<Allowed>> {
        if self.is_empty() {
            return Ok(None);
        }
        let users = self.users.iter().flatten().map(Account::user).collect::<Result<_>>()?;
        let groups = self.groups.iter().flatten().map(Account::group).collect::<Result<_>>()?;
        Ok(Some(Allowed { users, groups }))
    }
}

/// The user and group numbers that may connect.
pub(super) struct Allowed {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Allowed {
    /// Returns the reason why a client may not connect.
    pub(super) fn check(&self, client: impl AsFd) -> Result<(), String> {
        let peer = peer_ids(client).map_err(|error| format!("cannot determine its user: {}", os_text(&error)))?;
        if self.users.contains(&peer.user) || peer.groups.iter().any(|group| self.groups.contains(group)) {
            return Ok(());
        }
        Err(format!("user {} is not allowed", peer.user))
    }
}
