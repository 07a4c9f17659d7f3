//! What the checks ask: the kernel's own files, read from outside. Not by way of the engine's rooms, which would be a
//! witness in their own case.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The inode of a process's namespace, as `uts:[4026531838]`; empty: there is no such process.
pub fn namespace(process: &str, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{process}/ns/{kind}"));
    link.map(|link| link.display().to_string()).unwrap_or_default()
}

/// The words behind `field:` in `/proc/PID/status`.
pub fn status(process: &str, field: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().map(str::to_string).collect()
}

/// Whether the process's `/` is another folder than ours.
pub fn has_own_root(process: &str) -> bool {
    let root = |path: String| fs::metadata(path).map(|data| (data.dev(), data.ino()));
    match (root(format!("/proc/{process}/root/")), root("/".to_string())) {
        (Ok(theirs), Ok(ours)) => theirs != ours,
        _ => false,
    }
}

/// A line of a mount table (`man 5 proc`, /proc/PID/mountinfo).
pub struct Mount {
    pub root: String,
    pub at: String,
    pub options: Vec<String>,
    pub kind: String,
    pub super_options: Vec<String>,
}

/// The mount table that a process sees.
pub fn mounts(process: &str) -> Vec<Mount> {
    let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    let list = |text: &str| text.split(',').map(str::to_string).collect::<Vec<_>>();
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        Some(Mount {
            root: left.get(3)?.to_string(),
            at: left.get(4)?.to_string(),
            options: list(left.get(5)?),
            kind: right.first()?.to_string(),
            super_options: list(right.get(2)?),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Where a controller's tree is mounted, and whether it is the unified one (cgroup v2). `None`: no tree carries it.
pub fn tree(controller: &str) -> Option<(PathBuf, bool)> {
    let (old, unified): (Vec<Mount>, Vec<Mount>) = mounts("self")
        .into_iter()
        .filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2")
        .partition(|mount| mount.kind == "cgroup");
    let carries = |mount: &Mount| mount.super_options.iter().any(|option| option == controller);
    if let Some(mount) = old.into_iter().find(carries) {
        return Some((mount.at.into(), false));
    }
    unified.into_iter().find_map(|mount| {
        let all = fs::read_to_string(Path::new(&mount.at).join("cgroup.controllers")).unwrap_or_default();
        // Every cgroup of version 2 can be frozen.
        let carries = controller == "freezer" || all.split_whitespace().any(|name| name == controller);
        carries.then(|| (mount.at.into(), true))
    })
}

/// The folder of the cgroup in which `controller` governs the process.
pub fn cgroup(process: &str, controller: &str) -> Option<PathBuf> {
    let (at, unified) = tree(controller)?;
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let ours = if unified { names.is_empty() } else { names.split(',').any(|name| name == controller) };
        ours.then(|| path.to_string())
    })?;
    // A tree that was bound here begins further down than the path does.
    let root = mounts("self").into_iter().find(|mount| Path::new(&mount.at) == at).map(|mount| mount.root);
    let below = Path::new(&path).strip_prefix(root.unwrap_or_default()).unwrap_or(Path::new(&path)).to_owned();
    Some(at.join(below.strip_prefix("/").unwrap_or(&below)))
}

/// A file's text without its last line end; empty: it cannot be read.
pub fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_string()
}

/// The number behind `name` in a file of `name number` lines.
pub fn count(path: impl AsRef<Path>, name: &str) -> u64 {
    let text = text(path);
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
