//! Stop every process of a cgroup where it stands, and let it go on. The processes cannot notice and cannot refuse,
//! unlike SIGSTOP (v1: `freezer.state`, `Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst`; v2: `cgroup.freeze`).
//!
//! Try it without us: `echo FROZEN > /sys/fs/cgroup/freezer/x/freezer.state`

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The cgroup by which the processes of one container are frozen.
pub enum Freezer {
    V1(PathBuf),
    V2(PathBuf),
}

/// A frozen process may first have to leave the kernel (a slow disk, NFS).
const PATIENCE: Duration = Duration::from_secs(10);

impl Freezer {
    /// The freezer of process `pid`; `None` if it stands in the root of the tree, which cannot be frozen.
    pub fn of(pid: i32) -> Option<Self> {
        let v1 = file_of(pid, Some("freezer"), "");
        v1.map(Freezer::V1).or_else(|| file_of(pid, None, "").map(Freezer::V2))
    }

    pub fn is_frozen(&self) -> bool {
        match self {
            Freezer::V1(path) => read(&path.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED"),
            Freezer::V2(path) => {
                read(&path.join("cgroup.events")).is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// Freezes all processes and waits until they stand; on failure they run.
    pub fn freeze(&self) -> io::Result<()> {
        let (begun, mut pause) = (Instant::now(), Duration::from_micros(100));
        self.set(true)?;
        loop {
            let done = match self {
                Freezer::V1(path) => read(&path.join("freezer.state"))?.trim() == "FROZEN",
                Freezer::V2(_) => self.is_frozen(),
            };
            if done {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                self.set(false)?;
                return Err(io::Error::other("its processes do not come to a stop"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
            // v1 may stay at FREEZING when a process was forked meanwhile; asking again helps.
            if matches!(self, Freezer::V1(_)) {
                self.set(true)?;
            }
        }
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.set(false)
    }

    fn set(&self, frozen: bool) -> io::Result<()> {
        match self {
            Freezer::V1(path) => fs::write(path.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
            Freezer::V2(path) => fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// The file of that name in process `pid`'s cgroup: in the v1 tree of `controller`, or in the unified tree. `None` if it
/// stands in the root of the tree, or there is no such tree.
pub(super) fn file_of(pid: i32, controller: Option<&str>, file: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let wanted = |list: &str| match controller {
        Some(controller) => list.split(',').any(|one| one == controller),
        None => list.is_empty(),
    };
    let line = text.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        wanted(list).then_some(path)
    })?;
    let inner = line.trim_start_matches('/');
    let (_, tree) = trees().iter().find(|(options, _)| wanted(options))?;
    (!inner.is_empty()).then(|| tree.join(inner).join(file))
}

/// Where the trees are mounted, by their controllers; the unified one has none. Asked once.
fn trees() -> &'static [(String, PathBuf)] {
    static TREES: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
    TREES.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let tree = |line: &str| {
            let (place, kind) = line.split_once(" - ")?;
            let at = PathBuf::from(place.split(' ').nth(4)?);
            let mut kind = kind.splitn(3, ' ');
            match (kind.next()?, kind.next(), kind.next()) {
                ("cgroup", _, Some(options)) => Some((options.to_string(), at)),
                ("cgroup2", ..) => Some((String::new(), at)),
                _ => None,
            }
        };
        mounts.lines().filter_map(tree).collect()
    })
}
