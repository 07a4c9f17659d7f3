//! A Debian for tests that want a whole distribution: made by `mmdebstrap`, which needs a Debian mirror once.

use super::skip;
use std::path::PathBuf;
use std::process::Command;

/// The archive `name`, kept under `target/tmp`. `flags` are mmdebstrap's. `None`: there is no way to make one here.
pub fn debian(name: &str, flags: &[&str]) -> Option<PathBuf> {
    let archive = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if archive.exists() {
        return Some(archive);
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    // Two tests may want the same one.
    let new = archive.with_extension(format!("{}.tar", std::process::id()));
    let why = match Command::new("mmdebstrap").args(flags).arg(suite).arg(&new).output() {
        Ok(output) if output.status.success() => {
            std::fs::rename(new, &archive).unwrap();
            return Some(archive);
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_string(),
        Err(error) => error.to_string(),
    };
    skip(&format!("mmdebstrap: {why}"));
    None
}
