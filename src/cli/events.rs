//! `mydocker events`.

use super::table::printable;
use super::template::Template;
use super::{Command, Context, rows, string};
use crate::container::{Event, Events, Moment};
use anyhow::{Result, bail};
use clap::Arg;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;
use std::io::Write;
use std::time::Duration;

pub const EVENTS: Command = Command {
    name: "events",
    about: "Tell what happens to containers, images, networks and volumes",
    flags: |command, _| {
        let value = |name: &'static str, value: &'static str, help| {
            Arg::new(name).long(name).value_name(value).help(help).allow_hyphen_values(true)
        };
        command.args([
            value("since", "TIME", "What has happened since then (a date, or 10m: so long ago), and then what happens"),
            value("until", "TIME", "Only up to then"),
            rows::filter(&NAMES).short('f'),
            value("format", "FORMAT", "json or a Go template"),
        ])
    },
    act,
};

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(50);

fn act(context: &Context<'_>, said: &clap::ArgMatches) -> Result<u8> {
    let moment = |name: &str, flag: &str| string(said, name).map(|text| Moment::parse(flag, text)).transpose();
    let (since, until) = (moment("since", "--since")?, moment("until", "--until")?);
    let since = since.map_or_else(Timestamp::now, |since| since.0);
    let filters = rows::filters(said, &NAMES)?;
    if let Some((_, value)) = filters.iter().find(|(name, value)| name == "type" && !TYPES.contains(&value.as_str())) {
        bail!("--filter: `type={}`: what is written down happens to a {}", value.escape_debug(), TYPES.join(", "));
    }
    let format = match string(said, "format") {
        None | Some("" | "json" | "{{json .}}") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let raw = string(said, "format").is_some_and(|format| !format.is_empty());
    let mut events = Events::open(&context.dirs);
    loop {
        // Asked before the last look.
        let over = until.as_ref().is_some_and(|until| until.0 <= Timestamp::now());
        for event in events.by_ref() {
            let when = Timestamp::from_nanosecond(i128::from(event.nanos)).unwrap_or_default();
            if when < since || until.as_ref().is_some_and(|until| when > until.0) || !wanted(&filters, &event) {
                continue;
            }
            let line = match &format {
                Some(template) => template.render(&fields(&event))?,
                None if raw => serde_json::to_string(&event)?,
                None => in_words(&event, when),
            };
            let mut out = std::io::stdout().lock();
            match writeln!(out, "{line}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
                Err(error) => bail!("cannot write to stdout: {error}"),
                Ok(()) => {}
            }
        }
        if over {
            return Ok(0);
        }
        std::thread::sleep(PAUSE);
    }
}

const NAMES: [&str; 8] = ["container", "event", "image", "label", "network", "scope", "type", "volume"];

const TYPES: [&str; 4] = ["container", "image", "network", "volume"];

/// Of one name any value suffices, of different names all must hold; every label must be there.
fn wanted(filters: &[(String, String)], event: &Event) -> bool {
    let attribute = |name: &str| event.actor.attributes.get(name).map(String::as_str);
    let holds = |name: &str, value: &str| match name {
        "container" | "network" | "volume" => {
            let named = event.actor.id.starts_with(value) && !value.is_empty() || attribute("name") == Some(value);
            event.kind == name && named
        }
        // `exec_start` is meant by `exec_start: sh`.
        "event" => event.action == value || event.action.split_once(':').is_some_and(|(word, _)| word == value),
        "image" => {
            let image = if event.kind == "image" { attribute("name").unwrap_or_default() } else { &event.from };
            let plain = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map(|(name, _)| name);
            event.actor.id == value || image == value && !value.is_empty() || plain == Some(value)
        }
        "label" => match value.split_once('=') {
            Some((name, value)) => attribute(name) == Some(value),
            None => attribute(value).is_some(),
        },
        "scope" => event.scope == value,
        _ => event.kind == value,
    };
    NAMES.iter().all(|name| {
        let mut of = filters.iter().filter(|(known, _)| known == name).peekable();
        match *name {
            "label" => of.all(|(name, value)| holds(name, value)),
            _ => of.peek().is_none() || of.any(|(name, value)| holds(name, value)),
        }
    })
}

/// Docker's line: `2026-01-02T03:04:05.678901234+01:00 container start ID (image=busybox, name=web)`.
fn in_words(event: &Event, when: Timestamp) -> String {
    let pairs = event.actor.attributes.iter().map(|(name, value)| printable(&format!("{name}={value}")));
    let when = when.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z");
    let pairs = pairs.collect::<Vec<_>>().join(", ");
    format!("{when} {} {} {} ({pairs})", event.kind, printable(&event.action), event.actor.id)
}

/// The names that a Go template uses.
fn fields(event: &Event) -> serde_json::Value {
    json!({
        "Status": event.status, "ID": event.id, "From": event.from, "Type": event.kind, "Action": event.action,
        "Actor": event.actor, "Scope": event.scope, "Time": event.time, "TimeNano": event.nanos,
    })
}
