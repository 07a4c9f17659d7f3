//! How it is asked whether a container is well, and what came of it. The questions are docker's flags and the image's
//! `HEALTHCHECK`; the answers lie in `run/<id>/health`, for as long as the container runs.
//!
//! Try it without us: `while sleep 30; do nsenter -t $PID -a sh -c 'wget -q -O- localhost' || echo ill; done`

use super::live::Running;
use crate::plan::parse_duration;
use crate::plan::{Dirs, Healthcheck, Id, Life};
use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::Duration;

pub fn flags() -> [Arg; 7] {
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    [
        value("health-cmd", "COMMAND", "Run in the container to see whether it is well (exit status 0)"),
        value("health-interval", "DURATION", "From one look to the next (30s)"),
        value("health-timeout", "DURATION", "How long one look may take (30s)"),
        value("health-start-period", "DURATION", "How long it may take to become well at all (0s)"),
        value("health-start-interval", "DURATION", "From one look to the next until then (5s)"),
        value("health-retries", "COUNT", "So many failures in a row make it unhealthy (3)"),
        Arg::new("no-healthcheck")
            .long("no-healthcheck")
            .action(ArgAction::SetTrue)
            .help("Ignore the HEALTHCHECK of the image"),
    ]
}

/// What the flags say, with what the image says where they do not. `None`: nobody asks.
pub fn wanted(said: &ArgMatches, image: Option<&Healthcheck>) -> Result<Option<Healthcheck>> {
    let string = |name: &str| said.get_one::<String>(name).map(String::as_str);
    let time = |name: &str| string(name).map_or(Ok(0), |text| nanoseconds(name, text));
    let retries = match string("health-retries").map(str::parse::<u32>) {
        None => 0,
        Some(Ok(count)) => count,
        Some(Err(_)) => {
            let text = string("health-retries").unwrap_or_default().escape_debug();
            bail!("--health-retries: `{text}` is not a number from 0 on")
        }
    };
    let command = string("health-cmd").filter(|command| !command.is_empty());
    let mut check = Healthcheck {
        test: command.map(|command| vec!["CMD-SHELL".to_string(), command.to_string()]).unwrap_or_default(),
        interval: time("health-interval")?,
        timeout: time("health-timeout")?,
        start_period: time("health-start-period")?,
        start_interval: time("health-start-interval")?,
        retries,
    };
    if said.get_flag("no-healthcheck") {
        if check != Healthcheck::default() {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(Some(Healthcheck { test: vec!["NONE".to_string()], ..check }));
    }
    if let Some(image) = image {
        let or = |ours: i64, images: i64| if ours == 0 { images } else { ours };
        check = Healthcheck {
            test: if check.test.is_empty() { image.test.clone() } else { check.test },
            interval: or(check.interval, image.interval),
            timeout: or(check.timeout, image.timeout),
            start_period: or(check.start_period, image.start_period),
            start_interval: or(check.start_interval, image.start_interval),
            retries: if check.retries == 0 { image.retries } else { check.retries },
        };
    }
    Ok((check != Healthcheck::default()).then_some(check))
}

fn nanoseconds(flag: &str, text: &str) -> Result<i64> {
    let shown = text.escape_debug();
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() && duration < Duration::from_millis(1) => {
            bail!("--{flag}: `{shown}` is less than 1ms")
        }
        Some(duration) => Ok(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)),
        None if text.starts_with('-') => bail!("--{flag}: `{shown}` is negative"),
        None => bail!("--{flag}: `{shown}` is not a duration like 30s"),
    }
}

/// One look at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Probe {
    pub start: Timestamp,
    pub end: Timestamp,
    /// -1: it took too long, or could not be run.
    pub exit_code: i32,
    /// What it wrote, up to 4 KiB.
    pub output: String,
}

/// How it is, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    pub failing_streak: u32,
    /// The last ones.
    pub log: Vec<Probe>,
}

const KEPT: usize = 5;

impl Health {
    /// How the container is that lives as `life` says; `None`: nobody asks.
    pub fn of(dirs: &Dirs, id: &Id, life: &Life) -> Option<Self> {
        life.health.as_ref()?.command()?;
        Some(Self::read(dirs, id))
    }

    /// Nothing is known yet of one that has just been started.
    pub fn read(dirs: &Dirs, id: &Id) -> Self {
        let text = fs::read_to_string(dirs.running(id).join("health")).ok();
        let begun = || Self { status: "starting".to_string(), failing_streak: 0, log: vec![] };
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(begun)
    }

    /// Takes the last look into account: whether that is news.
    pub fn take(&mut self, probe: Probe, check: &Healthcheck, running: &Running) -> bool {
        let before = self.status.clone();
        if probe.exit_code == 0 {
            (self.failing_streak, self.status) = (0, "healthy".to_string());
        } else {
            let age = Duration::try_from(probe.start.duration_since(running.started_at)).unwrap_or_default();
            if self.status != "starting" || age >= check.start_period() {
                self.failing_streak = self.failing_streak.saturating_add(1);
            }
            if self.failing_streak >= check.retries() {
                self.status = "unhealthy".to_string();
            }
        }
        self.log.push(probe);
        self.log.drain(..self.log.len().saturating_sub(KEPT));
        self.status != before
    }

    /// A new file in the place of the last one.
    pub fn write(&self, dirs: &Dirs, id: &Id) -> std::io::Result<()> {
        let path = dirs.running(id).join("health");
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], image: Option<&Healthcheck>) -> Result<Option<Healthcheck>> {
        let command = clap::Command::new("run").args(flags().map(|arg| arg.allow_hyphen_values(true)));
        let command = command.mut_arg("no-healthcheck", |arg| arg.allow_hyphen_values(false));
        wanted(&command.no_binary_name(true).try_get_matches_from(words)?, image)
    }

    #[test]
    fn flags_go_over_the_image() {
        assert_eq!(parse(&[], None).unwrap(), None);
        let text = r#"{"Test":["CMD","/ok"],"Interval":5000000000,"Retries":7,"Unknown":1}"#;
        let image: Healthcheck = serde_json::from_str(text).unwrap();
        assert_eq!(parse(&[], Some(&image)).unwrap().unwrap(), image);
        let said = parse(&["--health-cmd", "x", "--health-timeout", "1.5s"], Some(&image)).unwrap().unwrap();
        assert_eq!((said.test, said.interval, said.timeout, said.retries), {
            (vec!["CMD-SHELL".to_string(), "x".to_string()], 5_000_000_000, 1_500_000_000, 7)
        });
        let none = parse(&["--no-healthcheck"], Some(&image)).unwrap().unwrap();
        assert_eq!((none.command(), image.command()), (None, Some(vec!["/ok".to_string()])));
        for bad in [
            &["--health-interval", "-1s"][..],
            &["--health-timeout", "10"],
            &["--health-start-period", "1us"],
            &["--health-retries", "-1"],
            &["--no-healthcheck", "--health-cmd", "x"],
        ] {
            let error = parse(bad, None).unwrap_err().to_string();
            assert!(error.starts_with(bad[0]), "{error}");
        }
    }

    #[test]
    fn a_streak_makes_it_ill_and_one_good_look_makes_it_well() {
        let check = Healthcheck { retries: 2, start_period: 10_000_000_000, ..Healthcheck::default() };
        let mut running = Running::now(1, true);
        running.started_at = Timestamp::UNIX_EPOCH;
        let mut health = Health { status: "starting".into(), failing_streak: 0, log: vec![] };
        let mut look = |second: i64, exit_code: i32| {
            let start = Timestamp::from_second(second).unwrap();
            let news = health.take(Probe { start, end: start, exit_code, output: String::new() }, &check, &running);
            (health.status.clone(), health.failing_streak, news, health.log.len())
        };
        let is = |status: &str, streak, news, kept| (status.to_string(), streak, news, kept);
        assert_eq!(look(1, 1), is("starting", 0, false, 1));
        assert_eq!(look(11, 1), is("starting", 1, false, 2));
        assert_eq!(look(12, -1), is("unhealthy", 2, true, 3));
        assert_eq!(look(13, 1), is("unhealthy", 3, false, 4));
        assert_eq!(look(14, 0), is("healthy", 0, true, 5));
        assert_eq!(look(15, 1), is("healthy", 1, false, 5));
    }
}
