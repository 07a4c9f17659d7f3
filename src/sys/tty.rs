//! The pseudo-terminal's calls (`man 4 pts`, `man 2 ioctl_tty`).

use super::check;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Unlocks the other end of `master`.
pub fn unlock_pty(master: impl AsFd) -> Result<(), Errno> {
    let unlock: libc::c_int = 0;
    // SAFETY: the ioctl reads one int.
    check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSPTLCK, &unlock) } as libc::c_long).map(drop)
}

/// Opens the other end through the master itself: no path that an image could bend is walked (CVE-2025-52565).
pub fn open_peer(master: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    let fd = check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) } as libc::c_long)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes `tty` the controlling terminal of this session; the caller has just called `setsid`.
pub fn set_controlling(tty: impl AsFd) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an int.
    check(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) } as libc::c_long).map(drop)
}

/// Rows and columns of `tty`. ENOTTY: it is not a terminal.
pub fn get_winsize(tty: impl AsFd) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl fills one winsize.
    check(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) } as libc::c_long)?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets rows and columns; the kernel sends SIGWINCH to the foreground group when they change.
pub fn set_winsize(tty: impl AsFd, (rows, columns): (u16, u16)) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one winsize.
    check(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) } as libc::c_long).map(drop)
}
