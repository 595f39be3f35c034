//! Questions to the name servers of resolv.conf(5), by the resolver of the C library: see resolver(3). A question blocks for as
//! long as the name servers take.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;

use super::ResolveError;
use crate::error::os_text;

/// `res_query`. It keeps its state for each thread, unlike `res_nquery`, whose state has another layout in each C library.
type ResQuery = unsafe extern "C" fn(*const c_char, c_int, c_int, *mut u8, c_int) -> c_int;

/// The longest DNS message, in bytes.
const LONGEST: usize = 65535;

const CLASS_IN: c_int = 1;
const TYPE_SRV: c_int = 33;

/// Returns the message in which a name server has answered the question for SRV records. Truncated answers are asked for anew by
/// TCP. **Blocks**.
pub(crate) fn srv_answer(name: &str) -> Result<Vec<u8>, ResolveError> {
    let failed = |cause: &str, is_answer| ResolveError { cause: cause.into(), is_answer };
    let question = CString::new(name).map_err(|_| failed("the name contains a NUL byte", true))?;
    let query = res_query().ok_or_else(|| failed("the C library has no res_query", false))?;
    let mut answer = vec![0; LONGEST];
    // SAFETY: a NUL-terminated name, and a place of the length given.
    let length = unsafe { query(question.as_ptr(), CLASS_IN, TYPE_SRV, answer.as_mut_ptr(), answer.len() as c_int) };
    let Ok(length) = usize::try_from(length) else { return Err(query_error(name)) };
    if length > answer.len() {
        return Err(failed("the answer is too long", false));
    }
    answer.truncate(length);
    Ok(answer)
}

unsafe extern "C" {
    /// The place of `h_errno`, in glibc and in musl.
    fn __h_errno_location() -> *mut c_int;
}

/// The reason why this thread's last question has no answer. The codes are those of netdb.h.
fn query_error(name: &str) -> ResolveError {
    let system = io::Error::last_os_error();
    // SAFETY: the place of this thread, valid as long as the thread lives.
    let code = unsafe { *__h_errno_location() };
    let (cause, is_answer) = match code {
        1 => (format!("there is no name {name}"), true),
        2 => ("no name server answered, or all of them failed".into(), false),
        3 => ("the name servers refused to answer".into(), false),
        4 => (format!("{name} has no SRV records"), true),
        _ => (os_text(&system), false),
    };
    ResolveError { cause, is_answer }
}

/// Looked up while running: before glibc 2.34, the function is in a library of its own, under another name.
#[cfg(target_env = "gnu")]
fn res_query() -> Option<ResQuery> {
    use std::sync::OnceLock;

    static FOUND: OnceLock<Option<ResQuery>> = OnceLock::new();
    let symbol = |library, name: &CStr| {
        // SAFETY: a NUL-terminated name, and a library that is open for good.
        let place = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!place.is_null()).then_some(place)
    };
    let find = || {
        let place = symbol(libc::RTLD_DEFAULT, c"res_query").or_else(|| {
            // SAFETY: a NUL-terminated name; the library of the system runs nothing when it is loaded.
            let library = unsafe { libc::dlopen(c"libresolv.so.2".as_ptr(), libc::RTLD_NOW) };
            if library.is_null() { None } else { symbol(library, c"__res_query") }
        })?;
        // SAFETY: the function of that name has this type in every version.
        Some(unsafe { std::mem::transmute::<*mut libc::c_void, ResQuery>(place) })
    };
    *FOUND.get_or_init(find)
}

#[cfg(not(target_env = "gnu"))]
fn res_query() -> Option<ResQuery> {
    unsafe extern "C" {
        fn res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, length: c_int) -> c_int;
    }
    Some(res_query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_has_it() {
        assert!(res_query().is_some());
    }

    #[test]
    fn a_name_that_cannot_be_asked_for_is_an_error() {
        assert!(srv_answer("a\0b").unwrap_err().is_answer);
        // Nothing is sent: an empty label is not a name.
        let error = srv_answer("_a._tcp..example").unwrap_err();
        assert!(!error.cause.is_empty());
    }
}
