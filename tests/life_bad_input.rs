//! One contract for every bad input: a status that is not 0, one line that names it, nothing made, lost or leaked.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::time::{Duration, Instant};
use support::Guard;
use support::life::*;

#[test]
fn exit_codes_are_dockers() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let cases: [(&[&str], i32, &str); 12] = [
        (&["logs", "nope"], 1, "No such container: nope"),
        (&["stop", "nope"], 1, "No such container: nope"),
        (&["exec", "nope", "ls"], 1, "No such container: nope"),
        (&["inspect", "nope"], 1, "No such object: nope"),
        (&["rm", "nope"], 1, "No such container: nope"),
        (&["rm", "-f", "nope"], 0, "No such container: nope"),
        (&["kill", "-s", "65", "x"], 1, "invalid signal: `65`"),
        (&["kill", "-s", "FOO", "x"], 1, "invalid signal: `FOO`"),
        (&["stop", "-t", "-5", "x"], 1, "--timeout: `-5`"),
        (&["start", "--nope"], 125, "--nope"),
        (&["run", "-d", "--rm", "busybox", "nosuchcommand"], 127, "executable file not found in $PATH"),
        (&["run", "-d", "--rm", "busybox", "/etc/passwd"], 126, "permission denied"),
    ];
    for (words, status, text) in cases {
        expect(&engine.run(words), status, text);
    }
    guard.check();
}

#[test]
fn commands_on_a_created_container() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let id = engine.ok(&["create", "--name", "web", "busybox", "sh", "-c", "echo hi"]);
    assert_eq!(engine.inspect("web", "{{.State.Status}} {{.State.StartedAt}}"), "created 0001-01-01T00:00:00Z");
    expect(&engine.run(["exec", "web", "ls"]), 1, "is not running");
    expect(&engine.run(["kill", "web"]), 1, "is not running");
    expect(&engine.run(["pause", "web"]), 1, "is not running");
    assert_eq!(engine.run(["logs", "web"]).stdout, "");
    assert_eq!(engine.ok(&["stop", "web"]), "web");
    expect(&engine.run(["create", "--name", "web", "busybox"]), 125, "`web` is in use by container");
    assert_eq!(engine.ok(&["start", &id[..6]]), &id[..6]);
    assert_eq!(engine.ok(&["wait", "web"]), "0");
    assert_eq!(engine.run(["logs", "web"]).stdout, "hi\n");
    engine.ok(&["rm", "web"]);
    guard.check();
}

#[test]
fn an_ambiguous_prefix_lists_the_matches() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut ids: Vec<String> = Vec::new();
    let (first, second) = loop {
        let id = engine.ok(&["create", "busybox", "true"]);
        if let Some(other) = ids.iter().find(|other| other[..1] == id[..1]) {
            break (other.clone(), id);
        }
        ids.push(id);
    };
    let done = engine.run(["stop", &first[..1]]);
    expect(&done, 1, "multiple IDs found with provided prefix");
    assert!(done.stderr.contains(&first[..12]) && done.stderr.contains(&second[..12]));
    ids.push(second);
    for id in ids {
        engine.ok(&["rm", &id]);
    }
    guard.check();
}

/// SIGTERM is ignored by a PID 1 without a handler: SIGKILL after the time.
#[test]
fn a_container_that_ignores_sigterm_is_killed() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web", "--stop-timeout", "1"], &["sleep", "100"]);
    let begun = Instant::now();
    engine.ok(&["stop", "web"]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < crate::support::slow(Duration::from_secs(4)), "{took:?}");
    assert_eq!(engine.inspect("web", "{{.State.ExitCode}}"), "137");
    engine.ok(&["rm", "web"]);
    guard.check();
}

#[test]
fn twenty_want_one_name() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "first", "busybox", "true"]);
    let all: Vec<_> =
        (0..20).map(|_| engine.spawn(engine.command(["create", "--name", "x1", "busybox", "true"]))).collect();
    let won = all.into_iter().map(|running| running.wait()).filter(|done| done.status == 0).count();
    assert_eq!(won, 1);
    engine.ok(&["rm", "x1", "first"]);
    assert_eq!(fs::read_dir(engine.root().join("containers")).unwrap().count(), 0);
    guard.check();
}
/// The words; `running` if the command changes what follows; status and text on one that is missing, was never started,
/// is paused, has ended.
type Case<'a> = (&'a [&'a str], &'a str, [(i32, &'a str); 4]);

/// Every command that wants a container, on one that is missing, was never started, is paused, has ended.
#[test]
fn every_command_on_every_state() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "created", "busybox", "true"]);
    detached(&engine, &["--name", "paused"], &["sleep", "1000"]);
    engine.ok(&["pause", "paused"]);
    detached(&engine, &["--name", "dead"], &["sh", "-c", "exit 3"]);
    engine.ok(&["wait", "dead"]);
    let here = engine.folder().display().to_string();
    let none = "No such container: missing";
    let cases: &[Case] = &[
        (
            &["exec", "NAME", "true"],
            "",
            [(1, none), (1, "is not running"), (1, "is paused, unpause"), (1, "is not running")],
        ),
        (&["logs", "NAME"], "", [(1, none), (0, ""), (0, ""), (0, "")]),
        (&["top", "NAME"], "", [(1, none), (1, "is not running"), (0, ""), (1, "is not running")]),
        (&["attach", "NAME"], "", [(1, none), (1, "start it first"), (1, "unpause it first"), (1, "start it first")]),
        (&["pause", "NAME"], "", [(1, none), (1, "is not running"), (1, "already paused"), (1, "is not running")]),
        (&["kill", "-s", "WINCH", "NAME"], "", [(1, none), (1, "is not running"), (0, ""), (1, "is not running")]),
        (&["cp", "NAME:/etc/passwd", "HERE"], "", [(1, none), (0, ""), (0, ""), (0, "")]),
        (&["port", "NAME"], "", [(1, none), (0, ""), (0, ""), (0, "")]),
        (&["rm", "NAME"], "running", [(1, none), (0, ""), (1, "paused and must be unpaused first"), (0, "")]),
        (&["wait", "NAME"], "running", [(1, none), (1, none), (0, ""), (1, none)]),
    ];
    for (words, skips, expected) in cases {
        for (name, (status, text)) in ["missing", "created", "paused", "dead"].iter().zip(expected) {
            if *skips == "running" && words[0] == "wait" {
                continue; // it would wait; what was removed by now is missing
            }
            let words = words.iter().map(|word| word.replace("NAME", name).replace("HERE", &here));
            let words: Vec<String> = words.collect();
            let done = engine.run(&words);
            assert_eq!(done.status, *status, "{words:?}: {}{}", done.stdout, done.stderr);
            assert!(done.stderr.contains(text), "{words:?}: {}", done.stderr);
            assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{words:?}: {:?}", done.took);
            if *status != 0 {
                let lines = done.stderr.lines().filter(|line| !line.starts_with("hint:")).count();
                assert_eq!(lines, 1, "{words:?}: {}", done.stderr);
            }
        }
    }
    expect(&engine.run(["stop", "missing"]), 1, none);
    let begun = Instant::now();
    engine.ok(&["stop", "-t", "0", "paused"]);
    assert!(begun.elapsed() < crate::support::slow(Duration::from_secs(9)));
    engine.ok(&["rm", "paused"]);
    assert!(fs::read_to_string(engine.folder().join("passwd")).unwrap().starts_with("root:"));
    guard.check();
}

/// Docker's daemon does not know a name (1); what is not NAME=VALUE its command line refuses (125).
#[test]
fn filters_are_refused_as_docker_refuses_them() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for words in [
        &["ps"][..],
        &["images"],
        &["volume", "ls"],
        &["network", "ls"],
        &["events", "--until", "0s"],
        &["container", "prune", "-f"],
        &["image", "prune", "-f"],
        &["volume", "prune", "-f"],
        &["network", "prune", "-f"],
        &["system", "prune", "-f"],
    ] {
        for (filter, status, text) in [
            ("colour=x", 1, "--filter: invalid filter 'colour': there are "),
            ("colour=", 1, "--filter: invalid filter 'colour': there are "),
            ("=x", 1, "--filter: invalid filter ''"),
            ("colour", 125, "bad format of filter (expected name=value)"),
            ("", 125, "--filter"),
        ] {
            let done = engine.run([words, &["--filter", filter]].concat());
            expect(&done, status, text);
            let lines = done.stderr.lines().filter(|line| !line.starts_with("hint:")).count();
            assert!(lines == 1 && done.stdout.is_empty(), "{words:?} {filter}: {}{}", done.stdout, done.stderr);
        }
    }
    // Docker's spelling is free.
    assert_eq!(engine.output(["ps", "-q", "--filter", " Name = nobody "]), "");
    guard.check();
}

#[test]
fn names_with_escape_codes_are_shown_and_not_obeyed() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let evil = "\u{1b}[31m\nx";
    for words in [&["logs", evil][..], &["exec", evil, "true"], &["stop", evil], &["rm", evil], &["wait", evil]] {
        let done = engine.run(words);
        assert_eq!(done.status, 1, "{}", done.stderr);
        assert!(!done.stderr.contains('\u{1b}') && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
    for words in [["create", "--name", evil, "busybox"], ["kill", "-s", evil, "x"], ["stop", "-t", evil, "x"]] {
        let done = engine.run(words);
        assert_ne!(done.status, 0);
        assert!(!done.stderr.contains('\u{1b}'), "{}", done.stderr);
    }
    guard.check();
}
