//! What becomes of the caller's stdin, stdout and stderr.
//!
//! A pipe or a socket goes to the command as it is: no copy, no order lost, no byte altered. A file, a terminal or a
//! device does not, because the container could open it again through `/proc/self/fd` with other rights; it is relayed
//! through a pipe of ours. With `-t` all three are the container's own terminal.

use super::relay::{Relay, Sink};
use super::wait::Terminal;
use crate::plan::Stage;
use anyhow::{Context, Result};
use clap::ArgMatches;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat, makedev};
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where everything goes.
pub struct Streams {
    /// Holds the command's ends.
    pub stage: Stage,
    pub relays: Vec<Relay>,
    /// How the container's terminal is to be served, if it has one.
    pub terminal: Option<Terminal>,
}

/// Rows and columns of the caller's terminal.
pub fn window() -> Option<(u16, u16)> {
    let size = crate::sys::get_winsize(std::io::stdin());
    let size = size.or_else(|_| crate::sys::get_winsize(std::io::stdout()));
    size.or_else(|_| crate::sys::get_winsize(std::io::stderr())).ok().filter(|size| *size != (0, 0))
}

/// Decides for each of the three, and makes the pipes.
pub fn arrange(said: &ArgMatches, terminal: bool) -> Result<Streams> {
    let interactive = said.get_flag("interactive");
    let mut stage = Stage::default();
    let mut relays = Vec::new();
    if terminal {
        if interactive && !std::io::stdin().is_terminal() {
            log::warn!("the input device is not a terminal: -t gives the command one, fed from stdin");
        }
        return Ok(Streams { stage, relays, terminal: Some(Terminal { interactive }) });
    }
    if interactive {
        stage.stdio[0] = input(&mut relays)?;
    }
    stage.stdio[1] = output(std::io::stdout().as_fd(), &mut relays)?;
    stage.stdio[2] = output(std::io::stderr().as_fd(), &mut relays)?;
    Ok(Streams { stage, relays, terminal: None })
}

/// How a stream of the caller's is treated.
enum Kind {
    /// `/dev/null`: the container has its own.
    Null,
    /// Handed over as it is.
    Passed,
    Relayed,
}

fn kind(fd: BorrowedFd<'_>) -> Kind {
    let Ok(stat) = fstat(fd) else { return Kind::Null };
    match SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) {
        SFlag::S_IFIFO | SFlag::S_IFSOCK => Kind::Passed,
        SFlag::S_IFCHR if stat.st_rdev == makedev(1, 3) => Kind::Null,
        _ => Kind::Relayed,
    }
}

fn input(relays: &mut Vec<Relay>) -> Result<Option<OwnedFd>> {
    let stdin = std::io::stdin();
    let copy = || stdin.as_fd().try_clone_to_owned().context("cannot copy stdin");
    match kind(stdin.as_fd()) {
        Kind::Null => Ok(None),
        Kind::Passed => Ok(Some(copy()?)),
        Kind::Relayed => {
            let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
            relays.push(Relay::new(copy()?, Sink::ours(ours)?));
            Ok(Some(theirs))
        }
    }
}

fn output(fd: BorrowedFd<'_>, relays: &mut Vec<Relay>) -> Result<Option<OwnedFd>> {
    let copy = || fd.try_clone_to_owned().context("cannot copy an output");
    match kind(fd) {
        Kind::Null => Ok(None),
        Kind::Passed => Ok(Some(copy()?)),
        Kind::Relayed => {
            let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
            relays.push(Relay::new(ours, Sink::callers(copy()?)));
            Ok(Some(theirs))
        }
    }
}
