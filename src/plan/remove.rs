//! `rm -rf` of a folder of ours: never through a link, never across a mount, however deep a container has dug. Every
//! folder is held by a descriptor while it is emptied, so one that is swapped for a link meanwhile leads nowhere
//! (CVE-2022-21658), and the kernel itself refuses to cross a mount (`man 2 openat2`, RESOLVE_NO_XDEV).
//!
//! Try it without us: `rm -rf --one-file-system DIR` (a mount of the same file system, such as a bind, it does empty).

use crate::sys::{self, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV};
use nix::dir::{Dir, Entry, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A folder of this depth is moved to the top before it is emptied: each level costs a descriptor and a piece of stack.
const DEEPEST: usize = 64;
/// So many names are read before the first of them is deleted.
const BATCH: usize = 1024;

/// Deletes `path` and what is in it; what is not there is passed over. A mount below is an error, and stays.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other(format!("`{}` is no folder of ours; not deleted", path.display())));
    };
    let parent = match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    match remove_top(parent.as_fd(), &super::c_string(name.as_bytes())) {
        Err(Errno::EXDEV | Errno::EBUSY) => {
            Err(io::Error::other(format!("something is mounted below {}; not deleted", path.display())))
        }
        other => other.map_err(io::Error::from),
    }
}

/// Empties the outermost folder until nothing comes up from the depths any more.
fn remove_top(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    loop {
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY) => {}
            Err(Errno::ENOTDIR) => return gone(unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)),
            Err(errno) => return Err(errno),
        }
        let mut folder = open_folder(parent, name)?;
        let top = folder.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        empty(&mut folder, top.as_fd(), 1)?;
    }
}

/// Deletes what is in `folder`, which lies `depth` below the parent of `top`.
fn empty(folder: &mut Dir, top: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    loop {
        // Each round begins with the folder's first name again (`man 3 rewinddir`).
        let names = folder.iter().filter(|entry| !entry.as_ref().is_ok_and(is_itself));
        let entries: Vec<Entry> = names.take(BATCH).collect::<Result<_, _>>()?;
        for entry in &entries {
            let file = entry.file_type().is_some_and(|kind| kind != Type::Directory);
            match file {
                true => gone(unlinkat(&*folder, entry.file_name(), UnlinkatFlags::NoRemoveDir))?,
                false => remove(folder.as_fd(), entry.file_name(), top, depth)?,
            }
        }
        if entries.len() < BATCH {
            return Ok(());
        }
    }
}

fn is_itself(entry: &Entry) -> bool {
    matches!(entry.file_name().to_bytes(), b"." | b"..")
}

/// Deletes `name` in `parent`, a folder unless the file system would not say.
fn remove(parent: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTEMPTY) => {}
        Err(Errno::ENOTDIR) => return gone(unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)),
        Err(errno) => return Err(errno),
    }
    if depth >= DEEPEST {
        return aside(parent, name, top);
    }
    empty(&mut open_folder(parent, name)?, top, depth + 1)?;
    gone(unlinkat(parent, name, UnlinkatFlags::RemoveDir))
}

/// Moves a folder that lies too deep to the top, under a name that is free there; the next round finds it.
fn aside(parent: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>) -> Result<(), Errno> {
    let word: u64 = u64::from_ne_bytes(sys::random()?);
    let free: CString = super::c_string(format!(".deep-{word:016x}").as_bytes());
    renameat(parent, name, top, free.as_c_str())
}

fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> Result<Dir, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    Dir::from_fd(sys::openat2(parent, name, flags, Mode::empty(), RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)?)
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_deeper_than_there_are_descriptors_goes() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        fs::create_dir(&ours).unwrap();
        // A path of 3000 parts is longer than a path may be: step by step.
        let mut at = nix::fcntl::open(&ours, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", Mode::from_bits_truncate(0o700)).unwrap();
            at = sys::openat2(&at, c"d", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty(), 0).unwrap();
        }
        drop(at);
        remove_tree(&ours).unwrap();
        assert!(!ours.exists());
    }

    #[test]
    fn many_files_and_names_that_look_like_ours_go() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        fs::create_dir_all(ours.join(".deep-0000000000000000/x")).unwrap();
        (0..3 * BATCH).for_each(|number| fs::write(ours.join(number.to_string()), "").unwrap());
        remove_tree(&ours).unwrap();
        assert!(!ours.exists());
    }
}
