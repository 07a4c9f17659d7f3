//! Everything about a file but its name and content: owner, mode, times to the nanosecond, extended attributes.

use crate::sys::{self, FdPath};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

/// Marks a folder that shows nothing of the layers below.
pub const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// The same on a data root that is itself on an overlay, which keeps its own marks to itself (before Linux 6.7).
const OPAQUE_ON_OVERLAY: &CStr = c"trusted.mydocker.opaque";

/// What a file keeps beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits with set-user-ID, set-group-ID and sticky; no kind.
    pub mode: u32,
    /// Of the last modification, in seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub xattrs: Vec<(CString, Vec<u8>)>,
}

/// Attributes that steer overlay itself: never taken from an archive, never put into one.
pub fn private_xattr(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"trusted.mydocker."].iter().any(|own| name.starts_with(own))
}

/// Marks the folder `fd` as opaque.
pub fn make_opaque(fd: impl AsFd) -> Result<(), Errno> {
    match sys::set_xattr(&fd, OPAQUE, b"y") {
        Err(Errno::EPERM | Errno::EOPNOTSUPP) => sys::set_xattr(&fd, OPAQUE_ON_OVERLAY, b"y"),
        other => other,
    }
}

/// Marks `name` in `dir` as deleted. An overlay forbids the device 0:0 (EPERM), for it would be a whiteout of its own;
/// there a block device stands for it, which is as impossible as any other file.
pub fn make_whiteout(dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let make = |kind| mknodat(&dir, name, kind, Mode::empty(), 0);
    match make(SFlag::S_IFCHR) {
        Err(Errno::EPERM) => make(SFlag::S_IFBLK),
        other => other,
    }
}

/// Whether the folder `fd` hides what lies below it.
pub fn is_opaque(fd: impl AsFd) -> bool {
    let marked = |value: &[u8]| matches!(value, b"y" | b"x");
    match sys::get_xattr(&fd, OPAQUE) {
        Ok(value) => marked(&value),
        Err(Errno::EPERM | Errno::EOPNOTSUPP) => {
            sys::get_xattr(&fd, OPAQUE_ON_OVERLAY).is_ok_and(|value| marked(&value))
        }
        Err(_) => false,
    }
}

impl Attributes {
    /// Reads them; `fd` may be `O_PATH`. Attributes of overlay's own are left out.
    pub fn of(fd: impl AsFd, stat: &FileStat) -> Result<Self, Errno> {
        let mut xattrs = Vec::new();
        for name in sys::list_xattr(&fd)? {
            if private_xattr(name.to_bytes()) {
                continue;
            }
            match sys::get_xattr(&fd, &name) {
                Ok(value) => xattrs.push((name, value)),
                // Gone since it was listed, or not for us to read.
                Err(Errno::ENODATA | Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        xattrs.sort();
        let mtime = (stat.st_mtime, stat.st_mtime_nsec);
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, mtime, xattrs })
    }

    /// Applies all but the times to `name` in `dir`, which is not a link that is followed. The order matters: a change
    /// of owner clears set-user-ID and file capabilities. `file` is the same file opened, if the caller has it open.
    pub fn apply(
        &self,
        dir: impl AsFd,
        name: &CStr,
        stat_kind: u32,
        file: Option<&std::fs::File>,
    ) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        match file {
            Some(file) => nix::unistd::fchown(file, uid, gid)?,
            None => fchownat(&dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?,
        }
        let link = stat_kind == libc::S_IFLNK;
        if self.xattrs.is_empty() && link {
            return Ok(());
        }
        let mode = Mode::from_bits_truncate(self.mode);
        if let Some(file) = file {
            self.set_xattrs(file)?;
            return fchmod(file, mode);
        }
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW;
        let opened = sys::openat2(&dir, name, flags, Mode::empty(), sys::RESOLVE_NO_SYMLINKS * u64::from(!link))?;
        self.set_xattrs(&opened)?;
        if link {
            return Ok(());
        }
        // The descriptor is the file itself, so nothing can be put in its place meanwhile.
        let path = FdPath::new(&opened);
        nix::sys::stat::fchmodat(AT_FDCWD, path.as_c_str(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
    }

    fn set_xattrs(&self, fd: impl AsFd) -> Result<(), Errno> {
        for (name, value) in &self.xattrs {
            match sys::set_xattr(&fd, name, value) {
                // `user.` on a link or a device, an attribute that this file system does not have.
                Err(Errno::EOPNOTSUPP | Errno::EPERM | Errno::EINVAL) => {
                    log::warn!("the attribute {} cannot be set here; left out", name.to_string_lossy());
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// The time of the last modification, of `name` in `dir` itself.
    pub fn apply_times(&self, dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
        let (seconds, nanoseconds) = self.mtime;
        let time = TimeSpec::new(seconds, nanoseconds);
        utimensat(&dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
    }
}
