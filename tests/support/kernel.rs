//! What the kernel says about a process: `/proc/PID`, read from outside.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// The inode of one of the process's namespaces (`uts`, `pid`, `mnt`, `ipc`, `net`, `cgroup`, `user`), as `uts:[4026…]`.
pub fn namespace(pid: u32, kind: &str) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.to_string_lossy().into_owned())
}

/// A line of `/proc/PID/status`, without its name: `field(pid, "CapEff")`.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_string())
}

/// The words with which it was started; empty for a kernel thread or a zombie.
pub fn words(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words: Vec<_> = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into()).collect();
    words.pop();
    words
}

/// One letter: `R`, `S`, `D`, `T`, `Z`…; `None` when it is gone.
pub fn state(pid: u32) -> Option<char> {
    status(pid, "State")?.chars().next()
}

/// Whether it still runs: neither gone nor a zombie.
pub fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Every process of the machine.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Its children.
pub fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    all
}

/// Its children, their children, …: nearest first.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut all = children(pid);
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

/// One line of a mount table (`man 5 proc`, /proc/PID/mountinfo).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What of the file system is mounted: `/`, or the folder that a bind mount shows.
    pub root: String,
    pub at: String,
    /// The mount's own options.
    pub options: Vec<String>,
    /// `shared`, `master`, `propagate_from`, `unbindable`, without the peer group's number; empty: private.
    pub propagation: Vec<String>,
    pub kind: String,
    pub source: String,
    /// The file system's options.
    pub super_options: Vec<String>,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let options = |text: &str| text.split(',').map(str::to_string).collect::<Vec<_>>();
        let peer = |text: &&str| text.split(':').next().unwrap_or_default().to_string();
        Some(Self {
            root: unescape(left.get(3)?),
            at: unescape(left.get(4)?),
            options: options(left.get(5)?),
            propagation: left.get(6..)?.iter().map(peer).collect(),
            kind: right.next()?.to_string(),
            source: unescape(right.next()?),
            super_options: options(right.next()?),
        })
    }
}

/// The kernel writes a space in a mount point as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The mount table that `process` sees (a pid, or `thread-self`): what lies below its root.
pub fn mounts(process: impl std::fmt::Display) -> Vec<Mount> {
    table(&fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default())
}

/// The whole mount table of the process's namespace, also of what its root hides.
pub fn whole_mounts(pid: u32) -> Result<Vec<Mount>, Errno> {
    // In there, /proc is another; so our own folder in it is opened out here.
    let us = std::sync::Mutex::new(None);
    let here = || {
        let us: fs::File = us.lock().unwrap().take().unwrap();
        let file = nix::fcntl::openat(us, "mountinfo", OFlag::O_RDONLY, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(file).read_to_string(&mut text).map_err(|_| Errno::EIO)?;
        Ok(table(&text))
    };
    join(pid, "mnt", || *us.lock().unwrap() = fs::File::open("/proc/thread-self").ok(), here)?
}

fn table(text: &str) -> Vec<Mount> {
    text.lines().filter_map(Mount::parse).collect()
}

/// A cgroup hierarchy: a v1 tree with its controllers, or the unified one (no controllers).
#[derive(Clone, Debug)]
pub struct Hierarchy {
    pub controllers: Vec<String>,
    pub at: PathBuf,
}

/// The hierarchies that are mounted for us.
pub fn hierarchies() -> Vec<Hierarchy> {
    let tree = |mount: Mount| {
        let controllers = match mount.kind.as_str() {
            "cgroup" => mount.super_options.into_iter().filter(|option| option != "rw" && option != "ro").collect(),
            "cgroup2" => Vec::new(),
            _ => return None,
        };
        Some(Hierarchy { controllers, at: mount.at.into() })
    };
    let mut trees: Vec<Hierarchy> = mounts("thread-self").into_iter().filter_map(tree).collect();
    trees.dedup_by(|a, b| a.at == b.at);
    trees
}

/// The folder of the cgroup in which `controller` governs the process: in its v1 hierarchy, else in the unified tree
/// if that has the controller.
pub fn cgroup(pid: u32, controller: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (mut v1, mut v2) = (None, None);
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match names {
            "" => v2 = Some(path.to_string()),
            names if names.split(',').any(|name| name == controller) => v1 = Some(path.to_string()),
            _ => {}
        }
    }
    let trees = hierarchies();
    if let Some(path) = v1 {
        let tree = trees.iter().find(|tree| tree.controllers.iter().any(|name| name == controller))?;
        return Some(tree.at.join(path));
    }
    let tree = trees.iter().find(|tree| tree.controllers.is_empty())?;
    let has = fs::read_to_string(tree.at.join("cgroup.controllers")).ok()?;
    has.split_whitespace().any(|name| name == controller).then(|| tree.at.join(v2.unwrap_or_default()))
}

/// Does `f` in a thread that has joined one of the process's namespaces, and looks at the kernel from in there. For
/// `mnt` the thread's root is the root of that whole namespace, which is more than a `chroot` shows.
pub fn inside<T: Send>(pid: u32, kind: &str, f: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    join(pid, kind, || (), f)
}

fn join<T: Send>(pid: u32, kind: &str, before: impl FnOnce() + Send, f: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    let flag = match kind {
        "mnt" => CloneFlags::CLONE_NEWNS,
        "net" => CloneFlags::CLONE_NEWNET,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        other => panic!("`{other}` cannot be joined by a thread here"),
    };
    let file = fs::File::open(format!("/proc/{pid}/ns/{kind}")).map_err(|_| Errno::ESRCH)?;
    apart(|| {
        before();
        nix::sched::setns(file, flag)?;
        Ok(f())
    })
}

/// Does `f` in a thread whose root and working directory are its own, so that it may change them.
pub fn apart<T: Send>(f: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    let thread = || {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        f()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}
