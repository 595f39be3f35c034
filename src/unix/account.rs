//! Users and groups of this machine, by number or name.

use std::fmt;
use std::io;

use crate::error::{Error, Operation, Result};
use crate::sys::{group_id, user_id};

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
    pub(crate) fn group(&self) -> Result<u32> {
        self.number("group", group_id)
    }

    pub(crate) fn user(&self) -> Result<u32> {
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
