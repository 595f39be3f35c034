//! Staying in memory: a plugin that uses this library may be unloaded by its host.

use std::ffi::c_void;
use std::mem::MaybeUninit;

/// Keeps the file that this code is in from being unloaded. GLib's main contexts and signal handlers hold pointers to
/// functions of ours, which outlive the thread that gave them.
pub(super) fn stay_loaded() {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    let here = stay_loaded as *const c_void;
    // SAFETY: asks for the file of an address that is in one, into a structure for which all zeros is valid. That file is
    // loaded already, so nothing of it is run here. The program itself cannot be opened so, and need not.
    unsafe {
        if libc::dladdr(here, found.as_mut_ptr()) != 0 {
            libc::dlopen(found.assume_init().dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}
