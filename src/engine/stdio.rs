//! What becomes of the caller's stdin, stdout and stderr.
//!
//! A pipe or a socket goes to the command as it is: no copy, no order lost, no byte altered. A file, a terminal, a
//! device or a FIFO with a name does not, because the container could open it again through `/proc/self/fd` with other
//! rights; it is relayed through a pipe of ours, and so is all output of a container that stays when it has ended: its
//! log is kept. With `-t` all three are the container's own terminal.

use super::relay::SharedLog; // ch07
use super::relay::{Relay, Sink};
use super::terminal::Terminal;
use crate::plan::Stage;
use anyhow::{Context, Result};
use clap::ArgMatches;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::sys::statfs::{FsType, fstatfs};
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
pub fn arrange(
    said: &ArgMatches,
    terminal: bool,
    log: Option<SharedLog>, // ch07
) -> Result<Streams> {
    let interactive = said.get_flag("interactive");
    let mut stage = Stage::default();
    let mut relays = Vec::new();
    if terminal {
        if interactive && !std::io::stdin().is_terminal() {
            log::warn!("the input device is not a terminal: -t gives the command one, fed from stdin");
        }
        let terminal = Terminal {
            interactive,
            log,        // ch07
            keys: None, // ch07
        };
        return Ok(Streams { stage, relays, terminal: Some(terminal) });
    }
    if interactive {
        stage.stdio[0] = input(&mut relays)?;
    }
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let kept = log.is_some(); // ch07, before: let kept = false;
    stage.stdio[1] = output("stdout", stdout.as_fd(), kept, &mut relays)?;
    stage.stdio[2] = match &stage.stdio[1] {
        // `> log 2>&1`: through one pipe both arrive in the order in which they were written.
        Some(pipe) if !kept && same(stdout.as_fd(), stderr.as_fd()) => {
            Some(pipe.try_clone().context("cannot copy a pipe")?)
        }
        _ => output("stderr", stderr.as_fd(), kept, &mut relays)?,
    };
    // ch07
    if let Some(log) = &log {
        relays.iter_mut().for_each(|relay| relay.keep(log));
    }
    Ok(Streams { stage, relays, terminal: None })
}

/// Where pipes without a name live (`linux/magic.h`, PIPEFS_MAGIC).
const PIPEFS: FsType = FsType(0x5049_5045);

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
    // No command expects EAGAIN from its stdin or stdout, and the caller wants it so.
    let blocks = fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| flags & libc::O_NONBLOCK == 0);
    match SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) {
        SFlag::S_IFIFO if blocks && fstatfs(fd).is_ok_and(|stat| stat.filesystem_type() == PIPEFS) => Kind::Passed,
        SFlag::S_IFSOCK if blocks => Kind::Passed,
        SFlag::S_IFCHR if stat.st_rdev == makedev(1, 3) => Kind::Null,
        _ => Kind::Relayed,
    }
}

/// Whether both are the same file, terminal or pipe.
fn same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let place = |fd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    place(one).is_ok_and(|one| place(other) == Ok(one))
}

fn input(relays: &mut Vec<Relay>) -> Result<Option<OwnedFd>> {
    let stdin = std::io::stdin();
    let copy = || stdin.as_fd().try_clone_to_owned().context("cannot copy stdin");
    match kind(stdin.as_fd()) {
        Kind::Null => Ok(None),
        Kind::Passed => Ok(Some(copy()?)),
        Kind::Relayed => {
            let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
            relays.push(Relay::new("stdin", copy()?, Sink::ours(ours)?));
            Ok(Some(theirs))
        }
    }
}

fn output(stream: &'static str, fd: BorrowedFd<'_>, kept: bool, relays: &mut Vec<Relay>) -> Result<Option<OwnedFd>> {
    let copy = || fd.try_clone_to_owned().with_context(|| format!("cannot copy {stream}"));
    match kind(fd) {
        Kind::Null if !kept => Ok(None),
        Kind::Passed if !kept => Ok(Some(copy()?)),
        _ => {
            let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
            relays.push(Relay::new(stream, ours, Sink::callers(copy()?)));
            Ok(Some(theirs))
        }
    }
}
