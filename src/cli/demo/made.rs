//! What a demo has made, and its end. A process that is killed with SIGKILL cleans up nothing (`man 7 signal`), so a
//! second one, the keeper, holds the other end of a pipe: the kernel closes it with whoever dies, however that was, and
//! the keeper removes what was noted.
//!
//! Try it: `mydocker demo layers`, and from a second terminal `kill -9 $(pgrep -f 'demo layers')`; `mydocker ps -a`

use crate::sys::SignalFd;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// In the environment of everything that a demo starts: its name.
pub const MARK: &str = "MYDOCKER_DEMO_NAME";

pub enum Made {
    Container(String),
    Network(String),
    Folder(PathBuf),
    /// A process of the host; the keeper knows it by the mark.
    Process(Child),
}

impl Made {
    /// Removes it with `engine`; what is gone already is well.
    pub fn remove(self, engine: impl FnOnce(&[&str]) -> Command) -> Result<(), String> {
        let gone = |words: &[&str]| {
            let done =
                engine(words).stdin(Stdio::null()).process_group(0).output().map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&done.stderr).trim().to_string();
            let gone = ["No such container", "not found"].iter().any(|words| text.contains(words));
            if done.status.success() || gone { Ok(()) } else { Err(text) }
        };
        match self {
            Self::Container(name) => gone(&["rm", "-f", &name]),
            Self::Network(name) => gone(&["network", "rm", &name]),
            Self::Folder(path) => match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(format!("`{}`: {error}", path.display()))
                }
                _ => Ok(()),
            },
            Self::Process(mut child) => {
                child.kill().and_then(|()| child.wait()).map(drop).map_err(|error| error.to_string())
            }
        }
    }

    /// One line for the keeper.
    fn note(&self) -> Option<String> {
        match self {
            Self::Container(name) => Some(format!("container {name}\n")),
            Self::Network(name) => Some(format!("network {name}\n")),
            Self::Folder(path) => Some(format!("folder {}\n", path.display())),
            Self::Process(_) => None,
        }
    }

    fn noted(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("container", name) => Some(Self::Container(name.to_string())),
            ("network", name) => Some(Self::Network(name.to_string())),
            ("folder", path) => Some(Self::Folder(path.into())),
            _ => None,
        }
    }
}

/// The demo's end of the pipe.
pub struct Keeper(Child);

impl Keeper {
    /// `command`: `mydocker`, with the demo's environment.
    pub fn start(mut command: Command, name: &str) -> Result<Self> {
        // Ctrl-C is the demo's.
        command.args(["demo", "--keep", name]).process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.context("cannot start the keeper")?))
    }

    /// Told before it is made.
    pub fn note(&mut self, made: &Made) {
        if let (Some(pipe), Some(line)) = (&mut self.0.stdin, made.note()) {
            // A keeper that somebody has killed keeps nothing; the demo itself still does.
            let _ = pipe.write_all(line.as_bytes());
        }
    }

    /// All is removed.
    pub fn over(mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(OVER.as_bytes());
        }
        let _ = self.0.wait();
    }
}

const OVER: &str = "over\n";

/// The keeper itself: waits for the demo's end. `engine`: `mydocker WORDS`, on the demo's data.
pub fn keep(name: &str, engine: impl Fn(&[&str]) -> Command) -> Result<u8> {
    let _deaf = SignalFd::all()?;
    let mut notes = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == OVER.trim_end() {
            return Ok(0);
        }
        notes.push(line);
    }
    // What the demo was just doing may go on for a moment, and make another one.
    let mut quiet = 0;
    for round in 0..ROUNDS {
        for made in notes.iter().rev().filter_map(|line| Made::noted(line)) {
            let _ = made.remove(&engine);
        }
        let left = marked(name);
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            break;
        }
        let signal = if round < PATIENCE { Signal::SIGTERM } else { Signal::SIGKILL };
        for pid in left {
            let _ = kill(pid, signal);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(u8::from(quiet < 2))
}

/// So often it is tried, ten times a second.
const ROUNDS: u32 = 100;

/// After so many, nobody is asked any more. (A process that blocks SIGTERM would not hear it.)
const PATIENCE: u32 = 5;

/// The processes that the demo `name` has started, but us.
fn marked(name: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={name}");
    let ours = |folder: &Path| {
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |folder: std::fs::DirEntry| {
        let pid: i32 = folder.file_name().to_str()?.parse().ok()?;
        (pid != std::process::id() as i32 && ours(&folder.path())).then_some(Pid::from_raw(pid))
    };
    folders.filter_map(pid).collect()
}
