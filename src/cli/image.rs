//! `mydocker images|tag|rmi|history` and `mydocker image …`.

use super::arg::{flag, string, strings, value, words};
use super::{Command, Context, happened, human, print, rows};
use crate::container::Moment;
use crate::image::{self, Image, Reference, Removed, Store};
use crate::plan::Room;
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use serde_json::{Value, json};

type Flags = fn(clap::Command, &[&dyn Room]) -> clap::Command;

pub const IMAGES: Command =
    Command { name: "images", about: "List images", flags: list_flags, act: |context, said| list(context, said) };
pub const TAG: Command = Command {
    name: "tag",
    about: "Give an image one more name",
    flags: tag_flags,
    act: |context, said| tag(context, said),
};
pub const RMI: Command =
    Command { name: "rmi", about: "Remove images", flags: remove_flags, act: |context, said| remove(context, said) };
pub const HISTORY: Command = Command {
    name: "history",
    about: "Show how an image came about",
    flags: history_flags,
    act: |context, said| history(context, said),
};
pub const IMAGE: Command = Command { name: "image", about: "Manage images", flags: image_flags, act: image };

/// The words of `mydocker image`, each a command of its own too.
const BELOW: [(&str, &str, Flags); 8] = [
    ("ls", "List images", list_flags),
    ("tag", "Give an image one more name", tag_flags),
    ("rm", "Remove images", remove_flags),
    ("history", "Show how an image came about", history_flags),
    ("inspect", "Show all that is known of images", inspect_flags),
    ("prune", "Remove images that nothing uses", prune_flags),
    ("save", "Write images to an archive", super::archive::save_flags),
    ("load", "Read images from an archive", super::archive::load_flags),
];

fn image_flags(command: clap::Command, rooms: &[&dyn Room]) -> clap::Command {
    let command = command.subcommand_required(true).arg_required_else_help(true);
    let command = BELOW.iter().fold(command, |command, (name, about, flags)| {
        command.subcommand(flags(clap::Command::new(*name).about(*about), rooms))
    });
    let import = clap::Command::new("import").about("Make an image of an archive or a folder");
    command.subcommand(super::archive::import_flags(import, rooms))
}

fn image(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    match said.subcommand() {
        Some(("ls", said)) => list(context, said),
        Some(("tag", said)) => tag(context, said),
        Some(("rm", said)) => remove(context, said),
        Some(("history", said)) => history(context, said),
        Some(("inspect", said)) => inspect(context, said),
        Some(("prune", said)) => prune(context, said),
        Some(("save", said)) => super::archive::save(context, said),
        Some(("load", said)) => super::archive::load(context, said),
        Some(("import", said)) => super::archive::import(context, said),
        _ => bail!("mydocker image: which of its commands?"),
    }
}

fn list_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        flag("all", "Show all images (there are no intermediate ones)").short('a'),
        flag("quiet", "Only ids").short('q'),
        flag("digests", "Show the manifests' digests"),
        flag("no-trunc", "Do not shorten ids"),
        rows::filter(&LIST_FILTERS).short('f'),
        value("format", "TEMPLATE", "`table`, `json`, or a Go template"),
        Arg::new("repository").value_name("REPOSITORY[:TAG]"),
    ])
}

const LIST_FILTERS: [&str; 6] = ["dangling", "label", "reference", "before", "since", "until"];

fn list(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let mut images = store.list()?;
    images.sort_by(|a, b| b.config.created.cmp(&a.config.created).then_with(|| a.names.cmp(&b.names)));
    for (name, value) in rows::filters(said, &LIST_FILTERS)? {
        keep(&store, &mut images, &name, &value)?;
    }
    let pattern = string(said, "repository");
    let (full, digests) = (said.get_flag("no-trunc"), said.get_flag("digests"));
    let mut lines = Vec::new();
    for image in &images {
        let id = if full { image.id.to_string() } else { image.id.short().to_string() };
        let size = image.size(&store);
        let line = |repository: String, tag: String| {
            json!({
                "Repository": repository, "Tag": tag, "ID": id, "Digest": image.manifest_digest.as_str(),
                "CreatedSince": human::ago(image.config.created.as_deref()),
                "CreatedAt": image.config.created.clone().unwrap_or_default(),
                "Size": human::size(size, 3), "VirtualSize": human::size(size, 3),
                "Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
            })
        };
        let named = image.names.iter().filter(|name| pattern.is_none_or(|pattern| fits(name, pattern)));
        let none = || "<none>".to_string();
        lines.extend(named.map(|name| line(name.repository(), name.tag().map_or_else(none, str::to_string))));
        if image.names.is_empty() && pattern.is_none() {
            lines.push(line(none(), none()));
        }
    }
    if said.get_flag("quiet") && string(said, "format").is_none() {
        return print(&lines.iter().filter_map(|line| Some(format!("{}\n", line["ID"].as_str()?))).collect::<String>());
    }
    let columns = match digests {
        true => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        false => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    let headings = [
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("VirtualSize", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ];
    print(&rows::show(&lines, string(said, "format"), columns, &headings)?)
}

/// Takes away the images that a filter does not let through.
pub fn keep(store: &Store, images: &mut Vec<Image>, name: &str, value: &str) -> Result<()> {
    match name {
        "dangling" => {
            let wanted = rows::truth(name, value)?;
            images.retain(|image| image.names.is_empty() == wanted);
        }
        "label" => images.retain(|image| rows::has_label(&image.config.config.labels, value)),
        "label!" => images.retain(|image| !rows::has_label(&image.config.config.labels, value)),
        "reference" => images.retain(|image| image.names.iter().any(|name| fits(name, value))),
        "before" | "since" => {
            let other = store.get(value)?.config.created;
            images.retain(|image| match name {
                "before" => image.config.created < other,
                _ => image.config.created > other,
            });
        }
        _ => {
            let limit = Moment::parse("--filter: until", value)?.0;
            let time = |image: &Image| image.config.created.as_ref()?.parse::<jiff::Timestamp>().ok();
            images.retain(|image| time(image).is_none_or(|time| time < limit));
        }
    }
    Ok(())
}

/// Whether a name fits a pattern with `*` and `?`, with a tag or without.
fn fits(name: &Reference, pattern: &str) -> bool {
    let tag = name.tag().unwrap_or_default();
    let repository = name.repository();
    glob(pattern.as_bytes(), format!("{repository}:{tag}").as_bytes())
        || glob(pattern.as_bytes(), repository.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        // As a path: a star does not cross a slash.
        ([b'*', rest @ ..], _) => {
            glob(rest, text) || matches!(text, [c, more @ ..] if *c != b'/' && glob(pattern, more))
        }
        ([b'?', rest @ ..], [c, more @ ..]) if *c != b'/' => glob(rest, more),
        ([p, rest @ ..], [c, more @ ..]) if p == c => glob(rest, more),
        _ => false,
    }
}

fn tag_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        Arg::new("source").value_name("SOURCE_IMAGE[:TAG]").required(true),
        Arg::new("target").value_name("TARGET_IMAGE[:TAG]").required(true),
    ])
}

fn tag(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let target = Reference::parse(string(said, "target").unwrap_or_default())?;
    let image = store.get(string(said, "source").unwrap_or_default())?;
    image::tag(&store, &image, &target)?;
    happened::image(context, "tag", image.id.as_str(), &target.to_string());
    Ok(0)
}

fn remove_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        flag("force", "Remove it although it has several names or is used").short('f'),
        flag("no-prune", "Accepted for docker's sake: there are no untagged parents to keep"),
        words("images", "IMAGE", 1),
    ])
}

fn remove(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let (mut text, mut errors) = (String::new(), Vec::new());
    for word in strings(said, "images") {
        let id = store.get(word).map(|image| image.id.to_string()).unwrap_or_default();
        match image::remove(&store, word, said.get_flag("force")) {
            Ok(removed) => {
                text += &told(&removed);
                happened_to(context, &id, &removed);
            }
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    print(&text)?;
    match errors.is_empty() {
        true => Ok(0),
        false => bail!(errors.join("; ")),
    }
}

/// Docker's: one `untag` for each name, one `delete` for the image.
fn happened_to(context: &Context<'_>, id: &str, removed: &[Removed]) {
    let names = removed.iter().filter(|one| matches!(one, Removed::Untagged(_))).count();
    (0..names).for_each(|_| happened::image(context, "untag", id, id));
    if names < removed.len() {
        happened::image(context, "delete", id, id);
    }
}

pub fn told(removed: &[Removed]) -> String {
    let line = |one: &Removed| match one {
        Removed::Untagged(name) => format!("Untagged: {name}\n"),
        Removed::Deleted(digest) => format!("Deleted: {digest}\n"),
    };
    removed.iter().map(line).collect()
}

fn history_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        flag("no-trunc", "Do not shorten anything"),
        flag("quiet", "Only ids").short('q'),
        value("human", "true|false", "Sizes and dates for people (true)")
            .short('H')
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        value("format", "TEMPLATE", "`table`, `json`, or a Go template"),
        Arg::new("image").value_name("IMAGE").required(true),
    ])
}

fn history(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let image = store.get(string(said, "image").unwrap_or_default())?;
    let full = said.get_flag("no-trunc");
    let plain = string(said, "human").is_some_and(|text| text == "false");
    let sizes: Vec<u64> = image.chain().iter().map(|chain| store.layer_size(chain).unwrap_or(0)).collect();
    let mut sizes = sizes.into_iter();
    let mut lines: Vec<Value> = Vec::new();
    for one in &image.config.history {
        let size = if one.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
        let by = one.created_by.clone().unwrap_or_default().replace(['\t', '\n'], " ");
        let short: String =
            if by.chars().count() > 45 { by.chars().take(44).chain(['…']).collect() } else { by.clone() };
        lines.push(json!({
            "ID": "<missing>",
            "CreatedSince": if plain { one.created.clone().unwrap_or_default() } else { human::ago(one.created.as_deref()) },
            "CreatedAt": one.created.clone().unwrap_or_default(),
            "CreatedBy": if full { by } else { short },
            "Size": if plain { size.to_string() } else { human::size(size, 3) },
            "Comment": one.comment.clone().unwrap_or_default(),
        }));
    }
    if let Some(top) = lines.last_mut() {
        top["ID"] = if full { image.id.to_string() } else { image.id.short().to_string() }.into();
    }
    lines.reverse();
    if said.get_flag("quiet") {
        return print(&lines.iter().filter_map(|line| Some(format!("{}\n", line["ID"].as_str()?))).collect::<String>());
    }
    let columns = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
    let headings = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    print(&rows::show(&lines, string(said, "format"), columns, &headings)?)
}

fn inspect_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([value("format", "TEMPLATE", "A Go template").short('f'), words("images", "IMAGE", 1)])
}

fn inspect(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for word in strings(said, "images") {
        match store.get(word) {
            Ok(image) => all.push(super::inspect_image::describe(&store, &image)?),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    let text = match string(said, "format").filter(|format| *format != "json") {
        Some(format) => {
            let template = super::template::Template::parse(format)?;
            let texts = all.iter().map(|one| Ok(template.render(one)? + "\n"));
            texts.collect::<Result<String>>()?
        }
        None => serde_json::to_string_pretty(&all)? + "\n",
    };
    print(&text)?;
    match errors.is_empty() {
        true => Ok(0),
        false => bail!(errors.join("; ")),
    }
}

fn prune_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        flag("all", "All images that no container uses, not only nameless ones").short('a'),
        flag("force", "Do not ask").short('f'),
        rows::filter(&PRUNE_FILTERS),
    ])
}

/// `dangling=false` is docker's other way to say `--all`.
const PRUNE_FILTERS: [&str; 4] = ["label", "label!", "until", "dangling"];

fn prune(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let nameless = rows::filters(said, &PRUNE_FILTERS)?.into_iter().filter(|(name, _)| name == "dangling");
    let nameless: Vec<bool> = nameless.map(|(name, value)| rows::truth(&name, &value)).collect::<Result<_>>()?;
    let all = said.get_flag("all") || nameless.contains(&false);
    let what = if all { "all images without at least one container associated to them" } else { "all dangling images" };
    let kept = wanted(context, said)?;
    if !said.get_flag("force") && !rows::sure(&format!("WARNING! This will remove {what}.")) {
        return Ok(0);
    }
    let (removed, bytes) = sweep(context, all, &kept)?;
    let text = if removed.is_empty() { String::new() } else { format!("Deleted Images:\n{}\n", told(&removed)) };
    print(&format!("{text}Total reclaimed space: {}\n", human::size(bytes, 4)))
}

/// The images that the filters of a `prune` let through; `None`: there are none.
pub fn wanted(context: &Context<'_>, said: &ArgMatches) -> Result<Option<Vec<Image>>> {
    let mut filters = rows::filters(said, &PRUNE_FILTERS)?;
    filters.retain(|(name, _)| name != "dangling");
    if filters.is_empty() {
        return Ok(None);
    }
    let store = Store::open(&context.dirs.root)?;
    let mut kept = store.list()?;
    for (name, value) in &filters {
        keep(&store, &mut kept, name, value)?;
    }
    Ok(Some(kept))
}

/// Removes images that nothing uses, of those that are `wanted`: what was done, and the bytes that are free again.
pub fn sweep(context: &Context<'_>, all: bool, wanted: &Option<Vec<Image>>) -> Result<(Vec<Removed>, u64)> {
    let fits = |image: &Image| wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|one| one.id == image.id));
    let store = Store::open(&context.dirs.root)?;
    let before = store.list()?;
    let (removed, bytes) = image::prune(&store, all, &fits)?;
    let left: Vec<_> = store.list()?.into_iter().map(|image| image.id).collect();
    for gone in before.iter().filter(|image| !left.contains(&image.id)) {
        happened::image(context, "delete", gone.id.as_str(), gone.id.as_str());
    }
    happened::pruned(context, "image", bytes);
    Ok((removed, bytes))
}
