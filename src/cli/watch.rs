//! Who looks on while a plan is performed: nobody, `--explain`, `--explain=json`, `--step`.

use crate::plan::{Narrator, Step, Watch, narrate_json};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    Nothing,
    Text,
    Json,
    /// Text, and a wait for Enter before every step.
    Steps,
}

/// Tells on stderr; stdout is the container's.
pub struct Teller {
    telling: Telling,
    narrator: Narrator,
    keyboard: Option<BufReader<File>>,
}

impl Teller {
    pub fn new(telling: Telling) -> Self {
        // The command's stdin may be a pipe; whoever presses Enter sits at the terminal.
        let keyboard = (telling == Telling::Steps).then(|| File::open("/dev/tty").ok()).flatten().map(BufReader::new);
        if telling == Telling::Steps && keyboard.is_none() {
            log::warn!("--step: there is no terminal to press Enter at; going on without waiting");
        }
        Self { telling, narrator: Narrator::default(), keyboard }
    }

    /// Waits for Enter; `false` after Ctrl-C, or when the terminal is gone. The engine has blocked its signals by now, to
    /// pass them on later, so a pending one is asked for.
    fn wait_for_enter(&mut self) -> bool {
        let Some(keyboard) = &mut self.keyboard else { return true };
        loop {
            let mut fds = [PollFd::new(keyboard.get_ref().as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, 100u16);
            let gone = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
            if sys::interrupted() || gone {
                return false;
            }
            if ready.is_ok_and(|count| count > 0) {
                if keyboard.read_line(&mut String::new()).unwrap_or(0) == 0 {
                    self.keyboard = None;
                }
                return true;
            }
        }
    }

    fn say(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Watch for Teller {
    fn paced(&self) -> bool {
        self.telling != Telling::Nothing
    }

    fn before(&mut self, step: &Step) -> bool {
        log::debug!("{}: {}", step.name, step.op.shell);
        if matches!(self.telling, Telling::Text | Telling::Steps) {
            let text = self.narrator.before(step);
            self.say(&text);
        }
        if self.keyboard.is_some() {
            self.say("          [Enter] ");
        }
        self.wait_for_enter()
    }

    fn after(&mut self, step: &Step, child: Option<Pid>, result: Result<(), Errno>) {
        match self.telling {
            Telling::Nothing => {}
            Telling::Text | Telling::Steps => {
                let text = self.narrator.after(step, child, result);
                self.say(&text);
            }
            Telling::Json => self.say(&(narrate_json(step, child, Some(result)) + "\n")),
        }
    }
}
