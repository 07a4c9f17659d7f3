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
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let (v1, v2) = trees();
        let below = |tree: &Path, path: &str| {
            let inner = path.trim_start_matches('/');
            (!inner.is_empty()).then(|| tree.join(inner))
        };
        let mut unified = None;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next()?, fields.next()?) {
                (controllers, path) if controllers.split(',').any(|one| one == "freezer") => {
                    if let Some(path) = v1.as_ref().and_then(|tree| below(tree, path)) {
                        return Some(Freezer::V1(path));
                    }
                }
                ("", path) => unified = v2.as_ref().and_then(|tree| below(tree, path)),
                _ => {}
            }
        }
        unified.map(Freezer::V2)
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

/// Where the freezer's v1 tree and the unified tree are mounted; asked once.
fn trees() -> &'static (Option<PathBuf>, Option<PathBuf>) {
    static TREES: OnceLock<(Option<PathBuf>, Option<PathBuf>)> = OnceLock::new();
    TREES.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (mut v1, mut v2) = (None, None);
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let Some(at) = place.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut kind = kind.splitn(3, ' ');
            match (kind.next(), kind.next(), kind.next()) {
                (Some("cgroup"), _, Some(options)) if options.split(',').any(|one| one == "freezer") => v1 = Some(at),
                (Some("cgroup2"), ..) => v2 = Some(at),
                _ => {}
            }
        }
        (v1, v2)
    })
}
