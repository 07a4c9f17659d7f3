//! Left alone: the detach keys part a caller's terminal from what runs on it, and it runs on, watched over.

#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use support::life::{Words, monitor, open, pid, until};
use support::terminal::Terminal;
use support::{Engine, Guard, kernel};

/// ^P ^Q.
const KEYS: &str = "\x10\x11";

/// The shell on the terminal has answered, so it is there.
#[track_caller]
fn ask(terminal: &mut Terminal) {
    terminal.expect("/ # ");
    terminal.ask("echo he''re", "here\r\n");
}

/// The log, the monitor and the exit status of a container that was left: all is as if it had been begun with `-d`.
#[track_caller]
fn lives_on(engine: &Engine, name: &str, shell: u32) {
    assert_eq!(pid(engine, name), shell);
    let watcher = monitor(shell);
    assert!(kernel::alive(watcher) && watcher != 1, "nobody watches over it");
    assert_eq!(kernel::status(watcher, "Name").as_deref(), Some("mydocker-monito"));
}

#[test]
fn a_container_that_was_begun_at_a_terminal_is_left_and_found_again() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = Terminal::on(&engine, &[], &["run", "-ti", "--name", "web", "busybox", "sh"]);
    ask(&mut terminal);
    let shell = terminal.container();
    // A beginning of the keys that is none goes in.
    terminal.keys("echo a\x10");
    terminal.keys("b\r");
    terminal.keys(KEYS);
    assert_eq!(terminal.end(), 0, "{}", terminal.screen());
    lives_on(&engine, "web", shell);
    // Its terminal is still one, and it is typed into by the next.
    let mut terminal = Terminal::on(&engine, &[], &["attach", "web"]);
    terminal.keys("tty; echo aga''in\r");
    terminal.expect("again\r\n");
    terminal.keys(KEYS);
    assert_eq!(terminal.end(), 1);
    assert!(terminal.screen().contains("read escape sequence"), "{}", terminal.screen());
    lives_on(&engine, "web", shell);
    let mut terminal = Terminal::on(&engine, &[], &["attach", "web"]);
    terminal.keys("exit 5\r");
    assert_eq!(terminal.end(), 5);
    until("its end", || engine.inspect("web", "{{.State.Status}} {{.State.ExitCode}}") == "exited 5");
    assert!(engine.ok(&["logs", "web"]).contains("here"));
    // And the second time as the first.
    let keys = ["start", "-ai", "--detach-keys", "ctrl-a,x", "web"];
    let mut terminal = Terminal::on(&engine, &[], &keys);
    terminal.ask("echo thi''rd", "third\r\n");
    let shell = terminal.container();
    terminal.keys("\x01x");
    assert_eq!(terminal.end(), 0);
    lives_on(&engine, "web", shell);
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

/// Without the keys it ends with whoever sits at it, however that one ends.
#[test]
fn a_container_ends_with_its_caller_unless_he_leaves() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = Terminal::on(&engine, &[], &["run", "-ti", "--rm", "--name", "web", "busybox", "sh"]);
    ask(&mut terminal);
    let shell = terminal.container();
    terminal.signal(Signal::SIGKILL);
    until("its end", || !kernel::alive(shell));
    until("its removal", || engine.run(["inspect", "web"]).status == 1);
    // Its monitor killed: it is reported, and nothing is left.
    let mut terminal = Terminal::on(&engine, &[], &["run", "-ti", "--rm", "--name", "web", "busybox", "sh"]);
    ask(&mut terminal);
    let shell = terminal.container();
    let killed = Pid::from_raw(monitor(shell) as i32);
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    terminal.expect("the monitor of container");
    drop(terminal.child.wait());
    until("its end", || !kernel::alive(shell));
    engine.run(["ps"]);
    guard.check();
}

#[test]
fn an_exec_is_left_and_its_command_runs_on() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let mut terminal = Terminal::on(&engine, &[], &["exec", "-ti", "--detach-keys", "ctrl-x", "web", "sh"]);
    ask(&mut terminal);
    // More than a terminal holds: somebody must go on reading it.
    let script = "(sleep 0.2; i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890; i=$((i+1)); done; touch /done); sleep 7717";
    terminal.keys(&format!("{script}\r"));
    let sleeps = || {
        let numbers =
            std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.into_iter().any(|pid: u32| kernel::words(pid) == ["sleep", "7717"])
    };
    terminal.keys("\x18");
    assert_eq!(terminal.end(), 1);
    assert!(terminal.screen().contains("read escape sequence"), "{}", terminal.screen());
    until("it went on", || engine.run(["exec", "web", "test", "-e", "/done"]).status == 0);
    until("it goes on", sleeps);
    engine.ok(&["rm", "-f", "web"]);
    until("its end", || !sleeps());
    guard.check();
}

#[test]
fn keys_that_are_none_are_refused_by_name() {
    let Some(engine) = open() else { return };
    engine.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    for words in [
        &["run", "--detach-keys", "ab", "busybox", "true"][..],
        &["attach", "--detach-keys", "ctrl-", "web"],
        &["exec", "--detach-keys", "ctrl-1", "web", "true"],
        &["start", "-a", "--detach-keys", "x,,y", "web"],
        &["run", "-ti", "--step", "--detach-keys", "ctrl-x", "busybox", "true"],
    ] {
        let done = engine.run(words);
        assert!(done.status != 0 && done.stderr.contains("--detach-keys: "), "{words:?}: {}", done.stderr);
    }
    engine.ok(&["rm", "-f", "web"]);
}

/// What the engine has, and no more; the container itself keeps its fourteen.
#[test]
fn exec_privileged_has_what_the_engine_has() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let sets = |words: &[&str]| {
        let text = engine.ok(&[&["exec"], words, &["web", "grep", "^Cap", "/proc/self/status"]].concat());
        let sets = text.lines().map(|line| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap());
        sets.collect::<Vec<_>>()
    };
    let own = |set| u64::from_str_radix(&kernel::status(std::process::id(), set).unwrap(), 16).unwrap();
    let all = own("CapBnd") & own("CapPrm");
    assert_ne!(all, 0xa80425fb, "it cannot be told from a container's");
    // Inheritable, permitted, effective, bounding, ambient.
    assert_eq!(sets(&["--privileged"]), [0, all, all, all, 0]);
    assert_eq!(sets(&["--privileged", "-u", "1000"]), [0, 0, 0, all, 0]);
    assert_eq!(sets(&[]), [0, 0xa80425fb, 0xa80425fb, 0xa80425fb, 0]);
    assert_eq!(kernel::status(pid(&engine, "web"), "CapBnd").unwrap(), "00000000a80425fb");
    engine.ok(&["exec", "--privileged", "web", "mount", "-t", "tmpfs", "none", "/tmp"]);
    assert_ne!(engine.run(["exec", "web", "mount", "-t", "tmpfs", "none", "/etc"]).status, 0);
    // Which devices it may open is the container's cgroup's to say.
    let list = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let inside = engine.ok(&["exec", "--privileged", "web", "cat", "/proc/self/cgroup", "/proc/1/cgroup"]);
    let (one, two) = inside.split_at(inside.len() / 2);
    assert_eq!(one.trim(), two.trim(), "{}", list(pid(&engine, "web")));
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}
