//! What the user asked about a container's life: who watches it, what becomes of its output, when it starts again.
//! Plain data, kept in the container's record.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// Removed when it ends (`--rm`).
    pub auto_remove: bool,
    /// The command's stdin is kept open (`-i`).
    pub interactive: bool,
    pub labels: BTreeMap<String, String>,
    pub restart: Restart,
    /// Seconds between the stop signal and SIGKILL; negative: for ever. Docker's default is 10.
    pub stop_timeout: Option<i64>,
    pub log: LogConfig,
    /// How it is asked whether it is well; `None`: nobody asks.
    pub health: Option<Healthcheck>,
    /// The rooms that made it; empty: all of them.
    pub rooms: Vec<String>,
}

/// `HEALTHCHECK`, in docker's form; what is 0 has its default. Times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["CMD", WORD…]`, `["CMD-SHELL", LINE]`, `["NONE"]`; empty: as the image says.
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: u32,
}

impl Healthcheck {
    /// The words to run in the container; `None`: nothing is asked.
    pub fn command(&self) -> Option<Vec<String>> {
        let (kind, words) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" if !words.is_empty() => Some(words.to_vec()),
            "CMD-SHELL" if !words.is_empty() => Some(vec!["/bin/sh".into(), "-c".into(), words.join(" ")]),
            _ => None,
        }
    }

    pub fn interval(&self) -> Duration {
        time(self.interval, 30)
    }

    pub fn timeout(&self) -> Duration {
        time(self.timeout, 30)
    }

    pub fn start_period(&self) -> Duration {
        time(self.start_period, 0)
    }

    pub fn start_interval(&self) -> Duration {
        time(self.start_interval, 5)
    }

    pub fn retries(&self) -> u32 {
        if self.retries == 0 { 3 } else { self.retries }
    }
}

fn time(nanoseconds: i64, default: u64) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds @ 1..) => Duration::from_nanos(nanoseconds),
        _ => Duration::from_secs(default),
    }
}

/// Go's durations: numbers with a unit each, `1h30m`, `1.5s`, `300ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| end + at);
        seconds += number * UNITS.iter().find(|(unit, _)| *unit == &rest[end..unit_end])?.1;
        rest = &rest[unit_end..];
    }
    // i64 nanoseconds, as Go's.
    (!text.is_empty() && seconds < 9.2e9).then(|| Duration::from_nanos((seconds * 1e9).round() as u64))
}

/// `--restart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// After an exit status other than 0, at most so many times; 0: as often as it takes.
    OnFailure(u32),
}

/// Where the command's output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    pub driver: LogDriver,
    /// Bytes after which a new file is begun; 0: never.
    pub max_size: u64,
    /// How many files there are, with the one being written.
    pub max_file: u32,
    /// As the user said it.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    JsonFile,
    Local,
    None,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { driver: LogDriver::JsonFile, max_size: 10 << 20, max_file: 3, options: BTreeMap::new() }
    }
}

impl Restart {
    /// Docker's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Restart::No => "no",
            Restart::Always => "always",
            Restart::UnlessStopped => "unless-stopped",
            Restart::OnFailure(_) => "on-failure",
        }
    }

    /// Whether a container that has ended with `status` is started again, having been so `count` times already.
    pub fn wants(self, status: u8, count: u32) -> bool {
        match self {
            Restart::No => false,
            Restart::Always | Restart::UnlessStopped => true,
            Restart::OnFailure(most) => status != 0 && (most == 0 || count < most),
        }
    }
}
