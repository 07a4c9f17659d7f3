//! Files into a container and out of it, by docker's rules of what a path means. Both ends are walked by descriptor;
//! what a process inside moves about meanwhile leads nowhere but to another place inside.

use super::files::{self, Files, Place};
use super::{as_root, recover};
use crate::container::{Event, Record, tell};
use crate::image::{pack_named, unpack};
use crate::plan::{Dirs, Id, Room, Watch};
use crate::sys::{RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use crate::tree::{Child, Entry, Landing, Sink, Turn, View, is_folder, kind, raise_open_files};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

/// What the user said, beside the two ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copying {
    /// `-L`: a link at the end of the source's path is followed.
    pub follow: bool,
    /// `-a`: owners, set-user-ID bits and extended attributes come along. Else everything belongs to whoever stands at the
    /// other end, as docker's reference has it (`docker cp`): in a container to root, whatever user it runs as; here to
    /// the caller. Docker's own engine does not do all of that: it keeps the host's owners on the way in.
    pub archive: bool,
}

/// Where container and host meet.
pub struct Copier<'a> {
    pub rooms: &'a [&'a dyn Room],
    pub dirs: &'a Dirs,
    pub id: &'a Id,
    pub how: Copying,
}

impl Copier<'_> {
    /// Copies `from` in the container to `to` here: how many bytes.
    pub fn take(&self, from: &[u8], to: &[u8], watch: &mut dyn Watch) -> Result<u64> {
        let ends = (self.container(watch)?, files::of_host()?);
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let bytes = self.copy(&ends.0, from, &ends.1, to, owner, true)?;
        self.told("archive-path", from);
        Ok(bytes)
    }

    /// Copies `from` here to `to` in the container.
    pub fn put(&self, from: &[u8], to: &[u8], watch: &mut dyn Watch) -> Result<u64> {
        let ends = (files::of_host()?, self.container(watch)?);
        let bytes = self.copy(&ends.0, from, &ends.1, to, (0, 0), false)?;
        self.told("extract-to-dir", to);
        Ok(bytes)
    }

    /// Writes `from` in the container to `archive`, as `tar`.
    pub fn pack(&self, from: &[u8], archive: impl Write, watch: &mut dyn Watch) -> Result<()> {
        let files = self.container(watch)?;
        let source = Source::find(&files, from, self.how.follow)?;
        source.refuse_kernels()?;
        let seen = (&source.above, source.name.as_c_str(), &source.child);
        pack_named(seen, &source.called, &|entry| is_boundary(entry, &source.child), archive)?;
        self.told("archive-path", from);
        Ok(())
    }

    /// Puts the members of `archive` into the folder `to` of the container.
    pub fn unpack(&self, archive: impl Read, to: &[u8], watch: &mut dyn Watch) -> Result<()> {
        let files = self.container(watch)?;
        let place = files.find(to, true).map_err(said(to))?;
        match place.stat {
            Some(stat) if is_folder(&stat) => {}
            Some(_) => bail!("destination `{}` must be a directory", to.escape_ascii()),
            None => bail!("Could not find the file {} in container {}", to.escape_ascii(), self.id.short()),
        }
        let mut sink = Sink::new(landing_in(&files, &place.parts, None, true)?);
        unpack(archive, &mut sink)?;
        sink.finish()?;
        self.told("extract-to-dir", to);
        Ok(())
    }

    fn told(&self, action: &str, path: &[u8]) {
        if let Ok(record) = Record::read(self.dirs, self.id) {
            tell(self.dirs, &[Event::of(&record.spec, action).with("path", String::from_utf8_lossy(path))]);
        }
    }

    fn container(&self, watch: &mut dyn Watch) -> Result<Files> {
        as_root()?;
        recover(self.dirs, self.id)?;
        raise_open_files();
        files::of_container(self.rooms, self.dirs, self.id, watch)
    }

    fn copy(
        &self,
        here: &Files,
        from: &[u8],
        there: &Files,
        to: &[u8],
        owner: (u32, u32),
        outward: bool,
    ) -> Result<u64> {
        let source = Source::find(here, from, self.how.follow)?;
        if outward {
            source.refuse_kernels()?;
        }
        let device = matches!(kind(&source.child.stat), libc::S_IFCHR | libc::S_IFBLK);
        if device && outward && !self.how.archive {
            bail!("`{}` is a device: its node is copied with -a only", from.escape_ascii());
        }
        let target = target(there, to, &source)?;
        let owner = (!self.how.archive).then_some(owner);
        let landing = match outward {
            // Below the folder that the caller named, no link of an earlier copy leads anywhere.
            true => {
                let root = there.open(&target.folder, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(said(to))?;
                let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
                Landing { root, base: vec![], resolve, owner, whole: self.how.archive }
            }
            false => landing_in(there, &target.folder, owner, self.how.archive)?,
        };
        let mut sink = Sink::new(landing);
        let child = &source.child;
        let mut visit = |entry: &Entry<'_>| -> Result<Turn> {
            if entry.path.is_empty() {
                return Ok(Turn::Enter);
            }
            sink.entry(entry)?;
            Ok(if outward && is_boundary(entry, child) { Turn::Pass } else { Turn::Enter })
        };
        source.above.walk_named(&source.name, child, &target.called, &mut visit)?;
        sink.finish()
    }
}

/// Whether a walk comes from the container's files to the kernel's (its /proc), which are none of its.
fn is_boundary(entry: &Entry<'_>, top: &Child) -> bool {
    is_folder(&entry.stat) && entry.stat.st_dev != top.stat.st_dev && entry.open_path().is_ok_and(files::is_kernels)
}

/// What is copied.
struct Source {
    above: View,
    name: CString,
    child: Child,
    /// Its name for the other end.
    called: Vec<u8>,
    /// Only what is in it is meant (`DIR/.`).
    content: bool,
}

impl Source {
    fn find(files: &Files, path: &[u8], follow: bool) -> Result<Self> {
        let slash = path.ends_with(b"/") || path.ends_with(b"/.") || path == b".";
        let place = files.find(path, follow || slash).map_err(said(path))?;
        let Some(stat) = place.stat else { bail!("Could not find the file {}", path.escape_ascii()) };
        if slash && !is_folder(&stat) {
            bail!("`{}` is not a directory", path.escape_ascii());
        }
        // What it is called is what the user called it, wherever a link leads.
        let called = files.find(path, false).map_err(said(path))?.parts.pop().unwrap_or_default();
        let content = path.ends_with(b"/.") || path == b"." || place.parts.is_empty();
        let (above, name) = match place.parts.split_last() {
            Some((name, above)) => (above, CString::new(name.clone()).context("a name holds a NUL")?),
            None => (&[][..], c".".to_owned()),
        };
        let above = files.open(above, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(said(path))?;
        let above = View::of(above);
        let child = above.child(&name).map_err(said(path))?;
        let Some(child) = child else { bail!("Could not find the file {}", path.escape_ascii()) };
        Ok(Self { above, name, child, called, content })
    }

    fn refuse_kernels(&self) -> Result<()> {
        let folder: &OwnedFd = self.above.top();
        let inside = self.name.as_c_str() != c"." && files::is_kernels(folder);
        let itself = is_folder(&self.child.stat)
            && self.above.enter(&self.name, &self.child).is_ok_and(|view| files::is_kernels(view.top()));
        if inside || itself {
            bail!("`{}` is the kernel's, and no file of the container", self.called.escape_ascii());
        }
        Ok(())
    }
}

/// Where it goes.
struct Target {
    folder: Vec<Vec<u8>>,
    /// Its name in there; empty: its content goes in there.
    called: Vec<u8>,
}

/// Docker's rules (`docker cp --help`): into a folder that is there, over a file that is there, or under a new name.
fn target(files: &Files, path: &[u8], source: &Source) -> Result<Target> {
    let Place { mut parts, stat } = files.find(path, true).map_err(said(path))?;
    let folder = is_folder(&source.child.stat);
    let wants_folder = path.ends_with(b"/") || path.ends_with(b"/.") || path == b".";
    match stat {
        Some(stat) if is_folder(&stat) => {
            let called = if folder && source.content { vec![] } else { source.called.clone() };
            Ok(Target { folder: parts, called })
        }
        Some(_) if folder => bail!("cannot copy directory to `{}`, which is no directory", path.escape_ascii()),
        Some(_) if wants_folder => bail!("not a directory: `{}`", path.escape_ascii()),
        None if wants_folder && !folder => {
            bail!("destination directory `{}` must exist: it does not", path.escape_ascii())
        }
        _ => {
            let called = parts.pop().unwrap_or_default();
            match files.find(&parts.join(&b'/'), true).map_err(said(path))?.stat {
                Some(above) if is_folder(&above) => Ok(Target { folder: parts, called }),
                _ => bail!("Could not find the directory of `{}`: it must exist", path.escape_ascii()),
            }
        }
    }
}

fn landing_in(files: &Files, folder: &[Vec<u8>], owner: Option<(u32, u32)>, whole: bool) -> Result<Landing> {
    let opened = files.open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(said(&folder.join(&b'/')))?;
    if files::is_kernels(&opened) {
        bail!("`/{}` is the kernel's, and no folder of the container", folder.join(&b'/').escape_ascii());
    }
    let root = files.root.try_clone()?;
    Ok(Landing { root, base: folder.join(&b'/'), resolve: files.resolve, owner, whole })
}

fn said(path: &[u8]) -> impl FnOnce(Errno) -> anyhow::Error + '_ {
    move |errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => anyhow::anyhow!("Could not find the file {}", path.escape_ascii()),
        errno => anyhow::anyhow!("`{}`: {}", path.escape_ascii(), errno.desc()),
    }
}
