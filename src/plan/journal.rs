//! The journal: what would have to be taken back, on disk *before* it is done. A `kill -9` of the engine at any moment
//! leaves it behind, and the next command of ours reads it and cleans up.
//!
//! `run/journal/<id>` appears whole and locked (O_TMPFILE, flock, linkat). The lock goes with the engine, however
//! it ends, so "is its owner alive?" is asked of the kernel: a journal that can be locked has none.

use super::{Dirs, Id, Plan, Undo};
use crate::sys::open_tmpfile_and_link;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The first line of a journal; every other line is an [`Undo`], in the order of the steps.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    pub id: String,
    /// The engine that wrote it, for people; whether it lives is asked of the lock.
    pub pid: u32,
    pub start_time: u64,
    pub boot_id: String,
}

/// The journal of a container that is being made or runs. Dropping it without [`Journal::finish`] leaves the file,
/// unlocked, to the next command.
pub struct Journal {
    path: PathBuf,
    undos: Vec<(String, Undo)>,
    /// The lock of an open file is the kernel's: it goes when the last process that holds it open does.
    _lock: File,
}

impl Journal {
    /// Writes down every undo of `plan`, before its first step is done. One write, no sync: after a power cut the
    /// kernel's objects are gone with the journal, and what lies on disk is found by its id.
    pub fn begin(dirs: &Dirs, id: &Id, plan: &Plan) -> Result<Self> {
        let undos: Vec<_> =
            plan.steps().iter().filter_map(|step| Some((step.name.clone(), step.undo.clone()?))).collect();
        let pid = std::process::id();
        let header = Header { id: id.to_string(), pid, start_time: start_time(pid).unwrap_or(0), boot_id: boot_id() };
        let mut text = serde_json::to_string(&header)?;
        for (_, undo) in &undos {
            text.push('\n');
            text.push_str(&serde_json::to_string(undo)?);
        }
        text.push('\n');
        let folder = dirs.run.join("journal");
        let path = folder.join(id.as_str());
        let context = || format!("cannot write the journal `{}`", path.display());
        let dir = open(&folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let dir = dir.with_context(context)?;
        let name = super::c_string(id.as_str().as_bytes());
        let lock = open_tmpfile_and_link(&dir, &name, Mode::from_bits_truncate(0o600), |file| {
            io::Write::write_all(&mut &*file, text.as_bytes()).map_err(|_| Errno::last())?;
            file.try_lock().map_err(|_| Errno::EWOULDBLOCK)
        });
        Ok(Self { _lock: lock.with_context(context)?, path, undos })
    }

    /// Performs the undo list, last step first, going on past errors; the journal stays if anything is left.
    /// `before` is told each step's name and undo first.
    pub fn finish(self, mut before: impl FnMut(&str, &Undo)) -> Result<()> {
        let mut errors = Vec::new();
        for (step, undo) in self.undos.iter().rev() {
            before(step, undo);
            if let Err(error) = undo.perform() {
                errors.push(format!("{}: {error}", undo.shell()));
            }
        }
        if !errors.is_empty() {
            anyhow::bail!("could not clean up: {}", errors.join("; "));
        }
        fs::remove_file(&self.path).with_context(|| format!("cannot remove the journal `{}`", self.path.display()))
    }
}

/// What an engine that died has left behind.
pub struct Leftover {
    pub id: Id,
    journal: Journal,
}

impl Leftover {
    /// Takes back what the dead engine had begun.
    pub fn clean_up(self) -> Result<()> {
        log::info!("cleaning up after container {}, whose engine died", self.id.short());
        self.journal.finish(|_, _| {})
    }

    pub fn undos(&self) -> impl Iterator<Item = &Undo> {
        self.journal.undos.iter().map(|(_, undo)| undo)
    }
}

/// The journals whose owner is dead, locked by us now. What cannot be read as ours is passed over.
pub fn leftovers(dirs: &Dirs) -> Vec<Leftover> {
    let Ok(entries) = fs::read_dir(dirs.run.join("journal")) else { return Vec::new() };
    let named = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((Id::parse(entry.file_name().to_str()?)?, entry.path()))
    };
    entries.filter_map(named).filter_map(|(id, path)| leftover(id, path)).collect()
}

fn leftover(id: Id, path: PathBuf) -> Option<Leftover> {
    let file =
        File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).ok()?;
    lock(&file, &path)?;
    let text = fs::read_to_string(&path).ok()?;
    let undos = text.lines().skip(1).map(|line| Some((String::new(), serde_json::from_str(line).ok()?)));
    let Some(undos) = undos.collect::<Option<Vec<_>>>() else {
        log::warn!("the journal `{}` is not one of ours; passed over", path.display());
        return None;
    };
    Some(Leftover { id, journal: Journal { path, undos, _lock: file } })
}

/// Locks the journal of a dead engine; `None`: it lives, or another cleaner is at it. Between clone and exec the child
/// holds the lock with the engine, so for a moment after an engine's death the lock is its dying child's: without a
/// little patience the name of the dead container would still be taken.
fn lock(file: &File, path: &Path) -> Option<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let end = Instant::now() + PATIENCE;
    while file.try_lock().is_err() {
        let text = fs::read_to_string(path).ok()?;
        let header: Header = serde_json::from_str(text.lines().next()?).ok()?;
        if lives(&header) || Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(())
}

/// Whether the engine that wrote it runs: a zombie does not.
fn lives(header: &Header) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", header.pid)).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X") && start_time(header.pid) == Some(header.start_time)
}

/// When process `pid` began, in clock ticks since boot (field 22 of `/proc/PID/stat`): together with the number it
/// names one process for good.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Which boot this is (`/proc/sys/kernel/random/boot_id`).
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}
