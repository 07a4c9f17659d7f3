//! The pages of the course tell the truth: each command in them is run by that chapter's own program, translations keep
//! up, pictures are those of a real run. The work is done by `scripts/chapters`.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{examples, skip};

/// Runs `scripts/chapters words`; `None`: this machine has no Python.
fn chapters(words: &[&str]) -> Option<Output> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
    match Command::new("python3").arg(program).args(words).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("python3: {error}"));
            None
        }
    }
}

/// Passes on what was skipped; fails with everything that was said.
fn judge(output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| line.strip_prefix("skipped: ")).for_each(skip);
    assert!(output.status.success(), "\n{text}");
}

fn programs() -> PathBuf {
    examples(Path::new(env!("CARGO_BIN_EXE_mydocker")))
}

#[test]
fn every_console_block_is_what_the_machine_says() {
    let Some(output) = chapters(&["pages", "--if-ready", "--programs", &programs().to_string_lossy()]) else { return };
    judge(&output);
}

#[test]
fn no_translation_lags_behind() {
    let Some(output) = chapters(&["stale"]) else { return };
    judge(&output);
}

#[test]
fn every_picture_is_that_of_a_real_run() {
    let Some(output) = chapters(&["figures", "--check", "--programs", &programs().to_string_lossy()]) else { return };
    judge(&output);
}

#[test]
fn a_chapter_only_adds() {
    let Some(output) = chapters(&["table", "--check", "--programs", &programs().to_string_lossy()]) else { return };
    judge(&output);
}

/// In an empty folder, without a network and without anything of ours but the archive.
#[test]
fn the_bundle_works_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("course.tar.gz");
    let (product, out) = (env!("CARGO_BIN_EXE_mydocker"), archive.to_string_lossy().into_owned());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can make containers");
    }
    // The compiled checks are not asked here, so that none need be compiled.
    let mut command = Command::new("python3");
    command.arg(program).args(["bundle", "--bin", product, "--out", &out]).env("MYDOCKER_CHECKER", "/bin/true");
    let Ok(output) = command.output() else { return skip("there is no python3") };
    judge(&output);
    let line = "tar -xf course.tar.gz && cd mydocker-course && unshare --net ./start && scripts/chapters list";
    let output = Command::new("sh").args(["-c", line]).current_dir(dir.path()).env_remove("MYDOCKER_ROOT").output();
    let output = output.unwrap();
    judge(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("a container runs"));
}
