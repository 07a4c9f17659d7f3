//! A step: one kernel operation, and the five things that it knows about itself.

use super::{Op, Undo, When};
use nix::unistd::Pid;
use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// When a step is performed, in this order. Everything up to `Beside` is done by the engine on the host; everything
/// after it by the child, on its way from a copy of the engine to the container's first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The engine, first of all: the container's name and folder, which nobody else may have.
    Claim,
    /// The engine, before there is a child: folders, files, cgroups and their limits.
    Host,
    /// The one call that makes the child and its namespaces.
    Clone,
    /// The engine, while the child goes about its own steps: what needs the child's namespaces (its network). The
    /// child waits for the end of these before the first step that [`Phase::needs_beside`].
    Beside,
    /// The child takes its place: cgroups joined, the mount tree made private.
    Enter,
    /// The container's root is mounted, still beside the host's.
    Root,
    /// /proc, /sys, /dev and the user's mounts, inside that root.
    Mounts,
    /// Device nodes and the terminal.
    Devices,
    /// Host name, kernel parameters: what needs a writable /proc/sys.
    Names,
    /// Masked and read-only paths.
    Seal,
    /// The container's root becomes `/`; the host's is let go.
    Pivot,
    /// Session, stdio, working directory, resource limits.
    Identity,
    /// What not even root may have, from here on.
    Bound,
    /// Groups and user.
    User,
    /// What is left is given up for good.
    Confine,
    /// The command.
    Exec,
}

impl Phase {
    /// Whether the child performs it.
    pub fn in_child(self) -> bool {
        self > Phase::Beside
    }

    /// Whether the child may begin with it only when the engine's steps beside it are done.
    pub fn needs_beside(self) -> bool {
        self >= Phase::Identity
    }
}

/// What steps hand to each other while the plan is performed.
#[derive(Default)]
pub struct Stage {
    /// The container's root, opened once; every path in it is resolved from here. `None`: it shares the host's.
    pub root: Option<OwnedFd>,
    /// The container's /dev, opened once too.
    pub dev: Option<OwnedFd>,
    /// What becomes descriptors 0, 1 and 2; `None` means `/dev/null`.
    pub stdio: [Option<OwnedFd>; 3],
    /// The container's end of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What the engine holds as long as the container runs, and then drops: the sockets that keep its ports.
    pub kept: Vec<Box<dyn Send>>,
    /// A descriptor that the child hands to the engine with the report of this step.
    pub hand_up: Option<OwnedFd>,
    /// A word that a failing step says about itself; its meaning is the step's (see [`Op::hint`]).
    pub detail: u64,
    /// The number of the child's end of the channel to the engine; it hangs up when the engine dies.
    pub channel: Option<i32>,
    /// For the engine's steps beside the child: the child.
    pub child: Option<Child>,
}

/// The waiting child, as the engine's steps beside it need it.
pub struct Child {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// Its network namespace (`man 7 namespaces`, /proc/PID/ns/net).
    pub network: OwnedFd,
}

/// A word that nobody knows before a step is done: which address was free. Until then the plan says `$NAME`, as a
/// shell script would.
pub struct Told {
    name: String,
    value: OnceLock<String>,
}

impl Told {
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), value: OnceLock::new() })
    }

    /// Says it, once.
    pub fn tell(&self, value: impl Into<String>) {
        let _ = self.value.set(value.into());
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `None`: the step is not done yet.
    pub fn value(&self) -> Option<&str> {
        self.value.get().map(String::as_str)
    }
}

/// One kernel operation of a plan.
pub struct Step {
    pub phase: Phase,
    /// `room.what`, the only one of that name in its plan; what `MYDOCKER_FAILPOINT` and the journal call it.
    pub name: String,
    pub op: Op,
    /// One sentence: what the container would lack without it.
    pub why: Cow<'static, str>,
    /// A command that shows the result from outside; `$PID` is the container's first process.
    pub look: Cow<'static, str>,
    /// What takes it back, if something outlives the container's processes.
    pub undo: Option<Undo>,
    /// What is known when it is done.
    pub tells: Vec<Arc<Told>>,
    pub undo_when: When,
}

impl Step {
    pub(super) fn new(phase: Phase, name: String, op: Op) -> Self {
        let (why, look) = (Cow::Borrowed(""), Cow::Borrowed(""));
        Self { phase, name, op, why, look, undo: None, undo_when: When::End, tells: vec![] }
    }

    pub fn why(&mut self, why: impl Into<Cow<'static, str>>) -> &mut Self {
        self.why = why.into();
        self
    }

    pub fn look(&mut self, look: impl Into<Cow<'static, str>>) -> &mut Self {
        self.look = look.into();
        self
    }

    /// Taken back when the container's processes have ended.
    pub fn undo(&mut self, undo: Undo) -> &mut Self {
        self.undo_when(When::End, undo)
    }

    pub fn undo_when(&mut self, when: When, undo: Undo) -> &mut Self {
        (self.undo, self.undo_when) = (Some(undo), when);
        self
    }

    pub fn tells(&mut self, word: &Arc<Told>) -> &mut Self {
        self.tells.push(Arc::clone(word));
        self
    }
}
