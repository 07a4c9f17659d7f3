//! `mydocker network ls`: docker's columns, filters and formats. `host` and `none` are no networks of ours, but words after
//! `--network`.

use super::super::{Context, print, rows, string};
use crate::network::{self, Network, Seen};
use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

pub(super) fn flags() -> [Arg; 4] {
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    [
        switch("quiet").short('q').help("Only ids"),
        switch("no-trunc").help("Whole ids"),
        rows::filter(&FILTERS).short('f'),
        Arg::new("format").long("format").value_name("TEMPLATE").help("`table`, `json`, or a Go template"),
    ]
}

/// When it was made.
pub(super) fn created(network: &Network) -> Timestamp {
    i64::try_from(network.created).ok().and_then(|second| Timestamp::from_second(second).ok()).unwrap_or_default()
}

/// One line of the table.
struct Row {
    id: String,
    name: String,
    driver: &'static str,
    /// Made by the user, not by us (`type=custom`).
    custom: bool,
    /// Whether a container that lives is on it.
    used: bool,
    labels: BTreeMap<String, String>,
    value: Value,
}

fn row(seen: &Seen, whole: bool) -> Row {
    let Seen { network, leases } = seen;
    let labels: Vec<_> = network.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let shown = if whole { network.id.clone() } else { network.id.get(..12).unwrap_or(&network.id).to_string() };
    let value = json!({
        "CreatedAt": created(network), "Driver": "bridge", "ID": shown,
        "IPv4": "true", "IPv6": network.subnet6.is_some().to_string(), "Internal": network.internal.to_string(),
        "Labels": labels.join(","), "Name": network.name, "Scope": "local",
    });
    Row {
        id: network.id.clone(),
        name: network.name.clone(),
        driver: "bridge",
        custom: network.name != network::DEFAULT,
        used: !leases.is_empty(),
        labels: network.labels.clone(),
        value,
    }
}

pub(super) fn list(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let mut all: Vec<Row> =
        network::list(&context.dirs).iter().map(|seen| row(seen, said.get_flag("no-trunc"))).collect();
    let filters = rows::filters(said, &FILTERS)?;
    for (name, value) in &filters {
        match (name.as_str(), value.as_str()) {
            ("dangling", value) => drop(rows::truth("dangling", value)?),
            ("type", value) => anyhow::ensure!(
                matches!(value, "custom" | "builtin"),
                "--filter: invalid filter: 'type'='{}'",
                value.escape_debug()
            ),
            _ => {}
        }
    }
    // Docker: all labels must be there, of everything else one.
    all.retain(|row| {
        FILTERS.iter().all(|name| {
            let mut of = filters.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).peekable();
            match *name {
                "label" => of.all(|value| rows::has_label(&row.labels, value)),
                _ => of.peek().is_none() || of.any(|value| matches(row, name, value)),
            }
        })
    });
    if said.get_flag("quiet") && string(said, "format").is_none() {
        return print(
            &all.iter().map(|row| format!("{}\n", row.value["ID"].as_str().unwrap_or_default())).collect::<String>(),
        );
    }
    let lines: Vec<Value> = all.into_iter().map(|row| row.value).collect();
    let headings = [
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ];
    print(&rows::show(&lines, string(said, "format"), "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", &headings)?)
}

fn matches(row: &Row, name: &str, value: &str) -> bool {
    match name {
        "dangling" => rows::truth(name, value).is_ok_and(|wanted| (row.custom && !row.used) == wanted),
        "driver" => row.driver == value,
        "id" => row.id.starts_with(value),
        "name" => row.name.contains(value),
        "scope" => value == "local",
        _ => (value == "custom") == row.custom,
    }
}
