//! A terminal of the container's own: a pseudo-terminal from the devpts of its root, the engine's end of it handed up
//! the channel before the command's first instruction (`man 7 pty`).
//!
//! The child sets the size itself, so the very first `stty size` is right.

use crate::plan::{Op, Phase, Plan, Spec};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

pub fn plan(spec: &Spec, plan: &mut Plan) {
    let (window, owner) = (spec.window, spec.process().user().uid());
    let op = Op::new("openat", ["/dev/pts/ptmx"], "script -qc sh /dev/null   # a new pty", move |stage| {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let resolve = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS;
        let master = match &stage.root {
            Some(root) => sys::openat2(root, c"dev/pts/ptmx", flags, Mode::empty(), resolve)?,
            None => nix::fcntl::open(c"/dev/ptmx", flags | OFlag::O_CLOEXEC, Mode::empty())?,
        };
        sys::unlock_pty(&master)?;
        let terminal = sys::open_peer(&master)?;
        if let Some(window) = window {
            sys::set_winsize(&terminal, window)?;
        }
        nix::unistd::fchown(&terminal, Some(owner.into()), None)?;
        stage.terminal = Some(terminal);
        stage.hand_up = Some(master);
        Ok(())
    });
    let op = op.hint(|errno, _| match errno {
        Errno::ENOSPC => Some("/proc/sys/kernel/pty/max is reached".to_string()),
        _ => None,
    });
    plan.add(Phase::Devices, "terminal", op)
        .why("Its own devpts makes the pty, so the container cannot see or reach a terminal of the host.")
        .look("ls -l /proc/$PID/fd/0; stty size < /proc/$PID/fd/0");
}
