//! Words in, words out: the command line, and the only room that prints. Every error is printed here, once, as one
//! line, with the exit status that docker's scripts expect.

mod archive;
mod arg;
mod change;
mod commit;
mod cp;
mod demo;
mod doctor;
mod end;
mod events;
mod exec;
mod happened;
mod human;
mod image;
mod inspect;
mod inspect_image;
mod logs;
mod network;
mod progress;
mod ps;
mod rows;
mod run;
mod start;
mod stats;
mod system;
pub mod table;
pub mod template;
mod top;
mod volume;
mod watch;

pub use archive::{EXPORT, IMPORT, LOAD, SAVE};
pub use change::{CONTAINER, PAUSE, RENAME, UNPAUSE, UPDATE};
pub use commit::{COMMIT, DIFF};
pub use cp::CP;
pub use demo::DEMO;
pub use doctor::DOCTOR;
pub use end::{KILL, RM, STOP, WAIT};
pub use events::EVENTS;
pub use exec::EXEC;
pub use image::{HISTORY, IMAGE, IMAGES, RMI, TAG};
pub use inspect::INSPECT;
pub use logs::LOGS;
pub use network::{NETWORK, PORT};
pub use ps::PS;
pub use run::{CREATE, RUN};
pub use start::{ATTACH, RESTART, START};
pub use stats::STATS;
pub use system::SYSTEM;
pub use top::TOP;
pub use volume::VOLUME;

use crate::engine;
use crate::plan::{Dirs, Failpoint, Room};
use anyhow::{Result, bail};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches};
use std::ffi::OsString;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;

/// A word after `mydocker`, and what it does.
#[derive(Clone, Copy)]
pub struct Command {
    pub name: &'static str,
    pub about: &'static str,
    /// Its flags.
    pub flags: fn(clap::Command, &[&dyn Room]) -> clap::Command,
    /// Does it: the exit status.
    pub act: fn(&Context<'_>, &ArgMatches) -> Result<u8>,
}

/// What every command is given.
pub struct Context<'a> {
    pub rooms: &'a [&'a dyn Room],
    pub dirs: Dirs,
    pub failpoint: Option<Failpoint>,
}

/// The engine could not do it (docker's own exit status).
const ENGINE_FAILED: u8 = 125;

/// Bytes of heap that a start takes, about.
const HEAP: usize = 320 << 10;

/// Parses, dispatches, prints the error.
pub fn main(rooms: &[&dyn Room], commands: &[Command]) -> ExitCode {
    let typed = without_container(std::env::args_os().collect(), commands);
    crate::sys::warm_heap(HEAP);
    // Never dropped: to free a thousand small pieces costs a start more than it gives back to a process that ends.
    let mut parser = ManuallyDrop::new(parser(rooms, commands, &typed));
    let said = match parser.try_get_matches_from_mut(&typed) {
        Ok(said) => said,
        Err(error) => return misunderstood(&error, commands, &typed),
    };
    log_to_stderr(said.get_flag("debug"));
    let Some((name, words)) = said.subcommand() else { return ExitCode::from(ENGINE_FAILED) };
    let Some(command) = commands.iter().find(|command| command.name == name) else {
        return ExitCode::from(ENGINE_FAILED);
    };
    let root =
        said.get_one::<PathBuf>("root").cloned().or_else(|| std::env::var_os("MYDOCKER_ROOT").map(PathBuf::from));
    let failpoint = std::env::var("MYDOCKER_FAILPOINT").ok().and_then(|text| Failpoint::parse(&text));
    let result = match root.map(std::path::absolute).transpose() {
        Ok(root) => (command.act)(&Context { rooms, dirs: Dirs::new(root.as_deref()), failpoint }, words),
        Err(error) => Err(anyhow::anyhow!("--root: {error}")),
    };
    ExitCode::from(result.unwrap_or_else(|error| failed(name, &error)))
}

/// Docker's longer form: `container ls`, `container rm`; all but `container prune` mean the short one.
fn without_container(mut typed: Vec<OsString>, commands: &[Command]) -> Vec<OsString> {
    let Some(at) = typed.iter().position(|word| word == "container") else { return typed };
    let options_before = typed[1..at].iter().all(|word| word.as_encoded_bytes().starts_with(b"-"));
    let root_before = at == 3 && typed[1] == "--root";
    let Some(next) = typed.get(at + 1).and_then(|word| word.to_str()).filter(|_| options_before || root_before) else {
        return typed;
    };
    match next {
        "ls" | "list" => typed[at + 1] = "ps".into(),
        next if commands.iter().any(|command| command.name == next) => {}
        _ => return typed,
    }
    typed.remove(at);
    typed
}

/// Only a command that was typed gets its flags: to lay out those of all the others would cost every start of a
/// container a good part of a millisecond.
fn parser(rooms: &[&dyn Room], commands: &[Command], typed: &[OsString]) -> clap::Command {
    let mut parser = clap::Command::new("mydocker")
        .about("A container engine that can be read: every container is a plan")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args([
            Arg::new("root")
                .long("root")
                .value_name("DIR")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Where images and containers lie (or MYDOCKER_ROOT) [default: /var/lib/mydocker]"),
            Arg::new("debug").long("debug").action(ArgAction::SetTrue).help("Log every step (or RUST_LOG=debug)"),
        ]);
    for command in commands {
        let words = clap::Command::new(command.name).about(command.about);
        let named = typed.iter().skip(1).any(|word| word == command.name);
        parser = parser.subcommand(if named { (command.flags)(words, rooms) } else { words });
    }
    parser
}

fn log_to_stderr(debug: bool) {
    let level = if debug { "debug" } else { "warn" };
    let env = env_logger::Env::default().default_filter_or(level);
    let format = |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let level = record.level().as_str().to_ascii_lowercase();
        writeln!(out, "mydocker: {level}: {}", record.args())
    };
    // A second logger would be a programming error, and no reason to stop.
    let _ = env_logger::Builder::from_env(env).format(format).try_init();
}

/// What the user typed makes no sense, or asks for help.
fn misunderstood(error: &clap::Error, commands: &[Command], typed: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed pipe (`mydocker --help | head -1`) is no error of ours.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches(':');
            let named = |word: &OsString| commands.iter().find(|command| word == command.name);
            let command = typed.iter().skip(1).find_map(named);
            let help = command.map_or("--help".to_string(), |command| format!("{} --help", command.name));
            // Nobody to tell, if stderr is full or closed: the exit status has to do.
            let _ = write!(std::io::stderr(), "mydocker: {line}\nhint: mydocker {help}\n");
            match error.kind() {
                // Docker's: 125 for a flag that is wrong, 1 for words that are missing.
                ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => ExitCode::from(1),
                _ => ExitCode::from(ENGINE_FAILED),
            }
        }
    }
}

/// Text for stdout; a full disk or a closed pipe is an error.
fn print(text: &str) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(0),
        Err(error) => bail!("cannot write to stdout: {error}"),
    }
}

/// Prints why it could not be done: the exit status. A container that could not be run is the engine's failure (125);
/// every other command has simply failed (1).
fn failed(command: &str, error: &anyhow::Error) -> u8 {
    let (line, status) = engine::words(error);
    tell(&line);
    status.unwrap_or(if RUNS.contains(&command) { ENGINE_FAILED } else { 1 })
}

/// The commands of which docker reserves 125 for the engine.
const RUNS: [&str; 4] = ["run", "create", "doctor", "demo"];

/// One line on stderr. Nobody to tell, if that is closed: the exit status has to do.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "mydocker: {line}");
}

// ch07
/// Does `act` for each word, telling what failed and going on: 1 if anything did.
fn each<'a>(words: impl Iterator<Item = &'a str>, mut act: impl FnMut(&str) -> Result<()>) -> u8 {
    let mut status = 0;
    for word in words {
        if let Err(error) = act(word) {
            tell(&engine::words(&error).0);
            status = 1;
        }
    }
    status
}

// ch07
/// The arguments of that name, as typed.
fn strings<'a>(said: &'a ArgMatches, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    said.get_many::<String>(name).into_iter().flatten().map(String::as_str)
}

// ch07
fn string<'a>(said: &'a ArgMatches, name: &str) -> Option<&'a str> {
    said.get_one::<String>(name).map(String::as_str)
}

// ch07
/// CONTAINER…, at least one.
fn containers() -> Arg {
    Arg::new("containers").value_name("CONTAINER").num_args(1..).required(true).help("Names or ids")
}

// ch07
/// One CONTAINER.
fn container() -> Arg {
    Arg::new("container").value_name("CONTAINER").required(true).help("Name or id")
}

// ch07
fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}
