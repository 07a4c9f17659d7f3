//! When what should watch over a container is killed, when its files are torn, when a stranger has its number.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::time::Duration;
use support::life::*;
use support::{Guard, kernel, slow};

#[test]
fn a_killed_monitor_leaves_a_container_that_can_be_found_and_ended() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for rm in [&["--rm"][..], &[]] {
        let flags: Vec<&str> = ["--name", "web"].iter().chain(rm).copied().collect();
        detached(&engine, &flags, &POLITE);
        let pid = pid(&engine, "web");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor(pid) as i32), nix::sys::signal::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(kernel::alive(pid), "it died with its monitor");
        let shown = engine.run(["inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "web"]);
        assert_eq!(shown.stdout.trim(), format!("running {pid}"));
        assert!(shown.took < slow(Duration::from_millis(1500)), "it waited for an end that does not come");
        assert_eq!(engine.run(["exec", "web", "echo", "hi"]).stdout, "hi\n");
        engine.ok(&["stop", "web"]);
        assert!(!kernel::alive(pid));
        if rm.is_empty() {
            assert_eq!(engine.inspect("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 255");
            assert_eq!(engine.ok(&["start", "web"]), "web");
            engine.ok(&["rm", "-f", "web"]);
        }
        expect(&engine.run(["inspect", "web"]), 1, "No such object");
    }
    guard.check();
}

/// The record says a number that a stranger has by now: the stranger lives.
#[test]
fn a_stranger_with_the_same_pid_lives() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let id = detached(&engine, &["--name", "web"], &POLITE);
    // A start time is counted in ticks of 10 ms: a stranger of the same tick could not be told from the container.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let mut stranger = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let state = engine.root().join("run").join(&id).join("state");
    let pid = pid(&engine, "web");
    let honest = fs::read_to_string(&state).unwrap();
    let lie = honest.replace(&format!("\"pid\":{pid}"), &format!("\"pid\":{}", stranger.id()));
    assert_ne!(lie, honest);
    fs::write(&state, lie).unwrap();
    for command in [&["stop", "-t", "1", "web"][..], &["kill", "web"], &["exec", "web", "true"]] {
        engine.run(command);
    }
    assert!(kernel::alive(stranger.id()), "a stranger was killed");
    fs::write(&state, honest).unwrap();
    engine.ok(&["rm", "-f", "web"]);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    guard.check();
}

#[test]
fn unknown_fields_survive_and_torn_records_can_be_removed() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let id = engine.ok(&["create", "--name", "web", "busybox", "true"]);
    let path = folder(&engine, &id).join("container.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["theirs"] = serde_json::json!({"kept": [1, 2]});
    record["rest"]["theirs"] = true.into();
    fs::write(&path, record.to_string()).unwrap();
    engine.ok(&["start", "web"]);
    engine.ok(&["wait", "web"]);
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((&record["theirs"]["kept"][1], &record["rest"]["theirs"]), (&2.into(), &true.into()));
    let other = engine.ok(&["create", "--name", "other", "busybox", "true"]);
    for torn in ["", "{", "[]", "{\"spec\":1}", "null"] {
        fs::write(&path, torn).unwrap();
        let done = engine.run(["ps", "-aq", "--no-trunc"]);
        assert_eq!(done.stdout.trim_end(), other, "{torn}");
        assert!(done.stderr.contains("damaged"), "{torn}: {}", done.stderr);
        for command in ["start", "inspect", "logs", "stop", "rm"] {
            assert_eq!(engine.run([command, "web"]).status, 1, "{command} with {torn:?}");
        }
    }
    engine.ok(&["rm", "-f", "web"]);
    engine.ok(&["create", "--name", "web", "busybox", "true"]);
    engine.ok(&["rm", "web", "other"]);
    guard.check();
}
/// The same as it happens: the number comes round, in a PID namespace where it can be wound on
/// (`/proc/sys/kernel/ns_last_pid`).
#[test]
fn a_number_that_came_round_is_a_stranger() {
    let Some(engine) = open() else { return };
    engine.ok(&["run", "--rm", "busybox", "true"]);
    let guard = Guard::new(engine.root());
    let script = r#"
        set -e
        "$0" run -d --name web busybox sleep 1000 >/dev/null
        pid=$("$0" inspect -f '{{.State.Pid}}' web)
        monitor=$(awk '/^PPid:/ { print $2 }' /proc/$pid/status)
        kill -9 $monitor; kill -9 $pid
        while [ -d /proc/$pid ]; do sleep 0.01; done
        sleep 0.1
        echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid; sleep 1000 & stranger=$!
        [ $stranger = $pid ] || { echo "the number did not come round: $pid $stranger"; exit 77; }
        "$0" kill web || :
        "$0" exec web true && exit 3
        "$0" stop -t 1 web
        "$0" rm -f web
        kill -0 $stranger && ! grep -q '^State:.*Z' /proc/$stranger/status && echo lives
    "#;
    // Whoever is PID 1 in there must reap what is orphaned, as a host's init does.
    let init = "bash -c \"$1\" \"$0\" & wait $!";
    let run = engine.command(["run"]);
    let program = run.get_program().to_str().unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "bash", "-c", init, program, script]);
    command.env("MYDOCKER_ROOT", engine.root()).env("MYDOCKER_NETWORK", "none").stdin(std::process::Stdio::null());
    let done = engine.finish(command);
    if done.status == 77 {
        return support::skip(&done.stdout);
    }
    assert!(done.status == 0 && done.stdout.ends_with("lives\n"), "{} {}{}", done.status, done.stdout, done.stderr);
    guard.check();
}

/// A journal that cannot be read is told of and passed over; `rm -f` still takes the container away.
#[test]
fn a_torn_journal_does_not_keep_a_container() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for torn in ["", "{", "null\n", "{\"id\":\"x\"}\nnope\n", "\u{0}\u{1}\u{2}"] {
        for running in [false, true] {
            let id = match running {
                true => detached(&engine, &["--name", "web"], &POLITE),
                false => engine.ok(&["create", "--name", "web", "busybox", "true"]),
            };
            let journal = engine.root().join("run/journal").join(&id);
            if running {
                // As if its owner had died in the middle of a write.
                let pid = pid(&engine, "web");
                let owner = nix::unistd::Pid::from_raw(monitor(pid) as i32);
                nix::sys::signal::kill(owner, nix::sys::signal::SIGKILL).unwrap();
                until("its monitor is gone", || !kernel::alive(owner.as_raw() as u32));
            }
            fs::write(&journal, torn).unwrap();
            assert_eq!(engine.run(["ps", "-a"]).status, 0);
            let done = engine.run(["rm", "-f", "web"]);
            assert_eq!(done.status, 0, "{torn:?}: {}", done.stderr);
            assert!(!journal.exists(), "{torn:?}");
            engine.ok(&["create", "--name", "web", "busybox", "true"]);
            engine.ok(&["rm", "web"]);
        }
    }
    guard.check();
}

/// What says it began in the future began just now, and everything else goes on as ever.
#[test]
fn a_clock_that_was_set_back_harms_nothing() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let flags = ["--name", "web", "--restart", "on-failure:2"];
    let id = detached(&engine, &flags, &["sh", "-c", "echo out; trap 'exit 7' TERM; while :; do sleep 0.05; done"]);
    until("it has written", || engine.run(["logs", "web"]).stdout == "out\n");
    let turn = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let year = text.find("\"20").unwrap() + 1;
        fs::write(&path, format!("{}2199{}", &text[..year], &text[year + 4..])).unwrap();
    };
    turn(folder(&engine, &id).join("container.json"));
    turn(engine.root().join("run").join(&id).join("state"));
    assert!(engine.ok(&["ps"]).contains("Up Less than a second"));
    assert!(engine.inspect("web", "{{.Created}} {{.State.StartedAt}}").matches("2199-").count() == 2);
    assert_eq!(engine.run(["exec", "web", "echo", "hi"]).stdout, "hi\n");
    assert_eq!(engine.run(["logs", "--since", "10m", "web"]).stdout, "out\n");
    engine.ok(&["stop", "web"]);
    assert_eq!(engine.inspect("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 7");
    engine.ok(&["start", "web"]);
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}

/// Among many that run, the next command finds the one whose engine died, and harms no other.
#[test]
fn one_dead_engine_among_many_is_found() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let ids: Vec<String> = (0..12).map(|_| detached(&engine, &[], &["sleep", "1000"])).collect();
    if !cfg!(debug_assertions) || std::env::var_os("MYDOCKER_BIN").is_some() {
        support::skip("fail points are in debug builds of the product only");
    } else {
        let mut command = engine.command(["run", "--rm", "--name", "web", "busybox", "true"]);
        command.env("MYDOCKER_FAILPOINT", "rootfs.pivot:kill");
        assert_eq!(engine.finish(command).status, 137);
        assert_eq!(engine.run(["run", "--rm", "--name", "web", "busybox", "true"]).status, 0);
        assert_eq!(fs::read_dir(engine.root().join("run/journal")).unwrap().count(), ids.len());
    }
    assert_eq!(engine.ok(&["ps", "-q"]).lines().count(), ids.len());
    let words: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    engine.ok(&words);
    guard.check();
}

/// With more engines at work than a start asks, it asks others each time: whoever died is found by one of the next starts,
/// also if all of these have the same number, as the first process of a PID namespace each.
#[test]
fn among_more_engines_than_one_start_asks_each_dead_one_is_found() {
    let Some(engine) = open() else { return };
    engine.ok(&["run", "--rm", "busybox", "true"]);
    let guard = Guard::new(engine.root());
    let folder = engine.root().join("run/journal");
    let own = std::process::id();
    let stat = fs::read_to_string(format!("/proc/{own}/stat")).unwrap();
    let since: u64 = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    let journal = |number: u32| {
        let id = format!("{:064x}", u128::from(number + 1).pow(9));
        let header = format!(r#"{{"id":"{id}","pid":{own},"start_time":{since},"boot_id":"","all":true}}"#);
        fs::write(folder.join(&id), header + "\n").unwrap();
        folder.join(id)
    };
    // A journal that is locked has an engine; this process plays all of them.
    let held: Vec<(std::path::PathBuf, fs::File)> = (0..96)
        .map(|number| {
            let path = journal(number);
            let file = fs::File::open(&path).unwrap();
            file.try_lock().unwrap();
            (path, file)
        })
        .collect();
    let dead: Vec<_> = (96..104).map(journal).collect();
    let starts = (0..200).take_while(|_| {
        let mut start = std::process::Command::new("unshare");
        start.args(["--pid", "--fork"]).arg(engine.binary()).args(["create", "no/such"]);
        assert!(!start.env("MYDOCKER_ROOT", engine.root()).output().unwrap().status.success());
        dead.iter().any(|path| path.exists())
    });
    println!("{} starts until eight dead engines among 104 were found", starts.count() + 1);
    assert!(!dead.iter().any(|path| path.exists()), "some are never asked");
    assert!(held.iter().all(|(path, _)| path.exists()));
    held.into_iter().for_each(|(path, _file)| fs::remove_file(path).unwrap());
    guard.check();
}

/// What a container's root reaches by `/proc/PID/exe` of an `exec` is no file that he could write (CVE-2019-5736), when
/// nobody runs it any more. By another copy of the program, as after an upgrade: the monitor keeps its own busy.
#[test]
fn the_program_of_an_exec_cannot_be_overwritten() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web"], &["sleep", "100"]);
    let newer = engine.folder().join("mydocker");
    std::fs::copy(engine.binary(), &newer).unwrap();
    let mut command = std::process::Command::new(&newer);
    let mut exec = command.args(["exec", "web", "sleep", "100"]).env("MYDOCKER_ROOT", engine.root()).spawn().unwrap();
    let program = format!("/proc/{}/exe", exec.id());
    let runs = |pid: &u32| kernel::words(*pid).first().is_some_and(|word| word == "sleep");
    until("the command runs", || kernel::children(exec.id()).iter().any(runs));
    let held = std::fs::File::open(&program).unwrap();
    let command = nix::unistd::Pid::from_raw(kernel::children(exec.id())[0] as i32);
    nix::sys::signal::kill(command, nix::sys::signal::Signal::SIGKILL).unwrap();
    exec.wait().unwrap();
    until("nobody runs it", || std::fs::OpenOptions::new().write(true).open(&newer).is_ok());
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let error = std::fs::OpenOptions::new().write(true).open(&again).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS), "{error}");
    engine.ok(&["rm", "-f", "web"]);
    guard.check();
}
