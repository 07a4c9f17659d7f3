//! `mydocker stats`: what containers use.

use super::ps::{decimal, laid_out, scaled};
use super::{Command, Context, flag, print, string, strings};
use crate::cgroup::Stats;
use crate::container::{Record, find, list, status};
use anyhow::Result;
use clap::{Arg, ArgMatches};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

pub const STATS: Command = Command {
    name: "stats",
    about: "Show what containers use",
    flags: |command, _| {
        command.args([
            super::containers().required(false),
            flag("all", "Those at rest, too").short('a'),
            flag("no-stream", "Once"),
            flag("no-trunc", "Do not shorten"),
            Arg::new("format").long("format").value_name("FORMAT").help("table, json or a Go template"),
        ])
    },
    act,
};

const HEADS: [(&str, &str); 9] = [
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const TABLE: &str =
    "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1000);

struct Look {
    at: Instant,
    stats: Vec<(Record, Option<i32>, Stats)>,
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let format = match string(said, "format") {
        None | Some("table" | "") => TABLE.to_string(),
        Some("json") => "{{json .}}".to_string(),
        Some(other) => other.to_string(),
    };
    let mut last = look(context, said)?;
    loop {
        std::thread::sleep(if said.get_flag("no-stream") { PAUSE / 4 } else { PAUSE });
        let next = look(context, said)?;
        let rows = next.stats.iter().map(|one| row(one, &last, &next, said.get_flag("no-trunc")));
        let text = laid_out(&format, &HEADS, rows)?;
        let clear = if std::io::stdout().is_terminal() && !said.get_flag("no-stream") { "\x1b[H\x1b[J" } else { "" };
        print(&format!("{clear}{text}"))?;
        if said.get_flag("no-stream") {
            return Ok(0);
        }
        last = next;
    }
}

fn look(context: &Context<'_>, said: &ArgMatches) -> Result<Look> {
    let named: Vec<&str> = strings(said, "containers").collect();
    let records = match named.is_empty() {
        true => list(&context.dirs),
        false => {
            let read = |word: &&str| Record::read(&context.dirs, &find(&context.dirs, word)?);
            named.iter().map(read).collect::<Result<Vec<_>>>()?
        }
    };
    let all = said.get_flag("all") || !named.is_empty();
    let stats = records.into_iter().filter_map(|record| {
        let pid = status(&record).running().map(|running| running.pid);
        (all || pid.is_some()).then(|| (record, pid, pid.map(Stats::of).unwrap_or_default()))
    });
    Ok(Look { at: Instant::now(), stats: stats.collect() })
}

fn row((record, pid, stats): &(Record, Option<i32>, Stats), last: &Look, next: &Look, whole: bool) -> Value {
    let before = last.stats.iter().find(|(other, ..)| other.spec.id == record.spec.id).map(|(.., stats)| stats);
    let wall = next.at.duration_since(last.at).as_nanos() as f64;
    let cpu = match (stats.cpu, before.and_then(|before| before.cpu)) {
        (Some(now), Some(before)) => now.saturating_sub(before) as f64 / wall * 100.0,
        _ => 0.0,
    };
    let binary = |bytes: u64| scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]);
    let (memory, limit) = (stats.memory.unwrap_or(0), stats.memory_limit.unwrap_or(0));
    let limit = if pid.is_some() { limit } else { 0 };
    let share = if limit > 0 { memory as f64 / limit as f64 * 100.0 } else { 0.0 };
    let (received, sent) = pid.map(network).unwrap_or_default();
    json!({
        "ID": if whole { record.spec.id.as_str() } else { record.spec.id.short() },
        "Container": record.spec.id.short(),
        "Name": record.name(),
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", binary(memory), binary(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", decimal(received), decimal(sent)),
        "BlockIO": format!("{} / {}", decimal(stats.read.unwrap_or(0)), decimal(stats.written.unwrap_or(0))),
        "PIDs": stats.pids.unwrap_or(0).to_string(),
    })
}

/// Bytes received and sent by the interfaces of the process's network, loopback aside (`/proc/PID/net/dev`).
fn network(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    lines.fold((0, 0), |(received, sent), (_, counts)| {
        let counts: Vec<u64> = counts.split_whitespace().map(|count| count.parse().unwrap_or(0)).collect();
        (received + counts.first().unwrap_or(&0), sent + counts.get(8).unwrap_or(&0))
    })
}
