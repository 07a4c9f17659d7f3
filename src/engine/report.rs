//! What the engine tells: an error as one line with its exit status, and which process a container is.

use crate::container::{Event, Running}; // ch07
use crate::plan::Failure;
use crate::plan::{Attached, Phase, Room, Spec, Step, Watch}; // ch07
use nix::errno::Errno; // ch07
use nix::unistd::Pid; // ch07
use serde::{Deserialize, Serialize}; // ch07

// ch07
/// An error that comes from another process of ours, in its words.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{line}")]
pub struct Told {
    pub line: String,
    pub status: Option<u8>,
    /// See [`name_taken`].
    #[serde(default)]
    pub name_taken: bool,
}

// ch07
/// Whether somebody else was a moment faster with the container's name.
pub(super) fn name_taken(error: &anyhow::Error) -> bool {
    match (error.downcast_ref::<Told>(), error.downcast_ref::<Failure>()) {
        (Some(told), _) => told.name_taken,
        (_, Some(failure)) => failure.step == "engine.name" && failure.errno == Errno::EEXIST,
        _ => false,
    }
}

/// An error as one line, and its exit status if it has one of its own (126, 127: the command; 125: the engine).
pub fn words(error: &anyhow::Error) -> (String, Option<u8>) {
    // ch07
    if let Some(told) = error.downcast_ref::<Told>() {
        return (told.line.clone(), told.status);
    }
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.call == "execve" => {
            let line = failure.hint.clone().unwrap_or_else(|| failure.to_string());
            (line, Some(crate::process::exit_status(failure.errno)))
        }
        Some(Failure { hint: Some(hint), step, call, errno, .. }) => {
            (format!("{hint} (step {step}: {call}: {errno:?})"), None)
        }
        _ => (format!("{error:#}"), None),
    }
}

// ch07
/// What the rooms give a container for as long as it runs, as it comes (`comes`) or goes: networks first, as docker.
pub(super) fn attachments(rooms: &[&dyn Room], spec: &Spec, comes: bool) -> Vec<Event> {
    let mut all: Vec<_> = rooms.iter().flat_map(|room| room.attached(spec)).collect();
    all.sort_by_key(|one| one.kind);
    let event = |one: Attached| {
        let (action, about) = if comes { one.comes } else { one.goes };
        let about = about.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        Event::about(one.kind, action, &one.id, about).with("container", &spec.id)
    };
    all.into_iter().map(event).collect()
}

// ch07
/// Writes down which process the container is, as soon as there is one, while that one still mounts.
pub(super) struct Registrar<'a> {
    pub watch: &'a mut dyn Watch,
    pub spec: &'a Spec,
}

// ch07
impl Watch for Registrar<'_> {
    fn paced(&self) -> bool {
        self.watch.paced()
    }

    fn before(&mut self, step: &Step) -> bool {
        self.watch.before(step)
    }

    fn after(&mut self, step: &Step, child: Option<Pid>, result: Result<(), Errno>) {
        if let (Phase::Clone, Some(child), true) = (step.phase, child, self.spec.life.is_some()) {
            let written = Running::now(child.as_raw(), self.spec.detached).write(&self.spec.dirs, &self.spec.id);
            if let Err(error) = written {
                log::warn!("cannot write down which process container {} is: {error}", self.spec.id.short());
            }
        }
        self.watch.after(step, child, result);
    }
}
