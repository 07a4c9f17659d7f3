//! Where an entry of a layer goes: its parent folder, resolved inside the layer's own tree, and made where it is
//! missing. The layers below have a say: a link there leads elsewhere in the image, a folder lends its attributes.

use crate::sys::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use crate::tree::{
    Attributes, LONGEST_NAME, LONGEST_PATH, Stack, copy_data, is_folder, is_whiteout, kind, make_opaque,
};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

/// A path of an archive as its parts: empty ones and `.` fall away, so an absolute name begins at the image's root;
/// `..` is refused.
pub fn split(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.contains(&0) {
        bail!("a name holds a NUL");
    }
    if path.len() >= LONGEST_PATH {
        bail!("a path of {} bytes; at most {} are allowed", path.len(), LONGEST_PATH - 1);
    }
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    for (number, part) in parts.iter().enumerate() {
        if *part == b".." {
            bail!("a path with `..`");
        }
        if part.len() > LONGEST_NAME {
            bail!("a name of {} bytes; at most {LONGEST_NAME} are allowed", part.len());
        }
        if part.starts_with(b".wh.") && number + 1 < parts.len() {
            bail!("something inside of a whiteout");
        }
    }
    Ok(parts)
}

/// The folders of one layer's tree.
pub struct Places<'a> {
    root: &'a OwnedFd,
    lower: Option<&'a Stack>,
    /// The last parent: entries of one folder mostly follow each other.
    last: Option<(Vec<u8>, OwnedFd)>,
    implicit: BTreeSet<Vec<u8>>,
    /// Folders that are only here because of what is in them keep the times that they have below.
    times: BTreeMap<Vec<u8>, (i64, i64)>,
}

const MOST_LINKS: u32 = 40;

impl<'a> Places<'a> {
    pub fn new(root: &'a OwnedFd, lower: Option<&'a Stack>) -> Result<Self> {
        Ok(Self { root, lower, last: None, implicit: BTreeSet::new(), times: BTreeMap::new() })
    }

    /// Something was replaced: what was opened may not be there any more.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// An entry of the layer describes this folder.
    pub fn described(&mut self, path: &[u8]) {
        self.implicit.remove(path);
        self.times.remove(path);
    }

    pub fn times(&mut self) -> impl Iterator<Item = (Vec<u8>, (i64, i64))> + use<> {
        std::mem::take(&mut self.times).into_iter()
    }

    pub fn implicit(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.implicit).into_iter().collect()
    }

    pub fn knows_lower(&self) -> bool {
        self.lower.is_some()
    }

    /// The folder `parts`, made if it is missing.
    pub fn open(&mut self, parts: &[&[u8]]) -> Result<OwnedFd> {
        let path = parts.join(&b'/');
        if let Some((last, dir)) = &self.last
            && *last == path
        {
            return Ok(dir.try_clone()?);
        }
        let dir = match self.open_existing(parts)? {
            Some(dir) => dir,
            None => self.make(parts)?,
        };
        self.last = Some((path, dir.try_clone()?));
        Ok(dir)
    }

    /// The folder `parts`, if it is there: one call, in which no link leads out of the tree.
    pub fn open_existing(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>> {
        let path = if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') };
        match self.open_at(&path, OFlag::O_DIRECTORY) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open_at(&self, path: &[u8], more: OFlag) -> Result<OwnedFd, Errno> {
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        sys::openat2(self.root, &path, OFlag::O_PATH | more, Mode::empty(), resolve)
    }

    /// Walks down part by part, making what is missing; links are resolved here, because they may lead to what is
    /// missing too.
    fn make(&mut self, parts: &[&[u8]]) -> Result<OwnedFd> {
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        let mut trail: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    trail.pop();
                    continue;
                }
                _ => {}
            }
            match self.step(&trail, &part)? {
                None => trail.push(part),
                Some(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    if target.starts_with(b"/") {
                        trail.clear();
                    }
                    todo.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
                }
            }
            if trail.iter().map(|part| part.len() + 1).sum::<usize>() >= LONGEST_PATH {
                return Err(Errno::ENAMETOOLONG.into());
            }
        }
        let path = if trail.is_empty() { b".".to_vec() } else { trail.join(&b'/') };
        Ok(self.open_at(&path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?)
    }

    /// Makes sure that `name` in `trail` is a folder: `None`; or a link, and where it leads.
    fn step(&mut self, trail: &[Vec<u8>], name: &[u8]) -> Result<Option<Vec<u8>>> {
        let above = if trail.is_empty() { b".".to_vec() } else { trail.join(&b'/') };
        let dir = self.open_at(&above, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        let c_name = CString::new(name)?;
        match fstatat(&dir, c_name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_folder(&stat) => Ok(None),
            Ok(stat) if kind(&stat) == libc::S_IFLNK => {
                Ok(Some(nix::fcntl::readlinkat(&dir, c_name.as_c_str())?.into_vec()))
            }
            Ok(stat) if is_whiteout(&stat) => {
                nix::unistd::unlinkat(&dir, c_name.as_c_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)?;
                mkdirat(&dir, c_name.as_c_str(), Mode::from_bits_truncate(0o755))?;
                let made = self.open_at(&join(trail, name), OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
                Ok(make_opaque(&made).map(|()| None)?)
            }
            Ok(_) => Err(Errno::ENOTDIR.into()),
            Err(Errno::ENOENT) => self.step_below(trail, name, &dir, &c_name),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The same for a name that this layer does not have.
    fn step_below(
        &mut self,
        trail: &[Vec<u8>],
        name: &[u8],
        dir: &OwnedFd,
        c_name: &CString,
    ) -> Result<Option<Vec<u8>>> {
        let path = join(trail, name);
        mkdirat(dir, c_name.as_c_str(), Mode::from_bits_truncate(0o755))?;
        // Whatever the umask.
        let fixed = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0), xattrs: vec![] };
        fixed.apply(dir, c_name, libc::S_IFDIR, None)?;
        let Some(lower) = self.lower else {
            self.implicit.insert(path);
            return Ok(None);
        };
        let Some((view, name, child)) = lower.find(&path, false)? else { return Ok(None) };
        match kind(&child.stat) {
            libc::S_IFLNK => {
                nix::unistd::unlinkat(dir, c_name.as_c_str(), nix::unistd::UnlinkatFlags::RemoveDir)?;
                Ok(Some(view.read_link(&name, &child)?))
            }
            libc::S_IFDIR => {
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
                let below = sys::openat2(view.holder(&child), &name, flags, Mode::empty(), RESOLVE_NO_MAGICLINKS)?;
                let attributes = Attributes::of(&below, &child.stat)?;
                attributes.apply(dir, c_name, libc::S_IFDIR, None)?;
                self.times.insert(path, attributes.mtime);
                Ok(None)
            }
            // The layer puts a folder in the place of a file.
            _ => Ok(None),
        }
    }

    /// Brings a file of the layers below up into this one, as overlay does before a hard link: whether there was one.
    pub fn copy_up(&mut self, parts: &[&[u8]]) -> Result<bool> {
        let Some(lower) = self.lower else { return Ok(false) };
        let Some((view, name, child)) = lower.find(&parts.join(&b'/'), false)? else { return Ok(false) };
        if kind(&child.stat) != libc::S_IFREG {
            return Ok(false);
        }
        let (leaf, above) = parts.split_last().context("a hard link to the root")?;
        let dir = self.open(above)?;
        let leaf = CString::new(*leaf)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let from = File::from(nix::fcntl::openat(view.holder(&child), name.as_c_str(), flags, Mode::empty())?);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let to = File::from(nix::fcntl::openat(&dir, leaf.as_c_str(), flags, Mode::from_bits_truncate(0o600))?);
        copy_data(&from, &to, child.stat.st_size as u64)?;
        let attributes = Attributes::of(&from, &child.stat)?;
        attributes.apply(&dir, &leaf, libc::S_IFREG, Some(&to))?;
        attributes.apply_times(&dir, &leaf)?;
        Ok(true)
    }
}

fn join(trail: &[Vec<u8>], name: &[u8]) -> Vec<u8> {
    let mut path = trail.join(&b'/');
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
