//! The process: what is run, as whom, with which words, variables, limits and terminal, and how `execve` is reached.
//!
//! The first process of a PID namespace is its PID 1: it has no default reaction to signals, it inherits every orphan,
//! and when it ends the kernel kills all the others (`man 7 pid_namespaces`).
//!
//! Try it without us: `unshare --pid --fork --mount-proc sh -c 'echo $$; ps'`.

mod command;
mod env;
mod init;
mod limits;
mod signal;
mod terminal;
mod user;

pub use command::exit_status;
pub use signal::signal_number;

use crate::plan::{Dirs, Fact, Op, Phase, Plan, Room, Spec, Target};
use crate::sys;
use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use nix::errno::Errno;

/// The room.
pub struct Process;

impl Room for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        let list = |arg: Arg| arg.action(ArgAction::Append);
        let flag = |arg: Arg| arg.action(ArgAction::SetTrue);
        command.args([
            flag(Arg::new("interactive").short('i').long("interactive").help("Keep the command's stdin open")),
            flag(Arg::new("tty").short('t').long("tty").help("Give the command a terminal of its own")),
            list(Arg::new("env").short('e').long("env").value_name("NAME[=VALUE]").help("Set an environment variable")),
            list(
                Arg::new("env-file").long("env-file").value_name("FILE").help("Read environment variables from a file"),
            ),
            Arg::new("workdir").short('w').long("workdir").value_name("DIR").help("Working directory in the container"),
            Arg::new("user").short('u').long("user").value_name("USER[:GROUP]").help("Name or number"),
            Arg::new("entrypoint").long("entrypoint").value_name("PROGRAM").help("Replace the image's entrypoint"),
            flag(Arg::new("init").long("init").help("Run a small init as PID 1 that forwards signals and reaps")),
            Arg::new("stop-signal")
                .long("stop-signal")
                .value_name("SIGNAL")
                .help("Signal that asks the command to end"),
            list(Arg::new("ulimit").long("ulimit").value_name("NAME=SOFT[:HARD]").help("Resource limit")),
        ])
    }

    fn doctor(&self, _dirs: &Dirs) -> Vec<Fact> {
        let root = nix::unistd::geteuid().is_root();
        let held = held_capabilities();
        let admin = held & 1 << CAP_SYS_ADMIN != 0;
        let why = "containers are made by root: sudo mydocker …";
        let outer = "without CAP_SYS_ADMIN nothing can be unshared or mounted (an outer container?)";
        let resource = match held & 1 << CAP_SYS_RESOURCE != 0 {
            true => "held",
            false => "not held: --ulimit cannot raise a hard limit",
        };
        vec![
            Fact::need("user", if root { "root" } else { "not root" }, root, why),
            Fact::need("CAP_SYS_ADMIN", if admin { "held" } else { "not held" }, admin, outer),
            Fact::met("CAP_SYS_RESOURCE", resource),
        ]
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let strings = |name| said.get_many::<String>(name).into_iter().flatten().map(String::as_str);
        let string = |name| said.get_one::<String>(name).map(String::as_str);
        spec.init = said.get_flag("init");
        let signal = string("stop-signal").or(spec.image.stop_signal.as_deref());
        if let Some(signal) = signal {
            spec.stop_signal = signal_number(signal).context("--stop-signal")?;
        }
        let args = command::words(string("entrypoint"), &spec.image, &spec.command)?;
        let working_dir = match string("workdir").unwrap_or(&spec.image.working_dir) {
            "" => "/",
            dir if dir.starts_with('/') && !dir.contains('\0') => dir,
            dir => bail!("--workdir: `{}` is not an absolute path", dir.escape_debug()),
        };
        let cwd = working_dir.into();
        let who = user::find(string("user").unwrap_or(&spec.image.user), &spec.image.layers)?;
        let tty = said.get_flag("tty");
        let variables = env::variables(spec, strings("env"), strings("env-file"), tty, &who.home)?;
        let rlimits = strings("ulimit").map(limits::parse).collect::<Result<Vec<_>>>()?;
        let process = spec.process_mut();
        process.set_args(Some(args)).set_cwd(cwd).set_env(Some(variables)).set_terminal(Some(tty));
        process.set_user(who.to_oci()).set_rlimits((!rlimits.is_empty()).then_some(rlimits));
        Ok(())
    }

    fn exec_flags(&self, command: clap::Command) -> clap::Command {
        let wanted = ["interactive", "tty", "env", "env-file", "workdir", "user"];
        let all = self.flags(clap::Command::new("exec"));
        command.args(all.get_arguments().filter(|arg| wanted.contains(&arg.get_id().as_str())).cloned())
    }

    fn exec_spec(&self, said: &ArgMatches, spec: &mut Spec, target: &Target) -> Result<()> {
        let strings = |name| said.get_many::<String>(name).into_iter().flatten().map(String::as_str);
        let string = |name| said.get_one::<String>(name).map(String::as_str);
        let root = [std::path::PathBuf::from(format!("/proc/{}/root", target.pid))];
        let tty = said.get_flag("tty") && !spec.detached;
        let cwd = match string("workdir") {
            None => None,
            Some(dir) if dir.starts_with('/') && !dir.contains('\0') => Some(dir),
            Some(dir) => bail!("--workdir: `{}` is not an absolute path", dir.escape_debug()),
        };
        let mut list = spec.process().env().clone().unwrap_or_default();
        if let Some(text) = string("user") {
            let before = spec.process().user().uid().to_string();
            let (old, who) = (user::find(&before, &root)?, user::find(text, &root)?);
            let home = format!("HOME={}", old.home);
            // The user's own folder, unless the container was given another.
            list.iter_mut()
                .filter(|variable| **variable == home)
                .for_each(|entry| *entry = format!("HOME={}", who.home));
            spec.process_mut().set_user(who.to_oci());
        }
        let list = env::more(list, spec, strings("env"), strings("env-file"), tty)?;
        let args = spec.command.clone();
        let process = spec.process_mut();
        process.set_args(Some(args)).set_env(Some(list)).set_terminal(Some(tty));
        if let Some(cwd) = cwd {
            process.set_cwd(cwd.into());
        }
        Ok(())
    }

    fn join(&self, spec: &Spec, _target: &Target, plan: &mut Plan) -> Result<()> {
        if spec.rootfs().is_some() {
            plan.add(Phase::Mounts, "root", own_root())
                .why("Opened once, now that `/` is the container's: its terminal and folders are found from here.");
        }
        if spec.detached {
            plan.add(Phase::Exec, "orphan", orphan())
                .why("Its parent ends inside the container, so PID 1 in there inherits it; else a host that does not reap could keep the container from ending.")
                .look("ps -o pid,ppid,args --ppid $PID");
        }
        draw(spec, plan);
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        draw(spec, plan);
        Ok(())
    }
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// Our effective capabilities, as a bit mask (`/proc/self/status`, CapEff).
fn held_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The steps of every process, the container's first and each one that joins it.
fn draw(spec: &Spec, plan: &mut Plan) {
    plan.add(Phase::Enter, "follow", die_with_engine())
        .why("If the engine is killed, nothing of the container may live on without it.");
    if spec.terminal() {
        terminal::plan(spec, plan);
    }
    session(spec, plan);
    limits::plan(spec, plan);
    user::plan(spec, plan);
    if spec.detached {
        plan.add(Phase::Confine, "outlive", outlive())
            .why("It is made by now: its monitor's end is not its own; it is found again by its record.");
    } else {
        plan.add(Phase::Confine, "follow-again", die_with_engine())
            .why("Changing the user clears the wish to die with the parent; and the parent may be gone by now.");
    }
    if spec.init {
        init::plan(plan);
    }
    command::plan(spec, plan);
}

/// `exec -d`: a child goes on in our place, and we end. An orphan goes to the PID 1 of the namespace in which its parent
/// was (`man 7 pid_namespaces`); a child of the engine's would go to the host's.
fn orphan() -> Op {
    Op::new("fork", [""; 0], "( … & )", |_| match sys::fork()? {
        nix::unistd::ForkResult::Child => Ok(()),
        nix::unistd::ForkResult::Parent { .. } => sys::exit_now(0),
    })
}

/// What `/` is for the child by now.
fn own_root() -> Op {
    Op::new("openat", ["/", "O_PATH"], "ROOT=/", |stage| {
        use nix::fcntl::OFlag;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        stage.root = Some(nix::fcntl::open(c"/", flags, nix::sys::stat::Mode::empty())?);
        Ok(())
    })
}

/// SIGKILL for us when our parent ends (`man 2 prctl`, PR_SET_PDEATHSIG), and an end right now if it has already.
fn die_with_engine() -> Op {
    Op::new("prctl", ["PR_SET_PDEATHSIG", "SIGKILL"], "setpriv --pdeathsig KILL sh", |stage| {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        match stage.channel.is_some_and(sys::hung_up) {
            true => Err(Errno::ESRCH),
            false => Ok(()),
        }
    })
}

/// The parent's end is no signal to us any more, unless it has ended already.
fn outlive() -> Op {
    Op::new("prctl", ["PR_SET_PDEATHSIG", "0"], "setpriv --pdeathsig clear sh", |stage| {
        nix::sys::prctl::set_pdeathsig(None)?;
        match stage.channel.is_some_and(sys::hung_up) {
            true => Err(Errno::ESRCH),
            false => Ok(()),
        }
    })
}

/// A session of its own, the standard descriptors, the working directory.
fn session(spec: &Spec, plan: &mut Plan) {
    plan.add(Phase::Identity, "session", Op::new("setsid", [""; 0], "setsid sh", |_| nix::unistd::setsid().map(drop)))
        .why("Signals typed at the caller's terminal are the engine's business, not the container's.")
        .look("ps -o pid,sid,tty,args -p $PID");
    let owner = spec.process().user().uid();
    let op = Op::new("dup2", ["0 1 2"], "exec <… >… 2>…", move |stage| {
        for number in 0..3 {
            match (&stage.terminal, &stage.stdio[number]) {
                (Some(terminal), _) => sys::dup_to(terminal, number as i32)?,
                (None, Some(stream)) => {
                    // A pipe belongs to whoever made it; another user could not reopen it as /dev/stdout.
                    if owner != 0 {
                        let _ = nix::unistd::fchown(stream, Some(owner.into()), None);
                    }
                    sys::dup_to(stream, number as i32)?;
                }
                (None, None) => sys::dup_to(open_null()?, number as i32)?,
            }
        }
        if let Some(terminal) = &stage.terminal {
            sys::set_controlling(terminal)?;
        }
        Ok(())
    });
    plan.add(Phase::Identity, "stdio", op)
        .why("The command finds its input, output and errors at descriptors 0, 1 and 2, and nothing else of ours.")
        .look("ls -l /proc/$PID/fd");
    let cwd = spec.process().cwd().display().to_string();
    plan.add(Phase::Identity, "workdir", command::change_dir(&cwd))
        .why("The command begins in its working directory, which is made if the image lacks it.")
        .look("readlink /proc/$PID/cwd");
}

/// The container's own `/dev/null`, verified to be the device (CVE-2025-31133).
fn open_null() -> Result<std::os::fd::OwnedFd, Errno> {
    use nix::fcntl::OFlag;
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let null = nix::fcntl::open(c"/dev/null", flags, nix::sys::stat::Mode::empty())?;
    let is_null = nix::sys::stat::fstat(&null)?.st_rdev == nix::sys::stat::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::ENXIO) }
}
