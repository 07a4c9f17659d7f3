//! What a monitor does while the command runs: its output goes to the log, until its end.

use super::Prepared;
use crate::container::{LogWriter, Stream};
use crate::plan::{Failpoint, Launched, Options, Stage, Watch, launch};
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};

/// A command that runs, with our ends of its streams.
pub(super) struct Attended {
    launched: Launched,
    /// Its end of stdin, which stays open as long as the command may read (`-i`).
    _stdin: Option<OwnedFd>,
    outputs: Vec<(OwnedFd, Stream)>,
}

const BUFFER: usize = 16 << 10;

impl Attended {
    pub fn launch(prepared: &Prepared, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<Self> {
        let mut stage = Stage::default();
        let (mut outputs, mut stdin) = (Vec::new(), None);
        if !prepared.spec.terminal() {
            for (number, stream) in [(1, Stream::Stdout), (2, Stream::Stderr)] {
                let (ours, theirs) = pipe()?;
                stage.stdio[number] = Some(theirs);
                outputs.push((non_blocking(ours)?, stream));
            }
            if prepared.spec.life.as_ref().is_some_and(|life| life.interactive) {
                let (theirs, ours) = pipe()?;
                (stage.stdio[0], stdin) = (Some(theirs), Some(non_blocking(ours)?));
            }
        }
        let launched = launch(&prepared.plan, stage, Options { watch, failpoint })?;
        if let Some(master) = &launched.handed_up {
            outputs.push((master.try_clone()?, Stream::Stdout));
            stdin = Some(master.try_clone()?);
        }
        Ok(Self { launched, _stdin: stdin, outputs })
    }

    /// Waits for the end: the exit status, as a shell counts it.
    pub fn until_the_end(mut self, signals: &SignalFd, log: &mut LogWriter) -> Result<i32> {
        loop {
            let mut fds = vec![
                PollFd::new(self.launched.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.outputs.iter().map(|(fd, _)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => bail!("cannot wait for the container: {}", errno.desc()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            // A machine that shuts down ends the container too; its monitor lives until then.
            while signals.read().is_some() {}
            let mut number = 1;
            self.outputs.retain(|(fd, stream)| {
                number += 1;
                !ready[number] || read(fd, *stream, log)
            });
            if ready[0] {
                break;
            }
        }
        let status = sys::wait_pidfd(&self.launched.pidfd).context("cannot wait for the container")?;
        // Its processes are gone; what they wrote is still in the pipes.
        for (fd, stream) in &self.outputs {
            while ready(fd) && read(fd, *stream, log) {}
        }
        log.finish();
        Ok(status)
    }
}

fn ready(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Takes what is there; `false` at the end.
fn read(fd: &OwnedFd, stream: Stream, log: &mut LogWriter) -> bool {
    let mut buffer = [0u8; BUFFER];
    match nix::unistd::read(fd, &mut buffer) {
        Err(Errno::EAGAIN | Errno::EINTR) => true,
        // EIO: the last process has closed its side of the terminal.
        Ok(0) | Err(_) => false,
        Ok(size) => {
            log.write(stream, &buffer[..size]);
            true
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")
}

fn non_blocking(fd: OwnedFd) -> Result<OwnedFd> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("cannot set up a pipe")?;
    Ok(fd)
}
