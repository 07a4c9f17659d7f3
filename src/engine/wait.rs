//! The engine while the container runs: signals passed on, bytes relayed, the terminal kept in step, until the first
//! process ends. Then everything that it wrote is delivered before its status is told.

use super::relay::{Relay, Sink};
use crate::plan::Launched;
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Mutex;

/// How the container's terminal is served.
pub struct Terminal {
    /// The caller's stdin feeds it (`-i`).
    pub interactive: bool,
}

/// So many SIGINT or SIGTERM in a row mean it: PID 1 ignores what it has no handler for.
const PATIENCE: u32 = 3;

/// Waits for the end of the container: its exit status.
pub fn until_the_end(
    launched: Launched,
    signals: SignalFd,
    mut relays: Vec<Relay>,
    terminal: Option<Terminal>,
) -> Result<u8> {
    let master = launched.handed_up.as_ref();
    let mut raw = None;
    if let (Some(terminal), Some(master)) = (&terminal, master) {
        relays.push(Relay::new(master.try_clone()?, Sink::callers(std::io::stdout().as_fd().try_clone_to_owned()?)));
        if terminal.interactive {
            raw = RawMode::enter();
            let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
            relays.insert(0, Relay::new(stdin, Sink::terminal(master.try_clone()?)));
        }
    }
    let feeds_stdin = terminal.as_ref().is_some_and(|terminal| terminal.interactive);
    let mut asked = 0;
    loop {
        let events = wait(&launched, &signals, &relays)?;
        for number in events.relays {
            relays[number].turn();
        }
        while let Some(signal) = signals.read() {
            asked += u32::from(signal == libc::SIGINT || signal == libc::SIGTERM);
            pass_on(signal, &launched, raw.as_ref(), asked);
        }
        if events.ended {
            break;
        }
    }
    let status = sys::wait_pidfd(&launched.pidfd).context("cannot wait for the container")?;
    if feeds_stdin {
        relays[0].stop();
    }
    drain(&mut relays)?;
    drop(raw);
    if let Some(errno) = relays.iter().find_map(|relay| relay.lost) {
        bail!("what the command wrote is lost: {}", errno.desc());
    }
    Ok(status as u8)
}

/// What has happened.
struct Events {
    ended: bool,
    relays: Vec<usize>,
}

fn wait(launched: &Launched, signals: &SignalFd, relays: &[Relay]) -> Result<Events> {
    let mut fds =
        vec![PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let interested: Vec<_> =
        relays.iter().enumerate().filter_map(|(number, relay)| Some((number, relay.interest()?))).collect();
    fds.extend(interested.iter().map(|(_, (fd, flags))| PollFd::new(*fd, *flags)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => bail!("cannot wait for the container: {}", errno.desc()),
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    let relays = interested.iter().zip(&fds[2..]).filter(|(_, fd)| ready(fd)).map(|((number, _), _)| *number).collect();
    Ok(Events { ended: ready(&fds[0]), relays })
}

/// The processes are gone; what they wrote is still in the pipes. Input that nobody will read is dropped.
fn drain(relays: &mut [Relay]) -> Result<()> {
    for relay in relays {
        while let Some((fd, flags)) = relay.interest() {
            let timeout = if flags == PollFlags::POLLIN { PollTimeout::ZERO } else { PollTimeout::NONE };
            match poll(&mut [PollFd::new(fd, flags)], timeout) {
                Err(Errno::EINTR) => continue,
                // Nothing to read, and no writer left that could send more: another holder of the same pipe outside.
                Ok(0) | Err(_) => break,
                Ok(_) => relay.turn(),
            }
        }
    }
    Ok(())
}

/// A signal of ours becomes the container's (`--sig-proxy`), but for those that are about the engine itself.
fn pass_on(signal: i32, launched: &Launched, raw: Option<&RawMode>, asked: u32) {
    match signal {
        libc::SIGWINCH => {
            if let (Some(master), Ok(size)) = (&launched.handed_up, sys::get_winsize(std::io::stdin())) {
                let _ = sys::set_winsize(master, size);
            }
        }
        libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
        // Somebody stopped us, and the shell took its terminal back meanwhile.
        libc::SIGCONT => raw.into_iter().for_each(RawMode::again),
        _ if asked >= PATIENCE => {
            log::warn!("asked {PATIENCE} times: killing the container");
            let _ = sys::pidfd_send_signal(&launched.pidfd, Signal::SIGKILL as i32);
        }
        _ => {
            let _ = sys::pidfd_send_signal(&launched.pidfd, signal);
        }
    }
}

/// The caller's terminal passes every key on; put back when this goes, and by the panic hook.
struct RawMode {
    raw: Termios,
}

/// How the terminal was, for whoever has to put it back.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

impl RawMode {
    fn enter() -> Option<Self> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *BEFORE.lock().ok()? = Some(before);
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            told(info);
        }));
        let mode = Self { raw };
        mode.again();
        Some(mode)
    }

    fn again(&self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.raw);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Ok(mut before) = BEFORE.try_lock()
        && let Some(before) = before.take()
    {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &before);
    }
}
