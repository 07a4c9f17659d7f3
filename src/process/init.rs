//! `--init`: a process of ours is PID 1. It passes signals on to the command, reaps every orphan, and ends with the
//! command's exit status (the work of `tini`).
//!
//! It is a copy of the engine that never execs, so it is made undumpable: nothing in the container may open
//! `/proc/1/exe`, which is the engine's own file on the host (CVE-2019-5736).

use crate::plan::{Op, Phase, Plan};
use crate::sys;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, setpgid, tcsetpgrp};

pub fn plan(plan: &mut Plan) {
    let words = sys::own_arguments();
    let op =
        Op::new("fork", ["PR_SET_DUMPABLE 0"], "tini -- …   # PID 1 reaps, the command is its child", move |_| {
            nix::sys::prctl::set_dumpable(false)?;
            // Block all before the fork, so that no signal is lost between it and `sigwait`.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
            match sys::fork()? {
                ForkResult::Child => {
                    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                    // With a terminal: the command's group is in the foreground. Without: ENOTTY, and no matter.
                    let _ = tcsetpgrp(std::io::stdin(), getpid());
                    // The command itself may be dumped and traced like any other.
                    nix::sys::prctl::set_dumpable(true)
                }
                ForkResult::Parent { child } => be_init(child, words),
            }
        });
    plan.add(Phase::Exec, "init", op)
        .why("PID 1 inherits orphans; a command that never waits for strangers would collect zombies.")
        .look("ps -o pid,ppid,stat,args --ppid $PID");
}

/// PID 1 from here on: waits for signals and children until the command has ended.
fn be_init(command: Pid, words: Option<sys::OwnArguments>) -> ! {
    let _ = nix::sys::prctl::set_name(c"mydocker-init");
    // /proc/1/cmdline, which anybody may read, would tell how the engine was called, with paths of the host.
    if let Some(words) = words {
        words.replace(b"mydocker-init");
    }
    // The channel must close when the command has exec'ed, and nothing of the engine's is needed any more.
    sys::close_from(3);
    let all = SigSet::all();
    loop {
        match sys::wait_signal(&all) {
            Ok(number) if number == Signal::SIGCHLD as i32 => {}
            Ok(number) => {
                let _ = sys::kill(command, number);
                continue;
            }
            Err(_) => {}
        }
        loop {
            match waitpid(None::<Pid>, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == command => sys::exit_now(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => sys::exit_now(128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => {}
            }
        }
    }
}
