//! `mydocker run`.

use super::watch::{Teller, Telling};
use super::{Command, Context, print, tell};
use crate::engine::Attach; // ch07
use crate::engine::{self, Ended, Request};
use crate::plan::Id; // ch07
use crate::plan::{Name, Room, dry_run};
use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches};

pub const RUN: Command = Command { name: "run", about: "Run a command in a new container", flags, act };

// ch07
pub const CREATE: Command =
    Command { name: "create", about: "Make a container and do not start it", flags, act: act_create };

fn flags(command: clap::Command, rooms: &[&dyn Room]) -> clap::Command {
    let flag = |arg: Arg| arg.action(ArgAction::SetTrue);
    let name = command.get_name().to_string();
    let command = command
        .override_usage(format!("mydocker {name} [OPTIONS] [IMAGE] [COMMAND] [ARG...]"))
        .disable_help_flag(true)
        .args([
            Arg::new("help").long("help").action(ArgAction::Help).help("Print help"),
            flag(Arg::new("rm").long("rm").help("Remove the container when it ends")),
            Arg::new("name").long("name").value_name("NAME").help("Name of the container"),
            rooms_arg("only").help("Only these rooms, for a demonstration of what each one does"),
            rooms_arg("without").help("All rooms but these, for a demonstration"),
        ])
        .args(telling_flags())
        .arg(
            Arg::new("words")
                .num_args(0..)
                .trailing_var_arg(true)
                .value_name("IMAGE|COMMAND")
                .help("The image (default: busybox:latest), the command and its arguments"),
        );
    let command = rooms.iter().fold(command, |command, room| room.flags(command));
    // As docker: what stands behind a flag is its value, even if it begins with a minus, and is refused as one (-u -1).
    // And a flag that is said twice has its last value.
    command.args_override_self(true).mut_args(|arg| match arg.get_action() {
        ArgAction::Set | ArgAction::Append if !arg.is_positional() => arg.allow_hyphen_values(true),
        _ => arg,
    })
}

/// How much is told of a plan, or whether it is done at all.
pub(super) fn telling_flags() -> [Arg; 3] {
    let flag = |arg: Arg| arg.action(ArgAction::SetTrue);
    [
        Arg::new("explain")
            .long("explain")
            .value_name("text|json")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("text")
            .value_parser(["text", "json"])
            .help("Tell every step while it happens, with its reason and where to look"),
        flag(Arg::new("dry-run").long("dry-run").help("Print the plan as shell commands; do nothing")),
        flag(Arg::new("step").long("step").help("Wait for Enter before every step")),
    ]
}

fn rooms_arg(name: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("ROOM,…").value_delimiter(',').action(ArgAction::Append)
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let rooms = chosen(context.rooms, said)?;
    let first = request(context, &rooms, said)?;
    if first.dry {
        let prepared = engine::prepare(first)?;
        return print(&dry_run(&prepared.plan, &prepared.spec));
    }
    let mut teller = Teller::new(telling(said));
    // ch07
    if context.rooms.iter().any(|room| room.name() == "container") {
        return act_named(context, &rooms, said, first, &mut teller);
    }
    let Ended { status, obituary } = engine::run(first, &mut teller, context.failpoint.clone())?;
    obituary.iter().for_each(|line| tell(line));
    Ok(status)
}

// ch07
/// The same for one that may stay: it has a name, and it may run in the background.
fn act_named(
    context: &Context<'_>,
    rooms: &[&dyn Room],
    said: &ArgMatches,
    first: Request<'_>,
    teller: &mut Teller,
) -> Result<u8> {
    let (detached, unnamed) = (first.detached, first.name.is_none());
    let again = |teller: &mut Teller| -> Result<(Option<Id>, Option<Ended>)> {
        let (request, failpoint) = (request(context, rooms, said)?, context.failpoint.clone());
        Ok(match detached {
            true => (Some(engine::run_detached(request, teller, failpoint)?), None),
            false => (None, Some(engine::run(request, teller, failpoint)?)),
        })
    };
    match engine::until_named(unnamed, || again(teller))? {
        (Some(id), _) => print(&format!("{id}\n")),
        (_, Some(Ended { status, obituary })) => {
            obituary.iter().for_each(|line| tell(line));
            Ok(status)
        }
        _ => Ok(0),
    }
}

// ch07
fn act_create(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let rooms = chosen(context.rooms, said)?;
    let request = || -> Result<Request<'_>> { Ok(Request { starts: false, ..request(context, &rooms, said)? }) };
    let first = request()?;
    let unnamed = first.name.is_none();
    if first.dry {
        let prepared = engine::prepare(first)?;
        return print(&dry_run(&prepared.plan.only_claim(), &prepared.spec));
    }
    let mut teller = Teller::new(telling(said));
    let id = engine::until_named(unnamed, || engine::create(request()?, &mut teller, context.failpoint.clone()))?;
    print(&format!("{id}\n"))
}

fn request<'a>(context: &Context<'_>, rooms: &'a [&'a dyn Room], said: &'a ArgMatches) -> Result<Request<'a>> {
    let name = said.get_one::<String>("name").map(|name| Name::parse(name)).transpose()?;
    let words = said.get_many::<String>("words").into_iter().flatten().cloned().collect();
    // The flag is the container room's: before it opens, everything runs in the foreground.
    let detached = said.try_get_one::<bool>("detach").ok().flatten().copied().unwrap_or(false); // ch07
    let dry = said.get_flag("dry-run");
    Ok(Request {
        rooms,
        attach: attach(said)?, // ch07
        said,
        dirs: context.dirs.clone(),
        name,
        words,
        detached,     // ch07
        starts: true, // ch07
        dry,
    })
}

// ch07
/// Whoever sits at the container may leave it by keys. With `--step` nobody else may take over: it reads the terminal.
fn attach(said: &ArgMatches) -> Result<Option<Attach>> {
    let Ok(keys) = said.try_get_one::<String>("detach-keys") else { return Ok(None) };
    let wanted = Attach { owns: true, ..super::start::wanted(said)? };
    if keys.is_some() && said.get_flag("step") {
        bail!("--detach-keys: with --step nobody else watches over the container, so it cannot be left");
    }
    Ok((said.get_flag("interactive") && said.get_flag("tty") && !said.get_flag("step")).then_some(wanted))
}

pub(super) fn telling(said: &ArgMatches) -> Telling {
    match (said.get_flag("step"), said.get_one::<String>("explain").map(String::as_str)) {
        (true, _) => Telling::Steps,
        (_, Some("json")) => Telling::Json,
        (_, Some(_)) => Telling::Text,
        _ => Telling::Nothing,
    }
}

/// The rooms that are left after `--only` and `--without`; what is taken away is said loudly.
fn chosen<'a>(rooms: &[&'a dyn Room], said: &ArgMatches) -> Result<Vec<&'a dyn Room>> {
    let list = |flag: &str| -> Result<Option<Vec<String>>> {
        let Some(names) = said.get_many::<String>(flag) else { return Ok(None) };
        let names: Vec<_> = names.cloned().collect();
        let known = |name: &String| rooms.iter().any(|room| room.name() == name);
        match names.iter().find(|name| !known(name)) {
            Some(unknown) => {
                let rooms: Vec<_> = rooms.iter().map(|room| room.name()).collect();
                bail!("--{flag}: no room `{}`; there are {}", unknown.escape_debug(), rooms.join(", "))
            }
            None => Ok(Some(names)),
        }
    };
    let (only, without) = (list("only")?, list("without")?.unwrap_or_default());
    let keeps = |name: &str| {
        // Without a process there is nothing to demonstrate; the record of a container isolates nothing.
        name == "process"
            || name == "container"
            || only.as_ref().is_none_or(|only| only.iter().any(|kept| kept == name))
                && !without.iter().any(|taken| taken == name)
    };
    if without.iter().any(|name| name == "process") {
        bail!("--without: there would be no process to run");
    }
    let (kept, taken): (Vec<&dyn Room>, Vec<&dyn Room>) = rooms.iter().partition(|room| keeps(room.name()));
    if !taken.is_empty() {
        let taken: Vec<&str> = taken.iter().map(|room| room.name()).collect();
        log::warn!("this is a demonstration, not a container: without {}", taken.join(", "));
    }
    Ok(kept)
}
