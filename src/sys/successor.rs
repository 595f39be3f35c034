//! Starting a process that receives descriptors by the protocol of `sd_listen_fds`, as from systemd.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use super::inherited::FIRST;

const PID: &[u8] = b"LISTEN_PID=";

/// Starts `program` with these descriptors, from number 3 on, under these names. It inherits the environment, except for the
/// variables in `without`.
pub(crate) fn start_successor(
    program: &OsStr,
    arguments: &[OsString],
    descriptors: &[(OwnedFd, String)],
    without: &[&str],
) -> io::Result<Child> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let program_text = text(program)?;
    let arguments = std::iter::once(program)
        .chain(arguments.iter().map(OsString::as_os_str))
        .map(text)
        .collect::<io::Result<Vec<_>>>()?;
    let ours =
        |name: &OsStr| ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].iter().chain(without).any(|own| name == *own);
    let mut environment: Vec<Vec<u8>> = std::env::vars_os()
        .filter(|(name, _)| !ours(name))
        .map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='))
        .collect();
    let names: Vec<&str> = descriptors.iter().map(|(_, name)| name.as_str()).collect();
    environment.push(format!("LISTEN_FDS={}", descriptors.len()).into_bytes());
    environment.push(format!("LISTEN_FDNAMES={}", names.join(":")).into_bytes());
    // Only the new process knows its ID, and it cannot allocate: this is space for it.
    environment.push([PID, &[b'0'; 20]].concat());
    let mut environment = environment
        .into_iter()
        .map(|entry| CString::new(entry).map(CString::into_bytes_with_nul).map_err(io::Error::from))
        .collect::<io::Result<Vec<_>>>()?;
    // Above the numbers that they will get.
    let above = FIRST + RawFd::try_from(descriptors.len()).unwrap_or(RawFd::MAX / 2);
    let aside = descriptors.iter().map(|(fd, _)| rustix::io::fcntl_dupfd_cloexec(fd, above));
    let aside = aside.collect::<rustix::io::Result<Vec<OwnedFd>>>()?;
    let pointers = |texts: &mut dyn Iterator<Item = *const libc::c_char>| -> Vec<usize> {
        // As numbers, because the closure must be `Send`.
        texts.chain([ptr::null()]).map(|pointer| pointer as usize).collect()
    };
    // The standard library opens a pipe meanwhile, which must not get one of these numbers.
    let mut reserved = Vec::new();
    if let Some(any) = aside.first() {
        while reserved.last().is_none_or(|last: &OwnedFd| last.as_raw_fd() < above) {
            reserved.push(rustix::io::fcntl_dupfd_cloexec(any, FIRST)?);
        }
    }
    let argv = pointers(&mut arguments.iter().map(|argument| argument.as_ptr()));
    let envp = pointers(&mut environment.iter_mut().map(|entry| entry.as_mut_ptr().cast_const().cast()));
    let mut command = Command::new(program);
    let exec = move || {
        // The pointers lead there.
        let _kept = (&arguments, &environment);
        for (target, fd) in (FIRST..).zip(&aside) {
            // SAFETY: system calls on numbers; after a fork, in the child alone.
            if unsafe { libc::dup2(fd.as_raw_fd(), target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let pid_entry = envp[envp.len() - 2] as *mut u8;
        // SAFETY: the entry made above: the prefix, 20 bytes for a number and a zero. This process has one thread, and
        // nothing else refers to it.
        let room = unsafe { std::slice::from_raw_parts_mut(pid_entry.add(PID.len()), 21) };
        let mut rest = &mut room[..20];
        write!(rest, "{}", std::process::id())?;
        let left = rest.len();
        room[20 - left] = 0;
        // SAFETY: a program's name and two lists of strings, each ended by a null, all of which the closure owns.
        unsafe { libc::execvpe(program_text.as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast()) };
        Err(io::Error::last_os_error())
    };
    // SAFETY: between fork and exec the closure makes system calls and writes to memory that was there before: it
    // allocates nothing, locks nothing and does not panic.
    unsafe { command.pre_exec(exec) };
    command.spawn()
}
