//! Options of a unix socket's file, as builders have them.

use super::{Address, Target, UnixName};
use crate::error::{Error, Result};
use crate::sys::{Account, FileSettings};

/// Options of a unix socket's file, not yet checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileOptions {
    pub(crate) mode: Option<u32>,
    pub(crate) group: Option<Account>,
    pub(crate) replace_stale: bool,
}

impl FileOptions {
    /// Checks the options. Those that only apply to paths are refused elsewhere.
    pub(crate) fn settings(&self, address: &Address) -> Result<FileSettings> {
        if self.mode.is_some() || self.group.is_some() {
            match address.target() {
                Target::Unix(UnixName::Path(_)) => {}
                Target::Unix(UnixName::Abstract(_)) => {
                    return Err(address.unfit("mode and group do not apply to abstract sockets"));
                }
                _ => return Err(address.unfit("mode and group require a unix socket")),
            }
        }
        if let Some(mode) = self.mode.filter(|mode| mode & !0o777 != 0) {
            return Err(Error::InvalidOption(format!("invalid mode {mode:04o}: expected at most 0777")));
        }
        let group = self.group.as_ref().map(Account::group).transpose()?;
        Ok(FileSettings { mode: self.mode, group, replace_stale: self.replace_stale })
    }
}

/// The setters of [`FileOptions`], which a builder has as `file`.
macro_rules! file_setters {
    () => {
        /// Sets the permissions of a unix socket's path, such as `0o660`. Users with write permission may connect or send to
        /// it. The umask has no effect, and the path never has wider permissions, not even briefly.
        ///
        /// Default: 0777 less the umask, or 0660 if a [`group`](Self::group) is set.
        pub fn mode(mut self, mode: u32) -> Self {
            self.file.mode = Some(mode);
            self
        }

        /// Sets the group of a unix socket's path, by name or number. The process must be a member of the group, or root.
        /// Without [`mode`](Self::mode), the path gets mode 0660, so its owner and the group may connect.
        pub fn group(mut self, group: impl Into<$crate::sys::Account>) -> Self {
            self.file.group = Some(group.into());
            self
        }

        /// Replaces a stale unix socket instead of failing with [`Error::InUse`]. Default: false.
        ///
        /// A socket is stale if its path exists and no process has it, for example after a crash. Any other file, and any
        /// socket that is in use, is left alone. If several servers of one user start at once, only one gets the path: they
        /// take turns by a lock file, `.NAME.lock`, which exists for that moment. Has no effect on addresses without a path.
        pub fn replace_stale(mut self, replace_stale: bool) -> Self {
            self.file.replace_stale = replace_stale;
            self
        }
    };
}
pub(crate) use file_setters;
