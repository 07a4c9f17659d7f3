//! Beside a container that runs: what it writes comes to the caller's terminal, what he types goes in. The monitor
//! listens on a socket in the container's run-time folder; a message is one byte of meaning and its bytes.

use super::keys::{DETACH, Keys};
use super::terminal::{self, RawMode};
use super::wait::{ORDERS, PATIENCE};
use super::{Ended, as_root, kill, recover, stdio};
use crate::container::{Event, Record, Status, read_config, status, tell};
use crate::plan::{Dirs, Failpoint, Id, Spec};
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::socketpair;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, send, socket,
};
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// What a message means.
pub(super) const INPUT: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
/// The exit status, as a shell counts it, and what else there is to say about the end.
pub(super) const ENDED: u8 = 3;
/// Rows and columns, two bytes each.
pub(super) const WINDOW: u8 = 4;
/// No more input.
pub(super) const CLOSED: u8 = 5;
/// The caller goes, and the container is to live on.
pub(super) const LEAVES: u8 = 6;
/// The caller's terminal is gone: its window was closed, its line was cut.
pub(super) const HUNG_UP: u8 = 7;

/// The longest message, with its first byte.
pub(super) const LONGEST: usize = 16 << 10;

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct Attach {
    /// His stdin goes in.
    pub input: bool,
    /// His signals go in (`--sig-proxy`).
    pub signals: bool,
    /// The keys that end it, and leave the container alone; empty: none.
    pub detach_keys: Vec<u8>,
    /// He has started it and sits at it (`run -ti`): unless he detaches, it ends with him.
    pub owns: bool,
}

impl Default for Attach {
    fn default() -> Self {
        Self { input: true, signals: true, detach_keys: DETACH.to_vec(), owns: false }
    }
}

/// The wire of a caller who is there before the container runs. The monitor closes his end, else it would never learn
/// that he is gone.
pub struct Caller {
    pub(super) wire: OwnedFd,
    pub(super) his: OwnedFd,
    pub(super) owns: bool,
}

impl Caller {
    pub(super) fn new(owns: bool) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (wire, his) = pair.context("cannot make a socket")?;
        Ok(Self { wire, his, owns })
    }
}

/// The monitor's end, in the run-time folder. The folder is held by a descriptor, for a path may be longer than the
/// 108 bytes of a socket's name.
pub(super) fn listen_in(folder: &Path) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let (_folder, address) = address(folder)?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

fn address(folder: &Path) -> Result<(std::fs::File, UnixAddr)> {
    let folder = std::fs::File::open(folder)?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/attach", folder.as_raw_fd()).as_str())?;
    Ok((folder, address))
}

/// Whoever calls next; `None`: nobody.
pub(super) fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    sys::accept(listener).ok()
}

/// Attaches to a container that runs: its exit status, or `None` if the caller detached.
pub fn attach(dirs: &Dirs, id: &Id, attach: &Attach) -> Result<Option<u8>> {
    as_root()?;
    recover(dirs, id)?;
    let mut record = Record::read(dirs, id)?;
    read_config(&mut record)?;
    match status(&record) {
        Status::Running(_) => {}
        Status::Paused(_) => bail!("You cannot attach to a paused container, unpause it first"),
        Status::Restarting => bail!("You cannot attach to a restarting container, wait until it is running"),
        _ => bail!("You cannot attach to a stopped container, start it first"),
    }
    let wire = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let reached = address(&dirs.running(id)).and_then(|(_folder, address)| Ok(connect(wire.as_raw_fd(), &address)?));
    reached.map_err(|_| {
        anyhow::anyhow!("container {} runs in the foreground of another terminal, or its monitor is gone", id.short())
    })?;
    let spec = &record.spec;
    tell(dirs, &[Event::of(spec, "attach")]);
    let ended = converse(&wire, spec, attach, None)?;
    Ok(ended.map(|ended| ended.status))
}

/// Until the container ends, or the caller detaches (`None`).
pub(super) fn converse(
    wire: &OwnedFd,
    spec: &Spec,
    wanted: &Attach,
    failpoint: Option<&Failpoint>,
) -> Result<Option<Ended>> {
    let signals = SignalFd::all().context("cannot read signals")?;
    let terminal = spec.terminal();
    let input = wanted.input && spec.life.as_ref().is_some_and(|life| life.interactive);
    let raw = (terminal && input).then(RawMode::enter).flatten();
    if terminal {
        tell_window(wire);
    }
    Failpoint::strike(failpoint, "engine.wait");
    let keys = raw.is_some().then(|| Keys::new(wanted.detach_keys.clone()));
    let mut typist = Typist { reading: input, keys, owns: wanted.owns, unsent: VecDeque::new() };
    let mut asked = 0;
    let result = loop {
        let [heard, typed] = wait(wire, &signals, &typist)?;
        typist.send(wire);
        if heard {
            match hear(wire)? {
                Heard::Bytes => {}
                Heard::Ended(ended) => break Some(ended),
                Heard::Gone => bail!("the monitor of container {} is gone", spec.id.short()),
            }
        }
        while let Some(signal) = signals.read() {
            asked += u32::from(ORDERS.contains(&signal));
            match signal {
                libc::SIGWINCH if terminal => tell_window(wire),
                libc::SIGWINCH | libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
                libc::SIGCONT => raw.iter().for_each(RawMode::again),
                _ if wanted.owns && asked >= PATIENCE => drop(kill(&spec.dirs, &spec.id, libc::SIGKILL)),
                signal if wanted.signals => drop(kill(&spec.dirs, &spec.id, signal)),
                _ => return Ok(None),
            }
        }
        if typed && typist.read() {
            typist.leave(wire);
            tell(&spec.dirs, &[Event::of(spec, "detach")]);
            break None;
        }
    };
    drop(raw);
    Ok(result)
}

/// Waits for something to happen: whether there is something to hear, and something to read.
fn wait(wire: &OwnedFd, signals: &SignalFd, typist: &Typist) -> Result<[bool; 2]> {
    let stuck = !typist.unsent.is_empty();
    let wanted = if stuck { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
    let mut fds = vec![PollFd::new(wire.as_fd(), wanted), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let stdin = std::io::stdin();
    if typist.reading && !stuck {
        fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
    }
    if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
        && errno != Errno::EINTR
    {
        bail!("cannot wait for the container: {}", errno.desc());
    }
    let heard = fds[0].revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT));
    Ok([heard, fds.get(2).is_some_and(|fd| fd.any().unwrap_or(false))])
}

enum Heard {
    Bytes,
    Ended(Ended),
    Gone,
}

fn hear(wire: &OwnedFd) -> Result<Heard> {
    let mut message = [0u8; LONGEST];
    let size = match recv(wire.as_raw_fd(), &mut message, MsgFlags::empty()) {
        Err(Errno::EINTR | Errno::EAGAIN) => return Ok(Heard::Bytes),
        Ok(0) | Err(_) => return Ok(Heard::Gone),
        Ok(size) => size,
    };
    let (kind, bytes) = (message[0], &message[1..size]);
    match kind {
        STDOUT => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to stdout")?;
        }
        STDERR => std::io::stderr().write_all(bytes).context("cannot write to stderr")?,
        ENDED => {
            let (status, words) = bytes.split_first().unwrap_or((&0, &[]));
            let words = String::from_utf8_lossy(words).into_owned();
            return Ok(Heard::Ended(Ended {
                status: *status,
                obituary: Some(words).filter(|words| !words.is_empty()),
            }));
        }
        _ => {}
    }
    Ok(Heard::Bytes)
}

/// What the caller types, on its way to the monitor. It never waits for the monitor, which may be waiting for the
/// caller to take what the command writes.
struct Typist {
    reading: bool,
    /// Looked for if his terminal sends every key by itself.
    keys: Option<Keys>,
    owns: bool,
    unsent: VecDeque<Vec<u8>>,
}

impl Typist {
    /// Takes what is there; true: he wants to leave.
    fn read(&mut self) -> bool {
        let mut buffer = [0u8; LONGEST / 2];
        let size = match nix::unistd::read(std::io::stdin(), &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => return false,
            Ok(0) | Err(_) => {
                self.reading = false;
                let hung_up = self.owns && self.keys.is_some() && terminal::hung_up();
                self.unsent.push_back(vec![if hung_up { HUNG_UP } else { CLOSED }]);
                return false;
            }
            Ok(size) => size,
        };
        let mut message = vec![INPUT];
        let leaves = match &mut self.keys {
            Some(keys) => keys.take(&buffer[..size], &mut message),
            None => {
                message.extend_from_slice(&buffer[..size]);
                false
            }
        };
        if message.len() > 1 {
            self.unsent.push_back(message);
        }
        leaves
    }

    /// As much as the monitor takes.
    fn send(&mut self, wire: &OwnedFd) {
        while let Some(message) = self.unsent.front() {
            match send(wire.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                _ => drop(self.unsent.pop_front()),
            }
        }
    }

    /// The last word: what was typed before it may be lost if the command does not read.
    fn leave(&mut self, wire: &OwnedFd) {
        self.send(wire);
        let _ = send(wire.as_raw_fd(), &[LEAVES], MsgFlags::MSG_NOSIGNAL);
    }
}

fn tell_window(wire: &OwnedFd) {
    if let Some((rows, columns)) = stdio::window() {
        let ([a, b], [c, d]) = (rows.to_be_bytes(), columns.to_be_bytes());
        let _ = send(wire.as_raw_fd(), &[WINDOW, a, b, c, d], MsgFlags::MSG_NOSIGNAL);
    }
}
