//! Paths by descriptor: `openat2` resolves a name *inside* a directory and nowhere else (`man 2 openat2`), so a link
//! in a hostile image cannot lead out of it. A path that was checked is never resolved a second time.

use super::check;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `/` and `..` and absolute links mean the directory that was given.
pub const RESOLVE_IN_ROOT: u64 = 0x10;
/// Links of the kind of `/proc/self/fd/3` are refused (ELOOP).
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// Every symbolic link is refused (ELOOP), on the way and at the end.
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;

/// A mount point is not crossed (EXDEV), a bind mount of the same file system neither.
pub const RESOLVE_NO_XDEV: u64 = 0x01;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path` below `dir`. EXDEV or ELOOP: the path tried to leave, or a link stood where `resolve` forbids one.
/// ENOSYS before Linux 5.6.
pub fn openat2(dir: impl AsFd, path: &CStr, flags: OFlag, mode: Mode, resolve: u64) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlag::O_CLOEXEC;
    let how = OpenHow { flags: flags.bits() as u32 as u64, mode: mode.bits() as u64, resolve };
    let dir = dir.as_fd().as_raw_fd();
    loop {
        // SAFETY: `how` has the layout of `struct open_how`, and its size is given; `path` ends in NUL.
        let opened = check(unsafe { libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &how, size_of::<OpenHow>()) });
        match opened {
            // A rename elsewhere raced with the walk; the kernel asks to be asked again.
            Err(Errno::EAGAIN) => continue,
            // SAFETY: a descriptor that the kernel has just made for us.
            other => return other.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        }
    }
}

/// Where the symbolic link behind `fd` (opened with `O_PATH`) leads: the length of what is in `target` now. Allocates
/// nothing. ENAMETOOLONG: it may have been cut.
pub fn read_link(fd: impl AsFd, target: &mut [u8]) -> Result<usize, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the empty name means `fd` itself; at most `target.len()` bytes are written.
    let read = check(unsafe { libc::readlinkat(fd, c"".as_ptr(), target.as_mut_ptr().cast(), target.len()) } as i64);
    read.map(|length| length as usize)
        .and_then(|length| if length < target.len() { Ok(length) } else { Err(Errno::ENAMETOOLONG) })
}

/// `/proc/self/fd/N` as a C string on the stack: how a call that only takes a path is given a descriptor.
pub struct FdPath([u8; 32]);

impl FdPath {
    pub fn new(fd: impl AsFd) -> Self {
        const PREFIX: &[u8] = b"/proc/self/fd/";
        let mut bytes = [0u8; 32];
        bytes[..PREFIX.len()].copy_from_slice(PREFIX);
        let (mut number, mut digits) = (fd.as_fd().as_raw_fd(), 1);
        while number >= 10i32.pow(digits) && digits < 9 {
            digits += 1;
        }
        for place in (0..digits as usize).rev() {
            bytes[PREFIX.len() + place] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        Self(bytes)
    }

    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"/proc/self/fd/")
    }
}

/// Makes a file in `dir` that has no name yet, hands it to `fill`, and only then gives it `name`: whoever sees the
/// name sees the whole file (`man 2 open`, O_TMPFILE). EEXIST: the name is taken.
pub fn open_tmpfile_and_link(
    dir: impl AsFd,
    name: &CStr,
    mode: Mode,
    fill: impl FnOnce(&File) -> Result<(), Errno>,
) -> Result<File, Errno> {
    let file = match openat2(&dir, c".", OFlag::O_TMPFILE | OFlag::O_RDWR, mode, 0) {
        Err(Errno::EOPNOTSUPP) => return open_hidden_and_link(dir, name, mode, fill),
        other => File::from(other?),
    };
    fill(&file)?;
    let path = FdPath::new(&file);
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
    nix::unistd::linkat(nix::fcntl::AT_FDCWD, path.as_c_str(), &dir, name, flags)?;
    Ok(file)
}

/// The same on a file system without nameless files (overlay before Linux 6.3): until it is whole the file is called
/// `.NAME`, which nobody reads; a kill in between leaves that.
fn open_hidden_and_link(
    dir: impl AsFd,
    name: &CStr,
    mode: Mode,
    fill: impl FnOnce(&File) -> Result<(), Errno>,
) -> Result<File, Errno> {
    let hidden = CString::new([b".", name.to_bytes()].concat()).map_err(|_| Errno::EINVAL)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
    let file = File::from(openat2(&dir, &hidden, flags, mode, RESOLVE_NO_SYMLINKS)?);
    let linked = fill(&file)
        .and_then(|()| nix::unistd::linkat(&dir, hidden.as_c_str(), &dir, name, nix::fcntl::AtFlags::empty()));
    nix::unistd::unlinkat(&dir, hidden.as_c_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)?;
    linked.map(|()| file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::BorrowedFd;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = File::open(folder.path()).unwrap();
        let mode = Mode::from_bits_truncate(0o600);
        let names = || std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        type Make = fn(&File, &CStr, Mode, &dyn Fn(&File) -> Result<(), Errno>) -> Result<File, Errno>;
        let both: [Make; 2] = [
            |dir, name, mode, fill| open_tmpfile_and_link(dir, name, mode, fill),
            |dir, name, mode, fill| open_hidden_and_link(dir, name, mode, fill),
        ];
        for (make, name) in both.into_iter().zip([c"one", c"two"]) {
            assert_eq!(make(&dir, name, mode, &|_| Err(Errno::ENOSPC)).unwrap_err(), Errno::ENOSPC);
            assert!(names().all(|left| left == "one"), "{:?}", names().collect::<Vec<_>>());
            make(&dir, name, mode, &|_| Ok(())).unwrap();
            assert_eq!(make(&dir, name, mode, &|_| Ok(())).unwrap_err(), Errno::EEXIST);
        }
        assert_eq!(names().count(), 2);
    }

    #[test]
    fn fd_paths_have_all_their_digits() {
        for number in [0, 7, 10, 99, 100, 1023, 1_048_575] {
            // SAFETY: the number is only printed, never used as a descriptor.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            assert_eq!(FdPath::new(fd).as_c_str().to_str().unwrap(), format!("/proc/self/fd/{number}"));
        }
    }
}
