//! A container's life without a daemon: what the kernel says about it at every station, from its creation to its
//! removal, and when what should watch over it is killed.

#![allow(clippy::unwrap_used)]

mod support;

/// An engine whose containers stay.
fn open() -> Option<Engine> {
    let mut engine = Engine::open()?;
    engine.keeps = true;
    Some(engine)
}

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Done, Engine, Guard, kernel};

/// A command that ends at once on SIGTERM, with status 7.
const POLITE: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"];

trait Words {
    /// Runs it and wants status 0; what it printed, without the last line end.
    fn ok(&self, words: &[&str]) -> String;
    fn inspect(&self, name: &str, template: &str) -> String;
}

impl Words for Engine {
    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert_eq!(done.status, 0, "{words:?}: {}{}", done.stdout, done.stderr);
        done.stdout.trim_end().to_string()
    }

    #[track_caller]
    fn inspect(&self, name: &str, template: &str) -> String {
        self.ok(&["inspect", "-f", template, name])
    }
}

#[track_caller]
fn expect(done: &Done, status: i32, stderr: &str) {
    assert_eq!(done.status, status, "{}", done.stderr);
    assert!(done.stderr.contains(stderr), "{}", done.stderr);
    assert!(done.stderr.lines().filter(|line| !line.starts_with("hint:")).count() <= 1, "{}", done.stderr);
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn detached(engine: &Engine, flags: &[&str], command: &[&str]) -> String {
    let words: Vec<&str> = ["run", "-d"].iter().chain(flags).chain(&["busybox"]).chain(command).copied().collect();
    engine.ok(&words)
}

fn pid(engine: &Engine, name: &str) -> u32 {
    engine.inspect(name, "{{.State.Pid}}").parse().unwrap()
}

/// The process that watches over it: its parent.
fn monitor(pid: u32) -> u32 {
    kernel::status(pid, "PPid").unwrap().parse().unwrap()
}

fn folder(engine: &Engine, id: &str) -> PathBuf {
    engine.root().join("containers").join(id)
}

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
    assert!(done.status == 0 && begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
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

/// 100 MB without a line end: neither the log nor the monitor grows without bound.
#[test]
fn a_line_without_end_is_bounded() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let flags = ["--name", "web", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"];
    let id = detached(&engine, &flags, &["sh", "-c", "head -c 100M /dev/zero | tr '\\0' x; sleep 100"]);
    let pid = pid(&engine, "web");
    until("the line is written", || {
        engine.run(["exec", "web", "ps"]).stdout.lines().all(|line| !line.contains("head -c"))
    });
    let size: u64 = fs::read_dir(folder(&engine, &id))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(size < 3 << 20, "{size} bytes of log");
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
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(engine.inspect("web", "{{.State.ExitCode}}"), "137");
    engine.ok(&["rm", "web"]);
    guard.check();
}

#[test]
fn pause_stops_every_process_and_stop_still_works() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    detached(&engine, &["--name", "web"], &["sh", "-c", "trap 'exit 7' TERM; while :; do echo x; sleep 0.01; done"]);
    let pid = pid(&engine, "web");
    if kernel::cgroup(pid, "freezer").is_none_or(|path| !path.to_string_lossy().contains("mydocker")) {
        support::skip("no freezer");
    }
    engine.ok(&["pause", "web"]);
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

/// The caller of `start` holds the lock while its monitor launches; the monitor's own report must not wait for it.
#[test]
fn a_start_that_fails_fails_at_once() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    engine.ok(&["create", "--name", "web", "busybox", "nosuch"]);
    let done = engine.run(["start", "web"]);
    expect(&done, 1, "executable file not found in $PATH");
    assert!(done.took < Duration::from_secs(5), "{:?}", done.took);
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
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(engine.inspect("web", "{{.State.Status}}"), "exited");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(engine.inspect("web", "{{.State.Status}}"), "exited");
    engine.ok(&["rm", "web"]);
    guard.check();
}

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
        assert_eq!(engine.inspect("web", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
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
