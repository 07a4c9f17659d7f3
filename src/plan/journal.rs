//! The journal: what would have to be taken back, on disk *before* it is done. A `kill -9` of the engine at any moment
//! leaves it behind, and the next command of ours reads it and cleans up.
//!
//! `run/journal/<id>` appears whole and locked (O_TMPFILE, flock, linkat). The lock goes with the engine, however
//! it ends, so "is its owner alive?" is asked of the kernel: a journal that can be locked has none.

use super::{Dirs, Id, Plan, Undo, When};
use crate::sys::open_tmpfile_and_link;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt; // ch06
use std::path::Path; // ch07
use std::path::PathBuf;
use std::time::{Duration, Instant}; // ch07

/// The first line of a journal; every other line is an [`Entry`], in the order of the steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    pub id: String,
    /// The engine that wrote it, for people; whether it lives is asked of the lock.
    pub pid: u32,
    pub start_time: u64,
    pub boot_id: String,
    /// Nothing of the container stays when its owner is gone (`--rm`, and `rm` itself).
    #[serde(default = "yes")]
    pub all: bool,
}

fn yes() -> bool {
    true
}

/// One step's way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(default)]
    pub step: String,
    #[serde(default)]
    pub when: When,
    #[serde(flatten)]
    pub undo: Undo,
}

/// Every undo of `plan`, in the order of the steps.
pub fn undo_list(plan: &Plan) -> Vec<Entry> {
    let entry =
        |step: &super::Step| Some(Entry { step: step.name.clone(), when: step.undo_when, undo: step.undo.clone()? });
    plan.steps().iter().filter_map(entry).collect()
}

/// The journal of a container that is being made or runs. Dropping it without [`Journal::finish`] leaves the file,
/// unlocked, to the next command.
pub struct Journal {
    path: PathBuf,
    header: Header,
    undos: Vec<Entry>,
    /// The lock of an open file is the kernel's: it goes when the last process that holds it open does.
    lock: File,
}

impl Journal {
    /// Writes down every undo, before the first step is done. One write, no sync: after a power cut the
    /// kernel's objects are gone with the journal, and what lies on disk is found by its id.
    pub fn begin(dirs: &Dirs, id: &Id, undos: Vec<Entry>, all: bool) -> Result<Self> {
        let pid = std::process::id();
        let start_time = start_time(pid).unwrap_or(0);
        let header = Header { id: id.to_string(), pid, start_time, boot_id: boot_id(), all };
        let text = text(&header, &undos)?;
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
        Ok(Self { lock: lock.with_context(context)?, path, header, undos })
    }

    /// A new list in the place of one that has been performed: the container starts again.
    pub fn renew(&mut self, undos: Vec<Entry>) -> Result<()> {
        let text = text(&self.header, &undos)?;
        let context = || format!("cannot write the journal `{}`", self.path.display());
        self.lock.set_len(0).with_context(context)?;
        std::os::unix::fs::FileExt::write_all_at(&self.lock, text.as_bytes(), 0).with_context(context)?;
        self.undos = undos;
        Ok(())
    }

    /// Performs what is due at one of `moments`, last step first, going on past errors. `before` is told each entry
    /// first.
    pub fn undo(&self, moments: &[When], mut before: impl FnMut(&Entry)) -> Result<()> {
        let mut errors = Vec::new();
        for entry in self.undos.iter().rev().filter(|entry| moments.contains(&entry.when)) {
            before(entry);
            if let Err(error) = entry.undo.perform() {
                errors.push(format!("{}: {error}", entry.undo.shell()));
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => anyhow::bail!("could not clean up: {}", errors.join("; ")),
        }
    }

    /// The same, and the journal is closed; it stays if anything is left.
    pub fn finish(self, moments: &[When], before: impl FnMut(&Entry)) -> Result<()> {
        self.undo(moments, before)?;
        gone(fs::remove_file(&self.path))
            .with_context(|| format!("cannot remove the journal `{}`", self.path.display()))
    }

    /// Whether everything goes with the owner.
    pub fn all(&self) -> bool {
        self.header.all
    }

    // ch07
    pub fn undos(&self) -> &[Entry] {
        &self.undos
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn text(header: &Header, undos: &[Entry]) -> Result<String> {
    let mut text = serde_json::to_string(header)?;
    for entry in undos {
        text.push('\n');
        text.push_str(&serde_json::to_string(entry)?);
    }
    text.push('\n');
    Ok(text)
}

// ch07
/// What an engine that died has left behind: its journal, ours now.
pub struct Leftover {
    pub id: Id,
    pub journal: Journal,
}

// ch07
/// The journals whose owner is dead, locked by us now. What cannot be read as ours is passed over. At most `most` are asked
/// for their locks, in a row that begins anywhere, so that each is asked by one of the next starts: five hundred would cost
/// every start some milliseconds, and `/proc/locks`, which tells of all at once, makes the kernel wait for every CPU.
///
/// A start does not depend on those that it passes over: its name it asks for by itself, and of an address or a port it
/// asks whether their holder lives.
pub fn leftovers(dirs: &Dirs, most: usize) -> Vec<Leftover> {
    let all = journals(dirs);
    let anywhere = || crate::sys::random().map_or(0, usize::from_ne_bytes);
    let first = if all.len() > most { anywhere() % all.len() } else { 0 };
    let some = all.iter().cycle().skip(first).take(most.min(all.len()));
    some.filter_map(|id| leftover(dirs, id)).collect()
}

// ch07
/// Every container that has a journal.
pub fn journals(dirs: &Dirs) -> Vec<Id> {
    let entries = fs::read_dir(dirs.run.join("journal")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Id::parse(entry.file_name().to_str()?)).collect()
}

// ch07
/// The journal of this container, if there is one and its owner is dead.
pub fn leftover(dirs: &Dirs, id: &Id) -> Option<Leftover> {
    let path = dirs.run.join("journal").join(id.as_str());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).write(true).custom_flags(flags).open(&path).ok()?;
    lock(&file, &path)?;
    // Its owner may have finished, and taken it away, between our open and our lock.
    if !same_file(&file, &path) {
        return None;
    }
    let Some((header, undos)) = parse(&path) else {
        log::warn!("the journal `{}` is not one of ours; passed over (hint: mydocker rm -f)", path.display());
        return None;
    };
    Some(Leftover { id: id.clone(), journal: Journal { path, header, undos, lock: file } })
}

// ch07
fn parse(path: &Path) -> Option<(Header, Vec<Entry>)> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next()?).ok()?;
    let undos: Result<Vec<Entry>, _> = lines.map(serde_json::from_str).collect();
    Some((header, undos.ok()?))
}

// ch07
/// The journal of this container, if nobody owns it and it cannot be read: its lock, and the file.
fn torn(dirs: &Dirs, id: &Id) -> Option<(File, PathBuf)> {
    let path = dirs.run.join("journal").join(id.as_str());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(&path).ok()?;
    (file.try_lock().is_ok() && same_file(&file, &path) && parse(&path).is_none()).then_some((file, path))
}

// ch07
/// Whether there is a journal that nobody owns and nobody can read.
pub fn is_torn(dirs: &Dirs, id: &Id) -> bool {
    torn(dirs, id).is_some()
}

// ch07
/// Takes such a journal away: whether there was one. What it said is lost.
pub fn discard_torn(dirs: &Dirs, id: &Id) -> bool {
    torn(dirs, id).is_some_and(|(_lock, path)| fs::remove_file(path).is_ok())
}

// ch07
/// Waits until the journal of this container has no living owner: it has ended, or its engine was killed.
pub fn wait_for_owner(dirs: &Dirs, id: &Id) -> Result<()> {
    let path = dirs.run.join("journal").join(id.as_str());
    match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            let file = other.with_context(|| format!("cannot read the journal `{}`", path.display()))?;
            file.lock_shared().with_context(|| format!("cannot wait for the journal `{}`", path.display()))
        }
    }
}

// ch07
/// Whether something is written down that would have to be taken back, by its owner or after him.
pub fn has_journal(dirs: &Dirs, id: &Id) -> bool {
    fs::symlink_metadata(dirs.run.join("journal").join(id.as_str())).is_ok()
}

// ch06
/// Whether an engine lives that owns this container.
pub fn has_owner(dirs: &Dirs, id: &Id) -> bool {
    let path = dirs.run.join("journal").join(id.as_str());
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    file.is_ok_and(|file| file.try_lock_shared().is_err())
}

// ch07
fn same_file(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |one: fs::Metadata, two: fs::Metadata| (one.dev(), one.ino()) == (two.dev(), two.ino());
    file.metadata().is_ok_and(|one| fs::symlink_metadata(path).is_ok_and(|two| same(one, two)))
}

// ch07
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

// ch07
/// Whether the engine that wrote it runs: a zombie does not.
fn lives(header: &Header) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", header.pid)).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X") && start_time(header.pid) == Some(header.start_time)
}

/// When process `pid` began, in clock ticks since boot (field 22 of `/proc/PID/stat`): together with the number it
/// names one process for good.
pub fn start_time(pid: u32) -> Option<u64> {
    static OWN: std::sync::OnceLock<(u32, Option<u64>)> = std::sync::OnceLock::new();
    if pid != std::process::id() {
        return read_start_time(pid);
    }
    match OWN.get_or_init(|| (pid, read_start_time(pid))) {
        (owner, time) if *owner == pid => *time,
        _ => read_start_time(pid), // a monitor, which has forked off since
    }
}

fn read_start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Which boot this is (`/proc/sys/kernel/random/boot_id`).
pub fn boot_id() -> String {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string();
    BOOT.get_or_init(read).clone()
}
