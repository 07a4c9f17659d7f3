//! `mydocker system df|prune`: what everything takes, and what nobody needs.

use super::arg::{flag, string, value};
use super::{Command, Context, human, ps, rows};
use super::{change, image, print, volume};
use crate::container::{self, Record, Status};
use crate::image::{Image, Store, Usage, usage};
use crate::plan::Room;
use crate::volume::{Volumes, find_users};
use anyhow::Result;
use clap::ArgMatches;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

pub const SYSTEM: Command = Command {
    name: "system",
    about: "`system df`: what takes the disk; `system prune`: what nobody needs",
    flags,
    act,
};

fn flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    let sub = |name: &'static str, about: &'static str| clap::Command::new(name).about(about);
    command.subcommand_required(true).arg_required_else_help(true).subcommands([
        sub("df", "Show what images, containers and volumes take on the disk").args([
            flag("verbose", "A line for each of them").short('v'),
            value("format", "TEMPLATE", "`table`, `json`, or a Go template"),
        ]),
        sub("prune", "Remove what nothing uses").args([
            flag("all", "All images that no container uses, not only nameless ones").short('a'),
            flag("volumes", "Anonymous volumes too"),
            flag("force", "Do not ask").short('f'),
            rows::filter(&change::FILTERS),
        ]),
    ])
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    match said.subcommand() {
        Some(("df", said)) => df(context, said),
        Some(("prune", said)) => prune(context, said),
        _ => anyhow::bail!("mydocker system: there are `system df` and `system prune`"),
    }
}

/// All that the tables are made of.
struct Seen {
    images: Vec<Image>,
    usage: Usage,
    /// How many containers stand on the image of that id.
    users: BTreeMap<String, usize>,
    /// With what each has written.
    containers: Vec<(Record, Status, u64)>,
    /// With how many containers have each, and its bytes.
    volumes: Vec<(String, usize, u64)>,
}

fn look(context: &Context<'_>) -> Result<Seen> {
    let dirs = &context.dirs;
    let store = Store::open(&dirs.root)?;
    let mut images = store.list()?;
    images.sort_by(|a, b| b.config.created.cmp(&a.config.created).then_with(|| a.names.cmp(&b.names)));
    let one = |record: Record| {
        let folder = record.spec.folder();
        let size = ps::tree_size(&folder.join("upper")) + ps::tree_size(&folder.join("tree"));
        let status = container::status(&record);
        (record, status, size)
    };
    let containers: Vec<_> = container::list(dirs).into_iter().map(one).collect();
    let mut users: BTreeMap<String, usize> = BTreeMap::new();
    for (record, ..) in &containers {
        *users.entry(record.spec.image.id.clone()).or_default() += 1;
    }
    let used: HashSet<String> = users.keys().cloned().collect();
    let usage = usage(&store, &images, &used);
    let (volumes, owners) = (Volumes::new(&dirs.root), find_users(dirs));
    let one = |name: String| {
        let (links, size) = (owners.get(&name).map_or(0, Vec::len), volumes.size(&name));
        (name, links, size)
    };
    let volumes = volumes.list().into_iter().map(|volume| one(volume.name)).collect();
    Ok(Seen { images, usage, users, containers, volumes })
}

const ALIVE: fn(&Status) -> bool =
    |status| matches!(status, Status::Running(_) | Status::Paused(_) | Status::Restarting);

fn df(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let seen = look(context)?;
    let format = string(said, "format");
    if said.get_flag("verbose") {
        anyhow::ensure!(format.is_none(), "--format: not together with --verbose");
        return print(&verbose(&seen)?);
    }
    let line = |kind: &str, total: usize, active: usize, size: u64, free: u64| {
        let share = (free * 100).checked_div(size).map_or_else(String::new, |share| format!(" ({share}%)"));
        json!({
            "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(),
            "Size": human::size(size, 4), "Reclaimable": format!("{}{share}", human::size(free, 4)),
        })
    };
    let ids: HashSet<&str> = seen.images.iter().map(|image| image.id.as_str()).collect();
    let active = ids.iter().filter(|id| seen.users.contains_key(**id)).count();
    let sum = |alive: bool| -> u64 {
        let wanted = seen.containers.iter().filter(|(_, status, _)| alive || !ALIVE(status));
        wanted.map(|(.., size)| size).sum()
    };
    let running = seen.containers.iter().filter(|(_, status, _)| ALIVE(status)).count();
    let unused: u64 = seen.volumes.iter().filter(|(_, links, _)| *links == 0).map(|(.., size)| size).sum();
    let lines = [
        line("Images", ids.len(), active, seen.usage.total, seen.usage.total - seen.usage.used),
        line("Containers", seen.containers.len(), running, sum(true), sum(false)),
        line(
            "Local Volumes",
            seen.volumes.len(),
            seen.volumes.iter().filter(|(_, links, _)| *links > 0).count(),
            seen.volumes.iter().map(|(.., size)| size).sum(),
            unused,
        ),
        line("Build Cache", 0, 0, 0, 0),
    ];
    let columns = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let headings = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    print(&rows::show(&lines, format, columns, &headings)?)
}

/// Docker's three tables.
fn verbose(seen: &Seen) -> Result<String> {
    let mut images = Vec::new();
    for (image, share) in seen.images.iter().zip(&seen.usage.shares) {
        let users = seen.users.get(image.id.as_str()).copied().unwrap_or(0);
        let none = || "<none>".to_string();
        let mut line = |repository: String, tag: String| {
            images.push(json!({
                "Repository": repository, "Tag": tag, "ID": image.id.short(),
                "Created": human::ago(image.config.created.as_deref()), "Size": human::size(share.size, 4),
                "Shared": human::size(share.shared, 4), "Unique": human::size(share.size - share.shared, 4),
                "Containers": users.to_string(),
            }))
        };
        image.names.iter().for_each(|name| line(name.repository(), name.tag().map_or_else(none, str::to_string)));
        if image.names.is_empty() {
            line(none(), none());
        }
    }
    let container = |(record, status, size): &(Record, Status, u64)| {
        json!({
            "ID": record.spec.id.short(), "Image": record.spec.image.reference, "Size": human::size(*size, 4),
            "Status": status.word(), "Names": record.name(),
        })
    };
    let volume = |(name, links, size): &(String, usize, u64)| json!({"Name": name, "Links": links.to_string(), "Size": human::size(*size, 4)});
    let containers: Vec<Value> = seen.containers.iter().map(container).collect();
    let volumes: Vec<Value> = seen.volumes.iter().map(volume).collect();
    let mut text = String::new();
    for (title, lines, columns) in [
        (
            "Images",
            &images,
            &[
                "Repository",
                "Tag",
                "ID:IMAGE ID",
                "Created",
                "Size",
                "Shared:SHARED SIZE",
                "Unique:UNIQUE SIZE",
                "Containers",
            ][..],
        ),
        ("Containers", &containers, &["ID:CONTAINER ID", "Image", "Size", "Status", "Names"]),
        ("Local Volumes", &volumes, &["Name:VOLUME NAME", "Links", "Size"]),
    ] {
        let fields: Vec<(&str, String)> = columns
            .iter()
            .map(|column| column.split_once(':').map_or((*column, column.to_uppercase()), |(a, b)| (a, b.to_string())))
            .collect();
        let template: Vec<String> = fields.iter().map(|(field, _)| format!("{{{{.{field}}}}}")).collect();
        let headings: Vec<(&str, &str)> = fields.iter().map(|(field, heading)| (*field, heading.as_str())).collect();
        let table = rows::show(lines, None, &template.join("\t"), &headings)?;
        text += &format!("{title} space usage:\n\n{table}\n");
    }
    Ok(text + "Build cache usage: 0B\n\n")
}

fn prune(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let (all, with_volumes) = (said.get_flag("all"), said.get_flag("volumes"));
    let filters = rows::filters(said, &change::FILTERS)?;
    // Understood before anything is removed.
    let wanted = change::wanted(&filters)?;
    let images = image::wanted(context, said)?;
    let mut what = vec!["all stopped containers"];
    what.extend(filters.is_empty().then_some("all networks not used by at least one container"));
    what.extend(with_volumes.then_some("all anonymous volumes not used by at least one container"));
    what.push(if all { "all images without at least one container associated to them" } else { "all dangling images" });
    let list: String = what.iter().map(|what| format!("  - {what}\n")).collect();
    if !said.get_flag("force") && !rows::sure(&format!("WARNING! This will remove:\n{list}")) {
        return Ok(0);
    }
    let (containers, mut bytes, status) = change::sweep(context, &wanted)?;
    let networks = if filters.is_empty() { super::network::sweep(context)? } else { vec![] };
    let mut volumes = Vec::new();
    if with_volumes {
        let (names, freed) = volume::sweep(context, &Volumes::new(&context.dirs.root), &|volume| volume.anonymous)?;
        (volumes, bytes) = (names, bytes + freed);
    }
    let (removed, freed) = image::sweep(context, all, &images)?;
    let mut text = String::new();
    for (title, names) in [("Containers", &containers), ("Networks", &networks), ("Volumes", &volumes)] {
        if !names.is_empty() {
            text += &format!("Deleted {title}:\n{}\n\n", names.join("\n"));
        }
    }
    if !removed.is_empty() {
        text += &format!("Deleted Images:\n{}\n", image::told(&removed));
    }
    print(&format!("{text}Total reclaimed space: {}\n", human::size(bytes + freed, 4)))?;
    Ok(status)
}
