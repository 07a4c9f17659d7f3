//! A container's life without a daemon: what the kernel says about it at every station, from its creation to its
//! removal.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::life::*;
use support::{Guard, kernel};

#[test]
fn a_detached_container_lives_until_it_is_stopped() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let id = detached(&engine, &["--name", "web"], &POLITE);
    assert_eq!(id.len(), 64);
    let pid = pid(&engine, "web");
    assert_ne!(kernel::namespace(pid, "pid"), kernel::namespace(std::process::id(), "pid"));
    assert_eq!(engine.ok(&["ps", "-q", "--no-trunc"]), id);
    assert!(engine.ok(&["ps"]).contains("Up Less than a second"));
    assert_eq!(engine.ok(&["stop", "web"]), "web");
    assert!(!kernel::alive(pid));
    assert_eq!(engine.inspect("web", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"), "exited 7 0");
    assert_eq!(engine.ok(&["ps", "-q"]), "");
    assert!(engine.ok(&["ps", "-a"]).contains("Exited (7) Less than a second ago"));
    assert_eq!(engine.ok(&["start", "web"]), "web");
    assert!(engine.inspect("web", "{{.State.Running}}") == "true");
    assert_eq!(engine.ok(&["rm", "-f", "web"]), "web");
    assert!(!folder(&engine, &id).exists());
    guard.check();
}

/// docker's: the caller of `run -d … | cat` sees the end of the pipe at once.
#[test]
fn run_d_holds_nothing_of_the_callers() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let begun = Instant::now();
    // `finish` waits for the end of both pipes, which a monitor that kept them would hold open.
    let done = engine.run(["run", "-d", "--name", "web", "busybox", "sleep", "100"]);
    assert!(
        done.status == 0 && begun.elapsed() < crate::support::slow(Duration::from_secs(60)),
        "{:?}",
        begun.elapsed()
    );
    let pid = pid(&engine, "web");
    for process in [pid, monitor(pid)] {
        for number in 0..3 {
            let target = fs::read_link(format!("/proc/{process}/fd/{number}")).unwrap();
            let ours = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            assert!(target != ours || target == Path::new("/dev/null"), "{process}: {number} is {}", target.display());
        }
    }
    // Another session, so that no key at the caller's terminal reaches it.
    let session =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().split(' ').nth(5).unwrap().to_string();
    assert_eq!(session(monitor(pid)), monitor(pid).to_string());
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", monitor(pid))).unwrap(), PathBuf::from("/"));
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

/// What the caller left open (`3>file`) reaches neither the monitor nor the command.
#[test]
fn descriptors_of_the_caller_are_closed() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let run = engine.command(["run"]);
    let mut command = std::process::Command::new("bash");
    let script = format!("exec 9>$DIR/leak; {:?} run -d --name web busybox sleep 100", run.get_program());
    command.args(["-c", &script]).env("DIR", engine.folder()).env("MYDOCKER_ROOT", engine.root());
    let done = engine.finish(command);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let pid = pid(&engine, "web");
    for process in [pid, monitor(pid)] {
        for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
            let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert!(!target.ends_with("leak"), "{process} holds {}", target.display());
        }
    }
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

#[test]
fn run_keeps_what_ended_and_rm_does_not() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    assert_eq!(engine.run(["run", "--name", "one", "busybox", "sh", "-c", "echo x > /kept; exit 3"]).status, 3);
    assert_eq!(engine.inspect("one", "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    let upper = engine.inspect("one", "{{.GraphDriver.Data.UpperDir}}");
    assert_eq!(fs::read_to_string(format!("{upper}/kept")).unwrap(), "x\n");
    assert_eq!(engine.run(["run", "--rm", "--name", "two", "busybox", "true"]).status, 0);
    expect(&engine.run(["inspect", "two"]), 1, "No such object: two");
    detached(&engine, &["--rm", "--name", "three"], &["true"]);
    until("three is gone", || engine.run(["inspect", "three"]).status == 1);
    // What the first start wrote is there at the second.
    engine.ok(&["rm", "one"]);
    assert!(!PathBuf::from(upper).exists());
    guard.check();
}

#[test]
fn pause_stops_every_process_and_stop_still_works() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web"], &["sh", "-c", "trap 'exit 7' TERM; while :; do echo x; sleep 0.01; done"]);
    let pid = pid(&engine, "web");
    // Version 2 has it in every cgroup, as no controller of its own.
    let (one, two) = (kernel::cgroup(pid, "freezer"), kernel::cgroup(pid, "memory"));
    let frozen = || match &one {
        Some(path) => std::fs::read_to_string(path.join("freezer.state")).unwrap().trim() == "FROZEN",
        None => std::fs::read_to_string(two.as_ref().unwrap().join("cgroup.events")).unwrap().contains("frozen 1"),
    };
    assert!(!frozen());
    engine.ok(&["pause", "web"]);
    assert!(frozen());
    assert_eq!(engine.inspect("web", "{{.State.Status}}"), "paused");
    let before = engine.run(["logs", "web"]).stdout.len();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(engine.run(["logs", "web"]).stdout.len(), before);
    expect(&engine.run(["exec", "web", "ls"]), 1, "is paused");
    expect(&engine.run(["start", "web"]), 1, "try unpause instead");
    expect(&engine.run(["pause", "web"]), 1, "already paused");
    engine.ok(&["unpause", "web"]);
    until("it goes on", || engine.run(["logs", "web"]).stdout.len() > before);
    engine.ok(&["pause", "web"]);
    engine.ok(&["stop", "web"]);
    assert_eq!(engine.inspect("web", "{{.State.ExitCode}}"), "7");
    engine.ok(&["rm", "web"]);
    guard.check();
}

/// A command in a frozen cgroup would never begin, and its caller wait for ever.
#[test]
fn exec_into_what_another_program_froze_is_refused() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web"], &["sleep", "1000"]);
    let pid = pid(&engine, "web");
    let switch = |frozen: bool| match kernel::cgroup(pid, "freezer") {
        Some(path) => std::fs::write(path.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }).unwrap(),
        None => {
            let path = kernel::cgroup(pid, "memory").unwrap();
            std::fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
            until("it stands", || {
                std::fs::read_to_string(path.join("cgroup.events")).unwrap().contains("frozen 1") == frozen
            });
        }
    };
    switch(true);
    expect(&engine.run(["exec", "web", "true"]), 1, "is frozen, though not by `pause`");
    expect(&engine.run(["exec", "-d", "web", "true"]), 1, "is frozen, though not by `pause`");
    switch(false);
    engine.ok(&["exec", "web", "true"]);
    switch(true);
    engine.ok(&["pause", "web"]);
    engine.ok(&["unpause", "web"]);
    engine.ok(&["exec", "web", "true"]);
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

/// The caller of `start` holds the lock while its monitor launches; the monitor's own report must not wait for it.
#[test]
fn a_start_that_fails_fails_at_once() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "web", "busybox", "nosuch"]);
    let done = engine.run(["start", "web"]);
    expect(&done, 1, "executable file not found in $PATH");
    assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{:?}", done.took);
    assert!(
        engine
            .inspect("web", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}")
            .starts_with("created 127 exec:")
    );
    engine.ok(&["rm", "web"]);
    guard.check();
}

#[test]
fn rename_moves_the_name() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "one", "busybox", "true"]);
    engine.ok(&["create", "--name", "two", "busybox", "true"]);
    expect(&engine.run(["rename", "one", "two"]), 1, "is in use by container");
    expect(&engine.run(["rename", "one", "../x"]), 1, "invalid container name");
    engine.ok(&["rename", "one", "three"]);
    expect(&engine.run(["inspect", "one"]), 1, "No such object");
    assert_eq!(engine.inspect("three", "{{.Name}}"), "/three");
    engine.ok(&["create", "--name", "one", "busybox", "true"]);
    engine.ok(&["rm", "one", "two", "three"]);
    assert_eq!(fs::read_dir(engine.root().join("names")).unwrap().count(), 0);
    guard.check();
}

#[test]
fn a_policy_starts_it_again_and_stop_ends_that() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web", "--restart", "on-failure:2"], &["sh", "-c", "echo run; exit 1"]);
    assert_eq!(engine.ok(&["wait", "web"]), "1");
    assert_eq!(engine.run(["logs", "web"]).stdout, "run\nrun\nrun\n");
    assert_eq!(engine.inspect("web", "{{.RestartCount}} {{.State.Status}}"), "2 exited");
    engine.ok(&["rm", "web"]);
    detached(&engine, &["--name", "web", "--restart", "always"], &["false"]);
    until("it was started again", || engine.inspect("web", "{{.RestartCount}}") != "0");
    until("it waits", || engine.ok(&["ps"]).contains("Restarting (1)"));
    let begun = Instant::now();
    engine.ok(&["stop", "web"]);
    assert!(begun.elapsed() < crate::support::slow(Duration::from_secs(9)));
    assert_eq!(engine.inspect("web", "{{.State.Status}}"), "exited");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(engine.inspect("web", "{{.State.Status}}"), "exited");
    engine.ok(&["rm", "web"]);
    guard.check();
}

#[test]
fn limits_can_be_changed_while_it_runs() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web", "-m", "64m"], &POLITE);
    let pid = pid(&engine, "web");
    let Some(cgroup) = kernel::cgroup(pid, "memory") else { return support::skip("no memory controller") };
    let limit = || {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|file| fs::read_to_string(cgroup.join(file)));
        files.into_iter().flatten().next().unwrap().trim().to_string()
    };
    assert_eq!(limit(), (64 << 20).to_string());
    engine.ok(&["update", "-m", "32m", "web"]);
    assert_eq!(limit(), (32 << 20).to_string());
    assert_eq!(engine.inspect("web", "{{.HostConfig.Memory}}"), (32 << 20).to_string());
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

#[test]
fn an_out_of_memory_kill_is_written_down() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web", "-m", "16m"], &["tail", "/dev/zero"]);
    assert_eq!(engine.ok(&["wait", "web"]), "137");
    assert_eq!(engine.inspect("web", "{{.State.OOMKilled}}"), "true");
    engine.ok(&["rm", "web"]);
    guard.check();
}

/// A name may be that of several things: docker's order is container, image, network, volume.
#[test]
fn inspect_finds_whatever_has_the_name() {
    let Some(engine) = open() else { return };
    // With the first network come the firewall's tables, which stay.
    engine.ok(&["network", "create", "first"]);
    engine.ok(&["network", "rm", "first"]);
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "same", "busybox", "true"]);
    engine.ok(&["tag", "busybox", "same"]);
    engine.ok(&["network", "create", "same"]);
    engine.ok(&["volume", "create", "same"]);
    let fields =
        [("container", "{{.Path}}"), ("image", "{{.Os}}"), ("network", "{{.Scope}}"), ("volume", "{{.Driver}}")];
    for (kind, field) in fields {
        let done = engine.run(["inspect", "--type", kind, "-f", field, "same"]);
        assert_eq!(done.status, 0, "{kind}: {}", done.stderr);
        assert!(!done.stdout.trim().is_empty() && done.stdout != "<no value>\n", "{kind}: {}", done.stdout);
    }
    let removals: [&[&str]; 4] =
        [&["rm", "same"], &["rmi", "same"], &["network", "rm", "same"], &["volume", "rm", "same"]];
    for ((kind, field), removal) in fields.iter().zip(removals) {
        let typed = engine.ok(&["inspect", "--type", kind, "-f", field, "same"]);
        assert_eq!(engine.ok(&["inspect", "-f", field, "same"]), typed, "{kind}");
        engine.ok(removal);
        expect(&engine.run(["inspect", "--type", kind, "same"]), 1, "same");
    }
    expect(&engine.run(["inspect", "same"]), 1, "No such object: same");
    expect(&engine.run(["inspect", "--type", "planet", "same"]), 1, "--type: `planet`");
    guard.check();
}

/// The monitor has no working directory of its caller's.
#[test]
fn a_relative_cidfile_is_where_its_caller_is() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut command = engine.command(["run", "-d", "--cidfile", "cid", "busybox", "sleep", "100"]);
    let output = command.current_dir(engine.folder()).output().unwrap();
    let id = String::from_utf8(output.stdout).unwrap().trim().to_string();
    assert_eq!(std::fs::read_to_string(engine.folder().join("cid")).unwrap().trim(), id);
    engine.ok(&["rm", "-f", &id]);
    std::fs::remove_file(engine.folder().join("cid")).unwrap();
    guard.check();
}
