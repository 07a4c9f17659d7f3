//! Is it alive? `run/<id>/state` says which process was started; the kernel says whether that very process still runs.

use super::Record;
use crate::plan::{Dirs, Id, boot_id, has_owner, start_time};
use crate::sys;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The first line of `run/<id>/state`. The engine adds a second when the process has ended: its exit status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub pid: i32,
    /// Clock ticks after boot; with the number and the boot it names one process for good.
    pub start_time: u64,
    pub boot_id: String,
    pub started_at: Timestamp,
    /// The engine that made it and reaps it.
    pub monitor: u32,
    pub monitor_start: u64,
    /// It lives on when that one is killed (`run -d`); else the kernel kills it then.
    #[serde(default)]
    pub stays: bool,
}

impl Running {
    /// Process `pid`, which we have just made. `stays`: it lives on when we are killed.
    pub fn now(pid: i32, stays: bool) -> Self {
        let monitor = std::process::id();
        Self {
            pid,
            start_time: start_time(pid as u32).unwrap_or(0),
            boot_id: boot_id(),
            started_at: Timestamp::now(),
            monitor,
            monitor_start: start_time(monitor).unwrap_or(0),
            stays,
        }
    }

    fn path(dirs: &Dirs, id: &Id) -> PathBuf {
        dirs.running(id).join("state")
    }

    /// A new file in the place of the last one.
    pub fn write(&self, dirs: &Dirs, id: &Id) -> io::Result<()> {
        let path = Self::path(dirs, id);
        let new = path.with_extension("new");
        let mut options = fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(format!("{}\n", serde_json::to_string(self)?).as_bytes())?;
        fs::rename(new, path)
    }

    /// The exit status, for whoever has the file open and waits.
    pub fn ended(dirs: &Dirs, id: &Id, status: i32) -> io::Result<()> {
        fs::File::options().append(true).open(Self::path(dirs, id))?.write_all(format!("{status}\n").as_bytes())
    }

    /// What the file says; `None` if there is none that is ours.
    pub fn read(dirs: &Dirs, id: &Id) -> Option<Self> {
        let text = fs::read_to_string(Self::path(dirs, id)).ok()?;
        serde_json::from_str(text.lines().next()?).ok()
    }

    /// The file itself, to read the exit status from later.
    pub fn open(dirs: &Dirs, id: &Id) -> Option<fs::File> {
        fs::File::open(Self::path(dirs, id)).ok()
    }

    /// Whether the process that we started still runs.
    pub fn alive(&self) -> bool {
        runs(self.pid as u32, self.start_time) && self.boot_id == boot_id()
    }

    /// A handle that can never mean another process; `None` if it has ended. The number is looked at again after it was
    /// opened: whoever has it then is who we hold.
    pub fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = sys::pidfd_open(self.pid).ok()?;
        self.alive().then_some(pidfd)
    }

    /// The same for its monitor.
    pub fn monitor_pidfd(&self) -> Option<OwnedFd> {
        let pidfd = sys::pidfd_open(self.monitor as i32).ok()?;
        (runs(self.monitor, self.monitor_start) && self.boot_id == boot_id()).then_some(pidfd)
    }
}

/// Whether process `pid` that began at `start` runs: not gone, and not a zombie that only waits to be reaped.
fn runs(pid: u32, start: u64) -> bool {
    // One line, and the kernel makes all of it anew for each `read`.
    let mut line = [0u8; 1024];
    let read = fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut file| io::Read::read(&mut file, &mut line));
    let Ok(stat) = read.map(|size| String::from_utf8_lossy(&line[..size])) else { return false };
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().unwrap_or("X");
    start != 0
        && !matches!(state, "Z" | "X" | "x")
        && fields.nth(18).and_then(|ticks| ticks.parse().ok()) == Some(start)
}

/// What `ps` shows.
#[derive(Clone, Debug)]
pub enum Status {
    Created,
    Running(Running),
    Paused(Running),
    /// Its monitor waits before it starts it again.
    Restarting,
    Exited,
}

impl Status {
    /// Docker's word.
    pub fn word(&self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running(_) => "running",
            Status::Paused(_) => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
        }
    }

    pub fn running(&self) -> Option<&Running> {
        match self {
            Status::Running(running) | Status::Paused(running) => Some(running),
            _ => None,
        }
    }
}

/// The truth about a container, from the kernel.
pub fn status(record: &Record) -> Status {
    let (dirs, id) = (&record.spec.dirs, &record.spec.id);
    let said = Running::read(dirs, id);
    // Its process has ended, and its engine is about to write that down.
    let ending = said.is_some();
    match said.filter(Running::alive) {
        Some(running) if dirs.running(id).join(PAUSED).exists() && frozen(&running) => Status::Paused(running),
        Some(running) => Status::Running(running),
        None if record.rest.finished_at.is_none() && !ending => Status::Created,
        None if record.life().restart != crate::plan::Restart::No && !record.rest.stopped && has_owner(dirs, id) => {
            Status::Restarting
        }
        None => Status::Exited,
    }
}

/// In the run-time folder of a container that `pause` has been to: without it nobody need ask for its freezer.
pub const PAUSED: &str = "paused";

/// Whether its cgroup is frozen.
fn frozen(running: &Running) -> bool {
    crate::cgroup::Freezer::of(running.pid).is_some_and(|freezer| freezer.is_frozen())
}
