//! What a monitor does while the command runs: its output goes to the log and to whoever is attached, until its end.

use super::Prepared;
use super::attach::{self, CLOSED, ENDED, HUNG_UP, INPUT, LEAVES, LONGEST, STDERR, STDOUT, WINDOW};
use super::health::Pulse;
use super::terminal;
use crate::container::{LogWriter, Stream};
use crate::plan::{Failpoint, Launched, Options, Room, Stage, Watch, launch};
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A command that runs, with our ends of its streams.
pub(super) struct Attended {
    launched: Launched,
    /// Its end of stdin, which stays open as long as the command may read (`-i`).
    stdin: Option<OwnedFd>,
    /// What was typed and the command has not taken yet.
    typed: Vec<u8>,
    /// Nothing more is typed: the command's stdin ends after that.
    closing: bool,
    outputs: Vec<(OwnedFd, Stream)>,
    listener: Option<OwnedFd>,
    clients: Vec<Client>,
    pulse: Option<Pulse>,
    /// It has done something since it last gave back what memory it could.
    warm: bool,
}

/// Somebody who is attached.
struct Client {
    wire: OwnedFd,
    /// What he has not taken yet; while there is any, the command waits, as it would at a terminal.
    pending: VecDeque<Vec<u8>>,
    gone: bool,
    deaf: bool,
    /// The container ends with him (`run -ti`).
    owns: bool,
}

/// After so many milliseconds without a word it gives its memory back.
const QUIET: u16 = 2000;

/// Who types further ahead has to wait.
const MOST_TYPED: usize = 64 << 10;

impl Attended {
    /// Launches; `first` is the wire of a caller, and whether he owns it, who wants to see it from the first byte on.
    pub fn launch(
        prepared: &Prepared,
        first: Option<(OwnedFd, bool)>,
        watch: &mut dyn Watch,
        failpoint: Option<Failpoint>,
    ) -> Result<Self> {
        let mut stage = Stage::default();
        let (mut outputs, mut stdin) = (Vec::new(), None);
        let spec = &prepared.spec;
        let interactive = spec.life.as_ref().is_some_and(|life| life.interactive);
        if !spec.terminal() {
            for (number, stream) in [(1, Stream::Stdout), (2, Stream::Stderr)] {
                let (ours, theirs) = pipe()?;
                stage.stdio[number] = Some(theirs);
                outputs.push((non_blocking(ours)?, stream));
            }
            if interactive {
                let (theirs, ours) = pipe()?;
                (stage.stdio[0], stdin) = (Some(theirs), Some(non_blocking(ours)?));
            }
        }
        let launched = launch(&prepared.plan, stage, Options { watch, failpoint })?;
        if let Some(master) = &launched.handed_up {
            outputs.push((master.try_clone()?, Stream::Stdout));
            stdin = Some(master.try_clone()?);
        }
        let listener = attach::listen_in(&spec.dirs.running(&spec.id));
        let listener = listener.inspect_err(|error| log::warn!("nobody can attach: {error:#}")).ok();
        let clients = first.into_iter().map(|(wire, owns)| Client::new(wire, owns)).collect();
        let pulse = Pulse::of(spec);
        Ok(Self { launched, stdin, typed: vec![], closing: false, outputs, listener, clients, pulse, warm: false })
    }

    /// Waits for the end: the exit status, as a shell counts it. `obituary`: what else there is to say about it.
    pub fn until_the_end(
        mut self,
        rooms: &[&dyn Room],
        signals: &SignalFd,
        log: &mut LogWriter,
        obituary: impl Fn() -> Option<String>,
    ) -> Result<i32> {
        while !self.turn(signals, log)? {
            self.pulse.iter_mut().for_each(|pulse| pulse.turn(rooms));
        }
        let status = sys::wait_pidfd(&self.launched.pidfd).context("cannot wait for the container")?;
        // Its processes are gone; what they wrote is still in the pipes.
        for (fd, stream) in std::mem::take(&mut self.outputs) {
            while ready(&fd) && self.read(&fd, stream, log) {}
        }
        log.finish();
        let words = if self.clients.is_empty() { None } else { obituary() }.unwrap_or_default();
        for client in &mut self.clients {
            client.say(&[&[ENDED, status as u8], words.as_bytes()].concat());
            client.finish();
        }
        Ok(status)
    }

    /// Waits for something to happen, and deals with it; whether the command has ended.
    fn turn(&mut self, signals: &SignalFd, log: &mut LogWriter) -> Result<bool> {
        let stuck = self.clients.iter().any(|client| !client.pending.is_empty());
        let mut fds = vec![
            PollFd::new(self.launched.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let outputs = if stuck { 0 } else { self.outputs.len() };
        fds.extend(self.outputs[..outputs].iter().map(|(fd, _)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let hears = self.typed.len() < MOST_TYPED;
        fds.extend(self.clients.iter().map(|client| PollFd::new(client.wire.as_fd(), client.interest(hears))));
        fds.extend(self.listener.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let typed = self.stdin.as_ref().filter(|_| !self.typed.is_empty());
        fds.extend(typed.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        fds.extend(self.pulse.iter().filter_map(Pulse::fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = self.pulse.as_ref().map_or(PollTimeout::NONE, Pulse::timeout);
        match poll(&mut fds, if self.warm { sooner(timeout, QUIET) } else { timeout }) {
            Ok(0) if self.warm => {
                self.warm = false;
                sys::trim_memory();
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => bail!("cannot wait for the container: {}", errno.desc()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        // A machine that shuts down ends the container too; its monitor lives until then.
        while signals.read().is_some() {}
        self.take_outputs(&ready[2..2 + outputs], log);
        let (wires, rest) = ready[2 + outputs..].split_at(self.clients.len());
        let called = rest.first() == Some(&true);
        for (number, ready) in wires.iter().enumerate() {
            if *ready {
                self.hear(number);
            }
        }
        self.pass_on();
        if self.clients.iter().any(|client| client.gone && client.owns) {
            // Whoever sat at it was killed: nothing of it may live on without him.
            let _ = sys::pidfd_send_signal(&self.launched.pidfd, libc::SIGKILL);
        }
        self.clients.retain(|client| !client.gone);
        if let Some(wire) = self.listener.as_ref().filter(|_| called).and_then(attach::accept) {
            self.clients.push(Client::new(wire, false));
        }
        Ok(ready[0])
    }

    fn take_outputs(&mut self, ready: &[bool], log: &mut LogWriter) {
        for (number, _) in ready.iter().enumerate().rev().filter(|(_, ready)| **ready) {
            let (fd, stream) = self.outputs.swap_remove(number);
            if self.read(&fd, stream, log) {
                self.outputs.push((fd, stream));
            }
        }
    }

    /// Takes what is there; `false` at the end.
    fn read(&mut self, fd: &OwnedFd, stream: Stream, log: &mut LogWriter) -> bool {
        let mut message = [0u8; LONGEST];
        match nix::unistd::read(fd, &mut message[1..]) {
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            // EIO: the last process has closed its side of the terminal.
            Ok(0) | Err(_) => false,
            Ok(size) => {
                self.warm = true;
                message[0] = if stream == Stream::Stdout { STDOUT } else { STDERR };
                log.write(stream, &message[1..=size]);
                self.clients.iter_mut().for_each(|client| client.say(&message[..=size]));
                true
            }
        }
    }

    /// What a client says.
    fn hear(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.finish_what_is_pending();
        let mut message = [0u8; LONGEST];
        let size = match recv(client.wire.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Ok(0) | Err(_) => {
                client.gone = true;
                return;
            }
            Ok(size) => size,
        };
        match (message[0], &message[1..size]) {
            (INPUT, bytes) => self.typed.extend_from_slice(bytes),
            (CLOSED, _) => self.closing = self.launched.handed_up.is_none(),
            (LEAVES, _) => client.owns = false,
            (HUNG_UP, _) if client.owns => self.hang_up(),
            (WINDOW, [a, b, c, d]) => {
                let size = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                self.launched.handed_up.iter().for_each(|master| {
                    let _ = sys::set_winsize(master, size);
                });
            }
            _ => {}
        }
    }

    /// The caller's window is closed, so the container's is too.
    fn hang_up(&mut self) {
        self.launched.handed_up.iter().for_each(terminal::hang_up);
        (self.launched.handed_up, self.stdin) = (None, None);
        self.outputs.clear();
    }

    /// What was typed, as far as the command takes it.
    fn pass_on(&mut self) {
        let Some(stdin) = &self.stdin else { return self.typed.clear() };
        while !self.typed.is_empty() {
            match nix::unistd::write(stdin, &self.typed) {
                Ok(size) => drop(self.typed.drain(..size)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.typed.clear(),
            }
        }
        self.typed = Vec::new();
        if self.closing {
            self.stdin = None;
        }
    }
}

impl Client {
    fn new(wire: OwnedFd, owns: bool) -> Self {
        Self { wire, pending: VecDeque::new(), gone: false, deaf: false, owns }
    }

    /// `hears`: there is room for what he types.
    fn interest(&self, hears: bool) -> PollFlags {
        let input = if hears { PollFlags::POLLIN } else { PollFlags::empty() };
        if self.pending.is_empty() { input } else { input | PollFlags::POLLOUT }
    }

    fn say(&mut self, message: &[u8]) {
        if self.deaf {
            return;
        }
        self.pending.push_back(message.to_vec());
        self.finish_what_is_pending();
    }

    fn finish_what_is_pending(&mut self) {
        while let Some(message) = self.pending.front() {
            match send(self.wire.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(_) => drop(self.pending.pop_front()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    // He hears no more; what he said last is still to be read.
                    self.deaf = true;
                    self.pending.clear();
                }
            }
        }
    }

    /// The last words, for which a client that still reads is given a second each.
    fn finish(&mut self) {
        while !self.pending.is_empty() {
            let mut fds = [PollFd::new(self.wire.as_fd(), PollFlags::POLLOUT)];
            if !poll(&mut fds, 1000u16).is_ok_and(|count| count > 0) {
                return;
            }
            self.finish_what_is_pending();
        }
    }
}

/// The earlier of both; NONE is -1, which as a number without a sign is the largest.
fn sooner(timeout: PollTimeout, most: u16) -> PollTimeout {
    if (i32::from(timeout) as u32) < u32::from(most) { timeout } else { PollTimeout::from(most) }
}

fn ready(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")
}

fn non_blocking(fd: OwnedFd) -> Result<OwnedFd> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("cannot set up a pipe")?;
    Ok(fd)
}
