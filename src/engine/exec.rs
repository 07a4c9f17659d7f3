//! One more process in a container that runs. A plan like the container's own, but it joins where that one makes:
//! cgroups first, so that not one instruction runs outside of the limits, then the namespaces, by a descriptor of the
//! container's first process; then its user, capabilities and environment. Nothing of the container's is run or read as
//! a program on the host's side.
//!
//! Try it without us: `nsenter -t $PID -a sh`

use super::keys::Keys;
use super::start::chosen;
use super::wait::Outcome;
use super::{Prepared, as_root, recover, stdio, terminal, wait};
use crate::cgroup::Freezer;
use crate::container::{Event, Record, read_config, status, tell};
use crate::plan::{Dirs, Failpoint, Id, Launched, Options, Plan, Room, Spec, Stage, Target, Watch, launch};
use crate::sys;
use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::termios::Termios;
use nix::unistd::{ForkResult, Pid};
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

/// What a front asks for.
pub struct Exec<'a> {
    pub rooms: &'a [&'a dyn Room],
    /// The flags of `exec`.
    pub said: &'a ArgMatches,
    pub dirs: &'a Dirs,
    pub id: Id,
    pub words: Vec<String>,
    /// Return when it runs (`-d`).
    pub detached: bool,
    /// What the caller types on a terminal to leave it alone.
    pub detach_keys: Vec<u8>,
}

/// From words to a plan; changes nothing.
pub fn prepare_exec(exec: &Exec<'_>) -> Result<Prepared> {
    let mut record = Record::read(exec.dirs, &exec.id)?;
    let status = status(&record);
    let running = status.must_run(exec.id.short())?;
    let Some(pidfd) = running.pidfd() else { bail!("container {} is not running", exec.id.short()) };
    if Freezer::of(running.pid).is_some_and(|freezer| freezer.is_frozen()) {
        bail!(
            "container {} is frozen, though not by `pause`: a command in it would not begin (hint: `mydocker pause`, then \
             `unpause`, thaws it)",
            exec.id.short()
        );
    }
    let target = Target { pid: running.pid, pidfd };
    read_config(&mut record)?;
    let rooms = chosen(exec.rooms, &record.life().rooms);
    let mut spec = record.spec;
    spec.command = exec.words.clone();
    spec.detached = exec.detached;
    spec.init = false;
    spec.window = stdio::window();
    spec.caller = super::caller();
    for room in &rooms {
        room.exec_spec(exec.said, &mut spec, &target)?;
    }
    let plan = Plan::draw_exec(&rooms, &spec, &target)?;
    Ok(Prepared { spec, plan })
}

/// Begins this program once more, from where nobody can write to it: for a front that does nothing but `exec`, which puts
/// a copy of us into a container that runs already, and that may be waiting for it. (A monitor, whose health checks do the
/// same, lives longer than all who could reach its program, and a file that runs cannot be written.)
pub fn out_of_reach() -> Result<()> {
    as_root()?;
    sys::run_from_read_only().context("cannot put the engine's own program out of the container's reach")
}

/// Runs it, and waits for its end unless it is detached: the exit status; `None`: its caller has left it.
pub fn exec(exec: &Exec<'_>, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<Option<u8>> {
    as_root()?;
    recover(exec.dirs, &exec.id)?;
    let prepared = prepare_exec(exec)?;
    if exec.detached {
        let launched = launch(&prepared.plan, Stage::default(), Options { watch, failpoint })?;
        begun(&prepared.spec);
        // The one that made it has ended by design; the command itself is the container's by now.
        sys::wait_pidfd(&launched.pidfd).context("cannot wait for the one that made it")?;
        return Ok(Some(0));
    }
    let interactive = prepared.spec.terminal() && exec.said.get_flag("interactive");
    if interactive && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        let (ours, his) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        let before = terminal::modes();
        return match sys::fork().context("cannot fork")? {
            ForkResult::Parent { child } => {
                drop(his);
                stand_by(child, &ours, before)
            }
            // Its errors are told by it, as if it were us.
            ForkResult::Child => {
                drop(ours);
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                attend(exec, &prepared, Some(his), watch, failpoint)
            }
        };
    }
    attend(exec, &prepared, None, watch, failpoint)
}

/// Launches, then waits. `caller`: who stands by at the terminal, and may leave.
fn attend(
    exec: &Exec<'_>,
    prepared: &Prepared,
    caller: Option<OwnedFd>,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<Option<u8>> {
    let stdio::Streams { stage, relays, mut terminal } = stdio::arrange(exec.said, prepared.spec.terminal(), None)?;
    if caller.is_some() {
        terminal.iter_mut().for_each(|terminal| terminal.keys = Some(Keys::new(exec.detach_keys.clone())));
    }
    let signals = sys::SignalFd::all().context("cannot read signals")?;
    let options = Options { watch, failpoint: failpoint.clone() };
    let launched: Launched = launch(&prepared.plan, stage, options)?;
    let spec = &prepared.spec;
    begun(spec);
    let died = |status| tell(&spec.dirs, &[Event::of(spec, "exec_die").with("exitCode", status)]);
    match wait::until_the_end(launched, signals, relays, terminal, None, failpoint.as_ref())? {
        Outcome::Ended(status) => {
            died(status);
            Ok(Some(status))
        }
        Outcome::Left(launched) => {
            tell(&spec.dirs, &[Event::of(spec, "exec_detach")]);
            if let Some(status) = stay_behind(&launched, caller) {
                died(status as u8);
            }
            sys::exit_now(0)
        }
    }
}

/// At the terminal, while a child of ours does the work: only the parent of a process may reap it, and whoever leaves
/// cannot stay a parent. The exit status, or `None` if the caller has left.
fn stand_by(child: Pid, word: &OwnedFd, before: Option<Termios>) -> Result<Option<u8>> {
    let signals = sys::SignalFd::all().context("cannot read signals")?;
    let pidfd = sys::pidfd_open(child.as_raw()).context("cannot wait for our child")?;
    loop {
        let mut fds = [word.as_fd(), signals.as_fd(), pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE);
        if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
            return Ok(None);
        }
        while let Some(signal) = signals.read() {
            if !matches!(signal, libc::SIGCHLD | libc::SIGWINCH | libc::SIGPIPE | libc::SIGURG) {
                let _ = sys::pidfd_send_signal(&pidfd, signal);
            }
        }
        if fds[2].any().unwrap_or(false) {
            let status = sys::wait_pidfd(&pidfd).context("cannot wait for our child")?;
            // It may have been killed with the terminal raw.
            terminal::put_back(before);
            return Ok(Some(status as u8));
        }
    }
}

/// The caller goes; we stay, for as long as the command runs, and take what it writes: without a reader it would stop,
/// and with nobody at the other end of its terminal it would be hung up on. Its exit status.
fn stay_behind(launched: &Launched, caller: Option<OwnedFd>) -> Option<i32> {
    let _ = nix::sys::prctl::set_pdeathsig(None);
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    let _ = nix::sys::prctl::set_name(c"mydocker-exec");
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        for number in 0..3 {
            let _ = sys::dup_to(&null, number);
        }
    }
    sys::close_inherited();
    let _ = nix::unistd::write(caller?, b"l");
    sys::trim_memory();
    let mut master = launched.handed_up.as_ref();
    loop {
        let mut fds = vec![PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(master.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, PollTimeout::NONE);
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let read = |fd: &OwnedFd| matches!(nix::unistd::read(fd, &mut [0u8; 4096]), Ok(1..) | Err(Errno::EAGAIN));
        if ready.get(1) == Some(&true) && !master.is_some_and(read) {
            master = None;
        }
        if ready[0] {
            return sys::wait_pidfd(&launched.pidfd).ok();
        }
    }
}

fn begun(spec: &Spec) {
    let words = spec.command.join(" ");
    let event = |what: &str| Event::of(spec, &format!("{what}: {words}"));
    tell(&spec.dirs, &[event("exec_create"), event("exec_start")]);
}
