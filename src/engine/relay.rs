//! Bytes from one descriptor to another, without ever blocking the engine: it reads only what it has room for, and
//! writes only when the other side takes it.

use super::keys::Keys; // ch07
use crate::container::{LogWriter, Stream}; // ch07
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use std::cell::RefCell; // ch07
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc; // ch07

/// The receiving end.
pub struct Sink {
    fd: OwnedFd,
    /// How much may be written once `poll` says so: a blocking pipe or terminal of the caller's takes this much.
    at_once: usize,
}

/// POSIX: a pipe that is writable has room for PIPE_BUF bytes.
const PIPE_BUF: usize = 4096;
const BUFFER: usize = 64 << 10;

impl Sink {
    /// An end that nobody else holds; it is made non-blocking.
    pub fn ours(fd: OwnedFd) -> Result<Self, Errno> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { fd, at_once: BUFFER })
    }

    /// An end that the caller holds too, so its flags are not ours to change.
    pub fn callers(fd: OwnedFd) -> Self {
        let file = nix::sys::stat::fstat(&fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        Self { fd, at_once: if file { BUFFER } else { PIPE_BUF } }
    }
}

/// One direction of one stream.
pub struct Relay {
    /// What the caller calls it: stdin, stdout, stderr.
    pub stream: &'static str,
    from: Option<OwnedFd>,
    to: Option<Sink>,
    pending: Vec<u8>,
    /// Why bytes were lost, if any were.
    pub lost: Option<Errno>,
    /// Where a copy of it is kept.
    log: Option<(SharedLog, Stream)>, // ch07
    /// What the caller types to leave.
    keys: Option<Keys>, // ch07
    /// He has.
    pub left: bool, // ch07
}

/// One log for both streams.
pub type SharedLog = Rc<RefCell<LogWriter>>; // ch07

impl Relay {
    pub fn new(stream: &'static str, from: OwnedFd, to: Sink) -> Self {
        let (from, to) = (Some(from), Some(to));
        Self {
            stream,
            from,
            to,
            pending: Vec::new(),
            lost: None,
            log: None,   // ch07
            keys: None,  // ch07
            left: false, // ch07
        }
    }

    // ch07
    /// Keeps a copy of what the command writes; what it reads is nobody's business.
    pub fn keep(&mut self, log: &SharedLog) {
        self.log = match self.stream {
            "stdout" => Some((Rc::clone(log), Stream::Stdout)),
            "stderr" => Some((Rc::clone(log), Stream::Stderr)),
            _ => None,
        };
    }

    // ch07
    pub fn kept_in(mut self, log: Option<&SharedLog>) -> Self {
        log.into_iter().for_each(|log| self.keep(log));
        self
    }

    // ch07
    /// With the keys that its caller types to leave.
    pub fn left_by(self, keys: Option<Keys>) -> Self {
        Self { keys, ..self }
    }

    /// What to wait for; `None` when there is nothing left to do.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.from, &self.to) {
            (_, Some(to)) if !self.pending.is_empty() => Some((to.fd.as_fd(), PollFlags::POLLOUT)),
            (Some(from), Some(_)) => Some((from.as_fd(), PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// Whether the input has ended and all of it is delivered, or cannot be.
    pub fn is_over(&self) -> bool {
        self.to.is_none()
    }

    /// Does what the last `interest` waited for.
    pub fn turn(&mut self) {
        if self.pending.is_empty() { self.read() } else { self.write() }
    }

    fn read(&mut self) {
        let Some(from) = &self.from else { return };
        let mut buffer = [0u8; BUFFER];
        match nix::unistd::read(from, &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // EIO: the last process has closed its side of the terminal.
            Ok(0) | Err(_) => {
                self.from = None;
                self.finish();
            }
            Ok(size) => {
                // ch07, before: self.pending.extend_from_slice(&buffer[..size]);
                match &mut self.keys {
                    Some(keys) => self.left = keys.take(&buffer[..size], &mut self.pending),
                    None => self.pending.extend_from_slice(&buffer[..size]),
                }
                // ch07
                if self.left && !self.pending.is_empty() {
                    // What was typed before the keys, as far as the command takes it now.
                    self.write();
                }
                // ch07
                if let Some((log, stream)) = &self.log {
                    log.borrow_mut().write(*stream, &buffer[..size]);
                }
            }
        }
    }

    fn write(&mut self) {
        let Some(to) = &self.to else { return };
        let size = self.pending.len().min(to.at_once);
        match nix::unistd::write(&to.fd, &self.pending[..size]) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => {
                // Whoever writes must learn that nobody reads: our reading end goes too (SIGPIPE, EIO).
                if errno != Errno::EPIPE && errno != Errno::EIO {
                    self.lost = Some(errno);
                }
                self.pending.clear();
                self.from = None;
            }
        }
        self.finish();
    }

    /// The input has ended and all of it is delivered: the reader sees the end.
    fn finish(&mut self) {
        if self.from.is_none() && self.pending.is_empty() {
            self.to = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn every_byte_arrives_and_then_the_end() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let (mut result, sink) = std::io::pipe().unwrap();
        let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || std::fs::File::from(write).write_all(&copy).unwrap());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            result.read_to_end(&mut got).unwrap();
            got
        });
        let mut relay = Relay::new("stdout", read, Sink::ours(sink.into()).unwrap());
        while let Some((fd, flags)) = relay.interest() {
            nix::poll::poll(&mut [nix::poll::PollFd::new(fd, flags)], nix::poll::PollTimeout::NONE).unwrap();
            relay.turn();
        }
        writer.join().unwrap();
        assert!(reader.join().unwrap() == sent);
    }
}
