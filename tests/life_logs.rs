//! What a container writes is kept, whole and bounded, and read back.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use support::life::*;
use support::{Guard, kernel};

#[test]
fn logs_keep_both_streams_and_every_line() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "echo one; echo two >&2; printf 'no end'; seq 1 5000 >&2";
    detached(&engine, &["--name", "web"], &["sh", "-c", script]);
    assert_eq!(engine.ok(&["wait", "web"]), "0");
    let done = engine.run(["logs", "web"]);
    assert_eq!(done.stdout, "one\nno end");
    let numbers: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    assert_eq!(done.stderr, format!("two\n{numbers}"));
    // The line without an end is the last one to be written.
    assert_eq!(engine.run(["logs", "-n", "3", "web"]).stderr, "4999\n5000\n");
    assert_eq!(engine.run(["logs", "--since", "2100-01-01", "web"]).stdout, "");
    assert_eq!(engine.run(["logs", "--until", "2000-01-01", "web"]).stdout, "");
    let timed = engine.ok(&["logs", "-t", "-n", "1", "web"]);
    assert!(timed.is_empty() || timed.contains('T'), "{timed}");
    engine.ok(&["rm", "web"]);
    guard.check();
}

#[test]
fn logs_follow_until_the_end() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web"], &["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done"]);
    let done = engine.run(["logs", "-f", "web"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "1\n2\n3\n"));
    engine.ok(&["rm", "web"]);
    guard.check();
}

/// A gigabyte without a line end: neither the log nor the monitor grows without bound.
#[test]
fn a_line_without_end_is_bounded() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let flags = ["--name", "web", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"];
    // Without optimization a gigabyte takes minutes.
    let size = if cfg!(debug_assertions) { "64m" } else { "1024m" };
    let script = format!("head -c {size} /dev/zero | tr '\\0' x; echo > /done; sleep 100");
    let id = detached(&engine, &flags, &["sh", "-c", &script]);
    let pid = pid(&engine, "web");
    let (done, begun) = (folder(&engine, &id).join("upper/done"), std::time::Instant::now());
    while !done.exists() {
        assert!(begun.elapsed().as_secs() < 120, "the line is not written");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let size: u64 = fs::read_dir(folder(&engine, &id))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!((1 << 20..3 << 20).contains(&size), "{size} bytes of log");
    let resident: u64 = kernel::status(monitor(pid), "VmRSS").unwrap().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(resident < 40_000, "the monitor has {resident} kB");
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

#[test]
fn escape_codes_stay_data() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let id = detached(&engine, &["--label", "x=\u{1b}[31m"], &["printf", "\\033[31m\\377\\000x\\n"]);
    engine.ok(&["wait", &id]);
    assert_eq!(engine.run(["logs", &id]).stdout_bytes, "\u{1b}[31m\u{fffd}\0x\n".as_bytes());
    assert!(!engine.ok(&["ps", "-a", "--format", "{{.Labels}} {{.Command}}"]).contains('\u{1b}'));
    engine.ok(&["rm", &id]);
    guard.check();
}
/// docker's: `logs` tells of a run in the foreground, too, and its caller sees every byte as ever.
#[test]
fn a_run_in_the_foreground_is_kept() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "seq 1 20000; echo err >&2; printf end";
    let done = engine.run(["run", "--name", "web", "busybox", "sh", "-c", script]);
    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert_eq!((done.status, done.stderr.as_str()), (0, "err\n"));
    assert!(done.stdout == numbers.clone() + "end");
    let logs = engine.run(["logs", "web"]);
    assert!(logs.stdout == numbers + "end" && logs.stderr == "err\n");
    engine.ok(&["rm", "web"]);
    engine.ok(&["run", "-t", "--name", "web", "busybox", "echo", "seen"]);
    assert_eq!(engine.run(["logs", "web"]).stdout, "seen\r\n");
    engine.ok(&["rm", "web"]);
    engine.ok(&["run", "--log-driver", "none", "--name", "web", "busybox", "echo", "seen"]);
    expect(&engine.run(["logs", "web"]), 1, "does not support reading");
    engine.ok(&["rm", "web"]);
    guard.check();
}

/// A full disk loses lines of the log and nothing else: the command goes on, and `stop` and `rm` work.
#[test]
fn a_full_disk_stops_nothing() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let small = engine.folder().join("small");
    fs::create_dir(&small).unwrap();
    let none = None::<&str>;
    nix::mount::mount(none, &small, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64m")).unwrap();
    let root = small.join("root").display().to_string();
    let run = |words: &[&str]| engine.run([&["--root", &root], words].concat());
    let script = "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; echo $i > /dev/shm/i; sleep 0.01; done";
    for policy in ["no", "always"] {
        let done = run(&["run", "-d", "--name", "web", "--restart", policy, "busybox", "sh", "-c", script]);
        assert_eq!(done.status, 0, "{}", done.stderr);
        let count = || run(&["exec", "web", "cat", "/dev/shm/i"]).stdout.trim().parse::<u64>().unwrap_or(0);
        until("it counts", || count() > 0);
        // To the last byte.
        let filler = fs::File::create(small.join("filler")).unwrap();
        let full = std::io::copy(&mut std::io::repeat(b'x'), &mut &filler);
        assert!(full.is_err());
        let before = count();
        until("it goes on", || count() > before + 20);
        assert!(run(&["ps"]).stdout.contains("Up "));
        let done = run(&["stop", "web"]);
        assert_eq!(done.status, 0, "{}", done.stderr);
        assert_eq!(run(&["ps", "-q"]).stdout, "");
        let done = run(&["rm", "web"]);
        assert_eq!(done.status, 0, "{}", done.stderr);
        assert_eq!(fs::read_dir(small.join("root/containers")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(small.join("root/names")).unwrap().count(), 0);
        fs::remove_file(small.join("filler")).unwrap();
    }
    nix::mount::umount(&small).unwrap();
    guard.check();
}
