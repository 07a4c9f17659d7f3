//! `mydocker pause`, `unpause`, `rename`, `update`, `port`, and `container prune`.

use super::watch::{Teller, Telling};
use super::{Command, Context, container, containers, each, print, string, strings};
use crate::container::{find, restart};
use crate::engine;
use crate::plan::Name;
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

pub const PORT: Command = Command {
    name: "port",
    about: "List the published ports of a container",
    flags: |command, _| command.args([container(), Arg::new("port").value_name("PRIVATE_PORT[/PROTO]")]),
    act: port,
};

fn port(context: &Context<'_>, said: &clap::ArgMatches) -> Result<u8> {
    let word = string(said, "container").unwrap_or_default();
    find(&context.dirs, word)?;
    match string(said, "port") {
        None => Ok(0),
        Some(port) => bail!("no public port '{}' published for {word}", port.escape_debug()),
    }
}
