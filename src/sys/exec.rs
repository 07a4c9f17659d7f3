//! `execve` with everything laid out beforehand, so that the child allocates nothing.

use super::check;
use nix::errno::Errno;
use nix::unistd::ForkResult;
use std::ffi::{CStr, CString};

/// A list of strings as `execve` wants it: pointers to NUL-terminated bytes, then a null pointer.
pub struct ExecVector {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into `strings`, which this value owns and never changes.
unsafe impl Send for ExecVector {}

impl ExecVector {
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { strings, pointers }
    }

    // ch07
    /// The list, for the kernel.
    pub(super) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }

    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces this process's program (`man 2 execve`). Returns only with the reason why it could not.
pub fn execve(path: &CStr, argv: &ExecVector, envp: &ExecVector) -> Errno {
    // SAFETY: the three arguments are NUL-terminated as `ExecVector` and `CStr` promise, and live across the call.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    Errno::last()
}

/// `man 2 fork`, for a process that has one thread.
pub fn fork() -> Result<ForkResult, Errno> {
    // SAFETY: the engine and its children are single-threaded, so the copy may go on as the original would.
    unsafe { nix::unistd::fork() }
}

/// The working directory as the kernel tells it: it does not begin with `/` if it lies outside of our root.
pub fn getcwd(buffer: &mut [u8]) -> Result<&[u8], Errno> {
    // SAFETY: the pointer and the length describe `buffer`.
    let size = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(&buffer[..size as usize])
}

/// Where the words lie with which this program was started; `/proc/PID/cmdline` is read from there.
#[derive(Clone, Copy)]
pub struct OwnArguments {
    start: usize,
    length: usize,
}

/// Our own, from fields 48 and 49 of `/proc/self/stat`. `None`: the kernel does not tell.
pub fn own_arguments() -> Option<OwnArguments> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let (start, end): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(OwnArguments { start, length: end.checked_sub(start).filter(|_| start > 0)? })
}

impl OwnArguments {
    /// Puts `name` in their place, as far as it fits; for a process that asks for its own words no more.
    pub fn replace(self, name: &[u8]) {
        let fits = name.len().min(self.length.saturating_sub(1));
        // SAFETY: the kernel has laid the words out in these bytes of our stack, writable, before the program began;
        // a copy made by fork has them at the same place, and nobody in it reads them.
        unsafe {
            let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
            start.write_bytes(0, self.length);
            start.copy_from_nonoverlapping(name.as_ptr(), fits);
        }
    }
}
