//! Performs a plan: the host's steps, one `clone3`, the host's steps beside the child, and meanwhile the child's own up
//! to `execve`.
//!
//! Everything of the child's side was laid out before the clone. Between clone and exec the child does not allocate,
//! lock, log or read the environment; what fails goes up the channel as a step number and an errno, and the engine
//! prints the step's own words. The channel closes by itself when `execve` succeeds: end of file is the good news.

use super::failpoint::strike;
use super::{Child, Failpoint, Fault, Phase, Plan, Stage, Step};
use crate::sys::{self, Channel, Clone3, Cloned, Message};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};

/// Who looks on while a plan is performed: `--explain`, `--step`, or nobody.
pub trait Watch {
    /// The child waits for us before each step, so that telling and doing stay in order.
    fn paced(&self) -> bool {
        false
    }
    /// This step comes next. `false`: whoever looks on wants to end it here.
    fn before(&mut self, _step: &Step) -> bool {
        true
    }
    /// This step is done, or has failed. `child` is the process once there is one.
    fn after(&mut self, _step: &Step, _child: Option<Pid>, _result: Result<(), Errno>) {}
}

/// How a plan is to be performed.
pub struct Options<'a> {
    pub watch: &'a mut dyn Watch,
    pub failpoint: Option<Failpoint>,
}

/// A child that has exec'ed the container's command.
pub struct Launched {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// What a step handed up: the engine's end of the terminal.
    pub handed_up: Option<OwnedFd>,
    /// What the host's steps want held until the end.
    pub kept: Vec<Box<dyn Send>>,
}

/// The step that could not be done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {call}({args}): {}", errno.desc())]
pub struct Failure {
    pub step: String,
    pub call: &'static str,
    pub args: String,
    pub errno: Errno,
    pub detail: u64,
    /// Which of the call's documented reasons holds here, or what to do next.
    pub hint: Option<String>,
}

impl Failure {
    fn of(step: &Step, errno: Errno, detail: u64) -> Self {
        let hint = match errno {
            Errno::EINTR => Some("interrupted".to_string()),
            errno => step.op.explain_failure(errno, detail),
        };
        Self { step: step.name.clone(), call: step.op.call, args: step.op.args.join(", "), errno, detail, hint }
    }
}

/// Performs a plan that has no child, such as the making of a container that is not started.
pub fn perform_host(plan: &Plan, options: Options<'_>) -> Result<(), Failure> {
    perform(&plan.steps, &mut Stage::default(), options.watch, options.failpoint.as_ref())
}

/// The same for steps that hand something to the caller: what they leave on the stage.
pub fn perform_here(plan: &Plan, options: Options<'_>) -> Result<Stage, Failure> {
    let mut stage = Stage::default();
    perform(&plan.steps, &mut stage, options.watch, options.failpoint.as_ref())?;
    Ok(stage)
}

/// Performs `plan`. On failure nothing runs any more, and the caller performs the undo list.
pub fn launch(plan: &Plan, mut stage: Stage, options: Options<'_>) -> Result<Launched, Failure> {
    let Options { watch, failpoint } = options;
    let (host, rest) = plan.steps.split_at(plan.steps.partition_point(|step| step.phase < Phase::Clone));
    let Some((clone, rest)) = rest.split_first() else {
        unreachable!("`Plan::draw` always adds the clone");
    };
    let (beside, child) = rest.split_at(rest.partition_point(|step| !step.phase.in_child()));
    perform(host, &mut stage, watch, failpoint.as_ref())?;
    let fail = |errno| Failure::of(clone, errno, 0);
    if !watch.before(clone) {
        return Err(fail(Errno::EINTR));
    }
    if let Some(fault) = Failpoint::at(failpoint.as_ref(), &clone.name) {
        return Err(fail(strike(fault)));
    }
    let faults: Vec<_> = child.iter().map(|step| Failpoint::at(failpoint.as_ref(), &step.name)).collect();
    let (here, there) = Channel::pair().map_err(fail)?;
    let into = plan.into_cgroup.as_deref().map(open_folder).transpose().map_err(fail)?;
    let request = Clone3 { flags: plan.namespaces, into_cgroup: into.as_ref().map(|fd| fd.as_fd()) };
    match sys::clone3(&request).map_err(|errno| Failure::of(clone, errno, 0))? {
        Cloned::Child => {
            drop(here);
            stage.channel = Some(there.as_raw_fd());
            let gate = child.iter().position(|step| step.phase.needs_beside()).filter(|_| !beside.is_empty());
            perform_in_child(child, &faults, stage, there, watch.paced(), gate)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(there);
            let kept = std::mem::take(&mut stage.kept);
            drop(stage);
            watch.after(clone, Some(pid), Ok(()));
            let kill = || {
                let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
                let _ = sys::wait_pidfd(&pidfd);
            };
            if !beside.is_empty() {
                let done = accompany(beside, pid, &pidfd, watch, failpoint.as_ref());
                if let Err(failure) = done {
                    kill();
                    // A child that had failed by itself is the reason, not that its namespaces are gone.
                    return Err(follow(child, &here, pid, &mut Nobody).err().unwrap_or(failure));
                }
                if !watch.paced() {
                    let _ = here.go();
                }
            }
            // It has failed and is ending; nothing of it may be left when we report.
            let handed_up = follow(child, &here, pid, watch).inspect_err(|_| kill())?;
            Ok(Launched { pid, pidfd, handed_up, kept })
        }
    }
}

/// Nobody looks on.
struct Nobody;

impl Watch for Nobody {}

/// Steps of the engine's side, in their order, up to the first that fails.
fn perform(
    steps: &[Step],
    stage: &mut Stage,
    watch: &mut dyn Watch,
    failpoint: Option<&Failpoint>,
) -> Result<(), Failure> {
    let child = stage.child.as_ref().map(|child| child.pid);
    for step in steps {
        let go_on = watch.before(step);
        let result = match Failpoint::at(failpoint, &step.name) {
            _ if !go_on => Err(Errno::EINTR),
            Some(fault) => Err(strike(fault)),
            None => step.op.act(stage),
        };
        watch.after(step, child, result);
        result.map_err(|errno| Failure::of(step, errno, stage.detail))?;
    }
    Ok(())
}

/// The engine's steps beside the child, which is at its own meanwhile.
fn accompany(
    steps: &[Step],
    pid: Pid,
    pidfd: &OwnedFd,
    watch: &mut dyn Watch,
    failpoint: Option<&Failpoint>,
) -> Result<(), Failure> {
    let child = || -> Result<Child, Errno> {
        let network = format!("/proc/{pid}/ns/net");
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
        let network = nix::fcntl::open(network.as_str(), flags, nix::sys::stat::Mode::empty())?;
        let pidfd = pidfd.try_clone().map_err(|_| Errno::EMFILE)?;
        Ok(Child { pid, pidfd, network })
    };
    let child = child().map_err(|errno| Failure::of(&steps[0], errno, 0))?;
    perform(steps, &mut Stage { child: Some(child), ..Stage::default() }, watch, failpoint)
}

fn open_folder(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    use nix::fcntl::OFlag;
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// In the report of a child: the engine is to kill itself here (a failpoint).
const KILL_YOURSELF: i32 = i32::MAX;

/// The child's side; it never returns. At step number `gate` it waits for the engine's steps beside it; a paced child
/// waits for every step anyway, and the engine has done its own before the first.
fn perform_in_child(
    steps: &[Step],
    faults: &[Option<Fault>],
    mut stage: Stage,
    channel: Channel,
    paced: bool,
    gate: Option<usize>,
) -> ! {
    for (number, step) in steps.iter().enumerate() {
        if (paced || gate == Some(number)) && channel.wait().is_err() {
            sys::exit_now(125);
        }
        let mut message = Message { step: number as u32, errno: 0, detail: 0 };
        if faults[number] == Some(Fault::Kill) {
            let _ = channel.send(Message { errno: KILL_YOURSELF, ..message }, None);
            let _ = channel.wait();
            sys::exit_now(125);
        }
        let result = match faults[number] {
            Some(_) => Err(Errno::EIO),
            None => step.op.act(&mut stage),
        };
        let handed_up = stage.hand_up.take();
        message.errno = result.err().map_or(0, |errno| errno as i32);
        message.detail = stage.detail;
        if paced || handed_up.is_some() || message.errno != 0 {
            let _ = channel.send(message, handed_up.as_ref().map(|fd| fd.as_fd()));
        }
        if message.errno != 0 {
            sys::exit_now(125);
        }
    }
    sys::exit_now(125)
}

/// The engine's side: hears of each step until the channel closes.
fn follow(steps: &[Step], channel: &Channel, pid: Pid, watch: &mut dyn Watch) -> Result<Option<OwnedFd>, Failure> {
    let mut handed_up = None;
    let mut next = 0;
    loop {
        if let (true, Some(step)) = (watch.paced(), steps.get(next)) {
            if !watch.before(step) {
                return Err(Failure::of(step, Errno::EINTR, 0));
            }
            let _ = channel.go();
        }
        let Ok(Some((message, fd))) = channel.receive() else {
            // Closed by exec, or by a child that something has killed; its exit status tells which.
            if let (true, Some(step)) = (watch.paced(), steps.get(next)) {
                watch.after(step, Some(pid), Ok(()));
            }
            return Ok(handed_up);
        };
        if message.errno == KILL_YOURSELF {
            strike(Fault::Kill);
        }
        let step = &steps[(message.step as usize).min(steps.len() - 1)];
        let result = if message.errno == 0 { Ok(()) } else { Err(Errno::from_raw(message.errno)) };
        watch.after(step, Some(pid), result);
        result.map_err(|errno| Failure::of(step, errno, message.detail))?;
        handed_up = fd.or(handed_up);
        next = message.step as usize + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test sees of a launch: the names of the engine's steps, in the order in which they were done.
    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Watch for Seen {
        fn after(&mut self, step: &Step, child: Option<Pid>, result: Result<(), Errno>) {
            self.0.push(format!("{} {} {}", step.name, child.is_some(), result.is_ok()));
        }
    }

    /// A plan of one step in each phase that matters here; the child notes its progress in a pipe.
    fn plan(beside: Result<(), Errno>) -> (Plan, std::io::PipeReader) {
        use crate::plan::Op;
        use std::os::fd::AsRawFd;
        let (reader, writer) = std::io::pipe().unwrap();
        let mut plan =
            Plan { steps: vec![], namespaces: nix::sched::CloneFlags::empty(), into_cgroup: None, room: "test" };
        plan.add(Phase::Host, "host", Op::new("getpid", [""; 0], "", |_| Ok(())));
        plan.add_clone();
        let writer = std::sync::Arc::new(writer);
        let note = |byte: &'static [u8]| {
            let writer = std::sync::Arc::clone(&writer);
            Op::new("write", [""; 0], "", move |_| nix::unistd::write(&*writer, byte).map(drop))
        };
        plan.add(Phase::Enter, "before", note(b"b"));
        plan.add(Phase::Identity, "after", note(b"a"));
        let peer = reader.try_clone().unwrap();
        let op = Op::new("getpid", [""; 0], "", move |stage| {
            let child = stage.child.as_ref().ok_or(Errno::ECHILD)?;
            assert!(child.network.as_raw_fd() >= 0);
            // The child is on its way already: this byte comes although the engine has not let it go on.
            let comes = |within: u16| {
                let mut fds = [nix::poll::PollFd::new(peer.as_fd(), nix::poll::PollFlags::POLLIN)];
                nix::poll::poll(&mut fds, within).map(|ready| ready == 1)
            };
            if !comes(2000)? {
                return Err(Errno::ETIME);
            }
            nix::unistd::read(&peer, &mut [0])?;
            assert_eq!(comes(50), Ok(false), "the child did not wait");
            beside
        });
        plan.add(Phase::Beside, "beside", op);
        (plan, reader)
    }

    fn outcome(beside: Result<(), Errno>, failpoint: Option<&str>) -> (Option<String>, Vec<String>, String) {
        use std::io::Read;
        let (plan, mut reader) = plan(beside);
        let mut seen = Seen::default();
        let options = Options { watch: &mut seen, failpoint: failpoint.and_then(Failpoint::parse) };
        let launched = launch(&plan, Stage::default(), options);
        let failure = launched.as_ref().err().map(|failure| format!("{} {:?}", failure.step, failure.errno));
        if let Ok(launched) = &launched {
            let _ = sys::wait_pidfd(&launched.pidfd);
        }
        drop(plan);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        (failure, seen.0, rest)
    }

    #[test]
    fn the_child_works_beside_the_engine_and_waits_only_where_it_must() {
        let (failure, seen, rest) = outcome(Ok(()), None);
        assert_eq!(failure, None);
        assert_eq!(seen, ["test.host false true", "test.clone true true", "test.beside true true"]);
        assert_eq!(rest, "a");
    }

    #[test]
    fn a_failure_beside_the_child_ends_the_child() {
        let (failure, _, rest) = outcome(Err(Errno::EBUSY), None);
        assert_eq!(failure.as_deref(), Some("test.beside EBUSY"));
        assert_eq!(rest, "", "the child went on");
        let (failure, _, rest) = outcome(Ok(()), Some("test.beside:error"));
        assert_eq!(failure.as_deref(), Some("test.beside EIO"));
        assert!(rest.is_empty() || rest == "b", "the child went on");
    }

    #[test]
    fn a_child_that_fails_by_itself_is_the_reason() {
        let (failure, ..) = outcome(Err(Errno::ESRCH), Some("test.before:error"));
        assert_eq!(failure.as_deref(), Some("test.before EIO"));
    }

    #[test]
    fn failpoints_name_a_step_and_a_fault() {
        let point = Failpoint::parse("cgroup.join.memory:kill").unwrap();
        assert_eq!((point.step.as_str(), point.fault), ("cgroup.join.memory", Fault::Kill));
        assert_eq!(Failpoint::at(Some(&point), "cgroup.join.pids"), None);
        assert!(Failpoint::parse("cgroup.join").is_none());
        assert!(Failpoint::parse("cgroup.join:maim").is_none());
    }
}
