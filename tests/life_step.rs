//! `--step` and a monitor: who goes away in the middle of the steps takes the container with him. The monitor has a
//! session of its own, so neither Ctrl-C nor the end of the terminal reaches it by itself.

#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs::File;
use std::time::Instant;
use support::life::{Words, open, until};
use support::terminal::{PATIENCE, Terminal};
use support::{Engine, Guard, kernel};

type Goes = fn(&mut Terminal);

/// How he goes.
const WAYS: [(&str, Goes); 3] = [
    ("Ctrl-C", |terminal| terminal.keys("\x03")),
    ("closed", |terminal| terminal.master = File::open("/dev/null").unwrap().into()),
    ("killed", |terminal| terminal.signal(Signal::SIGKILL)),
];

/// Presses Enter until `there`.
#[track_caller]
fn step(terminal: &mut Terminal, there: impl Fn(&Terminal) -> bool) {
    for _ in 0..200 {
        terminal.expect("[Enter] ");
        if there(terminal) {
            return;
        }
        terminal.keys("\r");
    }
    panic!("never there:\n{}", terminal.screen());
}

/// Three steps into it; and when the child waits for us, in namespaces of its own.
const DEPTHS: [fn(&Terminal) -> bool; 2] = [
    |terminal| terminal.screen().matches("[Enter] ").count() > 3,
    |terminal| terminal.screen().contains(" child rootfs."),
];

#[track_caller]
fn ended(terminal: &mut Terminal, way: &str) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = terminal.child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(begun.elapsed() < *PATIENCE, "{way}: the caller does not end");
        support::nap(std::time::Duration::from_millis(2));
    }
}

/// Leaves `words` in every way at every depth: each time the host is as it was. `said`: the status of a failure.
#[track_caller]
fn leave(engine: &Engine, words: &[&str], said: i32) {
    for (way, go) in WAYS {
        for there in DEPTHS {
            let guard = Guard::new(engine.root());
            let mut terminal = Terminal::on(engine, &[], words);
            step(&mut terminal, there);
            let family = kernel::descendants(terminal.pid());
            assert!(!family.is_empty(), "there is no monitor");
            go(&mut terminal);
            let status = ended(&mut terminal, way);
            until(&format!("{way}: the end of the monitor"), || family.iter().all(|pid| !kernel::alive(*pid)));
            if way != "killed" {
                assert_eq!(status, said, "{way}: {}", terminal.screen());
                let journals = std::fs::read_dir(engine.root().join("run/journal")).unwrap().count();
                assert_eq!(journals, 0, "{way}: he was not waited for");
            }
            guard.check();
        }
    }
}

#[test]
fn who_goes_in_the_middle_of_run_d_step_leaves_nothing() {
    let Some(engine) = open() else { return };
    engine.ok(&["run", "--rm", "busybox", "true"]);
    let guard = Guard::new(engine.root());
    let words = ["run", "-d", "--rm", "--step", "--name", "web", "busybox", "sleep", "1000"];
    leave(&engine, &words, 125);
    // The name is free, and steps to the end are a start.
    let mut terminal = Terminal::on(&engine, &[], &words);
    step(&mut terminal, |terminal| terminal.screen().contains("process.exec"));
    terminal.keys("\r");
    assert_eq!(terminal.end(), 0, "{}", terminal.screen());
    assert_eq!(engine.inspect("web", "{{.State.Status}}"), "running");
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

#[test]
fn who_goes_in_the_middle_of_start_step_leaves_it_at_rest() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["run", "--name", "web", "busybox", "sleep", "0.1"]);
    engine.ok(&["start", "web"]);
    engine.ok(&["wait", "web"]);
    leave(&engine, &["start", "--step", "web"], 1);
    assert_eq!(engine.inspect("web", "{{.State.Running}}"), "false");
    engine.ok(&["start", "-a", "web"]);
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}
