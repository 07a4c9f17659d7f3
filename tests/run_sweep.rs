//! Every step of the plan, failed and killed: whatever happens, the next command leaves the host as it was, and the
//! same name is free at once. The list of steps is asked of the engine itself, so a new step is swept from its first
//! day.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Done, Engine, Guard, kernel, skip};

/// As many flags as have steps of their own.
const FLAGS: [&str; 20] = [
    "--memory",
    "64m",
    "--pids-limit",
    "50",
    "--cpus",
    "0.5",
    "--name",
    "web",
    "-t",
    "--init",
    "--read-only",
    "--hostname",
    "box",
    "--tmpfs",
    "/tmp",
    "--ulimit",
    "core=0",
    "--sysctl",
    "net.ipv4.ip_forward=1",
    "-u=1000",
];

fn run(engine: &Engine, failpoint: Option<&str>, more: &[&str]) -> Done {
    let words = [&["run", "--rm"][..], &FLAGS[..], more, &["busybox", "true"]].concat();
    let mut command = engine.command(words);
    command.stdin(Stdio::null());
    if let Some(failpoint) = failpoint {
        command.env("MYDOCKER_FAILPOINT", failpoint);
    }
    engine.finish(command)
}

/// Name and undo of every step, in order.
fn steps(engine: &Engine) -> Vec<(String, bool)> {
    let done = run(engine, None, &["--explain=json"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let lines = done.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let steps: Vec<_> =
        lines.filter_map(|line| Some((line["step"].as_str()?.to_string(), !line["undo"].is_null()))).collect();
    assert!(steps.len() > 40, "{}", done.stderr);
    steps
}

/// Fail points are in debug builds only, and in no other engine.
fn prepare() -> Option<(Engine, Vec<(String, bool)>)> {
    if !cfg!(debug_assertions) || std::env::var_os("MYDOCKER_BIN").is_some() {
        skip("fail points are in debug builds of the product only");
        return None;
    }
    let engine = Engine::open()?;
    let steps = steps(&engine);
    Some((engine, steps))
}

/// The next command, with the same name.
#[track_caller]
fn next(engine: &Engine, after: &str) {
    let done = run(engine, None, &[]);
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""), "after {after}");
}

/// What can be seen at a glance, after each step; the guard looks at everything at the end.
#[track_caller]
fn nothing_is_left(engine: &Engine, after: &str) {
    for folder in ["containers", "names", "run/journal"] {
        let left: Vec<_> = std::fs::read_dir(engine.root().join(folder)).unwrap().flatten().collect();
        assert!(left.is_empty(), "after {after}: {left:?}");
    }
    let mounts = kernel::mounts("thread-self");
    let ours = |mount: &&kernel::Mount| std::path::Path::new(&mount.at).starts_with(engine.root());
    assert_eq!(mounts.iter().find(ours), None, "after {after}");
}

#[test]
fn every_step_may_fail() {
    let Some((engine, steps)) = prepare() else { return };
    let guard = Guard::new(engine.root());
    for (step, _) in &steps {
        let point = format!("{step}:error");
        let done = run(&engine, Some(&point), &[]);
        // 126 is the command's that cannot be run.
        let expected = if step == "process.exec" { 126 } else { 125 };
        assert_eq!((done.status, done.stdout.as_str()), (expected, ""), "{point}: {}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{point}: {}", done.stderr);
        assert!(!done.stderr.contains("panicked"), "{point}: {}", done.stderr);
        assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{point}");
        // Even without a next command.
        nothing_is_left(&engine, &point);
        next(&engine, &point);
        nothing_is_left(&engine, &point);
    }
    guard.check();
}

#[test]
fn every_step_may_be_the_last() {
    let Some((engine, steps)) = prepare() else { return };
    let points = steps.iter().map(|(step, _)| step.clone()).chain(["engine.wait".to_string()]);
    let guard = Guard::new(engine.root());
    for step in points {
        let point = format!("{step}:kill");
        let done = run(&engine, Some(&point), &[]);
        assert_eq!(done.status, 137, "{point}: {}", done.stderr);
        next(&engine, &point);
        nothing_is_left(&engine, &point);
    }
    guard.check();
}

#[test]
fn every_undo_may_be_the_last() {
    let Some((engine, steps)) = prepare() else { return };
    let undos: Vec<_> = steps.into_iter().filter(|(_, undo)| *undo).collect();
    assert!(undos.len() >= 2, "{undos:?}");
    let guard = Guard::new(engine.root());
    for (step, _) in undos {
        let point = format!("undo.{step}:kill");
        let done = run(&engine, Some(&point), &[]);
        assert_eq!(done.status, 137, "{point}: {}", done.stderr);
        next(&engine, &point);
        nothing_is_left(&engine, &point);
    }
    guard.check();
}

#[test]
fn a_crash_while_others_run_harms_nobody() {
    let Some((engine, _)) = prepare() else { return };
    let guard = Guard::new(engine.root());
    let mut other = engine.start(["run", "--rm", "-i", "--name", "other", "busybox", "cat"]);
    for point in ["rootfs.pivot:kill", "process.exec:kill", "undo.engine.folder:kill"] {
        assert_eq!(run(&engine, Some(point), &[]).status, 137);
        next(&engine, point);
        assert!(kernel::alive(other.pid), "{point}");
    }
    use std::io::Write;
    other.stdin.as_mut().unwrap().write_all(b"still here").unwrap();
    let done = other.wait();
    assert_eq!((done.status, done.stdout.as_str()), (0, "still here"), "{}", done.stderr);
    guard.check();
}

#[test]
fn two_hundred_in_a_row() {
    let Some(engine) = Engine::open() else { return };
    let mut guard = Guard::new(engine.root());
    for number in 0..200 {
        let done = engine.run(["run", "--rm", "--name", "row", "busybox", "echo", "hi"]);
        assert_eq!((done.status, done.stdout.as_str()), (0, "hi\n"), "number {number}: {}", done.stderr);
    }
    assert_eq!(guard.ids().len(), 200);
    guard.check();
}

#[test]
fn twenty_at_a_time() {
    let Some(engine) = Engine::open() else { return };
    let mut guard = Guard::new(engine.root());
    // The very first ones, too: they make the folders and the image at the same moment.
    for round in 0..5 {
        let running: Vec<_> = (0..20)
            .map(|number| {
                let mut command =
                    engine.command(["run", "--rm", "--name", &format!("p{number}"), "busybox", "echo", "hi"]);
                command.stdin(Stdio::null());
                engine.spawn(command)
            })
            .collect();
        for running in running {
            let done = running.wait();
            assert_eq!((done.status, done.stdout.as_str()), (0, "hi\n"), "round {round}: {}", done.stderr);
            assert_eq!(done.stderr, "", "round {round}");
        }
    }
    assert_eq!(guard.ids().len(), 100);
    guard.check();
}

#[test]
fn of_many_with_one_name_one_wins() {
    let Some(engine) = Engine::open() else { return };
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    let guard = Guard::new(engine.root());
    for _ in 0..5 {
        let mut running: Vec<_> = (0..10)
            .map(|_| {
                let mut command = engine.command(["run", "--rm", "-i", "--name", "web", "busybox", "cat"]);
                command.stdin(Stdio::piped());
                engine.spawn(command)
            })
            .collect();
        // Nine give up; the winner waits for its input.
        let end = Instant::now() + crate::support::slow(Duration::from_secs(15));
        let inside = |pid: u32| kernel::descendants(pid).iter().any(|pid| kernel::words(*pid) == ["cat"]);
        let alive = |running: &[support::Running]| running.iter().filter(|one| kernel::alive(one.engine())).count();
        while alive(&running) != 1 || !running.iter().any(|one| inside(one.engine())) {
            assert!(Instant::now() < end, "{} go on", alive(&running));
            std::thread::sleep(Duration::from_millis(5));
        }
        let winner = running.iter().position(|one| inside(one.engine())).unwrap();
        let winner = running.swap_remove(winner);
        for loser in running {
            let done = loser.wait();
            assert_eq!(done.status, 125, "{}", done.stderr);
            assert!(done.stderr.contains("the container name `web` is in use by container "), "{}", done.stderr);
            assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        }
        assert_eq!(winner.wait().status, 0);
    }
    guard.check();
}

#[test]
fn crashes_at_the_same_moment_are_cleaned_up_once() {
    let Some((engine, _)) = prepare() else { return };
    let guard = Guard::new(engine.root());
    for _ in 0..10 {
        let start = |failpoint: Option<&str>| {
            let mut command = engine.command(["run", "--rm", "busybox", "true"]);
            command.stdin(Stdio::null());
            if let Some(point) = failpoint {
                command.env("MYDOCKER_FAILPOINT", point);
            }
            engine.spawn(command)
        };
        let crashed: Vec<_> = (0..5).map(|_| start(Some("rootfs.pivot:kill"))).collect();
        crashed.into_iter().for_each(|one| assert_eq!(one.wait().status, 137));
        // Six cleaners find the same five leftovers.
        let cleaners: Vec<_> = (0..6).map(|_| start(None)).collect();
        for cleaner in cleaners {
            let done = cleaner.wait();
            assert_eq!((done.status, done.stderr.as_str()), (0, ""));
        }
    }
    guard.check();
}

#[test]
fn what_a_stranger_mounts_below_us_is_not_deleted() {
    let Some(engine) = Engine::open() else { return };
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    let guard = Guard::new(engine.root());
    let canary = engine.folder().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("data"), "alive").unwrap();
    let mut running = engine.start(["run", "--rm", "-i", "busybox", "sh", "-c", "cat; exit 7"]);
    let containers = engine.root().join("containers");
    let place = std::fs::read_dir(&containers).unwrap().next().unwrap().unwrap().path().join("upper");
    let none = None::<&str>;
    nix::mount::mount(Some(&canary), &place, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
    drop(running.stdin.take());
    let done = running.wait();
    // The command's status is the command's; that something is left is said, and where.
    assert_eq!((done.status, done.stderr.lines().count()), (7, 1), "{}", done.stderr);
    assert!(done.stderr.contains("warn") && done.stderr.contains("something is mounted below"), "{}", done.stderr);
    assert_eq!(std::fs::read_to_string(canary.join("data")).unwrap(), "alive");
    nix::mount::umount(&place).unwrap();
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    assert_eq!(std::fs::read_to_string(canary.join("data")).unwrap(), "alive");
    nothing_is_left(&engine, "the stranger's mount");
    guard.check();
}
