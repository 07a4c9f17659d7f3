//! `mydocker exec`.

use super::run::{telling, telling_flags};
use super::start::{LEFT, detach_keys_flag, wanted};
use super::watch::Teller;
use super::{Command, Context, flag, print, strings};
use crate::container::find;
use crate::engine::{self, Exec};
use crate::plan::dry_run;
use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgMatches};

pub const EXEC: Command = Command {
    name: "exec",
    about: "Run one more command in a container that runs",
    flags: |command, rooms| {
        let command = command
            .override_usage("mydocker exec [OPTIONS] CONTAINER COMMAND [ARG...]")
            .arg(flag("detach", "Return when it runs").short('d'))
            .arg(detach_keys_flag())
            .args(telling_flags())
            .arg(Arg::new("words").num_args(2..).required(true).trailing_var_arg(true).value_name("CONTAINER COMMAND"));
        rooms.iter().fold(command, |command, room| room.exec_flags(command))
    },
    act,
};

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let mut words = strings(said, "words").map(str::to_string);
    let container = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    if words.first().is_none_or(String::is_empty) {
        bail!("exec: no command specified");
    }
    let id = find(&context.dirs, &container)?;
    let (rooms, dirs, detached) = (context.rooms, &context.dirs, said.get_flag("detach"));
    let exec = Exec { rooms, said, dirs, id, words, detached, detach_keys: wanted(said)?.detach_keys };
    if said.get_flag("dry-run") {
        let prepared = engine::prepare_exec(&exec)?;
        return print(&dry_run(&prepared.plan, &prepared.spec));
    }
    engine::out_of_reach()?;
    engine::exec(&exec, &mut Teller::new(telling(said)), context.failpoint.clone())?.context(LEFT)
}
