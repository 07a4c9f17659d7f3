//! Attached to a container: from its first byte, later, and gone again without harm to it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};
use support::Guard;
use support::life::open;

#[test]
fn start_a_sees_every_byte_and_the_exit_status() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "seq 1 20000; echo err >&2; exit 5";
    assert_eq!(engine.run(["create", "--name", "web", "busybox", "sh", "-c", script]).status, 0);
    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    for _ in 0..2 {
        let done = engine.run(["start", "-a", "web"]);
        assert_eq!((done.status, done.stderr.as_str()), (5, "err\n"));
        assert!(done.stdout == numbers, "{} bytes of {}", done.stdout.len(), numbers.len());
    }
    assert_eq!(engine.run(["rm", "web"]).status, 0);
    guard.check();
}

#[test]
fn start_ai_passes_stdin_on_to_its_end() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    assert_eq!(engine.run(["create", "-i", "--name", "web", "busybox", "wc", "-c"]).status, 0);
    let done = engine.run_with_input(["start", "-ai", "web"], &[b'x'; 300_000]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "300000\n"), "{}", done.stderr);
    assert_eq!(engine.run(["rm", "web"]).status, 0);
    guard.check();
}

#[test]
fn two_are_attached_and_both_see() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "read line; echo got $line; exit 3";
    assert_eq!(engine.run(["run", "-d", "-i", "--name", "web", "busybox", "sh", "-c", script]).status, 0);
    let watcher = engine.spawn(engine.command(["attach", "--no-stdin", "web"]));
    let mut command = engine.command(["attach", "web"]);
    command.stdin(std::process::Stdio::piped());
    let mut typist = engine.spawn(command);
    std::thread::sleep(Duration::from_millis(300));
    typist.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    for running in [watcher, typist] {
        let done = running.wait();
        assert_eq!((done.status, done.stdout.as_str()), (3, "got hello\n"), "{}", done.stderr);
    }
    assert_eq!(engine.run(["rm", "web"]).status, 0);
    guard.check();
}

/// Whoever is attached and goes away leaves the container alone.
#[test]
fn an_attached_terminal_that_is_killed_harms_nothing() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    assert_eq!(engine.run(["run", "-d", "--name", "web", "busybox", "sh", "-c", script]).status, 0);
    let attached = engine.spawn(engine.command(["attach", "web"]));
    std::thread::sleep(Duration::from_millis(200));
    attached.signal(nix::sys::signal::SIGKILL);
    assert_eq!(attached.wait().status, 137);
    let lines = || engine.run(["logs", "web"]).stdout.lines().count();
    let (before, begun) = (lines(), Instant::now());
    while lines() <= before {
        assert!(begun.elapsed() < crate::support::slow(Duration::from_secs(60)), "it stands still");
    }
    let done = engine.run(["attach", "nope"]);
    assert!(done.status == 1 && done.stderr.contains("No such container: nope"));
    assert_eq!(engine.run(["stop", "-t", "0", "web"]).status, 0);
    let done = engine.run(["attach", "web"]);
    assert!(done.status == 1 && done.stderr.contains("start it first"), "{}", done.stderr);
    assert_eq!(engine.run(["rm", "web"]).status, 0);
    guard.check();
}

/// The same for whoever was there from the first byte on: the container does not wait for him.
#[test]
fn a_start_a_that_is_killed_harms_nothing() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo a line of some length so that a wire is full soon $i; done; sleep 1000";
    assert_eq!(engine.run(["create", "--name", "web", "busybox", "sh", "-c", script]).status, 0);
    let attached = engine.spawn(engine.command(["start", "-a", "web"]));
    support::life::until("a line", || engine.run(["logs", "web"]).stdout.contains("soon 10\n"));
    attached.signal(nix::sys::signal::SIGKILL);
    assert_eq!(attached.wait().status, 137);
    support::life::until("the last line", || engine.run(["logs", "-n", "1", "web"]).stdout.ends_with(" 60000\n"));
    assert_eq!(engine.run(["rm", "-f", "web"]).status, 0);
    guard.check();
}
