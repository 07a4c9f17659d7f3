//! Asks a container from time to time whether it is well. Each look is a process of ours for as long as it takes: a
//! fork that does what `exec` does and writes down the answer. So the monitor itself keeps nothing but a clock and a
//! pidfd, and stays as small as it is.

use super::exec::{Exec, prepare_exec};
use crate::container::{Event, Health, Probe, Record, Running, tell};
use crate::plan::{Dirs, Healthcheck, Id, Launched, Options, Room, Spec, Stage, Watch, launch};
use crate::sys;
use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::ForkResult;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The clock of one container.
pub(super) struct Pulse {
    dirs: Dirs,
    id: Id,
    check: Healthcheck,
    next: Instant,
    /// The look that is being taken.
    look: Option<OwnedFd>,
}

/// Docker keeps so much of what a look says.
const MOST_OUTPUT: usize = 4096;

/// How long a look may take to end when its container has.
const PATIENCE: Duration = Duration::from_secs(2);

struct Unwatched;

impl Watch for Unwatched {}

impl Pulse {
    /// `None`: nobody wants to know.
    pub fn of(spec: &Spec) -> Option<Self> {
        let check = spec.life.as_ref()?.health.clone()?;
        check.command()?;
        let mut pulse = Self { dirs: spec.dirs.clone(), id: spec.id.clone(), check, next: Instant::now(), look: None };
        pulse.next += pulse.pause();
        Some(pulse)
    }

    fn pause(&self) -> Duration {
        let starts = !self.check.start_period().is_zero()
            && Health::read(&self.dirs, &self.id).status == "starting"
            && Running::read(&self.dirs, &self.id).is_none_or(|running| {
                let age = Duration::try_from(Timestamp::now().duration_since(running.started_at));
                age.unwrap_or_default() < self.check.start_period()
            });
        if starts { self.check.start_interval() } else { self.check.interval() }
    }

    /// What tells that a look is over.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.look.as_ref().map(AsFd::as_fd)
    }

    /// How long until there is something to do that no descriptor tells.
    pub fn timeout(&self) -> PollTimeout {
        if self.look.is_some() {
            return PollTimeout::NONE;
        }
        let left = self.next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Takes a look if it is time, and puts the last one away.
    pub fn turn(&mut self, rooms: &[&dyn Room]) {
        if let Some(look) = &self.look {
            if !ready(look, PollTimeout::ZERO) {
                return;
            }
            let _ = sys::wait_pidfd(look);
            self.look = None;
            sys::trim_memory();
            self.next = Instant::now() + self.pause();
        }
        if Instant::now() < self.next {
            return;
        }
        match sys::fork() {
            Ok(ForkResult::Child) => self.look(rooms),
            Ok(ForkResult::Parent { child }) => self.look = sys::pidfd_open(child.as_raw()).ok(),
            Err(_) => {}
        }
        // If it cannot be taken at all, not again at once.
        self.next = Instant::now() + self.check.interval();
    }

    /// The process of one look.
    fn look(&self, rooms: &[&dyn Room]) -> ! {
        // The journal's lock, above all, is the monitor's alone.
        sys::close_from(3);
        let _ = nix::sys::prctl::set_name(c"mydocker-health");
        if let Err(error) = self.take(rooms) {
            log::debug!("container {}: no look at its health: {error:#}", self.id.short());
        }
        sys::exit_now(0)
    }

    fn take(&self, rooms: &[&dyn Room]) -> Result<()> {
        let words = self.check.command().context("there is no command")?;
        let command = clap::Command::new("exec").no_binary_name(true);
        let command = rooms.iter().fold(command, |command, room| room.exec_flags(command));
        let said = command.try_get_matches_from([""; 0])?;
        let (dirs, id) = (&self.dirs, self.id.clone());
        let exec = Exec { rooms, said: &said, dirs, id, words, detached: false, detach_keys: vec![] };
        let start = Timestamp::now();
        // One that does not run is not asked: paused, or just ended.
        let prepared = prepare_exec(&exec)?;
        let running = Running::read(dirs, &self.id).context("it does not run")?;
        let (exit_code, output) = match self.run(&prepared.plan) {
            Ok(answer) => answer,
            Err(error) => (-1, super::words(&error).0),
        };
        if !running.alive() {
            return Ok(());
        }
        let probe = Probe { start, end: Timestamp::now(), exit_code, output };
        let mut health = Health::read(dirs, &self.id);
        let news = health.take(probe, &self.check, &running);
        health.write(dirs, &self.id)?;
        if news {
            let record = Record::read(dirs, &self.id)?;
            tell(dirs, &[Event::of(&record.spec, &format!("health_status: {}", health.status))]);
        }
        Ok(())
    }

    /// Exit status, and what it wrote.
    fn run(&self, plan: &crate::plan::Plan) -> Result<(i32, String)> {
        let deadline = Instant::now() + self.check.timeout();
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).context("cannot make a pipe")?;
        nix::fcntl::fcntl(&theirs, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
        let stage = Stage { stdio: [None, Some(theirs.try_clone()?), Some(theirs)], ..Stage::default() };
        let options = Options { watch: &mut Unwatched, failpoint: None };
        let launched: Launched = launch(plan, stage, options)?;
        let mut output = Vec::new();
        loop {
            let ended = ready(&launched.pidfd, PollTimeout::ZERO);
            let open = read(&ours, &mut output);
            if ended {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let _ = sys::pidfd_send_signal(&launched.pidfd, libc::SIGKILL);
                let _ = sys::wait_pidfd(&launched.pidfd);
                return Ok((-1, format!("Health check exceeded timeout ({:?})", self.check.timeout())));
            }
            let mut fds = vec![PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN)];
            fds.extend(open.then(|| PollFd::new(ours.as_fd(), PollFlags::POLLIN)));
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
        let status = sys::wait_pidfd(&launched.pidfd)?;
        read(&ours, &mut output);
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
    }
}

impl Drop for Pulse {
    /// The kernel has killed what ran in the container, so the look ends by itself.
    fn drop(&mut self) {
        let Some(look) = self.look.take() else { return };
        if !ready(&look, PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX)) {
            let _ = sys::pidfd_send_signal(&look, libc::SIGKILL);
        }
        let _ = sys::wait_pidfd(&look);
    }
}

/// Takes what is there, and keeps the first of it; `false` at the end.
fn read(from: &OwnedFd, output: &mut Vec<u8>) -> bool {
    let mut buffer = [0u8; MOST_OUTPUT];
    loop {
        match nix::unistd::read(from, &mut buffer) {
            Ok(0) => return false,
            Ok(size) => {
                let room = MOST_OUTPUT.saturating_sub(output.len());
                output.extend_from_slice(&buffer[..size.min(room)]);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return true,
            Err(_) => return false,
        }
    }
}

fn ready(fd: &OwnedFd, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|count| count > 0)
}
