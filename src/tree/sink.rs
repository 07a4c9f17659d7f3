//! Files put into a folder that others use meanwhile, such as a container that runs: every parent is resolved by the
//! kernel inside of one root (`man 2 openat2`), no link at the end of a name is followed, and a thing of another kind
//! that stands in the way is an error and not overwritten (CVE-2018-15664).
//!
//! Try it without us: `tar -C from -c . | tar -C to -x --no-overwrite-dir`

use super::{Attributes, Entry, at, copy_data, is_folder, kind};
use crate::sys;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Where files land, and what becomes of their attributes.
pub struct Landing {
    /// No path leads out of this folder.
    pub root: OwnedFd,
    /// The folder in it to which all paths are relative; it exists.
    pub base: Vec<u8>,
    /// `RESOLVE_…` of `openat2`.
    pub resolve: u64,
    /// Owner and group of everything; `None`: as the source says.
    pub owner: Option<(u32, u32)>,
    /// Set-user-ID bits and extended attributes come along, and device nodes are made.
    pub whole: bool,
}

/// The folder that is being filled.
pub struct Sink {
    landing: Landing,
    /// The last parent: the files of one folder follow each other.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Folders get their times last, because filling them changes these.
    folders: Vec<(Vec<u8>, Attributes)>,
    /// Where an inode with several names was put first.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// As an archive would count them: a block for every name, and the files' bytes in whole blocks.
    bytes: u64,
}

const BLOCK: u64 = 512;

impl Sink {
    pub fn new(landing: Landing) -> Self {
        Self { landing, last: None, folders: vec![], links: HashMap::new(), bytes: 2 * BLOCK }
    }

    /// Takes what a walk comes by, under the path that the walk gives it.
    pub fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (kind, path) = (kind(&entry.stat), entry.path);
        if kind != libc::S_IFDIR && entry.stat.st_nlink > 1 {
            let inode = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = self.links.get(&inode).cloned() {
                return self.hard_link(path, &first);
            }
            self.links.insert(inode, path.to_vec());
        }
        let held = match entry.open_path() {
            Err(Errno::ENOENT) => return Ok(()), // gone since it was listed
            other => other.map_err(at(path))?,
        };
        let attributes = Attributes::of(held, &entry.stat).map_err(at(path))?;
        match kind {
            libc::S_IFDIR => self.folder(path, attributes),
            libc::S_IFREG => self.file(path, entry.stat.st_size as u64, attributes, |to| {
                let from = entry.open().map_err(at(path))?;
                copy_data(&from, to, entry.stat.st_size as u64).map_err(at(path))
            }),
            libc::S_IFLNK => self.symbolic_link(path, &entry.read_link().map_err(at(path))?, attributes),
            libc::S_IFSOCK => {
                log::warn!("`/{}` is a socket, which belongs to its process; left out", path.escape_ascii());
                Ok(())
            }
            kind => self.node(path, SFlag::from_bits_truncate(kind), entry.stat.st_rdev, attributes),
        }
    }

    /// A folder; one that is there keeps what is in it.
    pub fn folder(&mut self, path: &[u8], attributes: Attributes) -> Result<()> {
        let (dir, name) = self.place(path)?;
        match stat(&dir, &name).map_err(at(path))? {
            Some(stat) if is_folder(&stat) => {}
            Some(_) => bail!("cannot overwrite non-directory `/{}` with a directory", path.escape_ascii()),
            None => mkdirat(&dir, name.as_c_str(), Mode::from_bits_truncate(0o700)).map_err(at(path))?,
        }
        let attributes = self.allowed(attributes);
        attributes.apply(&dir, &name, libc::S_IFDIR, None).map_err(at(path))?;
        self.folders.push((path.to_vec(), attributes));
        self.bytes += BLOCK;
        Ok(())
    }

    /// A regular file of `size` bytes that `fill` writes into the new, empty one.
    pub fn file(
        &mut self,
        path: &[u8],
        size: u64,
        attributes: Attributes,
        fill: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let (opened, new) = match clear(&dir, &name, path)? {
            true => (flags | OFlag::O_CREAT | OFlag::O_EXCL, true),
            // Another file is mounted on it: its content can be changed, and nothing else.
            false => (flags | OFlag::O_TRUNC | OFlag::O_NONBLOCK, false),
        };
        let opened = nix::fcntl::openat(&dir, name.as_c_str(), opened, Mode::from_bits_truncate(0o600));
        let mut file = File::from(opened.map_err(at(path))?);
        let attributes = self.allowed(attributes);
        let filled = fill(&mut file)
            .and_then(|()| attributes.apply(&dir, &name, libc::S_IFREG, Some(&file)).map_err(at(path)))
            .and_then(|()| attributes.apply_times(&dir, &name).map_err(at(path)));
        if filled.is_err() && new {
            let _ = unlinkat(&dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
        self.bytes += BLOCK + size.div_ceil(BLOCK) * BLOCK;
        filled
    }

    pub fn symbolic_link(&mut self, path: &[u8], target: &[u8], attributes: Attributes) -> Result<()> {
        let attributes = self.allowed(attributes);
        self.put(path, libc::S_IFLNK, &attributes, |dir, name| symlinkat(OsStr::from_bytes(target), dir, name))
    }

    /// A FIFO or a device.
    pub fn node(&mut self, path: &[u8], kind: SFlag, device: u64, attributes: Attributes) -> Result<()> {
        if kind != SFlag::S_IFIFO && !self.landing.whole {
            log::warn!("`/{}` is a device; left out", path.escape_ascii());
            return Ok(());
        }
        let attributes = self.allowed(attributes);
        let private = Mode::from_bits_truncate(0o600);
        self.put(path, kind.bits(), &attributes, |dir, name| mknodat(dir, name, kind, private, device))
    }

    /// Another name for what was put at `first`.
    pub fn hard_link(&mut self, path: &[u8], first: &[u8]) -> Result<()> {
        let (there, other) = self.place(first)?;
        // The last parent that is held is that of `path`.
        let (dir, name) = self.place(path)?;
        if stat(&there, &other).map_err(at(first))?.is_none_or(|stat| is_folder(&stat)) {
            bail!("a hard link to `/{}`, which is not there or is a folder", first.escape_ascii());
        }
        clear(&dir, &name, path)?;
        linkat(&there, other.as_c_str(), &dir, name.as_c_str(), AtFlags::empty()).map_err(at(path))?;
        self.bytes += BLOCK;
        Ok(())
    }

    /// The times of the folders: how many bytes it was.
    pub fn finish(mut self) -> Result<u64> {
        for (path, attributes) in std::mem::take(&mut self.folders).iter().rev() {
            let (dir, name) = self.place(path)?;
            match attributes.apply_times(&dir, &name) {
                Err(Errno::ENOENT) => {} // somebody has removed it meanwhile
                other => other.map_err(at(path))?,
            }
        }
        Ok(self.bytes)
    }

    fn put(
        &mut self,
        path: &[u8],
        kind: u32,
        attributes: &Attributes,
        make: impl FnOnce(&OwnedFd, &CStr) -> Result<(), Errno>,
    ) -> Result<()> {
        let (dir, name) = self.place(path)?;
        clear(&dir, &name, path)?;
        make(&dir, &name).map_err(at(path))?;
        attributes.apply(&dir, &name, kind, None).map_err(at(path))?;
        self.bytes += BLOCK;
        attributes.apply_times(&dir, &name).map_err(at(path))
    }

    fn allowed(&self, attributes: Attributes) -> Attributes {
        let (uid, gid) = self.landing.owner.unwrap_or((attributes.uid, attributes.gid));
        match self.landing.whole {
            true => Attributes { uid, gid, ..attributes },
            false => Attributes { uid, gid, mode: attributes.mode & 0o1777, xattrs: vec![], ..attributes },
        }
    }

    /// The folder that holds `path`, and its name there. Made where it is missing, as an archive without entries for its
    /// folders wants it.
    fn place(&mut self, path: &[u8]) -> Result<(OwnedFd, CString)> {
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = cut.map_or((&b""[..], path), |cut| (&path[..cut], &path[cut + 1..]));
        let name = CString::new(name).context("a name holds a NUL")?;
        if let Some((last, dir)) = &self.last
            && last == above
        {
            return Ok((dir.try_clone()?, name));
        }
        let dir = self.open(above).or_else(|errno| match errno {
            Errno::ENOENT => self.make(above),
            other => Err(other),
        });
        let dir = dir.map_err(at(above))?;
        self.last = Some((above.to_vec(), dir.try_clone()?));
        Ok((dir, name))
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let whole = match (self.landing.base.is_empty(), path.is_empty()) {
            (true, true) => b".".to_vec(),
            _ => [&self.landing.base[..], b"/", path].concat(),
        };
        let whole = CString::new(whole).map_err(|_| Errno::EINVAL)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        sys::openat2(&self.landing.root, &whole, flags, Mode::empty(), self.landing.resolve)
    }

    fn make(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut dir = self.open(b"")?;
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').chain([(path.len(), &b'/')]) {
            let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let name = CString::new(&path[start..end]).map_err(|_| Errno::EINVAL)?;
            match mkdirat(&dir, name.as_c_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            dir = self.open(&path[..end])?;
        }
        Ok(dir)
    }
}

fn stat(dir: &OwnedFd, name: &CStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Takes away what stands in the place of something that is no folder; `false`: it is a file that cannot be taken away.
fn clear(dir: &OwnedFd, name: &CStr, path: &[u8]) -> Result<bool> {
    match stat(dir, name).map_err(at(path))? {
        None => Ok(true),
        Some(stat) if is_folder(&stat) => {
            bail!("cannot overwrite directory `/{}` with non-directory", path.escape_ascii())
        }
        Some(stat) => match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EBUSY) if kind(&stat) == libc::S_IFREG => Ok(false),
            other => other.map(|()| true).map_err(at(path)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Turn, View};
    use std::os::unix::fs::{MetadataExt, symlink};

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn a_tree_lands_whole_and_nothing_else_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let (from, to, out) = (home.path().join("from"), home.path().join("to"), home.path().join("out"));
        for folder in [&from.join("a/b"), &to, &out] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(from.join("a/b/file"), "text").unwrap();
        std::fs::hard_link(from.join("a/b/file"), from.join("a/twin")).unwrap();
        symlink("/etc/passwd", from.join("a/link")).unwrap();
        std::fs::write(out.join("canary"), "alive").unwrap();
        let landing = || Landing {
            root: open(&to),
            base: vec![],
            resolve: sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS,
            owner: None,
            whole: false,
        };
        let view = View::of(open(&from));
        let child = view.child(c"a").unwrap().unwrap();
        let copy = || -> Result<u64> {
            let mut sink = Sink::new(landing());
            view.walk_named(c"a", &child, b"new", &mut |entry| sink.entry(entry).map(|()| Turn::Enter))?;
            sink.finish()
        };
        assert_eq!(copy().unwrap(), 1024 + 5 * 512 + 512);
        copy().unwrap();
        let meta = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(meta("new/b/file").ino(), meta("new/twin").ino());
        assert_eq!(std::fs::read_link(to.join("new/link")).unwrap().to_str(), Some("/etc/passwd"));
        // A link that leads out stands in the way of a folder.
        std::fs::remove_dir_all(to.join("new/b")).unwrap();
        symlink(&out, to.join("new/b")).unwrap();
        assert!(copy().unwrap_err().to_string().contains("non-directory"));
        std::fs::remove_file(to.join("new/twin")).unwrap();
        std::fs::create_dir(to.join("new/twin")).unwrap();
        std::fs::remove_file(to.join("new/b")).unwrap();
        assert!(copy().unwrap_err().to_string().contains("cannot overwrite directory"));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    }
}
