//! Users and groups that may connect to a unix socket, by number or name.

use std::os::fd::AsFd;

use crate::error::{Result, os_text};
use crate::sys::{Account, peer_ids};

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
