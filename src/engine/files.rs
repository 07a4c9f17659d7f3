//! The files of a container, as it sees them. Of one that runs they are looked at through its first process
//! (`/proc/PID/root`, `man 5 proc`); one at rest has no mounts, so the caller makes them in a mount namespace that
//! nobody else sees and that goes with him, however he ends.
//!
//! Nothing of the container's is run, loaded or asked for a name (CVE-2019-14271): a root is a descriptor, and every
//! path is resolved inside it by the kernel.

use super::start::chosen;
use super::stop::settled;
use crate::container::{Lock, Record, Status, read_config, status};
use crate::plan::{Dirs, Id, Op, Options, Phase, Plan, Room, Watch, perform_here};
use crate::sys::{RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statfs::fstatfs;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// A root, and how paths are resolved in it.
pub(super) struct Files {
    pub root: OwnedFd,
    /// `RESOLVE_…` of `openat2`.
    pub resolve: u64,
    /// Nobody starts a container whose files we have mounted.
    _lock: Option<Lock>,
}

/// The files of container `id`.
pub(super) fn of_container(rooms: &[&dyn Room], dirs: &Dirs, id: &Id, watch: &mut dyn Watch) -> Result<Files> {
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    for _ in 0..10 {
        let record = settled(dirs, id)?;
        if record.spec.rootfs().is_none() {
            let mut record = Record::read(dirs, id)?;
            read_config(&mut record)?;
            if record.spec.rootfs().is_none() {
                bail!("container {} has no root of its own: its files are the host's", id.short());
            }
        }
        if let Some(running) = status(&record).running() {
            let pidfd = running.pidfd();
            let opened = folder(&format!("/proc/{}/root", running.pid));
            // Whoever has the number now is who we hold, and so whose root it was.
            match (pidfd, opened, running.alive()) {
                (Some(_), Ok(root), true) => return Ok(Files { root, resolve, _lock: None }),
                _ => continue,
            }
        }
        let lock = Lock::take(dirs, id)?;
        let record = Record::read(dirs, id)?;
        if matches!(status(&record), Status::Running(_) | Status::Paused(_)) {
            continue;
        }
        let root = mounted(rooms, record, watch)?;
        return Ok(Files { root, resolve, _lock: Some(lock) });
    }
    bail!("container {} is started and ended again all the time", id.short())
}

fn folder(path: &str) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The host's own files; links of the kernel's kind are the caller's business here.
pub(super) fn of_host() -> Result<Files> {
    Ok(Files { root: folder("/").context("cannot open /")?, resolve: RESOLVE_IN_ROOT, _lock: None })
}

/// A container at rest, mounted in a namespace of ours alone: its root.
fn mounted(rooms: &[&dyn Room], mut record: Record, watch: &mut dyn Watch) -> Result<OwnedFd> {
    read_config(&mut record)?;
    let rooms = chosen(rooms, &record.life().rooms);
    let mut spec = record.spec;
    spec.mounts_mut()
        .retain(|mount| mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind"));
    // A folder that is there anyway: it is hidden for us alone, and nothing is to be cleaned up.
    if let Some(root) = spec.oci.root_mut() {
        root.set_path(spec.dirs.root.join("names"));
    }
    let mut plan = Plan::draw_view(&rooms, &spec)?;
    let op = Op::mount("", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "");
    plan.add_first(Phase::Enter, "private", op).why("What is mounted next is for this command alone.");
    let op = Op::new("unshare", ["CLONE_NEWNS"], "unshare --mount sh", |_| unshare(CloneFlags::CLONE_NEWNS));
    plan.add_first(Phase::Enter, "unshare", op).why("A mount table of our own; it goes when we end, and so do they.");
    let stage = perform_here(&plan, Options { watch, failpoint: None })?;
    stage.root.context("the container's root cannot be seen")
}

/// A place below a root: no links left in it but perhaps at its end.
pub(super) struct Place {
    /// From the root, without `.` and `..`; empty: the root itself.
    pub parts: Vec<Vec<u8>>,
    /// What stands there; `None`: nothing.
    pub stat: Option<FileStat>,
}

impl Files {
    /// What `path` means from the root on, `..` taken as text. With `follow` a link at its end is followed, to where
    /// something could be made if there is nothing.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Place, Errno> {
        let mut parts = split(path);
        for _ in 0..40 {
            let stat = match self.open(&parts, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Ok(opened) => Some(fstat(&opened)?),
                Err(Errno::ENOENT) => None,
                Err(errno) => return Err(errno),
            };
            let link = stat.is_some_and(|stat| crate::tree::kind(&stat) == libc::S_IFLNK);
            if !link || !follow {
                return Ok(Place { parts, stat });
            }
            let name = CString::new(parts.pop().unwrap_or_default()).map_err(|_| Errno::EINVAL)?;
            let above = self.open(&parts, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            let target = nix::fcntl::readlinkat(&above, name.as_c_str())?.into_vec();
            if target.starts_with(b"/") {
                parts.clear();
            }
            for part in target.split(|byte| *byte == b'/') {
                step(&mut parts, part);
            }
        }
        Err(Errno::ELOOP)
    }

    /// Opens the folder or file at `parts`.
    pub fn open(&self, parts: &[Vec<u8>], flags: OFlag) -> Result<OwnedFd, Errno> {
        let path = if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') };
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        openat2(&self.root, &path, flags, Mode::empty(), self.resolve)
    }
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    path.split(|byte| *byte == b'/').for_each(|part| step(&mut parts, part));
    parts
}

fn step(parts: &mut Vec<Vec<u8>>, part: &[u8]) {
    match part {
        b"" | b"." => {}
        b".." => drop(parts.pop()),
        part => parts.push(part.to_vec()),
    }
}

/// File systems that hold no files of a container's but views of the kernel (`linux/magic.h`): proc, sysfs, cgroup,
/// cgroup2, devpts, mqueue, debugfs, tracefs, securityfs, bpf.
const KERNELS: [i64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

/// Whether `fd` lies on one of those.
pub(super) fn is_kernels(fd: impl AsFd) -> bool {
    fstatfs(fd.as_fd()).is_ok_and(|stat| KERNELS.contains(&stat.filesystem_type().0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_root() {
        let text = |path: &str| String::from_utf8(split(path.as_bytes()).join(&b'/')).unwrap();
        for (path, means) in [("/a/./b//c/", "a/b/c"), ("../../x", "x"), ("a/../..", ""), ("/", ""), ("a/..b", "a/..b")]
        {
            assert_eq!(text(path), means, "{path}");
        }
    }

    #[test]
    fn links_are_resolved_inside() {
        let home = tempfile::tempdir().unwrap();
        let root = folder(home.path().to_str().unwrap()).unwrap();
        let files = Files { root, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, _lock: None };
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, home.path().join(name)).unwrap();
        std::fs::create_dir_all(home.path().join("etc")).unwrap();
        std::fs::write(home.path().join("etc/passwd"), "theirs").unwrap();
        link("/etc/passwd", "out");
        link("../../../etc", "up");
        link("/etc/new", "new");
        link("loop", "loop");
        let at = |path: &str, follow| {
            files.find(path.as_bytes(), follow).map(|place| (place.parts.join(&b'/'), place.stat.is_some()))
        };
        assert_eq!(at("out", true), Ok((b"etc/passwd".to_vec(), true)));
        assert_eq!(at("out", false), Ok((b"out".to_vec(), true)));
        assert_eq!(at("up", true), Ok((b"etc".to_vec(), true)));
        assert_eq!(at("up/passwd", true), Ok((b"up/passwd".to_vec(), true)));
        assert_eq!(at("new", true), Ok((b"etc/new".to_vec(), false)));
        assert_eq!(at("loop", true), Err(Errno::ELOOP));
        assert_eq!(at("loop/x", true), Err(Errno::ELOOP));
    }
}
