//! Both ends of `-ti`: the caller's terminal, raw while the container runs and put back on every way out, and the
//! container's, which has the caller's size and is told when its keyboard is gone (`man 3 termios`).

use super::keys::Keys; // ch07
use super::relay::SharedLog; // ch07
use super::stdio;
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How the container's terminal is served.
pub struct Terminal {
    /// The caller's stdin feeds it (`-i`).
    pub interactive: bool,
    /// Where a copy of what it shows is kept.
    pub log: Option<SharedLog>, // ch07
    /// What the caller types to leave it alone, if he may.
    pub keys: Option<Keys>, // ch07
}

/// The end of the input, for a terminal: a file ends, a keyboard does not. What reads is told with ^D as often as it
/// reads: one alone is lost when the reader changes from line mode to raw mode, as every shell does when it begins.
pub struct Farewell {
    master: OwnedFd,
    /// The command's end, to see whether it has read everything.
    peer: OwnedFd,
    pause: Duration,
    next: Instant,
}

impl Farewell {
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    pub fn new(master: &OwnedFd) -> Result<Self, Errno> {
        let (peer, master) = (sys::open_peer(master)?, master.try_clone().map_err(|_| Errno::EMFILE)?);
        Ok(Self { master, peer, pause: Duration::from_millis(20), next: Instant::now() })
    }

    /// Says it if it is time and nothing waits to be read: how long until the next time.
    pub fn say(&mut self) -> PollTimeout {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + self.pause;
            self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
            let unread = poll(&mut [PollFd::new(self.peer.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
            if unread == Ok(0) {
                let end = tcgetattr(&self.peer)
                    .map_or(4, |modes| modes.control_chars[SpecialCharacterIndices::VEOF as usize]);
                let _ = nix::unistd::write(&self.master, &[end]);
            }
        }
        let left = self.next.saturating_duration_since(now) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }
}

/// The container's terminal is as large as the caller's; the kernel sends SIGWINCH in there if that is news.
pub fn follow_window(master: &OwnedFd) {
    if let Some(size) = stdio::window() {
        let _ = sys::set_winsize(master, size);
    }
}

/// The caller's terminal passes every key on; put back when this goes, and by the panic hook.
pub struct RawMode {
    raw: Termios,
}

/// How the terminal was, for whoever has to put it back.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

impl RawMode {
    /// `None`: stdin is no terminal.
    pub fn enter() -> Option<Self> {
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

    /// After somebody else has changed it.
    pub fn again(&self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.raw);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Tells whatever has the keys that they are gone. The kernel does so for the session's leader alone, which as PID 1
/// takes no notice; that one reads the end of its input when the terminal closes, as soon as it reads again.
pub fn hang_up(master: &OwnedFd) {
    // 0: nobody is in the foreground, and to killpg it would mean us.
    if let Ok(foreground) = nix::unistd::tcgetpgrp(master)
        && foreground.as_raw() > 1
    {
        let _ = nix::sys::signal::killpg(foreground, nix::sys::signal::Signal::SIGHUP);
    }
}

// ch07
/// How the caller's terminal is now, for whoever may have to put it back after another process; `None`: it is none.
pub fn modes() -> Option<Termios> {
    tcgetattr(std::io::stdin()).ok()
}

// ch07
pub fn put_back(before: Option<Termios>) {
    if let Some(before) = before {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Whether the caller's terminal is gone: its window was closed, its line was cut. Asked of `poll`, which says so as soon
/// as a read finds the end; its attributes can be had for a moment longer, until the kernel is done with hanging up.
pub fn hung_up() -> bool {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP))
}

fn restore() {
    if let Ok(mut before) = BEFORE.try_lock()
        && let Some(before) = before.take()
    {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &before);
    }
}
