//! Signals and processes by descriptor: a signalfd to read, a pidfd to wait for and to signal, so a number that the
//! kernel has given to a stranger meanwhile is never hit (`man 2 signalfd`, `man 2 pidfd_open`).

use super::check;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Sets every signal back to its default and unblocks all: an ignored SIGPIPE (ours, by the language's runtime) or
/// SIGHUP (the caller's, by nohup) would be inherited across exec.
pub fn default_signals() -> Result<(), Errno> {
    // The kernel's `struct sigaction` of SIG_DFL, no flags and an empty mask is all zeros, and on no machine larger.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // Not the C library's call, which keeps 32 and 33 to itself: those are inherited too. EINVAL: SIGKILL, SIGSTOP.
        // SAFETY: the kernel reads one structure, which lives across the call; the default needs no handler of ours.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Signals as a stream of numbers.
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks every signal but those that a fault of our own raises and those of the caller's job control (Ctrl-Z,
    /// reading or writing in the background), and gives a descriptor to read them from.
    pub fn all() -> Result<Self, Errno> {
        use Signal::*;
        let mut set = SigSet::all();
        for kept in [SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGTSTP, SIGTTIN, SIGTTOU] {
            set.remove(kept);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: a new descriptor for a set that lives across the call.
        let fd = check(unsafe { libc::signalfd(-1, set.as_ref(), flags) } as libc::c_long)?;
        // SAFETY: the kernel has just made it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// The next signal's number; `None` when none is waiting.
    pub fn read(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match nix::unistd::read(&self.0, &mut info) {
            Ok(size) if size == info.len() => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends signal `number` to the process behind `pidfd`. ESRCH: it is gone.
pub fn pidfd_send_signal(pidfd: impl AsFd, number: i32) -> Result<(), Errno> {
    let (fd, none) = (pidfd.as_fd().as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: a null siginfo means "as kill would".
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, none, 0) }).map(drop)
}

/// Waits for our child behind `pidfd` and reaps it: its exit status as a shell counts it (128 + n for a signal).
pub fn wait_pidfd(pidfd: impl AsFd) -> Result<i32, Errno> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether somebody has asked us to end while our signals are blocked (`man 2 sigpending`).
pub fn interrupted() -> bool {
    // SAFETY: a zeroed set is valid, and the call fills it.
    let pending = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if libc::sigpending(&mut set) < 0 {
            return false;
        }
        SigSet::from_sigset_t_unchecked(set)
    };
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().any(|signal| pending.contains(signal))
}

/// Waits for one of `set`, all of which are blocked, and takes it: its number (`man 2 sigwaitinfo`).
pub fn wait_signal(set: &SigSet) -> Result<i32, Errno> {
    // SAFETY: the set lives across the call; no siginfo is wanted.
    check(unsafe { libc::sigwaitinfo(set.as_ref(), std::ptr::null_mut()) } as libc::c_long).map(|number| number as i32)
}

/// `man 2 kill`, for any number: the crates know no real-time signals.
pub fn kill(pid: nix::unistd::Pid, number: i32) -> Result<(), Errno> {
    // SAFETY: plain integers.
    check(unsafe { libc::kill(pid.as_raw(), number) } as libc::c_long).map(drop)
}

/// A descriptor for process `pid` (`man 2 pidfd_open`). ESRCH: there is none.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
