//! The young half of the mount calls, in which a mount is a descriptor before it has a place (`man 2 mount_setattr`;
//! only since 2025 have `open_tree` and `move_mount` pages of their own).

use super::{FdPath, check};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A copy of the mount at `path`, and of all below it if `recursive`, that is nowhere yet. It stays in the peer group of
/// the original: what is mounted below one appears below the other. ENOSYS before Linux 5.2.
pub fn open_tree_clone(path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    const OPEN_TREE_CLONE: libc::c_int = 1;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `path` ends in NUL; the kernel returns a new descriptor.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: it has just been made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Gives the mount `tree` the place `target`.
pub fn move_mount(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    const F_EMPTY_PATH: libc::c_uint = 0x04;
    const T_EMPTY_PATH: libc::c_uint = 0x40;
    let (tree, target) = (tree.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let empty = c"".as_ptr();
    // SAFETY: two descriptors and two empty strings.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, F_EMPTY_PATH | T_EMPTY_PATH) })
        .map(drop)
}

/// Sets attributes (`MOUNT_ATTR_*`) on the mount that `mount` is the root of, and on all below it (`man 2 mount_setattr`). ENOSYS before
/// Linux 5.12.
pub fn mount_setattr_recursive(mount: impl AsFd, set: u64) -> Result<(), Errno> {
    const SYS_MOUNT_SETATTR: libc::c_long = 442;
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let path = FdPath::new(&mount);
    let path = path.as_c_str();
    let attr = MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: `attr` has the layout of `struct mount_attr`, and its size is given; `path` ends in NUL, and is followed.
    check(unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            libc::AT_FDCWD,
            path.as_ptr(),
            AT_RECURSIVE,
            &attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// `MOUNT_ATTR_RDONLY` of `linux/mount.h`.
pub const MOUNT_ATTR_RDONLY: u64 = 1;
