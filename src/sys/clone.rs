//! `clone3`: one call makes the process, its namespaces, its pidfd, and places it in its cgroup (`man 2 clone3`).

use super::check;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `CLONE_INTO_CGROUP` (Linux 5.7) does not fit the old flag word, so the crates do not know it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_PIDFD: u64 = 0x1000;

/// What `clone3` is asked for.
pub struct Clone3<'a> {
    pub flags: CloneFlags,
    /// A directory of the cgroup v2 tree, opened; the child is born there.
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// The two ways in which `clone3` returns.
pub enum Cloned {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// Makes a child that goes on from here with a copy of our memory, as `fork` does.
///
/// Errors: EPERM without CAP_SYS_ADMIN for any `CLONE_NEW*`; ENOSPC at a limit of `/proc/sys/user/max_*_namespaces`;
/// EAGAIN at a limit of processes; EBUSY when the cgroup has controllers enabled for its children; ENOSYS before 5.3.
///
/// The child must not allocate until it execs; it may return from here only because nothing else of this
/// process runs (the engine is single-threaded).
pub fn clone3(request: &Clone3<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut flags = request.flags.bits() as u32 as u64 | CLONE_PIDFD;
    let mut cgroup = 0;
    if let Some(fd) = request.into_cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = fd.as_raw_fd() as u64;
    }
    let args = libc::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: without CLONE_VM the child has its own copy of everything, its stack included; the kernel writes the
    // pidfd into a variable that outlives the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: Pid::from_raw(pid as i32), pidfd })
}
