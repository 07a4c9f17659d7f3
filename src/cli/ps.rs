//! `mydocker ps`.

mod filter;

use super::table::{align, printable};
use super::template::Template;
use super::{Command, Context, flag, print, rows, string};
use crate::container::{Health, Record, Status, human, list, status};
use crate::engine;
use crate::plan::{Dirs, Id, Room, journals};
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub const PS: Command = Command {
    name: "ps",
    about: "List containers",
    flags: |command, _| {
        command.args([
            flag("all", "Those at rest, too").short('a'),
            flag("quiet", "Only ids").short('q'),
            flag("size", "How much each has written").short('s'),
            flag("latest", "The youngest, at rest or not").short('l'),
            flag("no-trunc", "Do not shorten"),
            Arg::new("last")
                .long("last")
                .short('n')
                .value_name("COUNT")
                .allow_negative_numbers(true)
                .help("The youngest COUNT, at rest or not"),
            rows::filter(&filter::NAMES).short('f'),
            Arg::new("format").long("format").value_name("FORMAT").help("table, json or a Go template"),
        ])
    },
    act,
};

/// The heads of docker's columns, by the template's word for them.
const HEADS: [(&str, &str); 14] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
];

const TABLE: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// One container, with what the kernel says about it.
struct Seen {
    record: Record,
    status: Status,
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let size = said.get_flag("size");
    let format = match string(said, "format") {
        _ if said.get_flag("quiet") => "{{.ID}}".to_string(),
        None | Some("table" | "") if size => format!("{TABLE}\t{{{{.Size}}}}"),
        None | Some("table" | "") => TABLE.to_string(),
        Some("json") => "{{json .}}".to_string(),
        Some(other) => other.to_string(),
    };
    let size = size || format.contains(".Size") || format.contains("json .");
    let filters = filter::parse(said)?;
    let last = match string(said, "last").map(str::parse::<i64>) {
        _ if said.get_flag("latest") => Some(1),
        None | Some(Ok(..=-1)) => None,
        Some(Ok(count)) => usize::try_from(count).ok(),
        Some(Err(_)) => bail!("--last: `{}` is not a number", string(said, "last").unwrap_or_default().escape_debug()),
    };
    let seen = look(&context.dirs);
    let everything = said.get_flag("all") || last.is_some() || filters.about_status();
    let shown = |one: &&Seen| (everything || alive(&one.status)) && filters.take(one, &seen);
    let rows: Vec<&Seen> = seen.iter().filter(shown).take(last.unwrap_or(usize::MAX)).collect();
    let whole = said.get_flag("no-trunc");
    let rows = rows.into_iter().map(|one| row(context.rooms, one, whole, size));
    print(&laid_out(&format, &HEADS, rows)?)
}

/// Docker counts a container that is about to be started again as running.
fn alive(status: &Status) -> bool {
    matches!(status, Status::Running(_) | Status::Paused(_) | Status::Restarting)
}

/// All containers, after what killed engines left has been seen to: whatever has a journal and does not run. One that
/// runs needs no look at its journal.
fn look(dirs: &Dirs) -> Vec<Seen> {
    engine::settle(dirs);
    let see =
        || -> Vec<Seen> { list(dirs).into_iter().map(|record| Seen { status: status(&record), record }).collect() };
    let seen = see();
    let runs: HashSet<&str> =
        seen.iter().filter(|one| one.status.running().is_some()).map(|one| one.record.spec.id.as_str()).collect();
    let over: Vec<Id> = journals(dirs).into_iter().filter(|id| !runs.contains(id.as_str())).collect();
    if over.is_empty() || !nix::unistd::geteuid().is_root() {
        return seen;
    }
    for id in over {
        if let Err(error) = engine::recover(dirs, &id) {
            log::warn!("container {}, whose engine died: {error:#}", id.short());
        }
    }
    see()
}

/// Rows as a table, or each through a template.
pub(super) fn laid_out(format: &str, heads: &[(&str, &str)], rows: impl Iterator<Item = Value>) -> Result<String> {
    let table = format.strip_prefix("table ");
    let template = Template::parse(table.unwrap_or(format))?;
    let mut text = String::new();
    if table.is_some() {
        let heads: Value = heads.iter().map(|(word, head)| (word.to_string(), json!(head))).collect();
        text = template.render(&heads)? + "\n";
    }
    for row in rows {
        text.push_str(&template.render(&row)?);
        text.push('\n');
    }
    Ok(if table.is_some() || text.contains('\t') { align(&text) } else { text })
}

fn row(rooms: &[&dyn Room], seen: &Seen, whole: bool, size: bool) -> Value {
    let Seen { record, status } = seen;
    let (spec, life) = (&record.spec, record.life());
    let now = Timestamp::now();
    let id = if whole { spec.id.as_str() } else { spec.id.short() };
    let mut command = record.command_line();
    if !whole && command.chars().count() > 20 {
        command = command.chars().take(19).chain(['…']).collect();
    }
    let labels: Vec<_> = life.labels.iter().map(|(name, value)| printable(&format!("{name}={value}"))).collect();
    let created = record.created.to_zoned(jiff::tz::TimeZone::system());
    let mut row = json!({
        "ID": id,
        "Image": printable(&spec.image.reference),
        "Command": quoted(&command),
        "CreatedAt": created.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        "RunningFor": format!("{} ago", human(since(record.created, now))),
        "Status": in_words(record, status, now),
        "State": status.word(),
        "Ports": "",
        "Names": record.name(),
        "Size": if size { sizes(record) } else { "0B".to_string() },
        "Labels": labels.join(","),
        "Mounts": "",
        "Networks": "",
        "LocalVolumes": "0",
    });
    for room in rooms {
        super::inspect::lay_over(&mut row, room.columns(spec, status.running().is_some()));
    }
    row
}

/// Go's `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x80 && c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// How long ago; nothing that the clock set back could make negative.
fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// Docker's STATUS.
fn in_words(record: &Record, status: &Status, now: Timestamp) -> String {
    let rest = &record.rest;
    let ended = rest.finished_at.map(|then| human(since(then, now))).unwrap_or_default();
    match status {
        Status::Created => "Created".to_string(),
        Status::Running(running) => {
            let health = Health::of(&record.spec.dirs, &record.spec.id, record.life());
            let health = health.map(|health| match health.status.as_str() {
                "starting" => " (health: starting)".to_string(),
                other => format!(" ({other})"),
            });
            format!("Up {}{}", human(since(running.started_at, now)), health.unwrap_or_default())
        }
        Status::Paused(running) => format!("Up {} (Paused)", human(since(running.started_at, now))),
        Status::Restarting => format!("Restarting ({}) {ended} ago", rest.exit_code),
        Status::Exited => format!("Exited ({}) {ended} ago", rest.exit_code),
    }
}

/// What the container wrote, and what it sees: `4.1kB (virtual 2.1MB)`.
fn sizes(record: &Record) -> String {
    let own = tree_size(&record.spec.folder().join("upper"));
    let image: u64 = record.spec.image.layers.iter().map(|layer| tree_size(layer)).sum();
    format!("{} (virtual {})", decimal(own), decimal(own + image))
}

/// Bytes of the files of a tree, each once; never through a link.
pub(super) fn tree_size(path: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let (mut size, mut folders) = (0, vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                size += metadata.len();
            }
        }
    }
    size
}

/// Go's `units.HumanSizeWithPrecision(size, 3)`: powers of 1000, three digits.
pub(super) fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Three digits in the largest unit of which there is at least one.
pub(super) fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= base && unit + 1 < units.len() {
        (size, unit) = (size / base, unit + 1);
    }
    let digits = if size >= 1000.0 { 4.0 } else { 3.0 };
    let places = if size < 1.0 { 3 } else { (digits - 1.0 - size.log10().floor()).max(0.0) as usize };
    let text = format!("{size:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        let cases = [
            (0, "0B"),
            (1, "1B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_345, "12.3kB"),
            (2_096_000, "2.1MB"),
            (123_456_789, "123MB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(decimal(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn quotes_are_gos() {
        assert_eq!(quoted("sh -c \"x\\y\"\n\u{1b}é…"), "\"sh -c \\\"x\\\\y\\\"\\n\\x1bé…\"");
    }
}
