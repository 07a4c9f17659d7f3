//! `mydocker logs`.

use super::{Command, Context, container, flag, string};
use crate::container::{Line, Moment, Reader, Record, find, status};
use crate::plan::{LogDriver, has_owner};
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use std::io::Write;
use std::time::Duration;

pub const LOGS: Command = Command {
    name: "logs",
    about: "Print what a container has written",
    flags: |command, _| {
        let value = |name: &'static str, help| Arg::new(name).long(name).value_name("TIME").help(help);
        command.args([
            container(),
            flag("follow", "Go on until the container ends").short('f'),
            Arg::new("tail")
                .long("tail")
                .short('n')
                .value_name("LINES")
                .allow_negative_numbers(true)
                .help("Only the last ones (all)"),
            flag("timestamps", "Print when each line was written").short('t'),
            value("since", "Only what was written after this (a date, or 10m: so long ago)"),
            value("until", "Only what was written before this"),
            flag("details", "Print the labels that the log keeps (none)"),
        ])
    },
    act,
};

/// How often a growing log is looked at.
const PAUSE: Duration = Duration::from_millis(50);

struct Wanted {
    since: Option<Moment>,
    until: Option<Moment>,
    times: bool,
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let moment = |name: &str, flag: &str| string(said, name).map(|text| Moment::parse(flag, text)).transpose();
    let wanted = Wanted {
        since: moment("since", "--since")?,
        until: moment("until", "--until")?,
        times: said.get_flag("timestamps"),
    };
    let last = match string(said, "tail") {
        None | Some("all") => usize::MAX,
        // Docker: what is no number, or less than nothing, means all.
        Some(text) => match text.parse::<i64>() {
            Ok(lines) => usize::try_from(lines).unwrap_or(usize::MAX),
            Err(_) => bail!("--tail: `{}` is neither a number nor `all`", text.escape_debug()),
        },
    };
    let id = find(&context.dirs, string(said, "container").unwrap_or_default())?;
    let record = Record::read(&context.dirs, &id)?;
    if record.life().log.driver == LogDriver::None {
        bail!("configured logging driver does not support reading");
    }
    let mut reader = Reader::new(&record.spec.folder());
    let mut lines = reader.read();
    lines.retain(|line| wanted.takes(line));
    let first = start_of_last(&lines, last);
    wanted.print(&lines[first..])?;
    while said.get_flag("follow") {
        // Asked before the last look, so that nothing that was written before its end is missed.
        let over = Record::read(&context.dirs, &id).map_or(true, |record| status(&record).running().is_none())
            && !has_owner(&context.dirs, &id)
            || wanted.until.as_ref().is_some_and(|until| until.0 < jiff::Timestamp::now());
        let mut lines = reader.read();
        lines.retain(|line| wanted.takes(line));
        wanted.print(&lines)?;
        if over {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(0)
}

/// Where the last `count` lines begin; the pieces of one long line count as one.
fn start_of_last(lines: &[Line], count: usize) -> usize {
    let mut left = count;
    for (number, line) in lines.iter().enumerate().rev() {
        let ends = line.log.ends_with('\n') || number + 1 == lines.len();
        if ends {
            if left == 0 {
                return number + 1;
            }
            left -= 1;
        }
    }
    0
}

impl Wanted {
    fn takes(&self, line: &Line) -> bool {
        self.since.as_ref().is_none_or(|since| line.time >= since.0)
            && self.until.as_ref().is_none_or(|until| line.time <= until.0)
    }

    fn print(&self, lines: &[Line]) -> Result<()> {
        let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
        for line in lines {
            let mut text = String::with_capacity(line.log.len() + 40);
            if self.times {
                text.push_str(&format!("{:.9} ", line.time));
            }
            text.push_str(&line.log);
            let written = match line.stream.as_str() {
                "stderr" => err.write_all(text.as_bytes()),
                _ => out.write_all(text.as_bytes()),
            };
            match written {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
                Err(error) => bail!("cannot write: {error}"),
                Ok(()) => {}
            }
        }
        out.flush().or_else(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Ok(()),
            _ => bail!("cannot write: {error}"),
        })
    }
}
