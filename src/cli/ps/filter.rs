//! `ps --filter NAME=VALUE`: of one name any value suffices, of different names all must hold.

use super::Seen;
use crate::cli::rows;
use crate::container::Health;
use anyhow::{Result, bail};

pub const NAMES: [&str; 10] =
    ["id", "name", "label", "status", "exited", "ancestor", "before", "since", "health", "volume"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

pub struct Filters(Vec<(String, String)>);

/// Those that were said, if they are such as can be.
pub fn parse(said: &clap::ArgMatches) -> Result<Filters> {
    let filters = rows::filters(said, &NAMES)?;
    for (name, value) in &filters {
        if name == "status" && !STATES.contains(&value.as_str()) {
            bail!("--filter: invalid filter 'status={}': there are {}", value.escape_debug(), STATES.join(", "));
        }
        if name == "health" && !HEALTH.contains(&value.as_str()) {
            bail!("--filter: invalid filter 'health={}': there are {}", value.escape_debug(), HEALTH.join(", "));
        }
        if name == "exited" && value.parse::<i32>().is_err() {
            bail!("--filter: invalid filter 'exited={}': not an exit status", value.escape_debug());
        }
    }
    Ok(Filters(filters))
}

impl Filters {
    /// Whether containers at rest are asked for.
    pub fn about_status(&self) -> bool {
        self.0.iter().any(|(name, _)| matches!(name.as_str(), "status" | "exited"))
    }

    pub(super) fn take(&self, seen: &Seen, all: &[Seen]) -> bool {
        let of =
            |name: &'static str| self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str());
        NAMES.iter().all(|name| {
            // Docker: all labels must be there, of everything else one.
            match *name {
                "label" => of(name).all(|value| matches(name, value, seen, all)),
                _ => of(name).next().is_none() || of(name).any(|value| matches(name, value, seen, all)),
            }
        })
    }
}

fn matches(name: &str, value: &str, seen: &Seen, all: &[Seen]) -> bool {
    let record = &seen.record;
    let other = || {
        let named = |one: &&Seen| {
            one.record.name() == value || !value.is_empty() && one.record.spec.id.as_str().starts_with(value)
        };
        all.iter().find(named).map(|one| one.record.created)
    };
    match name {
        "id" => record.spec.id.as_str().starts_with(value),
        "name" => name_matches(record.name(), value),
        "label" => match value.split_once('=') {
            Some((name, wanted)) => record.life().labels.get(name).is_some_and(|value| value == wanted),
            None => record.life().labels.contains_key(value),
        },
        "status" => seen.status.word() == value,
        "exited" => seen.status.word() == "exited" && value.parse() == Ok(record.rest.exit_code),
        "ancestor" => {
            let reference = &record.spec.image.reference;
            reference == value || reference.strip_suffix(":latest") == Some(value)
        }
        "health" => {
            let runs = seen.status.running();
            let health = runs.and_then(|_| Health::of(&record.spec.dirs, &record.spec.id, record.life()));
            health.map_or("none", |health| HEALTH.into_iter().find(|word| *word == health.status).unwrap_or("none"))
                == value
        }
        "volume" => {
            let all = record.spec.own.get("volume").and_then(|all| all.as_array());
            all.is_some_and(|all| all.iter().any(|one| one["source"] == value || one["target"] == value))
        }
        "before" => other().is_some_and(|created| record.created < created),
        _ => other().is_some_and(|created| record.created > created),
    }
}

/// A part of the name; `^` and `$` hold it at its ends.
fn name_matches(name: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_start_matches('/');
    let (from, pattern) =
        pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest.trim_start_matches('/')));
    let (to, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    match (from, to) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        _ => name.contains(pattern),
    }
}
