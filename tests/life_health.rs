//! Health checks: run in the container as `exec` would, told by `ps`, `inspect` and `events`, and the monitor stays as
//! small as it was.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::time::{Duration, Instant};
use support::life::open;
use support::{Engine, Guard, kernel};

#[track_caller]
fn ok(engine: &Engine, words: &[&str]) -> String {
    let done = engine.run(words);
    assert_eq!(done.status, 0, "{words:?}: {}{}", done.stdout, done.stderr);
    done.stdout.trim_end().to_string()
}

fn health(engine: &Engine, what: &str) -> String {
    ok(engine, &["inspect", "-f", &format!("{{{{.State.Health.{what}}}}}"), "web"])
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < crate::support::slow(Duration::from_secs(15)), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(engine: &Engine) -> String {
    ok(engine, &["ps", "--format", "{{.Status}}", "--filter", "name=web"])
}

#[test]
fn from_starting_to_healthy_to_unhealthy_and_back() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let flags =
        ["--health-cmd", "echo seen by $$ >&2; cat /well", "--health-interval", "100ms", "--health-retries", "2"];
    ok(&engine, &[&["run", "-d", "--name", "web"], &flags[..], &["busybox", "sleep", "1000"]].concat());
    assert!(status(&engine).ends_with("(health: starting)") || health(&engine, "FailingStreak") != "0");
    until("it is unhealthy", || status(&engine).ends_with("(unhealthy)"));
    assert_eq!(ok(&engine, &["ps", "-q", "--filter", "health=unhealthy"]).len(), 12);
    assert_eq!(ok(&engine, &["ps", "-q", "--filter", "health=healthy"]), "");
    let log = ok(&engine, &["inspect", "-f", "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}", "web"]);
    assert!(log.starts_with("1 seen by ") && log.contains("cat: can't open '/well'"), "{log}");
    ok(&engine, &["exec", "web", "touch", "/well"]);
    until("it is healthy", || status(&engine).ends_with("(healthy)"));
    assert_eq!((health(&engine, "Status").as_str(), health(&engine, "FailingStreak").as_str()), ("healthy", "0"));
    let words =
        ["events", "--since", "1970-01-01", "--until", "0s", "--format", "{{.Action}}", "-f", "event=health_status"];
    assert_eq!(ok(&engine, &words), "health_status: unhealthy\nhealth_status: healthy");
    // Paused, it is not asked; ended, it is not well.
    ok(&engine, &["pause", "web"]);
    let looks = || ok(&engine, &["inspect", "-f", "{{json .State.Health.Log}}", "web"]);
    std::thread::sleep(Duration::from_millis(300));
    let before = looks();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(looks(), before);
    ok(&engine, &["unpause", "web"]);
    until("it is asked again", || looks() != before);
    ok(&engine, &["stop", "-t", "0", "web"]);
    assert_eq!(health(&engine, "Status"), "unhealthy");
    ok(&engine, &["rm", "web"]);
    guard.check();
}

/// A hundred looks cost the monitor nothing that stays.
#[test]
fn the_monitor_stays_small() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    // The first one makes the default image, too.
    ok(&engine, &["run", "--rm", "busybox", "true"]);
    let flags = ["--health-cmd", "true", "--health-interval", "10ms"];
    ok(&engine, &[&["run", "-d", "--name", "web"], &flags[..], &["busybox", "sleep", "1000"]].concat());
    let plain = ok(&engine, &["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]);
    let monitor = |name: &str| -> u32 {
        let pid = ok(&engine, &["inspect", "-f", "{{.State.Pid}}", name]).parse().unwrap();
        kernel::status(pid, "PPid").unwrap().parse().unwrap()
    };
    let private = |monitor: u32| -> u64 {
        let text = fs::read_to_string(format!("/proc/{monitor}/smaps_rollup")).unwrap();
        let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut seen = std::collections::BTreeSet::new();
    until("thirty looks", || {
        seen.insert(ok(&engine, &["inspect", "-f", "{{range .State.Health.Log}}{{println .Start}}{{end}}", "web"]));
        seen.len() > 30
    });
    let (asks, asks_not) = (private(monitor("web")), private(monitor(plain.trim())));
    println!("anonymous memory of a monitor: {asks} kB with looks, {asks_not} kB without");
    // A megabyte of it are the relocated pages of a build for tests, which a release has none of.
    let most = if cfg!(debug_assertions) { 2500 } else { 1500 };
    assert!(asks < asks_not + 300 && asks < most, "{asks} kB, {asks_not} kB without looks");
    ok(&engine, &["rm", "-f", "web", "plain"]);
    guard.check();
}

#[test]
fn a_look_that_takes_too_long_is_ended() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let flags = ["--health-cmd", "exec sleep 1000", "--health-interval", "50ms", "--health-timeout", "100ms"];
    ok(&engine, &[&["run", "-d", "--name", "web"], &flags[..], &["busybox", "sleep", "1000"]].concat());
    until("it is unhealthy", || health(&engine, "Status") == "unhealthy");
    let log = ok(&engine, &["inspect", "-f", "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}", "web"]);
    assert!(log.starts_with("-1 Health check exceeded timeout (100ms)"), "{log}");
    // None of them stays behind; one may be under way.
    let sleepers = ok(&engine, &["exec", "web", "ps"]).lines().filter(|line| line.contains("sleep 1000")).count();
    assert!(sleepers <= 2, "{sleepers}");
    // A look under way does not hold up the end.
    let begun = Instant::now();
    ok(&engine, &["rm", "-f", "web"]);
    assert!(begun.elapsed() < crate::support::slow(Duration::from_secs(60)));
    guard.check();
}

/// In the foreground the engine itself asks; a start period forgives; what cannot be run is ill.
#[test]
fn in_the_foreground_and_before_it_has_started() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let flags = ["--health-cmd", "/nope", "--health-interval", "50ms", "--health-start-period", "60s"];
    let flags = [&flags[..], &["--health-start-interval", "50ms", "--health-retries", "1"]].concat();
    let words = [&["run", "--name", "web", "-i"], &flags[..], &["busybox", "cat"]].concat();
    let running = engine.start(words);
    // Five are kept; on a busy machine more than one comes between two questions.
    let looks = || ok(&engine, &["inspect", "-f", "{{len .State.Health.Log}}", "web"]).parse::<u32>().unwrap();
    until("three looks", || looks() >= 3);
    assert_eq!((health(&engine, "Status"), health(&engine, "FailingStreak")), ("starting".into(), "0".into()));
    assert_eq!(running.wait().status, 0);
    ok(&engine, &["rm", "web"]);
    guard.check();
}

/// An archive as `docker save` writes it, of an image that wants to be looked after.
fn image_that_asks(engine: &Engine) -> String {
    let folder = engine.folder().join("image");
    fs::create_dir(&folder).unwrap();
    ok(engine, &["run", "--name", "web", "busybox", "true"]);
    ok(engine, &["export", "-o", folder.join("layer.tar").to_str().unwrap(), "web"]);
    ok(engine, &["rm", "web"]);
    let shell = |line: &str| {
        let done = std::process::Command::new("sh").args(["-c", line]).current_dir(&folder).output().unwrap();
        assert!(done.status.success(), "{line}");
        String::from_utf8(done.stdout).unwrap()
    };
    let digest = shell("sha256sum < layer.tar | cut -c1-64");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": ["sleep", "1000"], "Healthcheck": {
            "Test": ["CMD", "true"], "Interval": 50_000_000, "Retries": 9,
        } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest.trim())] },
    });
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["well:latest"], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("c.json"), config.to_string()).unwrap();
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    shell("tar -cf ../image.tar *");
    engine.folder().join("image.tar").display().to_string()
}

#[test]
fn the_image_asks_unless_it_is_told_not_to() {
    let Some(engine) = open() else { return };
    ok(&engine, &["load", "-i", &image_that_asks(&engine)]);
    let guard = Guard::new(engine.root());
    ok(&engine, &["run", "-d", "--name", "web", "well"]);
    until("it is healthy", || health(&engine, "Status") == "healthy");
    assert_eq!(ok(&engine, &["inspect", "-f", "{{.Config.Healthcheck.Retries}}", "web"]), "9");
    ok(&engine, &["rm", "-f", "web"]);
    ok(&engine, &["run", "-d", "--name", "web", "--no-healthcheck", "well"]);
    assert!(!status(&engine).contains("health"));
    ok(&engine, &["rm", "-f", "web"]);
    guard.check();
}

#[test]
fn bad_words() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for (words, text) in [
        (["--health-interval", "-1s"], "--health-interval: `-1s` is negative"),
        (["--health-timeout", "10"], "--health-timeout: `10`"),
        (["--health-start-period", "1us"], "--health-start-period: `1us` is less than 1ms"),
        (["--health-retries", "x"], "--health-retries: `x`"),
    ] {
        let done = engine.run([&["create"], &words[..], &["busybox"]].concat());
        assert!(done.status == 125 && done.stderr.contains(text), "{words:?}: {} {}", done.status, done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    let done = engine.run(["run", "--no-healthcheck", "--health-cmd", "x", "busybox"]);
    assert!(done.status == 125 && done.stderr.contains("conflicts with --health-* options"), "{}", done.stderr);
    guard.check();
}
