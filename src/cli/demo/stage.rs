//! Where a demo is played: types its commands, shows what came of them, waits for the audience, and removes what it has
//! made, whichever way it ends.
//!
//! Every command is one that the audience could type: `mydocker` is the program that plays, and lines for the host are
//! given to `sh`.

use super::keys::Keys;
use super::made::{self, Keeper, MARK, Made};
use super::page::{Page, Side};
use super::shell::{self, Done};
use super::words::{Language, fill, word};
use crate::cli::{Context, print, tell};
use crate::plan::{Dirs, quote};
use crate::sys::{self, SignalFd};
use anyhow::{Result, bail};
use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// When it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Never.
    Auto,
    Scenes,
    /// Before every command too, and before every step of the first container's plan.
    Steps,
}

pub struct Stage<'a> {
    context: &'a Context<'a>,
    pub language: Language,
    page: Page,
    pace: Pace,
    /// The terminal's rows, if somebody reads there and is waited for: it may be cleared, and is not overrun.
    rows: Option<usize>,
    /// Rows that were filled since somebody last pressed a key.
    filled: Cell<usize>,
    /// What was shown last has no empty line behind it.
    tight: Cell<bool>,
    signals: SignalFd,
    program: PathBuf,
    /// `{name}` in texts and commands.
    pub values: Vec<(&'static str, String)>,
    /// `$NAME` in commands for the host.
    variables: Vec<(String, String)>,
    /// To be removed in reverse.
    made: Vec<Made>,
    /// Removes it if we are killed.
    keeper: Option<Keeper>,
}

impl<'a> Stage<'a> {
    pub fn new(context: &'a Context<'a>, page: Page, pace: Pace, rows: Option<usize>) -> Result<Self> {
        let token: String = sys::random::<3>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("demo-{token}");
        Ok(Self {
            context,
            language: Language::of_caller(),
            page,
            pace,
            rows,
            filled: Cell::new(0),
            tight: Cell::new(false),
            signals: SignalFd::all()?,
            program: std::env::current_exe()?,
            values: vec![("name", name)],
            variables: vec![],
            made: vec![],
            keeper: None,
        })
    }

    pub fn word(&self, name: &str) -> String {
        fill(word(name, self.language), &self.values)
    }

    pub fn fill(&self, text: &str) -> String {
        fill(text, &self.values)
    }

    /// A value that was learnt; empty: not yet.
    pub fn value(&self, name: &str) -> String {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub fn learn(&mut self, name: &'static str, value: impl Into<String>) {
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value.into()));
    }

    /// Puts text on the screen. If it is full, the audience is waited for first.
    pub fn show(&self, text: impl FnOnce(&Page) -> String) -> Result<()> {
        let text = text(&self.page);
        let lines = text.matches('\n').count();
        // The invitation takes the last row.
        if self.rows.is_some_and(|rows| self.filled.get() > 0 && self.filled.get() + lines >= rows) {
            self.pause("next")?;
        }
        self.filled.set(self.filled.get() + lines);
        print(&text).map(drop)
    }

    /// An empty line, if what was shown last has none behind it.
    pub fn gap(&self) -> Result<()> {
        if self.tight.replace(false) { self.show(|_| "\n".to_string()) } else { Ok(()) }
    }

    /// A new page.
    pub fn clear(&self) -> Result<()> {
        self.filled.set(0);
        if self.rows.is_some() { print("\x1b[H\x1b[2J").map(drop) } else { Ok(()) }
    }

    /// Waits for the audience, if it is to be waited for; the invitation goes when it is accepted.
    pub fn pause(&self, invitation: &str) -> Result<()> {
        if self.pace == Pace::Auto {
            return Ok(());
        }
        let keys = Keys::listen()?;
        print(&format!("  [{}]", self.word(invitation)))?;
        let waited = keys.wait(&self.signals);
        drop(keys);
        self.filled.set(0);
        print(if self.rows.is_some() { "\r\x1b[K" } else { "\n" })?;
        waited
    }

    /// Where the containers lie, if that is not where everybody looks for them: for a second terminal.
    pub fn show_root(&self) -> Result<()> {
        let root = &self.context.dirs.root;
        if *root == Dirs::default().root {
            return Ok(());
        }
        let line = format!("$ export MYDOCKER_ROOT={}", quote(&root.display().to_string()));
        self.show(|page| page.command("", &line) + "\n")
    }

    fn before_command(&self) -> Result<()> {
        if self.pace == Pace::Steps { self.pause("run") } else { Ok(()) }
    }

    /// A command on the host; `mydocker` in it is us.
    fn on_host(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "mydocker() { \"$MYDOCKER_DEMO\" \"$@\"; }; eval \"$0\"", line]);
        self.prepare(command)
    }

    fn engine(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words);
        self.prepare(command)
    }

    fn prepare(&self, mut command: Command) -> Command {
        // The kernel's and the shell's own words, which the checks know.
        command.env("LC_ALL", "C").env("MYDOCKER_DEMO", &self.program).env("MYDOCKER_ROOT", &self.context.dirs.root);
        command.env(MARK, self.value("name"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Types a line on the host and shows what it writes.
    pub fn outside(&mut self, line: &str) -> Result<Done> {
        self.type_outside(line, false)
    }

    fn type_outside(&mut self, line: &str, tight: bool) -> Result<Done> {
        let line = self.fill(line);
        self.show(|page| page.command("", &format!("$ {line}")))?;
        self.before_command()?;
        let done = shell::run(self.on_host(&line), false, &self.signals)?;
        self.show_output(&done, tight)?;
        Ok(done)
    }

    /// The same for a command that the demo cannot go on without.
    pub fn needs(&mut self, line: &str) -> Result<Done> {
        let done = self.type_outside(line, true)?;
        match done.status {
            0 => Ok(done),
            status => bail!("`{}` ends with status {status}: {}", self.fill(line), done.text.trim_end()),
        }
    }

    /// Starts the demo's container, `mydocker run -d --name {name} FLAGS busybox COMMAND`. Where every step is wanted, a
    /// container with the same walls is run first, in the foreground, so that its plan can be walked through.
    pub fn start(&mut self, flags: &str, command: &str) -> Result<()> {
        if self.pace == Pace::Steps {
            let name = self.also("step")?;
            let line = self.fill(&format!("mydocker run --step --rm --name {name} {flags} busybox true"));
            self.show(|page| page.command("", &format!("$ {line}")))?;
            self.before_command()?;
            let done = shell::run(self.on_host(&line), true, &self.signals)?;
            if done.status != 0 {
                bail!("`{line}` ends with status {}", done.status);
            }
        }
        self.note(Made::Container(self.value("name")))?;
        self.needs(&format!("mydocker run -d --name {{name}} {flags} busybox {command}"))?;
        self.assign("pid", "mydocker inspect -f '{{.State.Pid}}' {name}")
    }

    /// Another container that the next command makes: its name is to be removed too.
    pub fn also(&mut self, suffix: &str) -> Result<String> {
        let name = format!("{}-{suffix}", self.value("name"));
        self.note(Made::Container(name.clone()))?;
        Ok(name)
    }

    pub fn network(&mut self) -> Result<String> {
        let name = self.value("name");
        self.note(Made::Network(name.clone()))?;
        Ok(name)
    }

    /// A harmless process of the demo's own on the host.
    pub fn process(&mut self) -> Result<u32> {
        let mut command = Command::new("sleep");
        let child = command
            .arg("86400")
            .env(MARK, self.value("name"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pid = child.id();
        self.made.push(Made::Process(child));
        Ok(pid)
    }

    /// A folder of the demo's own on the host.
    pub fn folder(&mut self) -> Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(self.value("name"));
        self.note(Made::Folder(path.clone()))?;
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// `NAME=$(line)` on the host: `{name}` in later texts and commands, `$NAME` in later commands.
    pub fn assign(&mut self, name: &'static str, line: &str) -> Result<()> {
        self.set(name, &format!("$({line})"))
    }

    /// The same for any word of the shell's.
    pub fn set(&mut self, name: &'static str, word: &str) -> Result<()> {
        let (word, variable) = (self.fill(word), name.to_ascii_uppercase());
        let line = format!("{variable}={word} && echo ${variable}");
        self.show(|page| page.command("", &format!("$ {line}")))?;
        self.before_command()?;
        let done = shell::run(self.on_host(&line), false, &self.signals)?;
        self.show_output(&done, true)?;
        let value = done.text.trim().to_string();
        if done.status != 0 || value.is_empty() {
            bail!("`{line}` ends with status {}", done.status);
        }
        self.variables.retain(|(known, _)| *known != variable);
        self.variables.push((variable, value.clone()));
        self.learn(name, value);
        Ok(())
    }

    /// A line for the container's shell, which is entered with `exec`.
    fn in_container(&self, line: &str) -> Result<Done> {
        shell::run(self.engine(&["exec", &self.value("name"), "sh", "-c", line]), false, &self.signals)
    }

    fn inside_label(&self) -> String {
        format!("{}: mydocker exec -ti {} sh", self.word("inside"), self.value("name"))
    }

    /// Types a line in the container and shows what it writes.
    pub fn inside(&mut self, line: &str) -> Result<Done> {
        let line = self.fill(line);
        let label = self.inside_label();
        self.gap()?;
        self.show(|page| page.command(&label, &format!("# {line}")))?;
        self.before_command()?;
        let done = self.in_container(&line)?;
        self.show_output(&done, false)?;
        Ok(done)
    }

    /// A line in the container and one on the host, at the same moment.
    pub fn both(&mut self, inside: &str, outside: &str) -> Result<(Done, Done)> {
        let (inside, outside) = (self.fill(inside), self.fill(outside));
        if self.pace == Pace::Steps {
            let label = self.inside_label();
            let host = self.word("outside");
            self.show(|page| page.command(&label, &format!("# {inside}")))?;
            self.show(|page| page.command(&host, &format!("$ {outside}")))?;
            self.before_command()?;
        }
        let within = self.in_container(&inside)?;
        let without = shell::run(self.on_host(&outside), false, &self.signals)?;
        let side = |place, prompt, line: &str, done: &Done| Side {
            place,
            command: format!("{prompt} {line}"),
            output: self.with_status(done),
        };
        let short = format!("{}: exec -ti {} sh", self.word("inside"), self.value("name"));
        let left = side(short, "#", &inside, &within);
        let right = side(self.word("outside"), "$", &outside, &without);
        self.gap()?;
        self.show(|page| page.sides(&left, &right))?;
        Ok((within, without))
    }

    fn with_status(&self, done: &Done) -> String {
        match done.status {
            0 => done.text.clone(),
            status => format!("{}\n{} {status}", done.text.trim_end(), self.word("status")).trim_start().to_string(),
        }
    }

    /// `tight`: the next command stands right below.
    fn show_output(&self, done: &Done, tight: bool) -> Result<()> {
        let text = self.with_status(done);
        self.tight.set(tight);
        self.show(|page| page.output(&text, tight))
    }

    /// Asks the engine without showing it: what it prints.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        Ok(shell::run(self.engine(words), false, &self.signals)?.text)
    }

    /// What is made next is to be removed, by us or by the keeper.
    fn note(&mut self, made: Made) -> Result<()> {
        let keeper = match self.keeper.take() {
            Some(keeper) => keeper,
            None => Keeper::start(self.engine(&[]), &self.value("name"))?,
        };
        self.keeper.insert(keeper).note(&made);
        self.made.push(made);
        Ok(())
    }

    /// Removes all that was made, whatever has become of it; tells what could not be. Ctrl-C does not reach it.
    pub fn clear_up(&mut self) -> bool {
        let mut clean = true;
        while let Some(made) = self.made.pop() {
            if let Err(why) = made.remove(|words| self.engine(words)) {
                tell(&format!("demo: cannot remove what it has made: {why}"));
                clean = false;
            }
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.over();
        }
        clean
    }
}

/// The keeper of the demo `name`.
pub fn keep(context: &Context<'_>, name: &str) -> Result<u8> {
    let program = std::env::current_exe()?;
    made::keep(name, |words| {
        let mut command = Command::new(&program);
        command.args(words).env("MYDOCKER_ROOT", &context.dirs.root).env_remove(MARK);
        command
    })
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.clear_up();
    }
}
