//! What an engine that was killed has left is found by the next command: by its journal, which nobody holds locked any
//! more. A container that lives on is left alone; what is over is taken back and written down.

use crate::container::{Event, Lock, Record, Running, tell};
use crate::plan::{Dirs, Id, Journal, Leftover, Spec, When, leftover, leftovers};
use anyhow::Result;
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, OwnedFd};

/// The exit status of a container that ended while nobody looked.
pub(super) const UNSEEN: i32 = 255;

/// Cleans up after every engine that died. A failure of this is not the caller's.
pub fn recover_all(dirs: &Dirs) {
    recover_some(dirs, usize::MAX);
}

/// The same for at most `most` of them, each time others.
pub(super) fn recover_some(dirs: &Dirs, most: usize) {
    for leftover in leftovers(dirs, most) {
        let id = leftover.id.clone();
        if let Err(error) = take_over(dirs, leftover) {
            log::warn!("container {}, whose engine died: {error:#}", id.short());
        }
    }
    settle(dirs);
}

/// What the last boot left is settled before anything is said of a container, once per process.
pub fn settle(dirs: &Dirs) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if nix::unistd::geteuid().is_root() && dirs.root.join("containers").is_dir() {
        ONCE.call_once(|| match super::make_folders(dirs) {
            Ok(()) => super::boot::settle_after_boot(dirs),
            Err(error) => log::warn!("{error:#}"),
        });
    }
}

/// The same for one container.
pub fn recover(dirs: &Dirs, id: &Id) -> Result<()> {
    settle(dirs);
    leftover(dirs, id).map_or(Ok(()), |leftover| take_over(dirs, leftover))
}

/// The same with a journal that is ours already.
pub fn take_over(dirs: &Dirs, leftover: Leftover) -> Result<()> {
    let Leftover { id, journal } = leftover;
    let running = Running::read(dirs, &id);
    if running.as_ref().is_some_and(|running| running.alive() && !ends_with_its_engine(running)) {
        // Only its monitor is gone. `stop` and `rm -f` end it.
        return Ok(());
    }
    let record = dirs.container(&id).join("container.json");
    if journal.all() || !record.exists() {
        log::info!("cleaning up after container {}, whose engine died", id.short());
        if let (Ok(record), Some(_)) = (Record::read(dirs, &id), running) {
            tell_end(&record.spec, &Ok(seen_status(dirs, &id).unwrap_or(UNSEEN) as u8), false, vec![], true);
        }
        return journal.finish(When::ALL, |_| {});
    }
    // Whoever holds the lock will see to it.
    let Ok(_lock) = Lock::try_take(dirs, &id) else { return Ok(()) };
    if let Some(running) = running {
        let seen = seen_status(dirs, &id);
        let record = Record::update(dirs, &id, |record| {
            record.rest.started_at = Some(running.started_at);
            record.rest.begun = false;
            record.rest.finished_at = Some(Timestamp::now());
            record.rest.exit_code = seen.unwrap_or(UNSEEN);
        })?;
        tell_end(&record.spec, &Ok(record.rest.exit_code as u8), false, vec![], false);
    }
    journal.finish(&[When::End], |_| {})
}

/// Waits for a container that has no monitor, and so is dying: the kernel kills it when its engine ends, but an engine's
/// files are closed, and its journal unlocked, a moment before that.
fn ends_with_its_engine(running: &Running) -> bool {
    const PATIENCE: u16 = 2000;
    if running.stays {
        return false;
    }
    let ended = |pidfd: OwnedFd| {
        let ready = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PATIENCE);
        ready.is_ok_and(|count| count > 0)
    };
    running.pidfd().is_none_or(ended)
}

/// The exit status, if the engine got so far as to write it.
fn seen_status(dirs: &Dirs, id: &Id) -> Option<i32> {
    std::fs::read_to_string(dirs.running(id).join("state")).ok()?.lines().nth(1)?.parse().ok()
}

/// Whether nothing of the container is to stay when its engine is gone.
pub(super) fn goes_with_its_engine(spec: &Spec) -> bool {
    spec.life.as_ref().is_none_or(|life| life.auto_remove)
}

/// Whether its making got so far that there is a container.
pub(super) fn committed(spec: &Spec) -> bool {
    spec.life.is_some() && spec.folder().join("container.json").exists()
}

/// Writes down how a container has ended, or why it could not start: what of its undo list is due now. `locked`: the
/// caller holds its lock (`start` does, until its monitor has told how the launch went).
pub(super) fn bury(
    spec: &Spec,
    journal: &Journal,
    ended: &Result<u8>,
    oom_killed: bool,
    locked: bool,
) -> &'static [When] {
    if let Ok(status) = ended {
        let _ = Running::ended(&spec.dirs, &spec.id, i32::from(*status));
    }
    if journal.all() || !committed(spec) {
        return When::ALL;
    }
    let lock = if locked { Ok(None) } else { Lock::take(&spec.dirs, &spec.id).map(Some) };
    let written =
        lock.and_then(|_lock| Record::update(&spec.dirs, &spec.id, |record| last_words(record, ended, oom_killed)));
    if let Err(error) = written {
        log::warn!("cannot write down the end of container {}: {error:#}", spec.id.short());
    }
    &[When::End]
}

/// The end of a life, for `events`; `left`: what goes with it; `gone`: nothing is kept of it.
pub(super) fn tell_end(spec: &Spec, ended: &Result<u8>, oom_killed: bool, left: Vec<Event>, gone: bool) {
    let Ok(status) = ended else { return };
    let oom = oom_killed.then(|| Event::of(spec, "oom"));
    let destroyed = gone.then(|| Event::of(spec, "destroy"));
    let died = Event::of(spec, "die").with("exitCode", status);
    tell(&spec.dirs, &oom.into_iter().chain([died]).chain(left).chain(destroyed).collect::<Vec<_>>());
}

/// The end of a life, in its record.
pub(super) fn last_words(record: &mut Record, ended: &Result<u8>, oom_killed: bool) {
    let running = Running::read(&record.spec.dirs, &record.spec.id);
    let rest = &mut record.rest;
    rest.begun = false;
    match ended {
        Ok(status) => {
            rest.started_at = running.map(|running| running.started_at).or(rest.started_at);
            rest.finished_at = Some(Timestamp::now());
            rest.exit_code = i32::from(*status);
            rest.oom_killed = oom_killed;
            rest.error = String::new();
        }
        Err(error) => {
            let (line, status) = super::words(error);
            rest.exit_code = i32::from(status.unwrap_or(128));
            rest.error = line;
        }
    }
}
