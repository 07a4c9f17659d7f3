//! `mydocker demo`: what an instructor shows to a class is so, or the demo says that it is not; and whichever way it
//! ends, nothing is left of it.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use support::terminal::Terminal;
use support::{Done, Engine, Guard, kernel, lab, skip};

const DEMOS: [&str; 5] = ["namespaces", "cgroup", "layers", "network", "escape"];
const LANGUAGES: [(&str, &str); 2] = [("en", "C.UTF-8"), ("zh", "zh_CN.UTF-8")];

/// Plays it to its end, without anybody at the keyboard.
fn play(engine: &Engine, words: &[&str], locale: &str) -> Done {
    let mut command = engine.command([&["demo"], words].concat());
    command.env_remove("LC_ALL").env_remove("LC_MESSAGES").env("LANG", locale);
    engine.finish(command)
}

/// With the time that the longest demo may take.
fn open() -> Option<Engine> {
    let mut engine = Engine::open()?;
    engine.limit = support::slow(std::time::Duration::from_secs(60));
    Some(engine)
}

fn ticks(text: &str, mark: &str) -> usize {
    text.lines().filter(|line| line.starts_with(mark)).count()
}

/// Plays one in both languages: every fact holds, nothing is left, and the scenes are the same.
fn holds(name: &str) {
    let Some(engine) = open() else { return };
    if name == "network" && std::process::Command::new("iptables-restore").arg("--version").output().is_err() {
        return skip("iptables is not installed");
    }
    // The first network makes the firewall's empty tables, which stay.
    let guard = || {
        if name == "network" {
            lab::warm(&engine);
        }
        Guard::new(engine.root())
    };
    let mut scenes = BTreeMap::new();
    for (language, locale) in LANGUAGES {
        let guard = guard();
        let done = play(&engine, &[name, "--auto"], locale);
        assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
        assert_eq!(done.stderr, "", "{}", done.stdout);
        let (good, skipped) = (ticks(&done.stdout, "✓ "), done.stdout.matches("skipped: ").count());
        assert_eq!(good + skipped, ticks(&done.stdout, "───"), "{}", done.stdout);
        for why in done.stdout.lines().filter(|line| line.trim().starts_with("skipped: ")) {
            skip(&format!("a scene of {name}: {}", why.trim().trim_start_matches("skipped: ")));
        }
        assert!(!done.stdout.contains('\x1b'), "no colours where no terminal is");
        let chinese = done.stdout.chars().any(|c| ('\u{4e00}'..'\u{9fff}').contains(&c));
        assert_eq!(chinese, language == "zh", "{}", done.stdout);
        // What a text leaves open is filled in; Go templates and loops of the shell have other braces.
        let open = done.stdout.replace("{{", "").replace("}}", "");
        assert!(!open.contains("{name}") && !open.contains("{pid}") && !open.contains("{victim}"), "{open}");
        guard.check();
        scenes.insert(language, good + skipped);
    }
    assert_eq!(scenes["en"], scenes["zh"]);
}

#[test]
fn the_demo_of_namespaces() {
    holds("namespaces");
}

#[test]
fn the_demo_of_cgroups() {
    holds("cgroup");
}

#[test]
fn the_demo_of_layers() {
    holds("layers");
}

#[test]
fn the_demo_of_networks() {
    holds("network");
}

#[test]
fn the_demo_of_escapes() {
    holds("escape");
}

#[test]
fn the_demos_are_listed() {
    let Some(engine) = open() else { return };
    for (words, locale, minutes) in [(&[][..], "C", " min "), (&["--list"], "zh_TW.UTF-8", "分钟")] {
        let done = play(&engine, words, locale);
        assert_eq!((done.status, done.stderr.as_str()), (0, ""));
        let named: Vec<&str> = done.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(named[..5], DEMOS);
        assert_eq!(done.stdout.matches(minutes).count(), 5, "{}", done.stdout);
    }
}

#[test]
fn bad_words_are_refused_in_one_line() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let cases: [(&[&str], &str); 5] = [
        (&["nosuch"], "no demo `nosuch`; there are namespaces, cgroup, layers, network, escape"),
        (&["a\nb", "--auto"], "no demo `a\\nb`; there are namespaces, cgroup, layers, network, escape"),
        (&["layers"], "stdin is no terminal, so nobody can press Enter"),
        (&["layers", "--auto", "--step"], "the argument '--auto' cannot be used with '--step'"),
        (&["--auto"], "which demo? there are namespaces, cgroup, layers, network, escape"),
    ];
    for (words, line) in cases {
        let done = play(&engine, words, "C");
        let first = done.stderr.lines().next().unwrap_or_default();
        assert_eq!((done.status, first), (125, format!("mydocker: {line}").as_str()), "{words:?}");
        assert_eq!(done.stdout, "");
    }
    guard.check();
}

/// Columns that a line takes: a Chinese letter takes two.
fn columns(line: &str) -> usize {
    line.chars().map(|c| if ('\u{2e80}'..'\u{ffef}').contains(&c) { 2 } else { 1 }).sum()
}

#[test]
fn big_type_fits_sixty_columns() {
    let Some(engine) = open() else { return };
    for (name, locale) in [("layers", "C.UTF-8"), ("namespaces", "zh_CN.UTF-8")] {
        let done = play(&engine, &[name, "--auto", "--projector"], locale);
        assert_eq!(done.status, 0, "{}", done.stderr);
        let widest = done.stdout.lines().max_by_key(|line| columns(line)).unwrap();
        assert!(columns(widest) <= 60, "{widest}");
    }
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let running = ["escape", "layers", "layers"].map(|name| engine.spawn(engine.command(["demo", name, "--auto"])));
    for done in running.map(support::Running::wait) {
        assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    }
    guard.check();
}

#[test]
fn a_reader_that_goes_away_leaves_nothing() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut command = engine.command_under(&["sh", "-c", "\"$0\" demo layers --auto | head -3"], [""; 0]);
    command.env("LANG", "C");
    assert_eq!(engine.finish(command).stdout.lines().count(), 3);
    guard.check();
}

/// Nothing can be done by a process that gets SIGKILL; what it has made goes all the same.
#[test]
fn a_demo_that_is_killed_leaves_nothing() {
    let Some(engine) = open() else { return };
    let iptables = std::process::Command::new("iptables-restore").arg("--version").output().is_ok();
    if iptables {
        lab::warm(&engine);
    }
    let guard = Guard::new(engine.root());
    for (name, moment) in [
        ("namespaces", "1/"),
        ("namespaces", "inspect -f"),
        ("layers", "3/7"),
        ("escape", "5/10"),
        ("cgroup", "while :; do :; done"),
        ("network", "3/"),
    ] {
        if name == "network" && !iptables {
            continue;
        }
        let mut terminal = on_terminal(&engine, &[name, "--auto"], &[]);
        terminal.expect(moment);
        terminal.signal(Signal::SIGKILL);
        assert_eq!(terminal.end(), 128 + 9);
        let folder = |name: &str| std::fs::read_dir(engine.root().join(name)).into_iter().flatten().count();
        let clean = || folder("containers") + folder("names") == 0 && marked(&engine).is_empty();
        support::life::until(&format!("{name}, killed at `{moment}`, leaves something"), clean);
    }
    guard.check();
}

/// The processes of this engine's demos.
fn marked(engine: &Engine) -> Vec<u32> {
    let root = format!("MYDOCKER_ROOT={}", engine.root().display());
    let holds = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.clone().any(|one| one.starts_with(b"MYDOCKER_DEMO_NAME="))
            && variables.any(|one| one == root.as_bytes())
    };
    kernel::processes().into_iter().filter(holds).collect()
}

/// A fault of the labs, and the demo that must not hide it: with it the plan leaves a step out.
#[test]
fn a_fact_that_is_not_so_fails() {
    let Some(binary) = support::build(std::path::Path::new(env!("CARGO_BIN_EXE_mydocker")), "labs") else {
        return skip("the labs' program is not built, and there is no cargo");
    };
    let cases = [
        ("B3", "namespaces", "inside"),
        ("B5", "namespaces", "ipc:["),
        ("B11", "cgroup", "is \""),
        ("B19", "escape", "CAP_SYS_ADMIN"),
        ("B18", "escape", "and not `Read-only file system`"),
        ("B31", "network", "the gateway none"),
    ];
    for (fault, name, found) in cases {
        let memory = kernel::cgroup(std::process::id(), "memory").is_some();
        let iptables = std::process::Command::new("iptables-restore").arg("--version").output().is_ok();
        if name == "cgroup" && !memory || name == "network" && !iptables {
            skip(&format!("{fault}: this machine has no memory controller, or no iptables"));
            continue;
        }
        // A protected host is its thread's for good: each gets one of its own.
        let thread = std::thread::Builder::new().name("a_fact_that_is_not_so_fails".to_string());
        std::thread::scope(|scope| thread.spawn_scoped(scope, || shows(&binary, fault, name, found)).unwrap().join())
            .unwrap();
    }
}

/// Without a root of its own, nothing of the demo of escapes goes on.
#[test]
fn without_the_proof_no_escape_is_tried() {
    let Some(binary) = support::build(std::path::Path::new(env!("CARGO_BIN_EXE_mydocker")), "labs") else {
        return skip("the labs' program is not built, and there is no cargo");
    };
    let Some(mut engine) = Engine::of_any(&binary) else { return };
    let guard = Guard::new(engine.root());
    engine.variables.push(("MYDOCKER_LAB".to_string(), "B16".to_string()));
    let done = play(&engine, &["escape", "--auto"], "C");
    assert_eq!(done.status, 125, "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("it is not proved that the container's root is its own"), "{}", done.stderr);
    assert!(!done.stdout.contains("2/10"), "{}", done.stdout);
    guard.check();
}

/// With that fault the demo says what it has found instead, and fails.
fn shows(binary: &std::path::Path, fault: &str, name: &str, found: &str) {
    let Some(mut engine) = Engine::of_any(binary) else { return };
    engine.limit = support::slow(std::time::Duration::from_secs(60));
    engine.variables.push(("MYDOCKER_LAB".to_string(), fault.to_string()));
    let done = play(&engine, &[name, "--auto"], "C");
    assert_eq!(done.status, 1, "{fault}: {}{}", done.stdout, done.stderr);
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = done.stdout.split("✗ NOT SO HERE").skip(1).any(|rest| flat(rest).contains(found));
    assert!(told, "{fault}: {found}: {}", done.stdout);
    assert!(done.stderr.contains("not so on this machine"), "{}", done.stderr);
}

/// The demo on a terminal of 24 rows and 80 columns.
fn on_terminal(engine: &Engine, words: &[&str], variables: &[(&str, &str)]) -> Terminal {
    let mut command = engine.command([&["demo"], words].concat());
    command.env_remove("LC_ALL").env("LANG", "C.UTF-8").env("TERM", "xterm").env_remove("NO_COLOR");
    command.envs(variables.iter().copied());
    Terminal::of(command, &[], (24, 80))
}

const INVITATION: &str = "[Enter: on   q: end]";

/// Presses the key at every invitation until the end: the exit status.
fn press(terminal: &mut Terminal, key: &str) -> i32 {
    let mut answered = 0;
    loop {
        terminal.wait_until("an invitation, or the end", |terminal| {
            terminal.screen().matches(INVITATION).count() > answered || !kernel::alive(terminal.pid())
        });
        if terminal.screen().matches(INVITATION).count() == answered {
            return terminal.end();
        }
        answered += 1;
        terminal.keys(key);
    }
}

#[test]
fn it_waits_for_enter_at_every_scene() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = on_terminal(&engine, &["layers"], &[]);
    terminal.expect("1/7");
    terminal.expect(INVITATION);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!terminal.screen().contains("2/7"), "it did not wait: {}", terminal.screen());
    terminal.keys("x\r");
    terminal.expect("2/7");
    terminal.expect(INVITATION);
    terminal.keys(" ");
    terminal.expect("3/7");
    // A scene is one page: a screen has room for it.
    assert_eq!(press(&mut terminal, "\r"), 0, "{}", terminal.screen());
    assert!(terminal.screen().contains("\x1b[1;32m"), "in colours");
    guard.check();
}

#[test]
fn q_ends_it_and_no_color_is_heard() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = on_terminal(&engine, &["namespaces", "--projector"], &[("NO_COLOR", "1")]);
    terminal.expect(INVITATION);
    terminal.keys("q");
    assert_eq!(terminal.end(), 0);
    assert!(!terminal.screen().contains("\x1b[1"), "{:?}", terminal.screen());
    assert!(terminal.screen().contains("is gone"));
    guard.check();
}

#[test]
fn ctrl_c_and_a_closed_terminal_leave_nothing() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    // While it waits, and in the middle of a command.
    let mut terminal = on_terminal(&engine, &["escape"], &[]);
    terminal.expect(INVITATION);
    terminal.keys("\x03");
    assert_eq!(terminal.end(), 130, "{}", terminal.screen());
    let mut terminal = on_terminal(&engine, &["cgroup", "--auto"], &[]);
    terminal.expect("while :; do :; done");
    terminal.keys("\x03");
    assert_eq!(terminal.end(), 130, "{}", terminal.screen());
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = on_terminal(&engine, &["layers"], &[]);
        terminal.expect(INVITATION);
        terminal.signal(signal);
        assert_eq!(terminal.end(), 128 + signal as i32);
    }
    guard.check();
}

#[test]
fn step_waits_before_every_command_and_step_of_the_plan() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = on_terminal(&engine, &["namespaces", "--step"], &[]);
    terminal.expect("mydocker run --step --rm");
    terminal.expect("[Enter: run it]");
    terminal.keys("\r");
    terminal.expect("engine.folder");
    terminal.expect("[Enter] ");
    terminal.keys("\r");
    terminal.expect("engine.config");
    terminal.expect("[Enter] ");
    terminal.keys("\x03");
    assert_eq!(terminal.end(), 130, "{}", terminal.screen());
    guard.check();
}
