//! `mydocker stop`, `kill`, `wait`, `rm`: from life to rest, and away.

use super::start::{stop_flags, timeout};
use super::{Command, Context, containers, each, flag, print, string, strings, tell};
use crate::container::{Missing, find};
use crate::engine;
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};

pub const STOP: Command = Command {
    name: "stop",
    about: "Ask containers to end, and kill them if they do not",
    flags: |command, _| command.arg(containers()).args(stop_flags()),
    act: |context, said| {
        let timeout = timeout(said)?;
        Ok(each(strings(said, "containers"), |word| {
            engine::stop(&context.dirs, &find(&context.dirs, word)?, timeout)?;
            print(&format!("{word}\n")).map(drop)
        }))
    },
};

pub const KILL: Command = Command {
    name: "kill",
    about: "Send a signal to containers",
    flags: |command, _| {
        let signal = Arg::new("signal").short('s').long("signal").value_name("SIGNAL").help("Name or number (KILL)");
        command.args([containers(), signal.allow_negative_numbers(true)])
    },
    act: |context, said| {
        let signal = string(said, "signal").map_or(Ok(libc::SIGKILL), crate::process::signal_number)?;
        Ok(each(strings(said, "containers"), |word| {
            engine::kill(&context.dirs, &find(&context.dirs, word)?, signal)?;
            print(&format!("{word}\n")).map(drop)
        }))
    },
};

pub const WAIT: Command = Command {
    name: "wait",
    about: "Wait until containers end, and print their exit statuses",
    flags: |command, _| command.arg(containers()),
    act: |context, said| {
        Ok(each(strings(said, "containers"), |word| {
            let status = engine::wait(&context.dirs, &find(&context.dirs, word)?)?;
            print(&format!("{status}\n")).map(drop)
        }))
    },
};

pub const RM: Command = Command {
    name: "rm",
    about: "Remove containers",
    flags: |command, _| {
        command.args([
            containers(),
            flag("force", "Kill what runs; pass over what is not there").short('f'),
            flag("volumes", "Remove the volumes that nobody named, too").short('v'),
            flag("link", "Remove a link between containers (there are none)").short('l'),
        ])
    },
    act: remove,
};

fn remove(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    if said.get_flag("link") {
        bail!("--link: there are no links to remove");
    }
    let (force, volumes) = (said.get_flag("force"), said.get_flag("volumes"));
    engine::as_root()?;
    Ok(each(strings(said, "containers"), |word| {
        let id = match find(&context.dirs, word) {
            Err(missing @ Missing::None(_)) if force => {
                tell(&missing.to_string());
                return Ok(());
            }
            other => other?,
        };
        engine::remove(context.rooms, &context.dirs, &id, force, volumes, context.failpoint.as_ref())?;
        print(&format!("{word}\n")).map(drop)
    }))
}
