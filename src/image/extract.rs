//! A layer's archive becomes a tree on disk, in overlay's dialect. A layer is hostile: whatever its names and links
//! say, nothing outside of the one folder it is given is touched (CVE-2014-6407, 2014-9356, 2018-15664 and
//! more); and its legal twins work: links on the way, a file that becomes a folder, opaque folders, any bytes in names.
//!
//! The folder is private while it is filled, so nobody changes it under our feet; still every parent is resolved by
//! descriptor inside it, and no link at the end of a name is followed.

use super::members::{Member, Members};
use super::place::Places;
use super::sparse;
use crate::tree::{Attributes, Stack, is_folder, is_whiteout, make_opaque, make_whiteout, private_xattr};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// More files than any image has; a layer of nothing but names would fill the disk's inodes.
const MOST_ENTRIES: u64 = 5_000_000;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const AUFS_OWN: &[u8] = b".wh..wh.";

/// What came out of a layer.
#[derive(Debug, Default)]
pub struct Extracted {
    /// Of all regular files.
    pub bytes: u64,
    /// Folders that no entry of the layer described: if a layer below has them, they are its.
    pub implicit: Vec<Vec<u8>>,
    /// Whether an entry described the root itself.
    pub root: bool,
    /// Something could not be done without the layers below: a hard link to one of their files.
    pub needs_lower: bool,
}

/// Reads the archive to the end of its last member, and fills `root` with it. `lower` is what the layer lies on, if it
/// is known yet.
pub fn extract(archive: impl Read, root: &OwnedFd, lower: Option<&Stack>) -> Result<Extracted> {
    let places = Places::new(root, lower)?;
    let free = sparse::Free::of(root);
    let mut work =
        Extraction { places, out: Extracted::default(), times: Vec::new(), free, buffer: vec![0; 256 << 10] };
    let mut members = Members::new(archive);
    while let Some(member) = members.next()? {
        if members.seen() > MOST_ENTRIES {
            bail!("the layer has more than {MOST_ENTRIES} entries");
        }
        let shown = || format!("layer entry `{}`", shorten(&member.path));
        work.member(&member, &mut members).with_context(shown)?;
    }
    work.finish()
}

/// A name of the archive for an error: escaped, and not longer than a line.
pub(super) fn shorten(path: &[u8]) -> String {
    match path.len() {
        0..=120 => path.escape_ascii().to_string(),
        _ => format!("{}…", path[..120].escape_ascii()),
    }
}

struct Extraction<'a> {
    places: Places<'a>,
    out: Extracted,
    /// Folders get their times last, because filling them changes these.
    times: Vec<(Vec<u8>, (i64, i64))>,
    free: sparse::Free<'a>,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn member(&mut self, member: &Member, content: &mut impl Read) -> Result<()> {
        let parts = super::place::split(&member.path)?;
        let Some((leaf, parents)) = parts.split_last() else {
            // The layer's root: only a folder can be one.
            if member.kind == b'5' {
                let attributes = attributes(member)?;
                let root = self.places.open(&[])?;
                attributes.apply(&root, c".", libc::S_IFDIR, None)?;
                self.times.push((Vec::new(), attributes.mtime));
                self.out.root = true;
            }
            return Ok(());
        };
        if leaf.starts_with(WHITEOUT) {
            return self.whiteout(leaf, parents);
        }
        let dir = self.places.open(parents)?;
        let name = CString::new(*leaf).context("a name holds a NUL")?;
        match member.kind {
            b'5' => self.folder(&dir, &name, member, &parts),
            b'1' => self.hard_link(&dir, &name, member, parents),
            _ => self.other(&dir, &name, member, content),
        }
    }

    fn folder(&mut self, dir: &OwnedFd, name: &CStr, member: &Member, parts: &[&[u8]]) -> Result<()> {
        let attributes = attributes(member)?;
        match stat(dir, name)? {
            Some(stat) if is_folder(&stat) => {}
            Some(stat) => {
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
                self.places.forget();
                mkdirat(dir, name, Mode::from_bits_truncate(0o700))?;
                if is_whiteout(&stat) {
                    mark_opaque(dir, name)?;
                }
            }
            None => mkdirat(dir, name, Mode::from_bits_truncate(0o700))?,
        }
        attributes.apply(dir, name, libc::S_IFDIR, None)?;
        let path = parts.join(&b'/');
        self.places.described(&path);
        self.times.push((path, attributes.mtime));
        Ok(())
    }

    fn hard_link(&mut self, dir: &OwnedFd, name: &CStr, member: &Member, parents: &[&[u8]]) -> Result<()> {
        let target = super::place::split(&member.link).context("its link")?;
        let Some((leaf, above)) = target.split_last() else { bail!("a hard link to the root") };
        if *leaf == name.to_bytes() && above == parents {
            return Ok(()); // to itself
        }
        let leaf = CString::new(*leaf).context("a name holds a NUL")?;
        let there = match self.places.open_existing(above)? {
            Some(there) if stat(&there, &leaf)?.is_some_and(|stat| !is_whiteout(&stat)) => Some(there),
            _ => match self.places.copy_up(&target)? {
                true => self.places.open_existing(above)?,
                false => None,
            },
        };
        let Some(there) = there else {
            if self.places.knows_lower() {
                bail!("a hard link to `{}`, which does not exist", shorten(&member.link));
            }
            self.out.needs_lower = true;
            return Ok(());
        };
        if stat(&there, &leaf)?.is_some_and(|stat| is_folder(&stat)) {
            bail!("a hard link to the folder `{}`", shorten(&member.link));
        }
        self.clear(dir, name)?;
        // Without AT_SYMLINK_FOLLOW a link at the end is linked itself.
        linkat(&there, leaf.as_c_str(), dir, name, AtFlags::empty())?;
        Ok(())
    }

    fn other(&mut self, dir: &OwnedFd, name: &CStr, member: &Member, content: &mut impl Read) -> Result<()> {
        let attributes = attributes(member)?;
        self.clear(dir, name)?;
        let private = Mode::from_bits_truncate(0o600);
        let mut file = None;
        let kind = match member.kind {
            b'0' => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut opened = File::from(nix::fcntl::openat(dir, name, flags, private)?);
                sparse::fill(&mut opened, member, content, &mut self.buffer, &mut self.free)?;
                self.out.bytes += member.size;
                file = Some(opened);
                libc::S_IFREG
            }
            b'2' => {
                if member.link.is_empty() || member.link.len() >= crate::tree::LONGEST_PATH {
                    bail!("a symbolic link to {} bytes", member.link.len());
                }
                symlinkat(OsStr::from_bytes(&member.link), dir, name)?;
                self.places.forget();
                libc::S_IFLNK
            }
            b'3' | b'4' if member.device == (0, 0) => bail!("a device 0:0, which is a whiteout on disk and no device"),
            kind @ (b'3' | b'4' | b'6') => {
                let kind = match kind {
                    b'3' => SFlag::S_IFCHR,
                    b'4' => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let (major, minor) = member.device;
                mknodat(dir, name, kind, private, makedev(major, minor))?;
                kind.bits()
            }
            kind => bail!("a member of the unknown type `{}`", kind.escape_ascii()),
        };
        attributes.apply(dir, name, kind, file.as_ref())?;
        attributes.apply_times(dir, name)?;
        Ok(())
    }

    /// `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` all that they have in this folder. What this same
    /// layer holds stays, in whichever order they come (OCI image spec, "Whiteouts").
    fn whiteout(&mut self, leaf: &[u8], parents: &[&[u8]]) -> Result<()> {
        let hidden = match leaf {
            OPAQUE_MARK => {
                let dir = self.places.open(parents)?;
                return Ok(make_opaque(&dir)?);
            }
            // Aufs's own bookkeeping.
            _ if leaf.starts_with(AUFS_OWN) => return Ok(()),
            _ => &leaf[WHITEOUT.len()..],
        };
        if matches!(hidden, b"" | b"." | b"..") {
            bail!("a whiteout of `{}`", hidden.escape_ascii());
        }
        let dir = self.places.open(parents)?;
        let name = CString::new(hidden).context("a name holds a NUL")?;
        match stat(&dir, &name)? {
            None => make_whiteout(&dir, &name)?,
            Some(stat) if is_folder(&stat) => mark_opaque(&dir, &name)?,
            Some(_) => {}
        }
        Ok(())
    }

    /// Takes away what stands in the place of something that is not a folder.
    fn clear(&mut self, dir: &OwnedFd, name: &CStr) -> Result<()> {
        match stat(dir, name)? {
            None => return Ok(()),
            Some(stat) if is_folder(&stat) => remove_folder(dir, name)?,
            Some(_) => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?,
        }
        self.places.forget();
        Ok(())
    }

    fn finish(mut self) -> Result<Extracted> {
        self.times.extend(self.places.times());
        for (path, mtime) in self.times.iter().rev() {
            // A folder that something else has replaced since has no time to set.
            let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
            if let Some(dir) = self.places.open_existing(&parts)? {
                let attributes = Attributes { uid: 0, gid: 0, mode: 0, mtime: *mtime, xattrs: vec![] };
                attributes.apply_times(&dir, c".")?;
            }
        }
        self.out.implicit = self.places.implicit();
        Ok(self.out)
    }
}

fn stat(dir: &OwnedFd, name: &CStr) -> Result<Option<nix::sys::stat::FileStat>, Errno> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn mark_opaque(dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    make_opaque(nix::fcntl::openat(dir, name, flags, Mode::empty())?)
}

/// Std's walk holds every folder by descriptor and follows no link.
fn remove_folder(dir: &OwnedFd, name: &CStr) -> Result<()> {
    let path = crate::sys::FdPath::new(dir);
    let path =
        std::path::Path::new(OsStr::from_bytes(path.as_c_str().to_bytes())).join(OsStr::from_bytes(name.to_bytes()));
    Ok(std::fs::remove_dir_all(path)?)
}

/// What the member says of itself, without what would steer overlay.
pub(super) fn attributes(member: &Member) -> Result<Attributes> {
    let id = |what: &str, id: u64| match u32::try_from(id) {
        // -1 means "leave it as it is" to chown(2).
        Ok(id) if id != u32::MAX => Ok(id),
        _ => bail!("its {what} is {id}"),
    };
    let (uid, gid) = (id("owner", member.uid)?, id("group", member.gid)?);
    let kept = member.xattrs.iter().filter(|(name, _)| !private_xattr(name.to_bytes()));
    Ok(Attributes { uid, gid, mode: member.mode, mtime: member.mtime, xattrs: kept.cloned().collect() })
}
