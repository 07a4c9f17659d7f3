//! What the user asked about a container's life: who watches it, what becomes of its output, when it starts again.
//! Plain data, kept in the container's record.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// The rooms that made it; empty: all of them.
    pub rooms: Vec<String>,
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
