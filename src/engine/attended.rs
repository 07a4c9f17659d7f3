//! A person sits at the container (`run -ti` on a terminal) and may leave it alone later. Only a process's parent learns
//! how it ended, and a parent cannot be exchanged (`man 2 wait`); so here a monitor is the parent from the start, as with
//! `-d`, and the caller talks to it. That costs the start one fork, which nobody else pays.
//!
//! If the caller is killed, the container ends with him; only the detach keys part them.

use super::attach::{self, Attach, Caller};
use super::monitor::{Detached, detach};
use super::stop::settled;
use super::{Ended, Request, kill, prepare};
use crate::plan::{Failpoint, Restart, Watch};
use anyhow::Result;

/// Makes and runs a container with the caller at it, until it ends (and is removed, with `--rm`) or he leaves (`None`).
pub(super) fn run(
    request: Request<'_>,
    wanted: &Attach,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<Option<Ended>> {
    let rooms = request.rooms;
    let prepared = prepare(Request { detached: true, ..request })?;
    let started = detach(rooms, prepared, None, Some(Caller::new(wanted.owns)?), watch, failpoint.clone())?;
    stay(&started, wanted, failpoint.as_ref())
}

/// With a container that has just been started, until it ends or the caller leaves.
pub(super) fn stay(started: &Detached, wanted: &Attach, failpoint: Option<&Failpoint>) -> Result<Option<Ended>> {
    let Detached { spec, wire: Some(wire), .. } = started else { return Ok(None) };
    let ended = attach::converse(wire, spec, wanted, failpoint).inspect_err(|_| {
        if wanted.owns {
            let _ = kill(&spec.dirs, &spec.id, libc::SIGKILL);
        }
    })?;
    if ended.is_some() {
        // Whoever looks next finds it at rest, or removed.
        if spec.life.as_ref().is_none_or(|life| life.restart == Restart::No) {
            let _ = nix::sys::wait::waitpid(started.monitor, None);
        } else {
            let _ = settled(&spec.dirs, &spec.id);
        }
    }
    Ok(ended)
}
