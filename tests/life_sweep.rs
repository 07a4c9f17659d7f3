//! Every step of every plan of a container's life, failed and killed: the next command leaves the host as it was, and
//! the same name can be used at once. The steps are read from the plan itself, so a new step is swept too.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;
use support::life::open;
use support::{Done, Engine, Guard};

/// The names of the steps of `words`, from the plan as `--explain=json` tells it while it happens.
fn steps(engine: &Engine, words: &[&str]) -> Vec<String> {
    let mut all: Vec<&str> = vec![words[0], "--explain=json"];
    all.extend(&words[1..]);
    let done = engine.run(all);
    let lines = done.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut names: Vec<String> = lines.filter_map(|line| Some(line["step"].as_str()?.to_string())).collect();
    names.dedup();
    assert!(!names.is_empty(), "{}", done.stderr);
    names
}

/// What a plan would take back, as steps of the undo list.
fn undos(engine: &Engine, words: &[&str]) -> Vec<String> {
    let mut all: Vec<&str> = vec![words[0], "--explain=json"];
    all.extend(&words[1..]);
    let done = engine.run(all);
    let lines = done.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines = lines.filter(|line| line["undo"].is_object());
    let mut names: Vec<String> = lines.map(|line| format!("undo.{}", line["step"].as_str().unwrap())).collect();
    names.sort();
    names.dedup();
    names
}

fn struck(engine: &Engine, words: &[&str], step: &str, fault: &str) -> Done {
    let mut command = engine.command(words);
    command.env("MYDOCKER_FAILPOINT", format!("{step}:{fault}"));
    engine.finish(command)
}

/// The orphans of an engine that was killed are ours, for the test is their subreaper. One that had entered a
/// container's PID namespace must be reaped, or that container could never end (`man 7 pid_namespaces`); the host's init
/// does that otherwise.
fn reap_joined_orphans() {
    for pid in support::kernel::children(std::process::id()) {
        let inside = support::kernel::status(pid, "NSpid").is_some_and(|ids| ids.split_whitespace().count() > 1);
        if inside && support::kernel::state(pid) == Some('Z') {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid as i32), None);
        }
    }
}

/// After a fault: one ordinary command cleans up, and the name is free for a whole life.
#[track_caller]
fn life_goes_on(engine: &Engine, what: &str) {
    engine.run(["ps", "-a"]);
    std::thread::sleep(Duration::from_millis(5));
    reap_joined_orphans();
    let removed = engine.run(["rm", "-f", "web"]);
    assert_eq!(removed.status, 0, "after {what}: {}", removed.stderr);
    let done = engine.run(["run", "--rm", "--name", "web", "busybox", "true"]);
    assert_eq!(done.status, 0, "after {what}: {}{}", done.stderr, removed.stderr);
}

fn tell(table: &BTreeMap<String, usize>) {
    for (row, count) in table {
        println!("{row}: {count} faults, host unchanged, name free");
    }
}

fn sweep(row: &str, words: &[&str], before: &dyn Fn(&Engine), with_undo: bool) {
    let Some(mut engine) = open() else { return };
    engine.limit = crate::support::slow(Duration::from_secs(30));
    engine.run(["run", "--rm", "busybox", "true"]);
    before(&engine);
    let mut names = steps(&engine, words);
    engine.run(["rm", "-f", "web"]);
    if with_undo {
        before(&engine);
        names.extend(undos(&engine, words));
        engine.run(["rm", "-f", "web"]);
    }
    let mut table = BTreeMap::new();
    for step in &names {
        for fault in ["error", "kill"] {
            let what = format!("{row}: {step}:{fault}");
            let guard = Guard::new(engine.root());
            before(&engine);
            let done = struck(&engine, words, step, fault);
            if !step.starts_with("undo.") {
                assert_ne!(done.status, 0, "{what} was not noticed");
            }
            life_goes_on(&engine, &what);
            guard.check();
            *table.entry(format!("{row} {fault}")).or_insert(0) += 1;
        }
    }
    tell(&table);
}

fn nothing(_: &Engine) {}

#[test]
fn run_in_the_foreground() {
    sweep("run", &["run", "--name", "web", "busybox", "true"], &nothing, true);
}

#[test]
fn run_detached() {
    sweep("run -d", &["run", "-d", "--name", "web", "busybox", "sleep", "100"], &nothing, false);
}

#[test]
fn create() {
    sweep("create", &["create", "--name", "web", "busybox", "true"], &nothing, false);
}

#[test]
fn start() {
    let made = |engine: &Engine| {
        assert_eq!(engine.run(["create", "--name", "web", "busybox", "sleep", "100"]).status, 0);
    };
    sweep("start", &["start", "web"], &made, false);
}

#[test]
fn exec() {
    let runs = |engine: &Engine| {
        assert_eq!(engine.run(["run", "-d", "--name", "web", "busybox", "sleep", "100"]).status, 0);
    };
    sweep("exec", &["exec", "web", "true"], &runs, false);
}

/// A volume is made by a start, and `commit` reads the layer that a start has left.
#[test]
fn volume_and_commit() {
    let Some(engine) = open() else { return };
    let words = ["run", "-d", "--name", "web", "-v", "vol:/vol", "-v", "/anon", "busybox", "sleep", "100"];
    let steps = steps(&engine, &words).into_iter().filter(|step| step.starts_with("volume."));
    let steps: Vec<String> = steps.collect();
    assert!(steps.len() >= 2, "{steps:?}");
    engine.run(["rm", "-f", "-v", "web"]);
    engine.run(["volume", "rm", "vol"]);
    let mut table = BTreeMap::new();
    for step in &steps {
        for fault in ["error", "kill"] {
            let guard = Guard::new(engine.root());
            assert_ne!(struck(&engine, &words, step, fault).status, 0, "{step}:{fault} was not noticed");
            life_goes_on(&engine, &format!("{step}:{fault}"));
            engine.run(["volume", "rm", "vol"]);
            let left = engine.run(["volume", "ls", "-q"]).stdout;
            assert_eq!(left, "", "after {step}:{fault}");
            guard.check();
            *table.entry(format!("volume {fault}")).or_insert(0) += 1;
        }
    }
    // `commit` of a container at rest and of one that runs, killed at any moment.
    for running in [false, true] {
        for delay in [0, 1, 2, 4, 8, 16, 32] {
            let run: &[&str] = if running {
                &["run", "-d", "--name", "web", "busybox", "sh", "-c", "head -c 1m /dev/urandom > /x; sleep 100"]
            } else {
                &["run", "--name", "web", "busybox", "sh", "-c", "head -c 1m /dev/urandom > /x"]
            };
            let guard = Guard::new(engine.root());
            assert_eq!(engine.run(run).status, 0);
            let commit = engine.spawn(engine.command(["commit", "web", "made"]));
            std::thread::sleep(Duration::from_millis(delay));
            commit.signal(nix::sys::signal::SIGKILL);
            commit.wait();
            // A container that was paused for it can be woken, or is awake.
            let state = engine.run(["inspect", "-f", "{{.State.Status}}", "web"]).stdout;
            assert!(["running\n", "exited\n", "paused\n"].contains(&state.as_str()), "{state}");
            engine.run(["rmi", "made"]);
            life_goes_on(&engine, &format!("commit killed after {delay} ms"));
            guard.check();
            *table.entry(format!("commit killed ({})", if running { "runs" } else { "rests" })).or_insert(0) += 1;
        }
    }
    tell(&table);
}

/// `stop` and `rm` have no plan but the undo list; each of its entries is a place to die.
#[test]
fn stop_and_rm() {
    let Some(engine) = open() else { return };
    let undos = undos(&engine, &["run", "--name", "web", "busybox", "true"]);
    engine.run(["rm", "-f", "web"]);
    let mut table = BTreeMap::new();
    for step in &undos {
        // The monitor was told where to die when it was born.
        let guard = Guard::new(engine.root());
        let words = ["run", "-d", "--name", "web", "busybox", "sleep", "100"];
        assert_eq!(struck(&engine, &words, step, "kill").status, 0);
        engine.run(["stop", "-t", "0", "web"]);
        assert_eq!(engine.run(["start", "web"]).status, 0, "after {step}");
        engine.run(["kill", "web"]);
        struck(&engine, &["rm", "-f", "web"], step, "kill");
        life_goes_on(&engine, &format!("stop and rm: {step}"));
        guard.check();
        *table.entry("stop, rm kill".to_string()).or_insert(0) += 1;
    }
    tell(&table);
}
