//! One more process in a container that runs. A plan like the container's own, but it joins where that one makes:
//! cgroups first, so that not one instruction runs outside of the limits, then the namespaces, by a descriptor of the
//! container's first process; then its user, capabilities and environment. Nothing of the container's is run or read as
//! a program on the host's side.
//!
//! Try it without us: `nsenter -t $PID -a sh`

use super::start::chosen;
use super::{Prepared, as_root, recover, stdio, wait};
use crate::container::{Event, Record, read_config, status, tell};
use crate::plan::{Dirs, Failpoint, Id, Launched, Options, Plan, Room, Spec, Stage, Target, Watch, launch};
use crate::sys;
use anyhow::{Context, Result, bail};
use clap::ArgMatches;

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
}

/// From words to a plan; changes nothing.
pub fn prepare_exec(exec: &Exec<'_>) -> Result<Prepared> {
    let mut record = Record::read(exec.dirs, &exec.id)?;
    let status = status(&record);
    let running = status.must_run(exec.id.short())?;
    let Some(pidfd) = running.pidfd() else { bail!("container {} is not running", exec.id.short()) };
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

/// Runs it, and waits for its end unless it is detached: the exit status.
pub fn exec(exec: &Exec<'_>, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<u8> {
    as_root()?;
    recover(exec.dirs, &exec.id)?;
    let prepared = prepare_exec(exec)?;
    if exec.detached {
        let launched = launch(&prepared.plan, Stage::default(), Options { watch, failpoint })?;
        begun(&prepared.spec);
        // The one that made it has ended by design; the command itself is the container's by now.
        sys::wait_pidfd(&launched.pidfd).context("cannot wait for the one that made it")?;
        return Ok(0);
    }
    let stdio::Streams { stage, relays, terminal } = stdio::arrange(exec.said, prepared.spec.terminal(), None)?;
    let signals = sys::SignalFd::all().context("cannot read signals")?;
    let options = Options { watch, failpoint: failpoint.clone() };
    let launched: Launched = launch(&prepared.plan, stage, options)?;
    let spec = &prepared.spec;
    begun(spec);
    let status = wait::until_the_end(launched, signals, relays, terminal, None, failpoint.as_ref())?;
    tell(&spec.dirs, &[Event::of(spec, "exec_die").with("exitCode", status)]);
    Ok(status)
}

fn begun(spec: &Spec) {
    let words = spec.command.join(" ");
    let event = |what: &str| Event::of(spec, &format!("{what}: {words}"));
    tell(&spec.dirs, &[event("exec_create"), event("exec_start")]);
}
