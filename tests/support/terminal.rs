//! A caller's terminal with the engine on it, as a person sits at it.

use super::{Engine, kernel};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{InputFlags, LocalFlags, Termios, tcgetattr};
use nix::unistd::{Pid, read, write};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub static PATIENCE: std::sync::LazyLock<Duration> =
    std::sync::LazyLock::new(|| crate::support::slow(Duration::from_secs(15)));

/// A caller's terminal and the engine on it, in a session of its own.
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
    pub child: Child,
    pub seen: Vec<u8>,
    /// What of `seen` was expected already.
    mark: usize,
    pub before: Termios,
}

impl Terminal {
    /// `mydocker run WORDS` on a terminal of 37 rows and 111 columns.
    pub fn run(engine: &Engine, words: &[&str]) -> Self {
        Self::through(engine, &[], words)
    }

    /// The same, started by another program (`env NAME=VALUE`).
    pub fn through(engine: &Engine, starter: &[&str], words: &[&str]) -> Self {
        let words: Vec<&str> = ["run", "--rm"].iter().chain(words).copied().collect();
        Self::on(engine, starter, &words)
    }

    /// `STARTER… mydocker WORDS`, whatever the command.
    pub fn on(engine: &Engine, starter: &[&str], words: &[&str]) -> Self {
        Self::of(engine.command(words), starter, (37, 111))
    }

    /// `STARTER… COMMAND`, on a terminal of so many rows and columns.
    pub fn of(run: Command, starter: &[&str], (rows, columns): (u16, u16)) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        for fd in [&pty.master, &pty.slave] {
            let cloexec = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            nix::fcntl::fcntl(fd, cloexec).unwrap();
        }
        let before = tcgetattr(&pty.slave).unwrap();
        // It does not fork, because its parent is the leader of our group: the child is the engine.
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(starter).arg(run.get_program()).args(run.get_args());
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        Self { master: pty.master, slave: pty.slave, child, seen: Vec::new(), mark: 0, before }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types it.
    pub fn keys(&self, keys: &str) {
        assert_eq!(write(&self.master, keys.as_bytes()).unwrap(), keys.len());
    }

    /// Reads what is on the screen, for at most `wait`; false when there was nothing.
    pub fn look(&mut self, wait: Duration) -> bool {
        let timeout = PollTimeout::try_from(wait).unwrap();
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 65536];
        let size = read(&self.master, &mut buffer).unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..size]);
        size > 0
    }

    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until `text` is on the screen, after what was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + *PATIENCE;
        loop {
            let rest = &self.seen[self.mark..];
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.mark += at + text.len();
                return;
            }
            if Instant::now() > end {
                panic!("{text:?} is not on the screen:\n{:?}", self.screen());
            }
            self.look(Duration::from_millis(20));
        }
    }

    /// Types a line and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str, answer: &str) {
        self.keys(&format!("{line}\r"));
        self.expect(answer);
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + *PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "waited for {what}:\n{:?}", self.screen());
            self.look(Duration::from_millis(5));
        }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = stty_words(rows, columns);
        let stty = Command::new("stty").args(size).stdin(File::from(self.slave.try_clone().unwrap())).status();
        assert!(stty.unwrap().success());
    }

    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    pub fn is_raw(&self) -> bool {
        let modes = self.modes();
        !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
            && !modes.input_flags.contains(InputFlags::ICRNL)
    }

    /// Waits for the end of the engine: its status. The terminal must be as it was.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        let end = Instant::now() + *PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                panic!("does not end:\n{:?}", self.screen());
            }
            self.look(Duration::from_millis(5));
        };
        while self.look(Duration::ZERO) {}
        assert!(self.modes() == self.before, "the terminal is not as it was: {:?}", self.modes());
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// The container's first process, as the host numbers it.
    #[track_caller]
    pub fn container(&mut self) -> u32 {
        let find = |terminal: &Self| {
            let here = kernel::namespace(terminal.pid(), "pid");
            let apart = |pid: &u32| kernel::namespace(*pid, "pid").is_some_and(|there| Some(there) != here);
            kernel::descendants(terminal.pid()).into_iter().find(apart)
        };
        self.wait_until("the container", |terminal| find(terminal).is_some());
        find(self).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn stty_words(rows: u16, columns: u16) -> [String; 4] {
    ["rows".to_string(), rows.to_string(), "cols".to_string(), columns.to_string()]
}
