//! One command of a demo, as an instructor would type it: run to its end, what it writes caught, Ctrl-C heard.

use crate::sys::SignalFd;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a demo ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error("ended by `q`")]
    Quit,
    #[error("ended by signal {0}")]
    Signal(i32),
}

/// A command that has ended.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Both streams, in the order in which they came.
    pub text: String,
    /// As a shell counts it.
    pub status: i32,
}

/// Who is told to end has so long to do it.
const GRACE: Duration = Duration::from_secs(10);

/// The number of a signal that asks us to end, if one has come.
pub fn stop_asked(signals: &SignalFd) -> Option<i32> {
    let asks = |number: &i32| [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(number);
    std::iter::from_fn(|| signals.read()).find(asks)
}

/// Runs it. `tells`: its stderr stays the caller's, for `--step` asks there.
pub fn run(mut command: Command, tells: bool, signals: &SignalFd) -> Result<Done> {
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let errors = if tells { Stdio::inherit() } else { writer.try_clone().context("cannot make a pipe")?.into() };
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    // It holds our ends of the pipe.
    drop(command);
    let (mut bytes, mut buffer, mut stop, mut until) = (Vec::new(), [0; 8192], None, None::<Instant>);
    loop {
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(100u16));
        let written = fds[0].any().unwrap_or(false);
        if let (None, Some(number)) = (stop, stop_asked(signals)) {
            // Ctrl-C reaches the command by itself; what was sent to us alone does not.
            (stop, until) = (Some(number), Some(Instant::now() + GRACE));
            let _ = nix::sys::signal::kill(pid(&child), nix::sys::signal::Signal::SIGTERM);
        }
        if until.is_some_and(|until| until < Instant::now()) {
            let _ = child.kill();
            break;
        }
        match written.then(|| reader.read(&mut buffer)) {
            Some(Ok(0)) => break,
            Some(Ok(size)) => bytes.extend_from_slice(&buffer[..size]),
            _ => {}
        }
    }
    let status = child.wait().context("cannot wait for a command")?;
    if let Some(number) = stop.or_else(|| stop_asked(signals)) {
        return Err(Stop::Signal(number).into());
    }
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Done { text: String::from_utf8_lossy(&bytes).into_owned(), status })
}

fn pid(child: &std::process::Child) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(child.id() as i32)
}
