//! `mydocker pause`, `unpause`, `rename`, `update`, `port`, and `container prune`.

use super::watch::{Teller, Telling};
use super::{Command, Context, container, containers, each, flag, happened, print, string, strings};
use crate::container::{Moment, Record, Status, find, list, restart, status};
use crate::engine;
use crate::plan::{Name, has_owner};
use anyhow::{Result, bail};
use clap::{Arg, ArgAction};

pub const PAUSE: Command = Command {
    name: "pause",
    about: "Stop every process of containers where it stands",
    flags: |command, _| command.arg(containers()),
    act: |context, said| {
        Ok(each(strings(said, "containers"), |word| {
            engine::pause(&context.dirs, &find(&context.dirs, word)?)?;
            print(&format!("{word}\n")).map(drop)
        }))
    },
};

pub const UNPAUSE: Command = Command {
    name: "unpause",
    about: "Let paused containers go on",
    flags: |command, _| command.arg(containers()),
    act: |context, said| {
        Ok(each(strings(said, "containers"), |word| {
            engine::unpause(&context.dirs, &find(&context.dirs, word)?)?;
            print(&format!("{word}\n")).map(drop)
        }))
    },
};

pub const RENAME: Command = Command {
    name: "rename",
    about: "Give a container another name",
    flags: |command, _| command.args([container(), Arg::new("name").value_name("NEW_NAME").required(true)]),
    act: |context, said| {
        let id = find(&context.dirs, string(said, "container").unwrap_or_default())?;
        let name = Name::parse(string(said, "name").unwrap_or_default())?;
        engine::rename(&context.dirs, &id, &name).map(|()| 0)
    },
};

pub const UPDATE: Command = Command {
    name: "update",
    about: "Change the limits of containers, or their restart policy",
    flags: |command, rooms| {
        let policy = Arg::new("restart").long("restart").value_name("POLICY");
        let command = command.args([containers(), policy.help("no, always, unless-stopped or on-failure[:MAX]")]);
        rooms.iter().fold(command, |command, room| room.update_flags(command))
    },
    act: |context, said| {
        let restart = string(said, "restart").map(restart).transpose()?;
        Ok(each(strings(said, "containers"), |word| {
            let id = find(&context.dirs, word)?;
            let (mut teller, failpoint) = (Teller::new(Telling::Nothing), context.failpoint.clone());
            engine::update(context.rooms, said, restart, &context.dirs, &id, &mut teller, failpoint)?;
            print(&format!("{word}\n")).map(drop)
        }))
    },
};

pub const CONTAINER: Command = Command {
    name: "container",
    about: "`container prune`: remove every container at rest",
    flags: |command, _| {
        let yes = flag("force", "Do not ask").short('f');
        let filter = Arg::new("filter").long("filter").value_name("until=TIME|label=NAME").action(ArgAction::Append);
        let prune = clap::Command::new("prune").about("Remove every container at rest");
        let prune = prune.args([yes, filter.help("Only those that match")]);
        command.subcommand_required(true).subcommand(prune)
    },
    act: |context, said| match said.subcommand() {
        Some(("prune", said)) => prune(context, said),
        _ => bail!("container: there is `container prune`; every other word goes without `container`"),
    },
};

/// Whether a container is one of those that are meant.
type Wanted = Box<dyn Fn(&Record) -> bool>;

/// What `--filter` says of containers.
pub(super) fn wanted<'a>(filters: impl Iterator<Item = &'a str>) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for text in filters {
        match text.split_once('=') {
            Some(("until", time)) => {
                let moment = Moment::parse("--filter: until", time)?.0;
                wanted.push(Box::new(move |record| record.created < moment));
            }
            Some((kind @ ("label" | "label!"), label)) => {
                let (name, value) = label.split_once('=').map_or((label, None), |(name, value)| (name, Some(value)));
                let (name, value, has) = (name.to_string(), value.map(str::to_string), kind == "label");
                wanted.push(Box::new(move |record| {
                    let found = record.life().labels.get(&name);
                    found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found)) == has
                }));
            }
            _ => bail!("--filter: invalid filter '{}': there are until and label", text.escape_debug()),
        }
    }
    Ok(wanted)
}

/// Removes the containers at rest that are meant: their ids, the bytes that are free again, and the exit status.
pub(super) fn sweep(context: &Context<'_>, wanted: &[Wanted]) -> Result<(Vec<String>, u64, u8)> {
    engine::as_root()?;
    engine::recover_all(&context.dirs);
    let (mut removed, mut freed, mut failed) = (Vec::new(), 0, 0);
    for record in list(&context.dirs) {
        let id = &record.spec.id;
        let at_rest = matches!(status(&record), Status::Created | Status::Exited) && !has_owner(&context.dirs, id);
        if !at_rest || !wanted.iter().all(|wanted| wanted(&record)) {
            continue;
        }
        let size = super::ps::tree_size(&record.spec.folder().join("upper"));
        match engine::remove(context.rooms, &context.dirs, id, false, false, context.failpoint.as_ref()) {
            Ok(()) => {
                removed.push(id.to_string());
                freed += size;
            }
            Err(error) => {
                super::tell(&format!("{error:#}"));
                failed = 1;
            }
        }
    }
    happened::pruned(context, "container", freed);
    Ok((removed, freed, failed))
}

fn prune(context: &Context<'_>, said: &clap::ArgMatches) -> Result<u8> {
    let wanted = wanted(strings(said, "filter"))?;
    if !said.get_flag("force") {
        print("WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(0);
        }
    }
    let (removed, freed, failed) = sweep(context, &wanted)?;
    let head =
        if removed.is_empty() { String::new() } else { format!("Deleted Containers:\n{}\n\n", removed.join("\n")) };
    print(&format!("{head}Total reclaimed space: {}\n", super::ps::decimal(freed)))?;
    Ok(failed)
}
