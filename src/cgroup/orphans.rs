//! Cgroups whose data root is gone: an engine was killed, and before the next command of ours could clean up, somebody
//! has deleted the folder with the journal in it. The kernel keeps the cgroups until the next boot.
//!
//! A container's cgroup says in an extended attribute of its folder which data root it belongs to (`man 7 xattr`). It is
//! nobody's when no process is in it, that root knows of no such container, seen from every mount namespace there is, and
//! no engine holds the container's journal.
//!
//! Look: `getfattr -n trusted.mydocker.root /sys/fs/cgroup/*/mydocker/*`

use super::layout::{Layout, Tree};
use super::place::{OURS, Place};
use crate::plan::{Header, Id, Op, Orphan, Phase, Plan, Undo, c_string, quote};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MARK: &CStr = c"trusted.mydocker.root";

/// Writes on the container's first cgroup whose it is. Where that cannot be, nobody will take it for an orphan.
pub fn mark(tree: &Tree, place: &Place, root: &Path, plan: &mut Plan) {
    let folder = tree.mount.join(&place.leaf);
    let (shown, owner) = (folder.display().to_string(), root.display().to_string());
    let name = MARK.to_string_lossy().into_owned();
    let shell = format!("setfattr -n {name} -v {} {}", quote(&owner), quote(&shown));
    let (path, value) = (c_string(folder.as_os_str().as_bytes()), root.as_os_str().as_bytes().to_owned());
    let op = Op::new("setxattr", [shown.clone(), name.clone(), owner], shell, move |_| {
        let _ = sys::set_xattr_at(&path, MARK, &value);
        Ok(())
    });
    plan.add(Phase::Host, "mark", op)
        .why("Says whose it is: should the data root be deleted while this is left over, `doctor` can tell.")
        .look(format!("getfattr -n {name} {}", quote(&shown)));
}

/// The cgroups below our own parent of which it can be proved.
pub fn find(layout: &Layout) -> Vec<Orphan> {
    if !sees_every_process() {
        return Vec::new();
    }
    let mut left: BTreeMap<Id, Vec<PathBuf>> = BTreeMap::new();
    for tree in layout.trees.iter().filter(|tree| !tree.read_only) {
        for folder in folders(&tree.mount.join(OURS)) {
            if let Some(id) = folder.file_name().and_then(|name| Id::parse(name.to_str()?)) {
                left.entry(id).or_default().push(folder);
            }
        }
    }
    if left.is_empty() {
        return Vec::new();
    }
    // After the list: whose engine is at work now has held its journal since before there was a cgroup.
    let (views, held) = (views(), held_journals());
    let orphan = |(id, folders): (Id, Vec<PathBuf>)| {
        let root = folders.iter().find_map(|folder| owner(folder))?;
        let known = views.iter().any(|view| knows(view, &root, &id));
        if known || held.contains(&id) || folders.iter().any(|folder| is_used(folder)) {
            return None;
        }
        let mut undo = Vec::new();
        folders.iter().for_each(|folder| deepest_first(folder, &mut undo));
        let why = format!("no process is in it, and the data root {} does not know it", root.display());
        Some(Orphan { what: format!("the cgroups of container {}", id.short()), why, undo })
    };
    left.into_iter().filter_map(orphan).collect()
}

/// In a PID namespace below the first one, engines outside could not be seen (`man 7 pid_namespaces`; the kernel gives
/// the first one this number, PROC_PID_INIT_INO).
fn sees_every_process() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new("pid:[4026531836]"))
}

fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn owner(folder: &Path) -> Option<PathBuf> {
    let value = sys::get_xattr(File::open(folder).ok()?, MARK).ok()?;
    Some(PathBuf::from(String::from_utf8(value).ok()?)).filter(|root| root.is_absolute())
}

/// What is no answer counts as a process.
fn is_used(folder: &Path) -> bool {
    let empty = fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|list| list.is_empty());
    !empty || folders(folder).any(|below| is_used(&below))
}

fn deepest_first(folder: &Path, undo: &mut Vec<Undo>) {
    folders(folder).for_each(|below| deepest_first(&below, undo));
    undo.push(Undo::RemoveEmpty { path: folder.to_owned() });
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let named = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).is_some();
    folders(Path::new("/proc")).filter(named)
}

/// The roots of the file systems that processes see: one for each mount namespace, and for each chroot. Each is held, so
/// that it stays when its process ends.
fn views() -> Vec<OwnedFd> {
    let mut seen = BTreeSet::new();
    let mut views = Vec::new();
    for process in processes() {
        let (root, mounts) = (process.join("root"), fs::read_link(process.join("ns/mnt")));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // A process that has just ended has none of them.
        if let (Ok(at), Ok(mounts)) = (fs::read_link(&root), mounts)
            && !seen.contains(&(mounts.clone(), at.clone()))
            && let Ok(view) = open(&root, flags, Mode::empty())
        {
            seen.insert((mounts, at));
            views.push(view);
        }
    }
    views
}

/// Whether the data root has such a container, or makes one. What cannot be looked at counts as there.
fn knows(view: &OwnedFd, root: &Path, id: &Id) -> bool {
    let run = [root.join("run"), PathBuf::from("/run/mydocker")];
    let traces = run.iter().map(|run| run.join("journal")).chain([root.join("containers")]);
    let there = |path: PathBuf| {
        let path = c_string(path.as_os_str().as_bytes());
        let found = sys::openat2(view, &path, OFlag::O_PATH, Mode::empty(), sys::RESOLVE_IN_ROOT);
        !matches!(found, Err(Errno::ENOENT | Errno::ENOTDIR))
    };
    traces.map(|folder| folder.join(id.as_str())).any(there)
}

/// The containers whose journal some process holds open: their engines are at work.
fn held_journals() -> BTreeSet<Id> {
    let files = processes().flat_map(|process| fs::read_dir(process.join("fd")).into_iter().flatten().flatten());
    files.filter_map(|file| journal_behind(&file.path())).collect()
}

/// Whose journal that is, by its first line: it was made without a name (O_TMPFILE), which is all that the kernel tells.
fn journal_behind(link: &Path) -> Option<Id> {
    if fs::read_link(link).ok()?.parent()?.file_name()? != "journal" {
        return None;
    }
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(link).ok()?;
    let mut line = String::new();
    BufReader::new(file.take(4096)).read_line(&mut line).ok()?;
    Id::parse(&serde_json::from_str::<Header>(&line).ok()?.id)
}
