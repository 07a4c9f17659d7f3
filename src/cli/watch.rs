//! Who looks on while a plan is performed: nobody, `--explain`, `--explain=json`, `--step`.

use crate::plan::{Narrator, Step, Watch, narrate_json};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

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

    fn say(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Watch for Teller {
    fn paced(&self) -> bool {
        self.telling != Telling::Nothing
    }

    fn before(&mut self, step: &Step) {
        log::debug!("{}: {}", step.name, step.op.shell);
        if matches!(self.telling, Telling::Text | Telling::Steps) {
            let text = self.narrator.before(step);
            self.say(&text);
        }
        if let Some(keyboard) = &mut self.keyboard {
            let _ = std::io::stderr().write_all(b"          [Enter] ");
            if keyboard.read_line(&mut String::new()).unwrap_or(0) == 0 {
                self.keyboard = None;
            }
        }
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
