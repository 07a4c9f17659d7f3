//! `mydocker start`, `restart`: from rest to life.

use super::run::{telling, telling_flags};
use super::watch::{Teller, Telling};
use super::{Command, Context, containers, each, flag, string, strings};
use crate::container::{Event, Missing, Record, find, list, seconds, tell};
use crate::engine::{self, Attach, Timeout};
use crate::plan::{Restart, dry_run};
use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgMatches};

pub const START: Command = Command {
    name: "start",
    about: "Start containers that are at rest",
    flags: |command, _| {
        command
            .args([
                containers().required(false),
                flag("all-restartable", "Everything with a restart policy that was not stopped by its user (at boot)"),
            ])
            .args(telling_flags())
            .args(attach_flags())
            .args([
                flag("attach", "Stay with it, and end with its exit status").short('a'),
                flag("interactive", "Pass stdin on").short('i'),
            ])
    },
    act: act_start,
};

pub const ATTACH: Command = Command {
    name: "attach",
    about: "Stay with a container that runs: see what it writes, type into it",
    flags: |command, _| {
        command.args(attach_flags()).args([super::container(), flag("no-stdin", "Do not pass stdin on")])
    },
    act: |context, said| {
        let id = find(&context.dirs, string(said, "container").unwrap_or_default())?;
        let wanted = Attach { input: !said.get_flag("no-stdin"), ..wanted(said)? };
        engine::attach(&context.dirs, &id, &wanted)?.context(LEFT)
    },
};

/// Docker's words when the caller leaves an `attach` or an `exec`, whose exit status he will not learn: it is 1.
pub(super) const LEFT: &str = "read escape sequence";

/// `--detach-keys`, `--sig-proxy`.
fn attach_flags() -> [Arg; 2] {
    [
        detach_keys_flag(),
        Arg::new("sig-proxy")
            .long("sig-proxy")
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_value("true")
            .default_missing_value("true")
            .value_parser(clap::value_parser!(bool))
            .help("Pass signals on"),
    ]
}

pub(super) fn detach_keys_flag() -> Arg {
    Arg::new("detach-keys").long("detach-keys").value_name("KEYS").help("Keys that leave it alone (ctrl-p,ctrl-q)")
}

pub(super) fn wanted(said: &ArgMatches) -> Result<Attach> {
    let signals = said.try_get_one("sig-proxy").ok().flatten().copied().unwrap_or(true);
    let mut wanted = Attach { signals, ..Attach::default() };
    if let Some(keys) = string(said, "detach-keys") {
        wanted.detach_keys = engine::detach_keys(keys)?;
    }
    Ok(wanted)
}

pub const RESTART: Command = Command {
    name: "restart",
    about: "Stop containers and start them again",
    flags: |command, _| command.arg(containers()).args(stop_flags()),
    act: act_restart,
};

/// `-t` and `-s` of `stop` and `restart`.
pub(super) fn stop_flags() -> [Arg; 2] {
    [
        Arg::new("timeout")
            .short('t')
            .long("timeout")
            .alias("time")
            .value_name("SECONDS")
            .allow_negative_numbers(true)
            .help("Seconds until SIGKILL; -1: never"),
        Arg::new("signal").short('s').long("signal").value_name("SIGNAL").help("Signal that asks the command to end"),
    ]
}

pub(super) fn timeout(said: &ArgMatches) -> Result<Timeout> {
    Ok(Timeout {
        seconds: string(said, "timeout").map(|text| seconds("--timeout", text)).transpose()?,
        signal: string(said, "signal").map(crate::process::signal_number).transpose()?,
    })
}

fn act_start(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    if said.get_flag("all-restartable") {
        return start_all(context);
    }
    if said.get_many::<String>("containers").is_none() {
        bail!("which container? (hint: mydocker start NAME)");
    }
    if said.get_flag("attach") || said.get_flag("interactive") {
        let words: Vec<&str> = strings(said, "containers").collect();
        let [word] = words[..] else { bail!("you cannot start and attach multiple containers at once") };
        let (id, wanted) =
            (find(&context.dirs, word)?, Attach { input: said.get_flag("interactive"), ..wanted(said)? });
        let (mut teller, failpoint) = (Teller::new(telling(said)), context.failpoint.clone());
        let ended = engine::start_attached(context.rooms, &context.dirs, &id, &wanted, &mut teller, failpoint)?;
        return Ok(ended.unwrap_or(0));
    }
    Ok(each(strings(said, "containers"), |word| {
        let id = find(&context.dirs, word)?;
        if said.get_flag("dry-run") {
            let prepared = engine::load(context.rooms, Record::read(&context.dirs, &id)?)?;
            return super::print(&dry_run(&prepared.plan, &prepared.spec)).map(drop);
        }
        start(context, word, telling(said))?;
        super::print(&format!("{word}\n")).map(drop)
    }))
}

fn start(context: &Context<'_>, word: &str, telling: Telling) -> Result<()> {
    let id = find(&context.dirs, word)?;
    engine::start(context.rooms, &context.dirs, &id, &mut Teller::new(telling), context.failpoint.clone())
}

/// What a daemon does at boot. `always` means even what the user stopped before (docker's rule).
fn start_all(context: &Context<'_>) -> Result<u8> {
    engine::make_folders(&context.dirs)?;
    engine::recover_all(&context.dirs);
    let wanted = list(&context.dirs).into_iter().filter(|record| match record.life().restart {
        Restart::Always => true,
        Restart::UnlessStopped => !record.rest.stopped,
        // It ended by itself, or the machine went down under it.
        Restart::OnFailure(_) => !record.rest.stopped && record.rest.exit_code != 0,
        Restart::No => false,
    });
    let names: Vec<String> = wanted.map(|record| record.spec.id.to_string()).collect();
    Ok(each(names.iter().map(String::as_str), |id| match start(context, id, Telling::Nothing) {
        Err(error) if error.is::<Missing>() => Ok(()),
        other => other,
    }))
}

fn act_restart(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let timeout = timeout(said)?;
    Ok(each(strings(said, "containers"), |word| {
        let id = find(&context.dirs, word)?;
        engine::stop(&context.dirs, &id, timeout)?;
        start(context, id.as_str(), Telling::Nothing)?;
        let record = Record::read(&context.dirs, &id)?;
        tell(&context.dirs, &[Event::of(&record.spec, "restart")]);
        super::print(&format!("{word}\n")).map(drop)
    }))
}
