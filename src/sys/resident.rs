//! Staying in memory when a host unloads a plugin that contains this library.

use std::ffi::c_void;
use std::mem::MaybeUninit;

/// Keeps the shared object that contains this code loaded. GLib's main contexts and signal handlers have pointers to functions
/// of this crate, also after the thread that set them has ended.
pub(super) fn stay_loaded() {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    let here = stay_loaded as *const c_void;
    // SAFETY: asks for the object of an address of this code, into a structure for which all zeros is valid. That object is
    // loaded already, so none of its code runs here. For the program itself this fails, and it cannot be unloaded anyway.
    unsafe {
        if libc::dladdr(here, found.as_mut_ptr()) != 0 {
            libc::dlopen(found.assume_init().dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}
