//! The one idea: a container is a **plan**, an ordered list of steps that is plain data until `launch` performs it.
//!
//! Rooms add steps; nobody else touches the kernel for a container. A step knows its *phase* (and so its side: the
//! engine before the clone, or the child after it), *what* it does, *why*, *where to look* and its *undo*.
//!
//! See a plan without performing it: `mydocker run --dry-run busybox true`.

mod explain;
mod failpoint;
mod iptables;
mod journal;
#[cfg(feature = "labs")]
mod labs;
mod launch;
mod life;
mod op;
mod remove;
mod spec;
mod step;
mod undo;
mod undo_network;

pub use explain::{Narrator, dry_run, dry_run_on_host, narrate_json};
pub use failpoint::{Failpoint, Fault};
pub use iptables::{
    FOR_IPV6, Family, firewall_patience, has_iptables, iptables_restore, iptables_save, iptables_version, remove_rules,
    table_has,
};
pub use journal::{
    Entry, Header, Journal, Leftover, boot_id, discard_torn, has_journal, has_owner, is_torn, journals, leftover,
    leftovers, start_time, undo_list, wait_for_owner,
};
pub use launch::{Failure, Launched, Options, Watch, launch, perform_here, perform_host};
pub use life::{Healthcheck, Life, LogConfig, LogDriver, Restart, parse_duration};
pub use op::{Op, c_string, mount_args, mount_words, quote};
pub use spec::{Dirs, Id, ImageConfig, Name, Spec};
pub use step::{Child, Phase, Stage, Step, Told};
pub use undo::{Undo, When};
pub use undo_network::{FORWARD_WAS_OFF, FORWARD6_WAS_OFF, MARK};

use anyhow::Result;
use nix::sched::CloneFlags;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A room of the house: one capability, one chapter. `main.rs` holds the list of them; nobody below knows it.
pub trait Room: Sync {
    /// The word that `--only` and `--without` take.
    fn name(&self) -> &'static str;
    /// What the user may say.
    fn flags(&self, command: clap::Command) -> clap::Command {
        command
    }
    /// What it means: fills in this room's part of the spec. Touches nothing.
    fn spec(&self, _said: &clap::ArgMatches, _spec: &mut Spec) -> Result<()> {
        Ok(())
    }
    /// How the kernel does it: adds this room's steps. Reads the machine, changes nothing, needs no root.
    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()>;
    /// How the files of a container at rest are seen (`cp`): its root, and what the user has mounted in it. The spec
    /// has no other mounts left than those.
    fn view(&self, _spec: &Spec, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
    /// What the user may say of one more process in a container that runs (`exec`).
    fn exec_flags(&self, command: clap::Command) -> clap::Command {
        command
    }
    /// What that means: changes the process of the container's spec into the new one.
    fn exec_spec(&self, _said: &clap::ArgMatches, _spec: &mut Spec, _target: &Target) -> Result<()> {
        Ok(())
    }
    /// How that process enters: this room's steps of an `exec`.
    fn join(&self, _spec: &Spec, _target: &Target, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
    /// What of this room's part can be changed while the container runs (`update`).
    fn update_flags(&self, command: clap::Command) -> clap::Command {
        command
    }
    /// Changes the spec, and adds the steps that change the container.
    fn update(&self, _said: &clap::ArgMatches, _spec: &mut Spec, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
    /// For the room that gives containers a root of their own: which image the words after `run` mean, and how many of
    /// them are the command's (the last ones). With `dry` nothing is made or needed on disk.
    fn image(&self, _dirs: &Dirs, _words: &[String], _dry: bool) -> Result<Option<(ImageConfig, usize)>> {
        Ok(None)
    }
    /// What this room needs of the machine, and what it found; for `mydocker doctor`. Changes nothing.
    fn doctor(&self, _dirs: &Dirs) -> Vec<Fact> {
        Vec::new()
    }
    /// What of this room's lies about on this machine and can be proved nobody's; for `mydocker doctor`. Changes nothing.
    fn orphans(&self) -> Vec<Orphan> {
        Vec::new()
    }
    /// What `inspect` tells of this room's part of a container: an object of docker's keys, laid over what others tell.
    /// `runs`: it runs now, so that there is something to ask the kernel for.
    fn inspect(&self, _spec: &Spec, _runs: bool) -> serde_json::Value {
        serde_json::Value::Null
    }
    /// What `ps` tells of it: an object of its template's words (`Ports`, `Networks`).
    fn columns(&self, _spec: &Spec, _runs: bool) -> serde_json::Value {
        serde_json::Value::Null
    }
    /// What is the container's for as long as it runs and outlives it; for `events`.
    fn attached(&self, _spec: &Spec) -> Vec<Attached> {
        Vec::new()
    }
    /// What the kernel remembers of a container that has ended, before its traces are removed (an out-of-memory kill).
    fn obituary(&self, _spec: &Spec) -> Option<String> {
        None
    }
}

/// One thing that a room needs of the machine.
#[derive(Debug)]
pub struct Fact {
    pub what: &'static str,
    pub found: String,
    /// Why the room cannot work here, and what to do about it; `None`: it can.
    pub missing: Option<String>,
}

impl Fact {
    /// A need that is met, or a remark.
    pub fn met(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), missing: None }
    }

    /// A need that is met if `met`; else `why` says what follows.
    pub fn need(what: &'static str, found: impl Into<String>, met: bool, why: impl Into<String>) -> Self {
        Self { what, found: found.into(), missing: (!met).then(|| why.into()) }
    }
}

/// A network that a container is connected to, a volume that it has mounted.
#[derive(Debug)]
pub struct Attached {
    pub kind: &'static str,
    pub id: String,
    /// Docker's words for its coming and its going, and what there is to say about each.
    pub comes: (&'static str, Vec<(&'static str, String)>),
    pub goes: (&'static str, Vec<(&'static str, String)>),
}

/// Something of ours that nobody owns any more.
#[derive(Debug)]
pub struct Orphan {
    pub what: String,
    /// What proves it.
    pub why: String,
    /// Each takes away one part of it, the first one first.
    pub undo: Vec<Undo>,
}

/// The first process of a container that runs, held by a descriptor: it can never become another one.
pub struct Target {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// How the kernel makes one container.
pub struct Plan {
    steps: Vec<Step>,
    /// The namespaces that the clone makes, all in one `clone3`.
    pub namespaces: CloneFlags,
    /// The cgroup v2 directory that the child is born in.
    pub into_cgroup: Option<PathBuf>,
    room: &'static str,
}

impl Plan {
    /// Asks every room for its steps and puts them into the order of their phases; within a phase the order in
    /// which they were added stands.
    pub fn draw(rooms: &[&dyn Room], spec: &Spec) -> Result<Plan> {
        Self::ask(rooms, |room, plan| room.plan(spec, plan))
    }

    /// The same for one more process in a container that runs.
    pub fn draw_exec(rooms: &[&dyn Room], spec: &Spec, target: &Target) -> Result<Plan> {
        Self::ask(rooms, |room, plan| room.join(spec, target, plan))
    }

    /// The steps that give a container other limits; there is no child.
    pub fn draw_update(rooms: &[&dyn Room], said: &clap::ArgMatches, spec: &mut Spec) -> Result<Plan> {
        let mut plan = Self::childless();
        for room in rooms {
            plan.room = room.name();
            room.update(said, spec, &mut plan)?;
        }
        Ok(plan)
    }

    /// The steps that show the files of a container at rest, in a mount namespace that the caller is alone in; there is
    /// no child.
    pub fn draw_view(rooms: &[&dyn Room], spec: &Spec) -> Result<Plan> {
        let mut plan = Self::childless();
        for room in rooms {
            plan.room = room.name();
            room.view(spec, &mut plan)?;
        }
        plan.room = "engine";
        Ok(plan)
    }

    fn childless() -> Plan {
        Plan { steps: vec![], namespaces: CloneFlags::empty(), into_cgroup: None, room: "engine" }
    }

    /// What `room` does on the host for itself, or to a container that runs: there is no clone.
    pub fn on_host(room: &'static str, draw: impl FnOnce(&mut Plan) -> Result<()>) -> Result<Plan> {
        let mut plan = Plan { room, ..Self::childless() };
        draw(&mut plan)?;
        Ok(plan)
    }

    fn ask(rooms: &[&dyn Room], draw: impl Fn(&dyn Room, &mut Plan) -> Result<()>) -> Result<Plan> {
        let mut plan =
            Plan { steps: Vec::with_capacity(96), namespaces: CloneFlags::empty(), into_cgroup: None, room: "engine" };
        for room in rooms {
            plan.room = room.name();
            draw(*room, &mut plan)?;
        }
        plan.room = "engine";
        #[cfg(feature = "labs")]
        labs::bend(&mut plan)?;
        plan.add_clone();
        Ok(plan)
    }

    /// The clone is a step like every other in what it tells; `launch` performs it itself.
    fn add_clone(&mut self) {
        let born = self.into_cgroup.as_ref().map(|path| format!("CLONE_INTO_CGROUP {}", path.display()));
        let flags = if self.namespaces.is_empty() { "0".to_string() } else { format!("{:?}", self.namespaces) };
        let words: Vec<_> = [
            (CloneFlags::CLONE_NEWUTS, "--uts"),
            (CloneFlags::CLONE_NEWPID, "--pid --fork"),
            (CloneFlags::CLONE_NEWNS, "--mount"),
            (CloneFlags::CLONE_NEWIPC, "--ipc"),
            (CloneFlags::CLONE_NEWNET, "--net"),
        ]
        .into_iter()
        .filter(|(flag, _)| self.namespaces.contains(*flag))
        .map(|(_, word)| word)
        .collect();
        let shell = match words.is_empty() {
            true => "sh   # a child; what follows is done in it".to_string(),
            false => format!("unshare {} sh   # what follows is done in there", words.join(" ")),
        };
        let op = Op::new("clone3", [flags].into_iter().chain(born), shell, |_| Ok(())).hint(|errno, _| {
            use nix::errno::Errno;
            match errno {
                Errno::EPERM => Some("namespaces need CAP_SYS_ADMIN: run as root, or through sudo".to_string()),
                Errno::ENOSPC => Some("a limit in /proc/sys/user/max_*_namespaces is reached".to_string()),
                Errno::EAGAIN => Some("a limit of processes is reached (ulimit -u, pids.max)".to_string()),
                Errno::ENOSYS => Some("clone3 needs Linux 5.3, and an outer container may forbid it".to_string()),
                _ => None,
            }
        });
        self.add(Phase::Clone, "clone", op)
            .why("One call makes the child and all of its namespaces, so there is no moment when it has only some.")
            .look("ls -l /proc/$PID/ns");
    }

    /// Adds a step; its full name is the room's and `name`, and must be the only one of that name in the plan.
    pub fn add(&mut self, phase: Phase, name: impl AsRef<str>, op: Op) -> &mut Step {
        self.insert(self.steps.partition_point(|step| step.phase <= phase), phase, name.as_ref(), op)
    }

    /// The same, as the first of its phase: what the others of the phase stand on.
    pub fn add_first(&mut self, phase: Phase, name: impl AsRef<str>, op: Op) -> &mut Step {
        self.insert(self.steps.partition_point(|step| step.phase < phase), phase, name.as_ref(), op)
    }

    fn insert(&mut self, at: usize, phase: Phase, name: &str, op: Op) -> &mut Step {
        let name = format!("{}.{name}", self.room);
        debug_assert!(self.steps.iter().all(|step| step.name != name), "two steps named {name}");
        self.steps.insert(at, Step::new(phase, name, op));
        &mut self.steps[at]
    }

    /// Leaves out what is done once, when a container is created.
    pub fn without_claim(mut self) -> Self {
        self.steps.retain(|step| step.phase != Phase::Claim);
        self
    }

    /// What is done when a container is created, and no more.
    pub fn only_claim(mut self) -> Self {
        self.steps.retain(|step| step.phase == Phase::Claim);
        self
    }

    /// The steps, in the order in which they are performed.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
