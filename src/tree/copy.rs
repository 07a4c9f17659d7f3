//! A whole tree, copied as it is: holes stay holes, hard links stay links, and where the file system can, both copies
//! share their blocks until one is written.

use super::{Attributes, Entry, Stack, Turn, at, kind};
use crate::sys;
use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{Whence, lseek};
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// What is left to do when everything is in its place.
#[derive(Default)]
struct Rest {
    /// Where an inode with several names was copied to first.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Folders get their times last, because filling them changes these.
    folders: Vec<(Vec<u8>, Attributes)>,
}

/// Copies the folder `from` of `stack` (an absolute path, links resolved inside the stack) into the empty folder `to`;
/// its own owner, mode and times come too. `Ok(false)`: there is no such folder.
pub fn copy_tree(stack: &Stack, from: &[u8], to: &OwnedFd) -> Result<bool> {
    let view = match from.iter().all(|byte| *byte == b'/') {
        true => stack.root().map_err(at(from))?,
        false => match stack.find(from, true).map_err(at(from))? {
            Some((view, name, child)) if super::is_folder(&child.stat) => {
                view.enter(&name, &child).map_err(at(from))?
            }
            _ => return Ok(false),
        },
    };
    let mut rest = Rest::default();
    let top = view.top();
    let stat = nix::sys::stat::fstat(top)?;
    let attributes = Attributes::of(top, &stat).map_err(at(from))?;
    attributes.apply(to, c".", libc::S_IFDIR, None).map_err(at(from))?;
    rest.folders.push((b".".to_vec(), attributes));
    view.walk(&mut Vec::new(), false, &mut |entry| {
        copy_entry(entry, to, &mut rest)?;
        Ok(Turn::Enter)
    })?;
    for (path, attributes) in rest.folders.iter().rev() {
        attributes.apply_times(to, &c_path(path)?).map_err(at(path))?;
    }
    Ok(true)
}

fn c_path(path: &[u8]) -> Result<CString> {
    match CString::new(path) {
        Ok(path) => Ok(path),
        Err(_) => bail!("a name holds a NUL"),
    }
}

/// Nobody else works in `to`, and its folders were made by this walk, so paths below it hold no links.
fn copy_entry(entry: &Entry<'_>, to: &OwnedFd, rest: &mut Rest) -> Result<()> {
    let path = c_path(entry.path)?;
    let inode = (entry.stat.st_dev, entry.stat.st_ino);
    let kind = kind(&entry.stat);
    if kind != libc::S_IFDIR && entry.stat.st_nlink > 1 {
        if let Some(first) = rest.links.get(&inode) {
            let first = c_path(first)?;
            let link = nix::unistd::linkat(to, first.as_c_str(), to, path.as_c_str(), nix::fcntl::AtFlags::empty());
            return link.map_err(at(entry.path));
        }
        rest.links.insert(inode, entry.path.to_vec());
    }
    let made = (|| {
        let attributes = Attributes::of(entry.open_path()?, &entry.stat)?;
        let mut file = None;
        let private = Mode::from_bits_truncate(0o600);
        match kind {
            libc::S_IFDIR => mkdirat(to, path.as_c_str(), Mode::from_bits_truncate(0o700))?,
            libc::S_IFLNK => {
                let target = entry.read_link()?;
                nix::unistd::symlinkat(OsStr::from_bytes(&target), to, path.as_c_str())?;
            }
            libc::S_IFREG => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let copy = File::from(nix::fcntl::openat(to, path.as_c_str(), flags, private)?);
                copy_data(&entry.open()?, &copy, entry.stat.st_size as u64)?;
                file = Some(copy);
            }
            // A socket belongs to the process that bound it; it cannot be copied.
            libc::S_IFSOCK => return Ok(()),
            _ => mknodat(to, path.as_c_str(), SFlag::from_bits_truncate(kind), private, entry.stat.st_rdev)?,
        }
        attributes.apply(to, &path, kind, file.as_ref())?;
        match kind {
            libc::S_IFDIR => rest.folders.push((entry.path.to_vec(), attributes)),
            _ => attributes.apply_times(to, &path)?,
        }
        Ok(())
    })();
    made.map_err(at(entry.path))
}

/// The bytes of one file into a new empty one, holes left out.
pub fn copy_data(from: &File, to: &File, size: u64) -> Result<(), Errno> {
    if sys::clone_file(from, to).is_ok() {
        return Ok(());
    }
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    to.set_len(size).map_err(io)?;
    let mut at = 0i64;
    while (at as u64) < size {
        let start = match lseek(from, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break, // a hole up to the end
            // A file system that does not tell: all of it is data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => at,
            Err(errno) => return Err(errno),
        };
        let end = lseek(from, start, Whence::SeekHole).unwrap_or(size as i64);
        lseek(from, start, Whence::SeekSet)?;
        lseek(to, start, Whence::SeekSet)?;
        let part = std::io::Read::take(from, (end - start) as u64);
        let (mut part, mut to) = (part, to);
        std::io::copy(&mut part, &mut to).map_err(io)?; // copy_file_range
        at = end;
    }
    Ok(())
}
