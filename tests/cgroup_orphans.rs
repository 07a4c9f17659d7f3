//! `doctor` and the cgroups that nobody owns any more: those of a data root that was deleted are told and, with
//! `--repair`, removed; those of every other root stay, wherever it is.

#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::life::{Words, monitor, open, until};
use support::{Engine, Guard, kernel, skip};

/// Those of container `id` in all trees.
fn cgroups(id: &str) -> Vec<PathBuf> {
    let trees = kernel::hierarchies().into_iter().map(|tree| tree.at.join("mydocker").join(id));
    trees.filter(|path| path.is_dir()).collect()
}

/// Ends a container and its monitor at one stroke: nobody cleans up.
fn crash(pid: u32) {
    for pid in [monitor(pid), pid] {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }
    until("their end", || !kernel::alive(pid));
}

/// An engine whose doctor can judge; only where all processes are seen.
fn judge() -> Option<Engine> {
    if fs::read_link("/proc/self/ns/pid").unwrap() != Path::new("pid:[4026531836]") {
        skip("a PID namespace below the first one does not show every engine");
        return None;
    }
    open()
}

/// What `doctor` says of container `id`: with `--repair`, if `repair`.
fn tells(engine: &Engine, repair: bool, id: &str) -> bool {
    let words: &[&str] = if repair { &["doctor", "--repair"] } else { &["doctor"] };
    engine.run(words).stdout.contains(&format!("left over: the cgroups of container {}: ", &id[..12]))
}

#[test]
fn the_cgroups_of_a_deleted_root_are_removed_and_no_others() {
    let Some(engine) = judge() else { return };
    let guard = Guard::new(engine.root());
    let gone = engine.text("gone");
    let here = ["gone", "lives"].map(|name| {
        let root = engine.text(name);
        let id = engine.ok(&["--root", &root, "run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
        let pid = engine.ok(&["--root", &root, "inspect", "-f", "{{.State.Pid}}", "web"]).parse().unwrap();
        crash(pid);
        assert!(!cgroups(&id).is_empty());
        id
    });
    let runs = engine.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    // One that nobody has marked is nobody's to judge.
    let foreign: Vec<PathBuf> = cgroups(&runs).iter().map(|path| path.with_file_name("f".repeat(64))).collect();
    foreign.iter().for_each(|path| fs::create_dir(path).unwrap());
    // Both roots are there: theirs is to clean up.
    for id in &here {
        assert!(!tells(&engine, true, id) && !cgroups(id).is_empty());
    }
    fs::remove_dir_all(&gone).unwrap();
    assert!(tells(&engine, false, &here[0]) && !cgroups(&here[0]).is_empty());
    for id in [&here[1], &runs] {
        assert!(!tells(&engine, false, id));
    }
    assert!(tells(&engine, true, &here[0]));
    assert_eq!(cgroups(&here[0]), [] as [PathBuf; 0]);
    for id in [&here[1], &runs] {
        assert!(!tells(&engine, true, id) && !cgroups(id).is_empty());
    }
    assert!(foreign.iter().all(|path| path.is_dir()));
    foreign.iter().for_each(|path| fs::remove_dir(path).unwrap());
    engine.ok(&["rm", "-f", "web"]);
    engine.ok(&["--root", &engine.text("lives"), "rm", "-f", "web"]);
    guard.check();
}

/// A root that only another mount namespace shows is there as long as somebody sees it.
#[test]
fn a_root_in_another_mount_namespace_is_no_deleted_one() {
    let Some(engine) = judge() else { return };
    let guard = Guard::new(engine.root());
    let hidden = engine.path("hidden");
    fs::create_dir(&hidden).unwrap();
    let hidden = hidden.display().to_string();
    let mydocker = format!("{} --root {hidden}/root", engine.binary().display());
    let script = format!(
        "mount -t tmpfs tmpfs {hidden} && {mydocker} run -d --name web busybox sleep 1000 && \
         {mydocker} inspect -f '{{{{.State.Pid}}}}' web && cat"
    );
    let mut shell = std::process::Command::new("unshare");
    shell.args(["-m", "sh", "-c", &script]).env("MYDOCKER_NETWORK", "none");
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let id = lines.next().unwrap().unwrap();
    crash(lines.next().unwrap().unwrap().parse().unwrap());
    assert!(!PathBuf::from(&hidden).join("root").exists());
    assert!(!tells(&engine, true, &id) && !cgroups(&id).is_empty(), "a living root's was removed");
    drop(shell.stdin.take());
    assert!(shell.wait().unwrap().success());
    until("it is nobody's", || tells(&engine, true, &id));
    assert_eq!(cgroups(&id), [] as [PathBuf; 0]);
    guard.check();
}
