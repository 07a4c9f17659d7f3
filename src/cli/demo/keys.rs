//! Enter or the space bar goes on, `q` ends. The terminal hands each key over at once and shows none (`man 3 termios`,
//! ICANON and ECHO off), and is put back after every key that was waited for.

use super::shell::{Stop, stop_asked};
use crate::sys::SignalFd;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::os::fd::AsFd;

/// The keyboard as it was, to be put back when this goes.
pub struct Keys {
    before: Termios,
}

impl Keys {
    /// What was typed before anything was asked is forgotten: an impatient second Enter must not skip a scene.
    pub fn listen() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("cannot ask the terminal")?;
        let keys = Self { before };
        keys.again(SetArg::TCSAFLUSH);
        Ok(keys)
    }

    fn again(&self, when: SetArg) {
        let mut modes = self.before.clone();
        modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        let _ = tcsetattr(std::io::stdin(), when, &modes);
    }

    /// Waits for a key that means something. Signals, and the end of the terminal, end the demo.
    pub fn wait(&self, signals: &SignalFd) -> Result<()> {
        let stdin = std::io::stdin();
        loop {
            let mut fds =
                [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            // EINTR: after Ctrl-Z and `fg`.
            let ready = poll(&mut fds, PollTimeout::NONE);
            if let Some(number) = stop_asked(signals) {
                return Err(Stop::Signal(number).into());
            }
            // A shell may have changed it meanwhile.
            self.again(SetArg::TCSANOW);
            if ready.is_err() || !fds[0].any().unwrap_or(false) {
                continue;
            }
            let mut key = [0u8; 1];
            match nix::unistd::read(&stdin, &mut key) {
                Ok(1) => match key[0] {
                    b'\r' | b'\n' | b' ' => return Ok(()),
                    // Ctrl-D as well: there is nothing more to come.
                    b'q' | b'Q' | 4 => return Err(Stop::Quit.into()),
                    _ => {}
                },
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
                _ => return Err(Stop::Signal(libc::SIGHUP).into()),
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
