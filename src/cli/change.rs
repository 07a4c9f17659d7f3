//! `mydocker pause`, `unpause`, `rename`, `update`, `port`, and `container prune`.

use super::watch::{Teller, Telling};
use super::{Command, Context, container, containers, each, flag, happened, print, rows, string, strings};
use crate::container::{Moment, Record, Status, find, list, restart, status};
use crate::engine;
use crate::plan::{Name, has_owner};
use anyhow::{Result, bail};
use clap::Arg;

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
        let prune = clap::Command::new("prune").about("Remove every container at rest");
        let prune = prune.args([yes, rows::filter(&FILTERS)]);
        command.subcommand_required(true).subcommand(prune)
    },
    act: |context, said| match said.subcommand() {
        Some(("prune", said)) => prune(context, said),
        _ => bail!("container: there is `container prune`; every other word goes without `container`"),
    },
};

/// Whether a container is one of those that are meant.
type Wanted = Box<dyn Fn(&Record) -> bool>;

/// What a `prune` of containers may be told to look at.
pub(super) const FILTERS: [&str; 3] = ["until", "label", "label!"];

/// What `--filter` says of containers.
pub(super) fn wanted(filters: &[(String, String)]) -> Result<Vec<Wanted>> {
    let one = |(name, value): &(String, String)| -> Result<Wanted> {
        if name == "until" {
            let moment = Moment::parse("--filter: until", value)?.0;
            return Ok(Box::new(move |record| record.created < moment));
        }
        let (label, has) = (value.clone(), name == "label");
        Ok(Box::new(move |record| rows::has_label(&record.life().labels, &label) == has))
    };
    filters.iter().map(one).collect()
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
    let wanted = wanted(&rows::filters(said, &FILTERS)?)?;
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
