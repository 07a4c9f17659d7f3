//! Beside a container that runs: what it writes comes to the caller's terminal, what he types goes in. The monitor
//! listens on a socket in the container's run-time folder; a message is one byte of meaning and its bytes.

use super::terminal::RawMode;
use super::{as_root, kill, recover, stdio};
use crate::container::{Event, Record, Status, read_config, status, tell};
use crate::plan::{Dirs, Id};
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::socketpair;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, send, socket,
};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// What a message means.
pub(super) const INPUT: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
/// The exit status, as a shell counts it.
pub(super) const ENDED: u8 = 3;
/// Rows and columns, two bytes each.
pub(super) const WINDOW: u8 = 4;
/// No more input.
pub(super) const CLOSED: u8 = 5;

/// The longest message, with its first byte.
pub(super) const LONGEST: usize = 16 << 10;

/// Docker's: ^P ^Q.
const DETACH: [u8; 2] = [16, 17];

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct Attach {
    /// His stdin goes in.
    pub input: bool,
    /// His signals go in (`--sig-proxy`).
    pub signals: bool,
    /// The keys that end it, and leave the container alone; empty: none.
    pub detach_keys: Vec<u8>,
}

impl Default for Attach {
    fn default() -> Self {
        Self { input: true, signals: true, detach_keys: DETACH.to_vec() }
    }
}

/// Two ends of one wire, for a caller who is there before the container runs.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).context("cannot make a socket")
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
    tell(dirs, &[Event::of(&record.spec, "attach")]);
    let ended = converse(&wire, dirs, id, &record, attach)?;
    if ended.is_none() {
        tell(dirs, &[Event::of(&record.spec, "detach")]);
    }
    Ok(ended)
}

/// Until the container ends, or the caller detaches.
pub(super) fn converse(wire: &OwnedFd, dirs: &Dirs, id: &Id, record: &Record, attach: &Attach) -> Result<Option<u8>> {
    let signals = SignalFd::all().context("cannot read signals")?;
    let terminal = record.spec.terminal();
    let input = attach.input && record.life().interactive;
    let raw = (terminal && input).then(RawMode::enter).flatten();
    if terminal {
        tell_window(wire);
    }
    let stdin = std::io::stdin();
    let mut reading = input;
    let mut keys = Keys { wanted: attach.detach_keys.clone(), seen: 0 };
    let result = loop {
        let mut fds =
            vec![PollFd::new(wire.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if reading {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
            && errno != Errno::EINTR
        {
            bail!("cannot wait for the container: {}", errno.desc());
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[0] {
            match hear(wire)? {
                Heard::Bytes => {}
                Heard::Ended(status) => break Some(status),
                Heard::Gone => bail!("the monitor of container {} is gone", id.short()),
            }
        }
        while let Some(signal) = signals.read() {
            match signal {
                libc::SIGWINCH if terminal => tell_window(wire),
                libc::SIGWINCH | libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
                libc::SIGCONT => raw.iter().for_each(RawMode::again),
                signal if attach.signals => drop(kill(dirs, id, signal)),
                _ => return Ok(None),
            }
        }
        if ready.get(2) == Some(&true) {
            match type_in(wire, &mut keys, raw.is_some())? {
                Typed::On => {}
                Typed::End => reading = false,
                Typed::Detach => break None,
            }
        }
    };
    drop(raw);
    Ok(result)
}

enum Heard {
    Bytes,
    Ended(u8),
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
        ENDED => return Ok(Heard::Ended(bytes.first().copied().unwrap_or(0))),
        _ => {}
    }
    Ok(Heard::Bytes)
}

enum Typed {
    On,
    End,
    Detach,
}

fn type_in(wire: &OwnedFd, keys: &mut Keys, terminal: bool) -> Result<Typed> {
    let mut buffer = [0u8; LONGEST - 2];
    let size = match nix::unistd::read(std::io::stdin(), &mut buffer) {
        Err(Errno::EINTR | Errno::EAGAIN) => return Ok(Typed::On),
        Ok(0) | Err(_) => {
            let _ = send(wire.as_raw_fd(), &[CLOSED], MsgFlags::MSG_NOSIGNAL);
            return Ok(Typed::End);
        }
        Ok(size) => size,
    };
    let mut message = vec![INPUT];
    let detached = if terminal { keys.take(&buffer[..size], &mut message) } else { false };
    if !terminal {
        message.extend_from_slice(&buffer[..size]);
    }
    if message.len() > 1 {
        let _ = send(wire.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL);
    }
    Ok(if detached { Typed::Detach } else { Typed::On })
}

fn tell_window(wire: &OwnedFd) {
    if let Some((rows, columns)) = stdio::window() {
        let ([a, b], [c, d]) = (rows.to_be_bytes(), columns.to_be_bytes());
        let _ = send(wire.as_raw_fd(), &[WINDOW, a, b, c, d], MsgFlags::MSG_NOSIGNAL);
    }
}

/// Looks for the detach keys in what is typed; a beginning of them is held back until it is clear.
struct Keys {
    wanted: Vec<u8>,
    seen: usize,
}

impl Keys {
    fn take(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.wanted.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.wanted.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.wanted[..self.seen]);
            self.seen = usize::from(self.wanted.first() == Some(byte));
            if self.seen == 0 {
                out.push(*byte);
            }
        }
        false
    }
}

/// `ctrl-a,x` as bytes.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
        (Some(letter), _) if letter.len() == 1 => match letter.as_bytes()[0] {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            letter @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_') => Some(letter & 0x1f),
            _ => None,
        },
        (None, [byte]) => Some(*byte),
        _ => None,
    };
    let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
    keys.with_context(|| format!("--detach-keys: `{}` is not a list like ctrl-p,ctrl-q", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_wherever_they_are_cut() {
        let mut keys = Keys { wanted: DETACH.to_vec(), seen: 0 };
        let mut out = Vec::new();
        assert!(!keys.take(&[b'a', 16], &mut out) && out == b"a");
        assert!(!keys.take(b"b", &mut out) && out == [b'a', 16, b'b']);
        assert!(!keys.take(&[16, 16], &mut out) && keys.take(&[17], &mut out));
        assert_eq!(detach_keys("ctrl-a,x").unwrap(), [1, b'x']);
        assert!(detach_keys("ctrl-").is_err() && detach_keys("").is_err() && detach_keys("ab").is_err());
    }
}
