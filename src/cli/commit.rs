//! `mydocker commit|diff`: what a container has changed, as an image and as a list.

use super::arg::{flag, many, string, value};
use super::{Command, Context, happened, print};
use crate::cgroup::{Freezer, freezer};
use crate::container::{Event, PAUSED, Record, tell};
use crate::image::{Container, Store, commit as make};
use crate::plan::Room;
use anyhow::{Context as _, Result};
use clap::{Arg, ArgMatches};

pub const COMMIT: Command =
    Command { name: "commit", about: "Make an image of a container's changes", flags: commit_flags, act: commit };
pub const DIFF: Command =
    Command { name: "diff", about: "List what a container has changed", flags: diff_flags, act: diff };

fn commit_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        value("author", "TEXT", "Who made it").short('a'),
        many(
            value("change", "INSTRUCTION", "Change the config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, …")
                .short('c'),
        ),
        value("message", "TEXT", "A comment").short('m'),
        value("pause", "true|false", "Pause the container meanwhile (true)")
            .short('p')
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(["true", "false"]),
        flag("no-pause", "The same as --pause=false"),
        Arg::new("container").value_name("CONTAINER").required(true),
        Arg::new("name").value_name("REPOSITORY[:TAG]"),
    ])
}

fn commit(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let container = Container::find(&context.dirs.root, string(said, "container").unwrap_or_default())?;
    let mut words = super::archive::words(said)?;
    words.author = string(said, "author").map(str::to_string);
    let pause = string(said, "pause") != Some("false") && !said.get_flag("no-pause");
    let progress = super::progress::Progress::of_time("Committing");
    let frozen = if pause { freeze(context, &container)? } else { None };
    let id = make::commit(&store, &container, &words);
    drop((frozen, progress));
    let id = id?;
    let name = words.name.as_ref().map(ToString::to_string).unwrap_or_default();
    if !name.is_empty() {
        happened::image(context, "tag", id.as_str(), &name);
    }
    if let Ok(record) = Record::read(&context.dirs, &container.id) {
        let event = Event::of(&record.spec, "commit").with("comment", words.message.as_deref().unwrap_or_default());
        tell(&context.dirs, &[event.with("imageID", &id).with("imageRef", &name)]);
    }
    print(&format!("{id}\n"))
}

/// Lets the container go on, however the commit ends.
struct Frozen(Freezer);

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.0.thaw() {
            log::warn!("the container cannot be thawed: {error}");
        }
    }
}

/// Freezes it, if it runs; one that is paused already stays so. Marked as `pause` does it: should we be killed before it
/// is thawed, it is seen to be paused, and `unpause` lets it go on.
fn freeze(context: &Context<'_>, container: &Container) -> Result<Option<Frozen>> {
    let path = container.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let Some(freezer) = path.and_then(|path| freezer(&path)).filter(|freezer| !freezer.is_frozen()) else {
        return Ok(None);
    };
    let mark = context.dirs.running(&container.id).join(PAUSED);
    std::fs::write(&mark, "").with_context(|| format!("cannot write `{}`", mark.display()))?;
    freezer.freeze().with_context(|| format!("cannot pause container {}", container.id.short()))?;
    Ok(Some(Frozen(freezer)))
}

fn diff_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.arg(Arg::new("container").value_name("CONTAINER").required(true))
}

fn diff(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    use std::io::Write;
    let container = Container::find(&context.dirs.root, string(said, "container").unwrap_or_default())?;
    crate::tree::raise_open_files();
    let mut text = Vec::new();
    for (kind, path) in container.changes()? {
        text.extend_from_slice(&[kind.letter() as u8, b' ']);
        text.extend_from_slice(&path);
        text.push(b'\n');
    }
    std::io::stdout().write_all(&text).context("cannot write to stdout")?;
    Ok(0)
}
