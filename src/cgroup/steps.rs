//! The steps that both generations share: make a cgroup, set a limit, let the child join.

use super::layout::{Tree, Version};
use super::limit::Limit;
use super::place::Place;
use crate::plan::{Op, Phase, Plan, Undo, quote};
use nix::errno::Errno;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// The sticky bit of a folder marks a parent that we have made for a user, among those that the user has made.
const MARK: u32 = 0o1000;

/// The container's cgroup in `tree`, and the missing ones that lead to it.
pub fn make_all(tree: &Tree, place: &Place, plan: &mut Plan) {
    let label = tree.label();
    for parent in place.parents.iter().filter(|_| !place.is_ours()) {
        let path = tree.mount.join(parent);
        if fs::metadata(&path).is_ok_and(|folder| folder.mode() & MARK == 0) {
            continue;
        }
        plan.add(Phase::Host, format!("parent.{label}/{}", parent.display()), make(&path, 0o755 | MARK))
            .why("A --cgroup-parent that nobody has made yet; it goes with the last container in it.")
            .look(format!("ls {}", path.display()))
            .undo(Undo::RemoveEmpty { path });
    }
    let path = tree.mount.join(&place.leaf);
    // Should a parent have gone meanwhile, `make` makes it again, with the same mode.
    let mode = if place.is_ours() { 0o755 } else { 0o755 | MARK };
    plan.add(Phase::Host, format!("mkdir.{label}"), make(&path, mode))
        .why(purpose(tree))
        .look(format!("ls {}", path.display()))
        .undo(Undo::RemoveCgroup { path });
}

/// What a cgroup of this tree is for.
fn purpose(tree: &Tree) -> &'static str {
    if tree.version == Version::V2 {
        return "A cgroup is a folder: the kernel fills it with files, one for each thing that it counts or limits.";
    }
    match tree.controllers.first().map(String::as_str) {
        Some("cpu") => {
            "A folder is a cgroup; the kernel fills it with files. In this tree: who gets how much CPU time."
        }
        Some("cpuacct") => "Counts the CPU time that was used, for statistics.",
        Some("cpuset") => "Says which CPUs and which memory nodes may be used.",
        Some("memory") => "Counts every page, and kills when a limit is reached and nothing can be freed.",
        Some("devices") => "Decides which devices may be opened, whatever nodes stand in /dev.",
        Some("freezer") => "Stops all processes at one stroke, and lets them go on (docker pause).",
        Some("blkio") => "Shares out the disks.",
        Some("pids") => "Counts processes and threads.",
        Some("net_cls" | "net_prio") => "Marks network packets with a class or a priority.",
        Some("perf_event") => "Lets `perf` measure the container as a whole.",
        Some("hugetlb") => "Limits huge pages.",
        _ => "A cgroup in every tree, so that the whole container can be found, counted and limited in each.",
    }
}

/// `mkdir -p`. A parent may be removed by another container's end between our look and our call, so it tries again.
pub fn make(path: &Path, mode: u32) -> Op {
    let (shown, path) = (path.display().to_string(), path.to_owned());
    let shell = format!("mkdir -p -m {mode:o} {}", quote(&shown));
    let op = Op::new("mkdir", [shown.clone()], shell, move |_| {
        let make = |recursive| fs::DirBuilder::new().mode(mode).recursive(recursive).create(&path);
        let mut made = make(false);
        for _ in 0..16 {
            match &made {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound || !path.exists() => made = make(true),
                _ => break,
            }
        }
        made.map_err(errno)
    });
    op.hint(move |errno, _| match errno {
        Errno::EEXIST | Errno::ENOTDIR => {
            Some(format!("--cgroup-parent: `{shown}` would be below a file of the kernel's"))
        }
        Errno::ENOSPC => {
            Some("the kernel has no number left for one more cgroup (the memory controller has 65535)".to_string())
        }
        Errno::EAGAIN => Some("a parent's cgroup.max.depth or cgroup.max.descendants is reached".to_string()),
        errno => no_right(errno).map(str::to_string),
    })
}

pub fn errno(error: Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// One value in one file of the container's cgroup.
pub fn limit(tree: &Tree, place: &Place, limit: &Limit, plan: &mut Plan) {
    let path = tree.mount.join(&place.leaf).join(limit.file);
    let Limit { flag, file, value, .. } = limit.clone();
    let op = Op::set(&path, value.clone()).hint(move |errno, _| match errno {
        Errno::ENOENT => Some(format!("{flag}: this kernel has no `{file}`")),
        Errno::EINVAL | Errno::ERANGE | Errno::ENOSPC => Some(format!(
            "{flag}: the kernel refuses `{value}` for `{file}`: a cgroup cannot have more than its parents"
        )),
        Errno::EBUSY => Some(format!("{flag}: more than that is in use already")),
        errno => no_right(errno).map(str::to_string),
    });
    plan.add(Phase::Host, format!("limit.{}", limit.file), op).why(limit.why).look(format!("cat {}", path.display()));
}

/// The child writes itself into `file` of its cgroup; `0` means "whoever writes this".
pub fn join(tree: &Tree, place: &Place, file: &str, why: &'static str, plan: &mut Plan) {
    let op = Op::set(&tree.mount.join(&place.leaf).join(file), "0").hint(|errno, _| match errno {
        Errno::ENOSPC => Some("a cpuset without CPUs or memory nodes takes no process".to_string()),
        Errno::EINVAL => Some("a real-time process needs a share of cpu.rt_runtime_us in its cgroup".to_string()),
        errno => no_right(errno).map(str::to_string),
    });
    plan.add(Phase::Enter, format!("join.{}", tree.label()), op).why(why).look("cat /proc/$PID/cgroup");
}

/// What it means that we may not write among the cgroups.
pub fn no_right(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EACCES | Errno::EPERM => Some("cgroups belong to root: run as root, or through sudo"),
        Errno::EROFS => Some("the cgroup file system is mounted read-only here"),
        _ => None,
    }
}
