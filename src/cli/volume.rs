//! `mydocker volume create|ls|inspect|rm|prune`.

use super::arg::{flag, many, string, strings, value, words};
use super::{Command, Context, happened, human, print, rows};
use crate::plan::Room;
use crate::volume::{Volume, Volumes, find_users};
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const VOLUME: Command = Command { name: "volume", about: "Manage volumes", flags, act };

fn flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    let sub = |name: &'static str, about: &'static str| clap::Command::new(name).about(about);
    command.subcommand_required(true).arg_required_else_help(true).subcommands([
        sub("create", "Make a volume").args([
            value("driver", "DRIVER", "Only `local`").short('d'),
            many(value("label", "NAME=VALUE", "A label")),
            Arg::new("name").value_name("VOLUME"),
        ]),
        sub("ls", "List volumes").visible_alias("list").args([
            flag("quiet", "Only names").short('q'),
            rows::filter(&LIST_FILTERS).short('f'),
            value("format", "TEMPLATE", "`table`, `json`, or a Go template"),
        ]),
        sub("inspect", "Show all that is known of volumes")
            .args([value("format", "TEMPLATE", "A Go template").short('f'), words("names", "VOLUME", 1)]),
        sub("rm", "Remove volumes")
            .visible_alias("remove")
            .args([flag("force", "No error for what is not there").short('f'), words("names", "VOLUME", 1)]),
        sub("prune", "Remove volumes that no container has").args([
            flag("all", "Named ones too").short('a'),
            flag("force", "Do not ask").short('f'),
            rows::filter(&PRUNE_FILTERS),
        ]),
    ])
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let volumes = Volumes::new(&context.dirs.root);
    match said.subcommand() {
        Some(("create", said)) => create(context, &volumes, said),
        Some(("ls", said)) => list(context, &volumes, said),
        Some(("inspect", said)) => inspect(&volumes, said),
        Some(("rm", said)) => remove(context, &volumes, said),
        Some(("prune", said)) => prune(context, &volumes, said),
        _ => bail!("mydocker volume: which of its commands?"),
    }
}

fn create(context: &Context<'_>, volumes: &Volumes, said: &ArgMatches) -> Result<u8> {
    if let Some(driver) = string(said, "driver").filter(|driver| *driver != "local") {
        bail!("--driver: there is only `local`, not `{}`", driver.escape_debug());
    }
    let name = match string(said, "name") {
        Some(name) => name.to_string(),
        None => crate::plan::Id::random()?.to_string(),
    };
    crate::volume::check_name(&name)?;
    let labels: BTreeMap<String, String> = strings(said, "label")
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let new = volumes.get(&name).is_err();
    volumes.provide(&name, string(said, "name").is_none(), &labels, &|_| Ok(()))?;
    if new {
        happened::volume(context, "create", &name);
    }
    print(&format!("{name}\n"))
}

pub(super) fn describe(volumes: &Volumes, volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created_at, "Driver": "local",
        "Labels": if volume.labels.is_empty() { Value::Null } else { json!(volume.labels) },
        "Mountpoint": volumes.folder(&volume.name).join("_data"), "Name": volume.name, "Options": null, "Scope": "local",
    })
}

const LIST_FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];
const PRUNE_FILTERS: [&str; 3] = ["label", "label!", "all"];

fn list(context: &Context<'_>, volumes: &Volumes, said: &ArgMatches) -> Result<u8> {
    let mut all = volumes.list();
    let users = find_users(&context.dirs);
    for (name, value) in rows::filters(said, &LIST_FILTERS)? {
        match name.as_str() {
            "dangling" => {
                let wanted = rows::truth(&name, &value)?;
                all.retain(|volume| users.contains_key(&volume.name) != wanted);
            }
            "driver" => all.retain(|_| value == "local"),
            "label" => all.retain(|volume| rows::has_label(&volume.labels, &value)),
            _ => all.retain(|volume| volume.name.contains(&value)),
        }
    }
    let line = |volume: &Volume| {
        let labels: Vec<String> = volume.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        json!({
            "Driver": "local", "Name": volume.name, "Scope": "local", "Labels": labels.join(","),
            "Mountpoint": volumes.folder(&volume.name).join("_data"), "Size": "N/A", "Links": "N/A",
            "Availability": "N/A", "Group": "N/A", "Status": "N/A",
        })
    };
    let lines: Vec<Value> = all.iter().map(line).collect();
    if said.get_flag("quiet") {
        return print(&all.iter().map(|volume| format!("{}\n", volume.name)).collect::<String>());
    }
    let headings = [
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Labels", "LABELS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Size", "SIZE"),
        ("Links", "LINKS"),
    ];
    print(&rows::show(&lines, string(said, "format"), "{{.Driver}}\t{{.Name}}", &headings)?)
}

fn inspect(volumes: &Volumes, said: &ArgMatches) -> Result<u8> {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for name in strings(said, "names") {
        match volumes.get(name) {
            Ok(volume) => all.push(describe(volumes, &volume)),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let text = match string(said, "format").filter(|format| *format != "json") {
        Some(format) => {
            let template = super::template::Template::parse(format)?;
            all.iter().map(|one| Ok(template.render(one)? + "\n")).collect::<Result<String>>()?
        }
        None => serde_json::to_string_pretty(&all)? + "\n",
    };
    print(&text)?;
    if errors.is_empty() { Ok(0) } else { bail!(errors.join("; ")) }
}

fn remove(context: &Context<'_>, volumes: &Volumes, said: &ArgMatches) -> Result<u8> {
    let users = find_users(&context.dirs);
    let (mut text, mut errors) = (String::new(), Vec::new());
    for name in strings(said, "names") {
        match volumes.remove(name, &users) {
            Ok(()) => {
                text += &format!("{name}\n");
                happened::volume(context, "destroy", name);
            }
            Err(_) if said.get_flag("force") && volumes.get(name).is_err() => text += &format!("{name}\n"),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    print(&text)?;
    if errors.is_empty() { Ok(0) } else { bail!(errors.join("; ")) }
}

fn prune(context: &Context<'_>, volumes: &Volumes, said: &ArgMatches) -> Result<u8> {
    let all = said.get_flag("all");
    let filters = rows::filters(said, &PRUNE_FILTERS)?;
    let what = if all { "all local volumes" } else { "anonymous local volumes" };
    let question = format!("WARNING! This will remove {what} not used by at least one container.");
    if !said.get_flag("force") && !rows::sure(&question) {
        return Ok(0);
    }
    let all = all || filters.iter().any(|(name, value)| name == "all" && value == "true");
    let fits = |volume: &Volume, name: &str, value: &str| match name {
        "label" => rows::has_label(&volume.labels, value),
        "label!" => !rows::has_label(&volume.labels, value),
        _ => true,
    };
    let labels = |volume: &Volume| filters.iter().all(|(name, value)| fits(volume, name, value));
    let (names, bytes) = sweep(context, volumes, &|volume| (all || volume.anonymous) && labels(volume))?;
    let text = if names.is_empty() { String::new() } else { format!("Deleted Volumes:\n{}\n\n", names.join("\n")) };
    print(&format!("{text}Total reclaimed space: {}\n", human::size(bytes, 4)))
}

/// Removes what no container has: the names, and the bytes that are free again.
pub fn sweep(context: &Context<'_>, volumes: &Volumes, wanted: &dyn Fn(&Volume) -> bool) -> Result<(Vec<String>, u64)> {
    let users = find_users(&context.dirs);
    let (mut names, mut bytes) = (Vec::new(), 0);
    for volume in volumes.list().iter().filter(|volume| wanted(volume) && !users.contains_key(&volume.name)) {
        let size = volumes.size(&volume.name);
        volumes.remove(&volume.name, &users)?;
        happened::volume(context, "destroy", &volume.name);
        bytes += size;
        names.push(volume.name.clone());
    }
    happened::pruned(context, "volume", bytes);
    Ok((names, bytes))
}
