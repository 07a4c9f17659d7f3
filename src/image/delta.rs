//! Two trees held against each other: what a container with a copy of everything (the driver `vfs`) has changed. A file
//! counts as changed when anything that `stat` or its attributes tell has: kind, mode, owner, size, time of the last
//! modification, number of names. That is what docker's own comparison goes by.
//!
//! Try it without us: `rsync -nai --delete $CONTAINER/ $IMAGE/`

use super::changes::Kind;
use crate::tree::{Attributes, Child, Entry, Stack, Turn, View, at, is_folder, kind};
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::ffi::CStr;

/// A difference: how, where, and what stands there now, if anything does.
pub type Tell<'a> = dyn FnMut(Kind, &[u8], Option<&Entry<'_>>) -> Result<()> + 'a;

/// Tells the root, and all that is different in `new`, each folder before what is in it; what `skip` says is passed over.
pub fn compare(new: &Stack, old: &Stack, skip: &dyn Fn(&Entry<'_>) -> bool, tell: &mut Tell<'_>) -> Result<()> {
    new.walk(&mut |entry| {
        if !entry.path.is_empty() && skip(entry) {
            return Ok(Turn::Pass);
        }
        let before = match entry.path {
            b"" => {
                tell(Kind::Changed, b"", Some(entry))?;
                Some(old.root().map_err(at(b""))?)
            }
            path => match old.at(path).map_err(at(path))? {
                None => {
                    tell(Kind::Added, path, Some(entry))?;
                    None
                }
                Some((view, name, child)) => {
                    if differs(entry, &view, &name, &child).map_err(at(path))? {
                        tell(Kind::Changed, path, Some(entry))?;
                    }
                    let both = is_folder(&child.stat) && is_folder(&entry.stat);
                    both.then(|| view.enter(&name, &child)).transpose().map_err(at(path))?
                }
            },
        };
        if let Some(before) = before {
            deleted(entry, &before, tell)?;
        }
        Ok(Turn::Enter)
    })
}

/// The names that the folder `entry` has no more.
fn deleted(entry: &Entry<'_>, before: &View, tell: &mut Tell<'_>) -> Result<()> {
    let folder = entry.open_path().map_err(at(entry.path))?;
    for name in before.names(false).map_err(at(entry.path))?.into_keys() {
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        if nix::sys::stat::fstatat(&folder, name.as_c_str(), flags) == Err(Errno::ENOENT) {
            let slash: &[u8] = if entry.path.is_empty() { b"" } else { b"/" };
            tell(Kind::Deleted, &[entry.path, slash, name.to_bytes()].concat(), None)?;
        }
    }
    Ok(())
}

fn differs(entry: &Entry<'_>, view: &View, name: &CStr, child: &Child) -> Result<bool, Errno> {
    let (new, old) = (&entry.stat, &child.stat);
    let folder = is_folder(new);
    let plain = new.st_mode == old.st_mode
        && (new.st_uid, new.st_gid, new.st_rdev) == (old.st_uid, old.st_gid, old.st_rdev)
        && (new.st_mtime, new.st_mtime_nsec) == (old.st_mtime, old.st_mtime_nsec)
        // Of a folder both depend on the file system.
        && (folder || (new.st_size, new.st_nlink) == (old.st_size, old.st_nlink));
    if !plain {
        return Ok(true);
    }
    if kind(new) == libc::S_IFLNK && entry.read_link()? != view.read_link(name, child)? {
        return Ok(true);
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let below = nix::fcntl::openat(view.holder(child), name, flags, Mode::empty())?;
    Ok(Attributes::of(entry.open_path()?, new)?.xattrs != Attributes::of(below, old)?.xattrs)
}
