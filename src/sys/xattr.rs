//! Extended attributes by descriptor, and reflinks.

use super::{FdPath, check};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd};

/// The names of all attributes of what `fd` refers to; `fd` may be `O_PATH`, and may be a symbolic link itself
/// (`man 7 xattr`). A file system without attributes has none.
pub fn list_xattr(fd: impl AsFd) -> Result<Vec<CString>, Errno> {
    let path = FdPath::new(&fd);
    let mut buffer = vec![0u8; 1024];
    loop {
        // SAFETY: the path ends in NUL; pointer and length describe `buffer`.
        let size =
            check(unsafe { libc::listxattr(path.as_c_str().as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) } as _);
        match size {
            Err(Errno::ERANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
            Ok(size) => {
                let names = buffer[..size as usize].split(|byte| *byte == 0).filter(|name| !name.is_empty());
                return Ok(names.filter_map(|name| CString::new(name).ok()).collect());
            }
        }
    }
}

/// The value of one attribute. ENODATA: there is none of that name.
pub fn get_xattr(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    let path = FdPath::new(&fd);
    let mut buffer = vec![0u8; 256];
    loop {
        // SAFETY: both strings end in NUL; pointer and length describe `buffer`.
        let size = check(unsafe {
            libc::getxattr(path.as_c_str().as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        } as _);
        match size {
            Err(Errno::ERANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno),
            Ok(size) => {
                buffer.truncate(size as usize);
                return Ok(buffer);
            }
        }
    }
}

/// Sets one attribute; `fd` may be `O_PATH`.
pub fn set_xattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let path = FdPath::new(&fd);
    // SAFETY: both strings end in NUL; pointer and length describe `value`.
    check(unsafe {
        libc::setxattr(path.as_c_str().as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    } as _)
    .map(drop)
}

/// The same for what stands at `path`.
pub fn set_xattr_at(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: all strings end in NUL; pointer and length describe `value`.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } as _).map(drop)
}

/// Makes `to` share the blocks of `from` until one of them is written (`man 2 ioctl_ficlone`). EOPNOTSUPP, EXDEV: this
/// file system cannot.
pub fn clone_file(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    const FICLONE: libc::c_ulong = 0x4004_9409;
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: FICLONE takes a descriptor as its argument.
    check(unsafe { libc::ioctl(to, FICLONE, from) } as libc::c_long).map(drop)
}
