//! Several trees seen as one, as overlay would show them.

use super::{LONGEST_PATH, at, is_folder, is_opaque};
use crate::sys::{self, FdPath, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, fstatat};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Trees, the lowest first.
pub struct Stack(Vec<OwnedFd>);

/// One folder of a stack: the folders that are merged in it, the topmost first.
pub struct View(Vec<OwnedFd>);

/// What stands under one name in a view.
pub struct Child {
    pub stat: FileStat,
    /// Which of the view's folders holds it.
    holder: usize,
}

/// What is done with one that was looked up: its path, the view that holds it, its name there.
pub type See<'a> = dyn FnMut(&[u8], &View, &CStr, &Child) -> Result<()> + 'a;

/// A deleted name, on disk (as [`super::make_whiteout`] makes it).
pub fn is_whiteout(stat: &FileStat) -> bool {
    matches!(super::kind(stat), libc::S_IFCHR | libc::S_IFBLK) && stat.st_rdev == 0
}

/// Opens the folder `path` of ours, for looking up names in it.
pub fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).with_context(|| format!("cannot open `{}`", path.display()))
}

/// Opens a folder below `dir` itself, following nothing.
fn enter(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(dir, name, flags, Mode::empty())
}

impl Stack {
    /// Opens the trees, the lowest first.
    pub fn open(layers: &[PathBuf]) -> Result<Self> {
        layers.iter().map(|path| open_folder(path)).collect::<Result<_>>().map(Self)
    }

    /// The stack's root folder. An opaque root hides what lies below it, as any folder does.
    pub fn root(&self) -> Result<View, Errno> {
        let mut folders = Vec::with_capacity(self.0.len());
        for layer in self.0.iter().rev() {
            folders.push(enter(layer, c".")?);
            if is_opaque(layer) {
                break;
            }
        }
        Ok(View(folders))
    }

    /// What `path` is, with every link on the way resolved inside the stack: the view that holds it, and its name there.
    /// `None`: it does not exist. With `follow` a link at the end is resolved too.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Option<(View, CString, Child)>, Errno> {
        let mut todo: Vec<Vec<u8>> = path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        let root = self.root()?;
        // The folders on the way, each with the name by which it was entered.
        let mut trail: Vec<(CString, View)> = Vec::new();
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
            let name = CString::new(part).map_err(|_| Errno::EINVAL)?;
            let view = trail.last().map_or(&root, |(_, view)| view);
            let Some(child) = view.child(&name)? else { return Ok(None) };
            let last = todo.iter().all(|part| part.is_empty() || part.as_slice() == b".");
            if super::kind(&child.stat) == libc::S_IFLNK && (follow || !last) {
                links += 1;
                if links > 40 {
                    return Err(Errno::ELOOP);
                }
                let target = view.read_link(&name, &child)?;
                if target.starts_with(b"/") {
                    trail.clear();
                }
                todo.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
            } else if last {
                let view = trail.pop().map_or(root, |(_, view)| view);
                return Ok(Some((view, name, child)));
            } else if is_folder(&child.stat) {
                let below = view.enter(&name, &child)?;
                trail.push((name, below));
            } else {
                return Ok(None);
            }
        }
        // It ended in `..`: look once more at where that led.
        let Some((name, _)) = trail.pop() else { return Ok(None) };
        let view = trail.pop().map_or(root, |(_, view)| view);
        Ok(view.child(&name)?.map(|child| (view, name, child)))
    }

    fn walk_to(&self, trail: &[CString]) -> Result<Option<View>, Errno> {
        let mut view = self.root()?;
        for name in trail {
            match view.child(name)? {
                Some(child) if is_folder(&child.stat) => view = view.enter(name, &child)?,
                _ => return Ok(None),
            }
        }
        Ok(Some(view))
    }

    /// What stands at `path`, if every part before the last is a folder: no link is followed.
    pub fn at(&self, path: &[u8]) -> Result<Option<(View, CString, Child)>, Errno> {
        let names = path.split(|byte| *byte == b'/').map(|part| CString::new(part).map_err(|_| Errno::EINVAL));
        let mut trail: Vec<CString> = names.collect::<Result<_, _>>()?;
        let Some(name) = trail.pop() else { return Ok(None) };
        let Some(view) = self.walk_to(&trail)? else { return Ok(None) };
        Ok(view.child(&name)?.map(|child| (view, name, child)))
    }

    /// Looks up many paths, sorted by their bytes' parts, of which each stands right after the folder that it is in (or that
    /// folder is not asked for): what is there, with no link followed. A folder is opened once for all that it holds.
    pub fn each(&self, paths: &[Vec<u8>], see: &mut See<'_>) -> Result<()> {
        let root = self.root()?;
        let mut trail: Vec<(CString, View)> = Vec::new();
        'paths: for path in paths {
            let names = path.split(|byte| *byte == b'/').map(CString::new).collect::<Result<Vec<_>, _>>()?;
            let Some((last, above)) = names.split_last() else { continue };
            let same = trail.iter().zip(above).take_while(|((entered, _), name)| entered == *name).count();
            trail.truncate(same);
            for name in &above[same..] {
                let view = trail.last().map_or(&root, |(_, view)| view);
                let Some(child) = view.child(name)?.filter(|child| is_folder(&child.stat)) else { continue 'paths };
                let below = view.enter(name, &child)?;
                trail.push((name.clone(), below));
            }
            let view = trail.last().map_or(&root, |(_, view)| view);
            if let Some(child) = view.child(last)? {
                see(path, view, last, &child)?;
            }
        }
        Ok(())
    }

    /// Visits everything of the merged tree, each folder before what is in it, names in the order of their bytes. The
    /// root itself comes first, with an empty path.
    pub fn walk(&self, visit: &mut dyn FnMut(&Entry<'_>) -> Result<Turn>) -> Result<()> {
        let view = self.root().map_err(at(b""))?;
        let stat = nix::sys::stat::fstat(&view.0[0])?;
        let root = Entry { path: b"", name: c".", dir: &view.0[0], stat, opaque: false };
        if visit(&root)? == Turn::Enter {
            view.walk(&mut Vec::new(), false, visit)?;
        }
        Ok(())
    }

    /// The same for the topmost layer alone, whiteouts included and opaque folders marked.
    pub fn walk_top(&self, visit: &mut dyn FnMut(&Entry<'_>) -> Result<Turn>) -> Result<()> {
        let Some(top) = self.0.last() else { return Ok(()) };
        let view = View(vec![enter(top, c".").map_err(at(b""))?]);
        let stat = nix::sys::stat::fstat(&view.0[0])?;
        let root = Entry { path: b"", name: c".", dir: &view.0[0], stat, opaque: is_opaque(&view.0[0]) };
        if visit(&root)? == Turn::Enter {
            view.walk(&mut Vec::new(), true, visit)?;
        }
        Ok(())
    }
}

/// Something in a walk.
pub struct Entry<'a> {
    /// From the root of the walk, without a slash in front; empty for the root.
    pub path: &'a [u8],
    pub name: &'a CStr,
    /// The folder that holds it (the topmost one).
    pub dir: &'a OwnedFd,
    pub stat: FileStat,
    /// A folder that hides what lies below; only told when one layer is walked alone.
    pub opaque: bool,
}

/// Whether a walk goes into a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Enter,
    Pass,
}

impl View {
    /// One folder alone, of which nothing is merged.
    pub fn of(folder: OwnedFd) -> Self {
        Self(vec![folder])
    }

    /// Visits `child`, which stands here as `name`, and then all that is in it; the walk calls it `called`.
    pub fn walk_named(
        &self,
        name: &CStr,
        child: &Child,
        called: &[u8],
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<Turn>,
    ) -> Result<()> {
        let entry = Entry { path: called, name, dir: self.holder(child), stat: child.stat, opaque: false };
        if visit(&entry)? == Turn::Enter && is_folder(&child.stat) {
            let below = self.enter(name, child).map_err(at(called))?;
            below.walk(&mut called.to_vec(), false, visit)?;
        }
        Ok(())
    }

    /// The merged names; whiteouts and what they hide are left out, unless `raw`.
    pub fn names(&self, raw: bool) -> Result<BTreeMap<CString, Child>, Errno> {
        let mut all: BTreeMap<CString, Option<Child>> = BTreeMap::new();
        for (holder, folder) in self.0.iter().enumerate() {
            let mut listing = nix::dir::Dir::openat(folder, c".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            for entry in listing.iter() {
                let name = entry?.file_name().to_owned();
                if matches!(name.to_bytes(), b"." | b"..") || all.contains_key(&name) {
                    continue;
                }
                match fstatat(folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) if is_whiteout(&stat) && !raw => drop(all.insert(name, None)),
                    Ok(stat) => drop(all.insert(name, Some(Child { stat, holder }))),
                    // Gone since it was listed.
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(all.into_iter().filter_map(|(name, child)| Some((name, child?))).collect())
    }

    /// What stands under `name`.
    pub fn child(&self, name: &CStr) -> Result<Option<Child>, Errno> {
        for (holder, folder) in self.0.iter().enumerate() {
            match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some(Child { stat, holder })),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// The folder `name`: that of the topmost layer, and those below it down to the first thing that hides the rest.
    pub fn enter(&self, name: &CStr, child: &Child) -> Result<View, Errno> {
        let mut folders = Vec::new();
        for folder in &self.0[child.holder..] {
            match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if is_folder(&stat) => {}
                Ok(_) => break,
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            }
            let below = enter(folder, name)?;
            let last = is_opaque(&below);
            folders.push(below);
            if last {
                break;
            }
        }
        if folders.is_empty() {
            return Err(Errno::ENOTDIR);
        }
        Ok(View(folders))
    }

    /// The topmost of the merged folders: its attributes are the folder's.
    pub fn top(&self) -> &OwnedFd {
        &self.0[0]
    }

    /// The folder that holds `child`.
    pub fn holder(&self, child: &Child) -> &OwnedFd {
        &self.0[child.holder]
    }

    pub fn read_link(&self, name: &CStr, child: &Child) -> Result<Vec<u8>, Errno> {
        use std::os::unix::ffi::OsStringExt;
        Ok(nix::fcntl::readlinkat(self.holder(child), name)?.into_vec())
    }

    /// Walks what is in this folder; `path` is the folder's own.
    pub fn walk(&self, path: &mut Vec<u8>, raw: bool, visit: &mut dyn FnMut(&Entry<'_>) -> Result<Turn>) -> Result<()> {
        let names = self.names(raw).map_err(at(path))?;
        let length = path.len();
        for (name, child) in &names {
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if path.len() >= LONGEST_PATH {
                bail!("`/{}…` is longer than {LONGEST_PATH} bytes", path[..60].escape_ascii());
            }
            let folder = is_folder(&child.stat);
            let below = match folder {
                true if raw => Some(View(vec![enter(self.holder(child), name).map_err(at(path))?])),
                true => Some(self.enter(name, child).map_err(at(path))?),
                false => None,
            };
            let opaque = raw && below.as_ref().is_some_and(|below| is_opaque(&below.0[0]));
            let entry = Entry { path, name, dir: self.holder(child), stat: child.stat, opaque };
            if visit(&entry)? == Turn::Enter
                && let Some(below) = below
            {
                below.walk(path, raw, visit)?;
            }
            path.truncate(length);
        }
        Ok(())
    }
}

impl Entry<'_> {
    /// Opens the regular file for reading; ESTALE if something else has been put in its place since.
    pub fn open(&self) -> Result<std::fs::File, Errno> {
        // A descriptor that opens nothing, first: in a container that runs, a device may stand there by now.
        let held = self.open_path()?;
        let stat = nix::sys::stat::fstat(&held)?;
        if (stat.st_dev, stat.st_ino) != (self.stat.st_dev, self.stat.st_ino) || super::kind(&stat) != libc::S_IFREG {
            return Err(Errno::ESTALE);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        nix::fcntl::open(FdPath::new(&held).as_c_str(), flags, Mode::empty()).map(Into::into)
    }

    /// The thing itself, for its attributes.
    pub fn open_path(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        sys::openat2(self.dir, self.name, flags, Mode::empty(), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    }

    pub fn read_link(&self) -> Result<Vec<u8>, Errno> {
        use std::os::unix::ffi::OsStringExt;
        Ok(nix::fcntl::readlinkat(self.dir, self.name)?.into_vec())
    }
}
