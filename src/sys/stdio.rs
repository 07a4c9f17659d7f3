//! Descriptors 0, 1 and 2.

use super::check;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU8, Ordering};

/// Bit n: descriptor n was closed when the program began. The language's runtime opens `/dev/null` in such a place
/// before `main`, so it must be asked earlier: a function in `.init_array` runs before the runtime does.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = {
    extern "C" fn look() {
        for fd in 0..3 {
            // SAFETY: F_GETFD on any number is harmless.
            if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
                CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
            }
        }
    }
    look
};

/// Whether descriptor `fd` (0, 1 or 2) was closed when this program began.
pub fn closed_at_start(fd: usize) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}

/// Closes a number that [`dup_to`] has filled.
pub fn close(number: i32) {
    // SAFETY: nothing owns the number as an `OwnedFd`; an unused one answers EBADF, which changes nothing.
    let _ = unsafe { libc::close(number) };
}

/// Makes descriptor `number` (one that no `OwnedFd` has) a copy of `fd`, open across exec (`man 2 dup2`).
pub fn dup_to(fd: impl AsFd, number: i32) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    if fd == number {
        // dup2 onto itself would keep close-on-exec.
        // SAFETY: plain integers.
        return check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } as libc::c_long).map(drop);
    }
    // SAFETY: the caller names a number that nothing owns as an `OwnedFd`.
    check(unsafe { libc::dup2(fd, number) } as libc::c_long).map(drop)
}
