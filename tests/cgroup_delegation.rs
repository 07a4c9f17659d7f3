//! A part of the cgroup tree that systemd has handed over: the controllers that came with it can be used, and the others
//! are refused by name. Where systemd runs, and the tree is version 2.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use support::{Engine, skip};

/// Why there is nothing to hand over here.
fn unable() -> Option<&'static str> {
    if !Path::new("/run/systemd/system").exists() {
        return Some("systemd does not run here");
    }
    (!Path::new("/sys/fs/cgroup/cgroup.controllers").exists()).then_some("version 1 has no delegation")
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// A service with a part of the tree that is its root: what mydocker has there.
fn handed_over(engine: &Engine, script: &str) -> Output {
    // A process in a cgroup stands in the way of its children's controllers: it moves down first.
    let own = "umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mkdir /sys/fs/cgroup/init && \
               echo 0 > /sys/fs/cgroup/init/cgroup.procs && exec sh -c \"$0\"";
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--wait", "--pipe", "-p", "Delegate=memory pids"]);
    for (name, value) in [("MYDOCKER_ROOT", engine.root().to_str().unwrap()), ("MYDOCKER_NETWORK", "none")] {
        command.arg(format!("--setenv={name}={value}"));
    }
    command.args(["unshare", "--cgroup", "--mount", "sh", "-c", own, script]).output().unwrap()
}

#[test]
fn a_service_gets_the_controllers_it_was_given() {
    let Some(engine) = Engine::open() else { return };
    if let Some(why) = unable() {
        return skip(why);
    }
    let mydocker = engine.binary().display();
    let shown = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    let output = handed_over(&engine, &format!("{mydocker} run --rm -m 64m --pids-limit 20 busybox {shown}"));
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "67108864\n20\n"));

    let output = handed_over(&engine, &format!("{mydocker} run --rm --cpuset-cpus 0 busybox true"));
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    let error = "--cpuset-cpus: the controller `cpuset` was not delegated to `/sys/fs/cgroup`";
    assert!(text(&output).contains(error), "{}", text(&output));

    let output = handed_over(&engine, &format!("{mydocker} doctor"));
    let line = "tree (v2)          /sys/fs/cgroup: memory pids; not delegated: cpuset cpu io";
    assert!(text(&output).contains(line), "{}", text(&output));
}

/// What a user's session was given is told, and what it was not.
#[test]
fn a_user_is_told_what_was_delegated() {
    let Some(engine) = Engine::open() else { return };
    if let Some(why) = unable() {
        return skip(why);
    }
    if nix::unistd::User::from_name("student").ok().flatten().is_none() {
        return skip("there is no user `student`, as in the course's machine");
    }
    let session = |line: &str| {
        let words = ["--quiet", "--wait", "--pipe", "--uid=student", "-p", "PAMName=login", "bash", "-lc", line];
        let output = Command::new("systemd-run").args(words).output().unwrap();
        (output.status.code(), text(&output))
    };
    let mydocker = engine.binary().display();
    let (status, said) = session(&format!("{mydocker} run --rm busybox true"));
    assert_eq!(status, Some(125), "{said}");
    assert!(said.contains("containers are made by root"), "{said}");

    let (_, said) = session(&format!("{mydocker} doctor"));
    assert!(said.contains("delegated to you   nothing (systemd-run --user --scope -p Delegate=yes"), "{said}");

    let scope =
        "own=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); echo \"$own: $(cat $own/cgroup.controllers)\"";
    let (_, said) =
        session(&format!("systemd-run --user --quiet --scope -p Delegate=yes sh -c '{scope}; {mydocker} doctor'"));
    let kernels = said.lines().next().unwrap_or_default().to_string();
    assert!(said.contains(&format!("delegated to you   {kernels}")), "{said}");
    let here: Vec<&str> = kernels.rsplit(": ").next().unwrap_or_default().split(' ').collect();
    assert!(here.contains(&"memory") && here.contains(&"pids"), "{kernels}");
    for word in ["cpuset", "cpu", "io"].iter().filter(|word| !here.contains(word)) {
        let rest =
            said.split_once("; not delegated: ").and_then(|(_, rest)| rest.split_once(" (")).unwrap_or_default().0;
        assert!(rest.split(' ').any(|one| one == *word), "{word}: {said}");
    }
}
