//! `mydocker top`: a container's processes as the host sees them. Read from the host's /proc, never by a program of the
//! container's.

use super::table::{align, printable};
use super::{Command, Context, print, string, strings};
use crate::container::{Record, find, status};
use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgMatches};
use std::collections::BTreeSet;
use std::fs;

pub const TOP: Command = Command {
    name: "top",
    about: "List the processes of a container",
    flags: |command, _| {
        command.args([
            super::container(),
            Arg::new("ps")
                .value_name("ps OPTIONS")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .help("Options for the host's ps"),
        ])
    },
    act,
};

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let id = find(&context.dirs, string(said, "container").unwrap_or_default())?;
    let status = status(&Record::read(&context.dirs, &id)?);
    let Some(running) = status.running() else { bail!("container {} is not running", id) };
    let pids = processes(running.pid);
    let options: Vec<&str> = strings(said, "ps").collect();
    if options.is_empty() { print(&own(&pids)) } else { print(&by_ps(&pids, &options)?) }
}

/// Every process in the PID namespace of `pid`, or in one below it.
fn processes(pid: i32) -> BTreeSet<i32> {
    let children = |pid: i32| -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
            .collect()
    };
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    // What `exec` put there is no child of the first process.
    let (own, ours) = (namespace(pid), namespace(std::process::id() as i32));
    let mut found = BTreeSet::from([pid]);
    if own != ours {
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        found.extend(numbers.filter(|pid| namespace(*pid) == own));
    }
    let mut left: Vec<i32> = found.iter().copied().collect();
    while let Some(pid) = left.pop() {
        left.extend(children(pid).into_iter().filter(|child| found.insert(*child)));
    }
    found
}

fn own(pids: &BTreeSet<i32>) -> String {
    let mut text = String::from("UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD\n");
    let (now, uptime) = (jiff::Timestamp::now(), uptime());
    for pid in pids {
        text.push_str(&line(*pid, now, uptime).unwrap_or_default());
    }
    align(&text)
}

fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// One process as `ps -ef` shows it; `None` if it has ended meanwhile.
fn line(pid: i32, now: jiff::Timestamp, uptime: f64) -> Option<String> {
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid: u32 =
        status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()?;
    let user = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = user.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_string())
    });
    let used = (number(11)? + number(12)?) / TICKS;
    let age = (uptime - number(19)? / TICKS).max(0.001);
    let began = now.checked_sub(jiff::SignedDuration::from_secs_f64(age)).ok()?;
    let began = began.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string();
    let tty = match number(4)? as u32 {
        0 => "?".to_string(),
        device => format!("pts/{}", device & 0xff | device >> 12 & 0xf_ff00),
    };
    let seconds = used as u64;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    Some(format!(
        "{}\t{pid}\t{}\t{:.0}\t{began}\t{tty}\t{:02}:{:02}:{:02}\t{}\n",
        user.unwrap_or_else(|| uid.to_string()),
        fields.get(1)?,
        used / age * 100.0,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        printable(&command),
    ))
}

/// The rows of the host's `ps` that are the container's; the options must leave its PID column in.
fn by_ps(pids: &BTreeSet<i32>, options: &[&str]) -> Result<String> {
    let output = std::process::Command::new("ps").args(options).output().context("cannot run the host's ps")?;
    if !output.status.success() {
        bail!("ps: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed").escape_debug());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let head: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    let Some(column) = head.iter().position(|word| *word == "PID") else {
        bail!("couldn't find PID field in ps output")
    };
    let mut table = head.join("\t") + "\n";
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid| pids.contains(&pid)) {
            let (cells, rest) = fields.split_at((head.len() - 1).min(fields.len()));
            table.push_str(&printable(&cells.join("\u{1f}")).replace("\\u{1f}", "\t"));
            table.push_str(&format!("\t{}\n", printable(&rest.join(" "))));
        }
    }
    Ok(align(&table))
}
