//! Ends containers, and waits for their ends. Everything goes through a pidfd: a number that a stranger has by now is
//! never hit.

use super::recover;
use crate::cgroup::Freezer;
use crate::container::{Event, Lock, Missing, Record, Running, Status, status, tell};
use crate::plan::{Dirs, Id, Restart, has_journal, has_owner, is_torn, wait_for_owner};
use crate::sys;
use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Docker's wait between the stop signal and SIGKILL.
const DEFAULT_TIMEOUT: i64 = 10;

/// How long a container may take to die of SIGKILL, and its engine to clean up after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the user said about the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeout {
    /// Seconds until SIGKILL; `None`: as the container was made. Negative: never.
    pub seconds: Option<i64>,
    pub signal: Option<i32>,
}

/// Asks a container to end, kills it if it does not, and returns when it is at rest. One at rest is left as it is.
pub fn stop(dirs: &Dirs, id: &Id, timeout: Timeout) -> Result<()> {
    if let Some(record) = end(dirs, id, timeout)? {
        tell(dirs, &[Event::of(&record.spec, "stop")]);
    }
    Ok(())
}

/// The same without a word of it: the record of what was ended, `None` if it was at rest.
pub(super) fn end(dirs: &Dirs, id: &Id, timeout: Timeout) -> Result<Option<Record>> {
    recover(dirs, id)?;
    let record = marked_as_stopped(dirs, id)?;
    let Some(running) = status(&record).running().cloned() else {
        give_up_restarting(dirs, id);
        return at_rest(dirs, id).map(|()| None);
    };
    let seconds = timeout.seconds.or(record.life().stop_timeout).unwrap_or(DEFAULT_TIMEOUT);
    if let Some(pidfd) = running.pidfd() {
        let signal = timeout.signal.unwrap_or(record.spec.stop_signal);
        tell(dirs, &[Event::of(&record.spec, "kill").with("signal", signal)]);
        let _ = sys::pidfd_send_signal(&pidfd, signal);
        thaw(&running);
        let limit = u64::try_from(seconds).ok().map(Duration::from_secs);
        let killed = signal == libc::SIGKILL;
        if killed || !ended_within(&pidfd, limit) {
            if !killed {
                tell(dirs, &[Event::of(&record.spec, "kill").with("signal", libc::SIGKILL)]);
                let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
                thaw(&running);
            }
            if !ended_within(&pidfd, Some(PATIENCE)) {
                bail!("container {} does not end: its process {} is stuck in the kernel", id.short(), running.pid);
            }
        }
    }
    at_rest(dirs, id).map(|()| Some(record))
}

/// Sends one signal.
pub fn kill(dirs: &Dirs, id: &Id, signal: i32) -> Result<()> {
    recover(dirs, id)?;
    let record = Record::read(dirs, id)?;
    let running = status(&record).running().cloned();
    let Some((running, pidfd)) = running.and_then(|running| running.pidfd().map(|pidfd| (running, pidfd))) else {
        bail!("cannot kill container: {}: container {} is not running", record.name(), id.short());
    };
    let ends = signal == libc::SIGKILL || signal == record.spec.stop_signal;
    if ends && record.life().restart != Restart::No {
        marked_as_stopped(dirs, id)?;
    }
    if let Err(errno) = sys::pidfd_send_signal(&pidfd, signal) {
        bail!("cannot kill container: {}: {}", record.name(), errno.desc());
    }
    tell(dirs, &[Event::of(&record.spec, "kill").with("signal", signal)]);
    if signal == libc::SIGKILL {
        thaw(&running);
        if !ended_within(&pidfd, Some(PATIENCE)) {
            bail!("container {} does not end: its process {} is stuck in the kernel", id.short(), running.pid);
        }
        at_rest(dirs, id)?;
    }
    Ok(())
}

/// Waits for the end: the exit status.
pub fn wait(dirs: &Dirs, id: &Id) -> Result<i32> {
    loop {
        recover(dirs, id)?;
        let mut state = Running::open(dirs, id);
        let record = match Record::read(dirs, id) {
            Err(error) if error.is::<Missing>() => bail!(error),
            other => other?,
        };
        let status = status(&record);
        if has_owner(dirs, id) {
            wait_for_owner(dirs, id)?;
        } else if let Some(pidfd) = status.running().and_then(Running::pidfd) {
            // Its monitor was killed.
            ended_within(&pidfd, None);
            continue;
        } else {
            return Ok(record.rest.exit_code);
        }
        // It has ended. Its record may be gone with it; the file that we hold open has the status.
        if Record::read(dirs, id).is_err() {
            let mut text = String::new();
            if let Some(state) = &mut state {
                let _ = state.rewind();
                let _ = state.read_to_string(&mut text);
            }
            return Ok(text.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(record.rest.exit_code));
        }
    }
}

/// No policy starts it again.
fn marked_as_stopped(dirs: &Dirs, id: &Id) -> Result<Record> {
    let _lock = Lock::take(dirs, id)?;
    let record = Record::read(dirs, id)?;
    if record.rest.stopped {
        return Ok(record);
    }
    match Record::update(dirs, id, |record| record.rest.stopped = true) {
        // A full disk: a file without content needs none of it, and its monitor sees that one too.
        Err(error) if fs::write(dirs.running(id).join(STOPPED), "").is_ok() => {
            log::warn!("{error:#}");
            Ok(record)
        }
        other => other,
    }
}

/// In the run-time folder of a container that was stopped, if its record could not say so.
const STOPPED: &str = "stopped";

/// Whether the user has stopped it, so that no policy starts it again.
pub(super) fn was_stopped(record: &Record) -> bool {
    record.rest.stopped || record.spec.dirs.running(&record.spec.id).join(STOPPED).exists()
}

/// Wakes a monitor that waits before a restart.
fn give_up_restarting(dirs: &Dirs, id: &Id) {
    if let Some(monitor) = Running::read(dirs, id).and_then(|running| running.monitor_pidfd())
        && has_owner(dirs, id)
    {
        let _ = sys::pidfd_send_signal(&monitor, libc::SIGTERM);
    }
}

/// Its engine has finished; if that was killed, we do its work.
pub(super) fn at_rest(dirs: &Dirs, id: &Id) -> Result<()> {
    let (begun, mut pause) = (Instant::now(), Duration::from_micros(200));
    while has_owner(dirs, id) {
        if begun.elapsed() > PATIENCE {
            bail!("the engine of container {} does not finish", id.short());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    recover(dirs, id)
}

/// The record of a container that either runs or is at rest: one that is just being started or ended is waited for.
pub(super) fn settled(dirs: &Dirs, id: &Id) -> Result<Record> {
    let (begun, mut pause) = (Instant::now(), Duration::from_micros(200));
    loop {
        recover(dirs, id)?;
        let record = Record::read(dirs, id)?;
        let between = !matches!(status(&record), Status::Running(_) | Status::Paused(_) | Status::Restarting);
        // It may have died just after we recovered what was dead; then its journal is still there.
        if !between || !has_journal(dirs, id) {
            return Ok(record);
        }
        if is_torn(dirs, id) {
            bail!("the journal of container {0} is damaged (hint: mydocker rm -f {0})", id.short());
        }
        if begun.elapsed() > PATIENCE {
            bail!("container {} is being started or stopped by somebody else", id.short());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn thaw(running: &Running) {
    if let Some(freezer) = Freezer::of(running.pid).filter(Freezer::is_frozen) {
        let _ = freezer.thaw();
    }
}

/// Whether the process ends within `limit`; `None` waits without end.
pub(super) fn ended_within(pidfd: &OwnedFd, limit: Option<Duration>) -> bool {
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(1..) => return true,
            _ if left.is_some_and(|left| left.is_zero()) => return false,
            _ => {}
        }
    }
}

impl Status {
    /// As the errors of commands that want a running container put it.
    pub fn must_run(&self, name: &str) -> Result<&Running> {
        match self {
            Status::Running(running) => Ok(running),
            Status::Paused(_) => bail!("container {name} is paused, unpause the container before exec"),
            Status::Restarting => bail!("container {name} is restarting, wait until the container is running"),
            _ => bail!("container {name} is not running"),
        }
    }
}
