//! The system calls that the crates we use have no safe wrapper for: `clone3`, `openat2`, `pidfd_*`, the child's
//! `execve`, the pty peer, passing descriptors. Thin: a function bears the name of its call and returns its errno.
//!
//! This is the only room with `unsafe`. What stands here may run between `clone3` and `execve`, so nothing here
//! allocates, locks or reads the environment unless its name says otherwise.
//!
//! Try it without us: `strace -f unshare --uts --pid --fork true` shows the same calls.
#![allow(unsafe_code)]

mod bind;
mod channel;
mod clone;
mod exec;
mod mount;
mod netfilter;
mod netlink;
mod path;
mod seal;
mod signals;
mod stdio;
mod tty;
mod xattr;

pub use bind::bind_port;
pub use channel::{Channel, Message, accept, hung_up};
pub use clone::{Clone3, Cloned, clone3};
pub use exec::{ExecVector, OwnArguments, execve, fork, getcwd, own_arguments};
pub use mount::{MOUNT_ATTR_RDONLY, mount_setattr_recursive, move_mount, open_tree_clone};
pub use netfilter::{legacy_table, nft_table};
pub use netlink::{NamedLink, delete_link, links, named_link, set_link_alias, silence_bridge_port};
pub use path::{
    FdPath, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, open_tmpfile_and_link,
    openat2, read_link,
};
pub use seal::run_from_read_only;
pub use signals::{
    SignalFd, default_signals, interrupted, kill, pidfd_open, pidfd_send_signal, wait_pidfd, wait_signal,
};
pub use stdio::{close, closed_at_start, dup_to};
pub use tty::{get_winsize, open_peer, set_controlling, set_winsize, unlock_pty};
pub use xattr::{clone_file, get_xattr, list_xattr, set_xattr, set_xattr_at};

use nix::errno::Errno;

/// A libc return value as a result: -1 means `errno`.
pub(crate) fn check(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}

/// `size` bytes of the kernel's randomness (`man 2 getrandom`).
pub fn random<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0u8; N];
    // SAFETY: the pointer and the length describe `bytes`; up to 256 bytes are never returned short.
    check(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) } as libc::c_long)?;
    Ok(bytes)
}

/// Drops capability `cap` (a number of `linux/capability.h`) from the bounding set. EINVAL: unknown to this kernel.
pub fn capbset_drop(cap: u8) -> Result<(), Errno> {
    // SAFETY: prctl with plain integers.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap as libc::c_ulong, 0, 0, 0) } as libc::c_long).map(drop)
}

/// Sets the calling thread's three capability sets, each a bit mask (`man 2 capset`, version 3).
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0u32];
    let data = [
        [effective as u32, permitted as u32, inheritable as u32],
        [(effective >> 32) as u32, (permitted >> 32) as u32, (inheritable >> 32) as u32],
    ];
    // SAFETY: version 3 reads a header of two words and two records of three words; both live across the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Clears the ambient capability set (`man 2 prctl`, PR_CAP_AMBIENT).
pub fn clear_ambient() -> Result<(), Errno> {
    // SAFETY: prctl with plain integers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) }
        as libc::c_long)
    .map(drop)
}

/// Marks every descriptor from `first` up close-on-exec (`man 2 close_range`); one by one before Linux 5.11, which
/// does not know the flag.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: plain integers; closing on exec cannot invalidate an object of ours before that.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }) {
        Err(Errno::ENOSYS | Errno::EINVAL) => {}
        other => return other.map(drop),
    }
    let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    for number in first as i32..limit.min(1 << 20) as i32 {
        // SAFETY: F_SETFD on any number is harmless; EBADF where nothing is open.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Closes every descriptor from `first` up: for a process that will only wait (PID 1 of `--init`).
pub fn close_from(first: u32) {
    // SAFETY: the caller never touches another descriptor again; there is nothing to do about an error.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Ends this process at once: no destructors, no buffers (`man 2 _exit`).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// The NIS domain name of this UTS namespace (`man 2 setdomainname`).
pub fn setdomainname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } as libc::c_long).map(drop)
}

/// Turns the loopback interface of the current network namespace on (`man 7 netdevice`, SIOCSIFFLAGS).
pub fn loopback_up() -> Result<(), Errno> {
    // SAFETY: a zeroed ifreq is valid; the name fits; the ioctl reads and writes only that structure.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) as libc::c_long)?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let done = check(libc::ioctl(socket as i32, libc::SIOCSIFFLAGS as _, &request) as libc::c_long);
        libc::close(socket as i32);
        done.map(drop)
    }
}

/// Takes so many bytes of heap in one step, with their pages: a start needs them all, and a page that is only found
/// missing when it is touched costs ten times as much (`man 2 madvise`, MADV_POPULATE_WRITE; before Linux 5.14 nothing
/// happens).
pub fn warm_heap(bytes: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: the heap between a block of ours and its end is the C library's own free memory, and stays what it is:
    // populating a page changes no byte of it.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, bytes as i32);
        let block = libc::malloc(64);
        let (start, end) = (block as usize & !0xfff, libc::sbrk(0) as usize);
        libc::free(block);
        if (1..=2 * bytes).contains(&end.saturating_sub(start)) {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_POPULATE_WRITE);
        }
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}

/// Gives back what a process that will mostly wait does not need: free memory of the heap (`man 3 malloc_trim`), and the
/// pages of its own program, which the kernel maps again, from its cache, when they are wanted.
pub fn trim_memory() {
    for (start, length) in code() {
        // SAFETY: the range is a private mapping of our program's file that was never written to (code, or the read-only
        // data before it, which no relocation touches), so a page that is dropped comes back with the same bytes.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    // SAFETY: no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Where our own program's code is mapped, and its constants at the beginning of the file: address and length.
fn code() -> Vec<(usize, usize)> {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return Vec::new() };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = rights == "r-xp" || rights == "r--p" && offset.bytes().all(|digit| digit == b'0');
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        (wanted && line.ends_with(program.to_str()?)).then(|| (start, end - start))
    };
    maps.lines().filter_map(range).collect()
}

/// Closes what the caller left open for us: every descriptor of ours is close-on-exec, so what is not is his.
pub fn close_inherited() {
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: plain integers; nothing of ours lives behind a descriptor without the flag.
        unsafe {
            let flags = libc::fcntl(number, libc::F_GETFD);
            if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
                libc::close(number);
            }
        }
    }
}
