//! A container on a terminal, as a person sits at it: a real pty on the caller's side, keys in, pictures out, and the
//! terminal as it was when all is over, whatever happened.

#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, tcsetattr};
use nix::unistd::{Pid, read, write};
use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};
use support::terminal::{PATIENCE, Terminal};
use support::{Engine, Guard, kernel};

/// A shell at its prompt.
#[track_caller]
fn at_prompt(engine: &Engine) -> Terminal {
    let mut terminal = Terminal::run(engine, &["-ti", "--rm", "busybox", "sh"]);
    terminal.expect("/ # ");
    terminal
}

#[test]
fn the_very_first_command_sees_the_size() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = Terminal::run(&engine, &["-ti", "busybox", "stty", "size"]);
    terminal.expect("37 111\r\n");
    assert_eq!(terminal.end(), 0);
    // The size is the terminal's, even where stdin is not one.
    let starter = ["sh", "-c", "exec \"$@\" < /dev/null", "sh"];
    let mut terminal = Terminal::through(&engine, &starter, &["-t", "busybox", "stty", "size"]);
    terminal.expect("37 111\r");
    assert_eq!(terminal.end(), 0);
    guard.check();
}

#[test]
fn a_new_size_arrives_and_is_told() {
    let Some(engine) = Engine::open() else { return };
    let script = "trap 'stty size' WINCH; trap 'exit 5' USR1; stty size; while :; do sleep 0.05; done";
    let mut terminal = Terminal::run(&engine, &["-ti", "busybox", "sh", "-c", script]);
    terminal.expect("37 111\r\n");
    for (rows, columns) in [(20, 60), (21, 61), (300, 30)] {
        terminal.resize(rows, columns);
        terminal.expect(&format!("{rows} {columns}\r\n"));
    }
    terminal.signal(Signal::SIGUSR1);
    assert_eq!(terminal.end(), 5);
    // A shell at its prompt.
    let mut terminal = at_prompt(&engine);
    let tty = format!("/proc/{}/fd/0", terminal.container());
    terminal.resize(22, 62);
    terminal.wait_until("the new size", |_| {
        let size = Command::new("stty").arg("size").stdin(File::open(&tty).unwrap()).output().unwrap().stdout;
        size == b"22 62\n"
    });
    terminal.ask("stty size", "22 62\r\n");
    terminal.keys("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn keys_reach_the_container_raw() {
    let Some(engine) = Engine::open() else { return };
    let mut terminal = at_prompt(&engine);
    assert!(terminal.is_raw(), "{:?}", terminal.modes());
    // What is typed is echoed once, by the container's own terminal.
    terminal.ask("echo one''two", "echo one''two\r\nonetwo\r\n/ # ");
    assert_eq!(terminal.screen().matches("one''two").count(), 1, "{:?}", terminal.screen());
    // A program inside that wants single keys gets them: the arrow goes back in the shell's history.
    terminal.keys("\x1b[A");
    terminal.expect("echo one''two");
    terminal.keys("\r");
    terminal.expect("onetwo\r\n/ # ");
    terminal.keys("\x04");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_exit_status_is_the_shells() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = at_prompt(&engine);
    terminal.keys("exit 3\r");
    assert_eq!(terminal.end(), 3);
    let mut terminal = at_prompt(&engine);
    terminal.ask("false", "/ # ");
    terminal.keys("\x04");
    assert_eq!(terminal.end(), 1);
    guard.check();
}

#[test]
fn the_terminal_is_restored_when_the_container_is_killed() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = at_prompt(&engine);
    let container = terminal.container();
    assert!(terminal.is_raw());
    kill(Pid::from_raw(container as i32), Signal::SIGKILL).unwrap();
    assert_eq!(terminal.end(), 137);
    guard.check();
}

#[test]
fn the_terminal_is_restored_when_the_engine_is_told_to_end() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // One is the container's to obey, and it does.
        let handler = format!("trap 'exit 9' {}; echo rea''dy; while :; do sleep 0.1; done", &signal.as_str()[3..]);
        let mut terminal = Terminal::run(&engine, &["-ti", "busybox", "sh", "-c", &handler]);
        terminal.expect("ready");
        assert!(terminal.is_raw());
        terminal.signal(signal);
        assert_eq!(terminal.end(), 9, "{signal}");
        // Three are an order.
        let mut terminal =
            Terminal::run(&engine, &["-ti", "busybox", "sh", "-c", "trap '' INT TERM; echo ready; sleep 1000"]);
        terminal.expect("ready");
        for time in 1..=3 {
            assert!(terminal.is_raw(), "after {time} {signal}");
            std::thread::sleep(Duration::from_millis(100));
            terminal.signal(signal);
        }
        assert_eq!(terminal.end(), 137, "{signal}");
    }
    guard.check();
}

#[test]
fn the_terminal_is_restored_when_the_engine_panics() {
    if !cfg!(debug_assertions) || std::env::var_os("MYDOCKER_BIN").is_some() {
        return support::skip("fail points are in debug builds of the product only");
    }
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let starter = ["env", "MYDOCKER_FAILPOINT=engine.wait:panic"];
    let mut terminal = Terminal::through(&engine, &starter, &["-ti", "busybox", "sh"]);
    // Told on a terminal that is a terminal again: the line ends with a carriage return.
    terminal.expect("a failpoint wants it\r\n");
    assert_ne!(terminal.end(), 0);
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    guard.check();
}

#[test]
fn the_terminal_is_restored_when_nothing_starts() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = Terminal::run(&engine, &["-ti", "busybox", "nosuch"]);
    terminal.expect("exec: \"nosuch\": executable file not found in $PATH\r\n");
    assert_eq!(terminal.end(), 127);
    guard.check();
}

#[test]
fn a_child_killed_before_it_has_a_terminal_is_reported() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = Terminal::run(&engine, &["-ti", "--step", "busybox", "sh"]);
    let mut enters = 0;
    while kernel::children(terminal.pid()).is_empty() {
        terminal.expect("[Enter] ");
        terminal.keys("\r");
        enters += 1;
        assert!(enters < 100);
    }
    let child = terminal.container();
    kill(Pid::from_raw(child as i32), Signal::SIGKILL).unwrap();
    for _ in 0..3 {
        terminal.keys("\r");
    }
    assert_eq!(terminal.end(), 137);
    assert!(!terminal.screen().contains("panicked"), "{}", terminal.screen());
    guard.check();
}

#[test]
fn control_c_ends_the_command_and_not_the_shell() {
    let Some(engine) = Engine::open() else { return };
    let mut terminal = at_prompt(&engine);
    for (key, status) in [("\x03", 130), ("\x1c", 131)] {
        // The shell has given its terminal back to line mode when the command runs.
        terminal.ask("sh -c 'echo rea\"\"dy; exec cat'", "ready\r\n");
        terminal.ask("me", "me\r\nme\r\n");
        terminal.keys(key);
        terminal.expect("/ # ");
        terminal.ask("echo status'='$?", &format!("status={status}\r\n"));
        terminal.expect("/ # ");
    }
    // At the prompt it gives a new prompt.
    terminal.keys("abc\x03");
    terminal.expect("/ # ");
    terminal.ask("echo sti''ll", "still\r\n");
    terminal.keys("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn jobs_stop_and_go_on() {
    let Some(engine) = Engine::open() else { return };
    for init in ["--rm", "--init"] {
        let mut terminal = Terminal::run(&engine, &["-ti", init, "busybox", "sh"]);
        terminal.expect("/ # ");
        terminal.ask("sleep 100 &", "/ # ");
        terminal.ask("jobs", "[1]+  Running                    sleep 100");
        // It is in the foreground when the kernel says so.
        let foreground = |terminal: &mut Terminal| {
            let shell =
                kernel::descendants(terminal.pid()).into_iter().find(|pid| kernel::words(*pid) == ["sh"]).unwrap();
            let job = kernel::children(shell)[0];
            terminal.wait_until("the foreground", |_| stat(job, 5) == stat(job, 2) && kernel::state(job) == Some('S'));
        };
        terminal.ask("fg", "sleep 100\r\n");
        foreground(&mut terminal);
        terminal.keys("\x1a");
        terminal.expect("[1]+  Stopped                    sleep 100");
        terminal.ask("bg", "[1] sleep 100\r\n");
        terminal.ask("jobs", "[1]+  Running");
        terminal.ask("fg", "sleep 100\r\n");
        foreground(&mut terminal);
        terminal.keys("\x03");
        terminal.expect("/ # ");
        terminal.ask("echo status'='$?", "status=130\r\n");
        assert!(!terminal.screen().contains("job control turned off"), "{}", terminal.screen());
        terminal.keys("exit 4\r");
        assert_eq!(terminal.end(), 4);
    }
}

/// A field of `/proc/PID/stat` after the name, from 0: 2 is the process group, 5 the terminal's foreground group.
fn stat(pid: u32, field: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(field).map(str::to_string)
}

#[test]
fn it_is_a_terminal_of_its_own() {
    let Some(engine) = Engine::open() else { return };
    let mut terminal = at_prompt(&engine);
    terminal.ask("tty", "/dev/pts/0\r\n");
    terminal.ask("ls /dev/pts", "0     ptmx\r\n");
    terminal.ask("echo by the con''sole > /dev/console", "by the console\r\n");
    terminal.ask("echo by the tt''y > /dev/tty", "by the tty\r\n");
    terminal.ask("echo $TERM", "xterm\r\n");
    terminal.ask("stat -c 'is %t:%T of %U' /dev/console", "is 88:0 of root\r\n");
    // Seen from outside: three descriptors, all the container's, and a session that is led by it.
    let container = terminal.container();
    let links: Vec<_> = (0..3).map(|fd| std::fs::read_link(format!("/proc/{container}/fd/{fd}")).unwrap()).collect();
    assert!(links.iter().all(|link| link.as_os_str() == "/dev/pts/0"), "{links:?}");
    assert_eq!(nix::unistd::getsid(Some(Pid::from_raw(container as i32))).unwrap().as_raw(), container as i32);
    terminal.keys("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn another_user_owns_its_terminal() {
    let Some(engine) = Engine::open() else { return };
    let script =
        "tty; echo a > $(tty); echo b > /dev/console; echo c > /dev/tty; echo d > /dev/stdout; stat -c %u $(tty)";
    let mut terminal = Terminal::run(&engine, &["-ti", "-u", "1000", "busybox", "sh", "-c", script]);
    terminal.expect("/dev/pts/0\r\na\r\nb\r\nc\r\nd\r\n1000\r\n");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_terminal_without_a_terminal_works_and_is_warned_of() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let done =
        engine.run_with_input(["run", "--rm", "-ti", "busybox", "sh", "-c", "tty; read x; echo got $x"], b"hello\n");
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("/dev/pts/0\r\n") && done.stdout.contains("got hello\r\n"), "{:?}", done.stdout);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    assert!(done.stderr.contains("not a terminal"), "{}", done.stderr);
    // The end of the input ends the shell.
    for _ in 0..20 {
        let done = engine.run_with_input(["run", "--rm", "-ti", "busybox", "sh"], b"echo a''b\n");
        assert_eq!(done.status, 0, "{}", done.stderr);
        assert!(done.stdout.contains("ab\r\n"), "{:?}", done.stdout);
        assert_eq!(engine.run(["run", "--rm", "-ti", "busybox", "sh"]).status, 0);
    }
    let done = engine.run_with_input(["run", "--rm", "-ti", "busybox", "cat"], b"no newline");
    assert!(done.stdout.contains("no newline"), "{:?}", done.stdout);
    // Without -i nothing is fed, and there is nothing to warn of.
    let done = engine.run_with_input(["run", "--rm", "-t", "busybox", "tty"], b"");
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (0, "/dev/pts/0\r\n", ""));
    guard.check();
}

#[test]
fn what_is_typed_before_the_prompt_is_not_lost() {
    let Some(engine) = Engine::open() else { return };
    let mut terminal = Terminal::run(&engine, &["-ti", "busybox", "sh", "-c", "sleep 0.5; exec sh"]);
    // A whole line and half of one, before anybody reads.
    terminal.keys("echo fir''st\recho sec");
    terminal.expect("first\r\n");
    terminal.keys("o''nd\r");
    terminal.expect("second\r\n");
    terminal.keys("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn output_larger_than_the_terminals_buffer_arrives_whole() {
    let Some(engine) = Engine::open() else { return };
    let expected: String = (1..=30000).map(|number| format!("{number}\r\n")).collect();
    for _ in 0..5 {
        let mut terminal = Terminal::run(&engine, &["-ti", "busybox", "seq", "30000"]);
        assert_eq!(terminal.end(), 0);
        assert!(terminal.screen() == expected, "{} of {} bytes", terminal.seen.len(), expected.len());
    }
    // And with a file instead of a screen.
    for _ in 0..10 {
        let done = engine.run(["run", "--rm", "-t", "busybox", "seq", "30000"]);
        assert!(done.stdout == expected, "{} of {} bytes", done.stdout.len(), expected.len());
    }
}

#[test]
fn input_larger_than_the_terminals_buffer_arrives_whole() {
    let Some(engine) = Engine::open() else { return };
    let mut terminal =
        Terminal::run(&engine, &["-ti", "busybox", "sh", "-c", "stty raw -echo; echo go; head -c 200000 | md5sum"]);
    terminal.expect("go");
    let line = "0123456789abcdef".repeat(25);
    let mut sent = 0;
    while sent < 200_000 {
        let size = line.len().min(200_000 - sent);
        sent += write(&terminal.master, &line.as_bytes()[..size]).unwrap();
        terminal.look(Duration::ZERO);
    }
    let same = "yes 0123456789abcdef | tr -d '\\n' | head -c 200000 | md5sum";
    let expected = Command::new("sh").args(["-c", same]).output().unwrap().stdout;
    terminal.expect(String::from_utf8(expected).unwrap().trim());
    assert_eq!(terminal.end(), 0);
}

#[test]
fn after_a_stop_the_terminal_is_raw_again() {
    let Some(engine) = Engine::open() else { return };
    let mut terminal = at_prompt(&engine);
    terminal.signal(Signal::SIGSTOP);
    terminal.wait_until("the stop", |terminal| kernel::state(terminal.pid()) == Some('T'));
    // As a shell does that takes its terminal back.
    tcsetattr(&terminal.slave, SetArg::TCSANOW, &terminal.before.clone()).unwrap();
    terminal.resize(33, 99);
    terminal.signal(Signal::SIGCONT);
    terminal.wait_until("raw mode", Terminal::is_raw);
    terminal.ask("stty size", "33 99\r\n");
    terminal.keys("exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn interactive_alone_leaves_the_terminal_as_it_is() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let mut terminal = Terminal::run(&engine, &["-i", "busybox", "cat"]);
    terminal.ask("line", "line\r\nline\r\n");
    assert!(terminal.modes() == terminal.before);
    // The end, as typed.
    terminal.keys("\x04");
    assert_eq!(terminal.end(), 0);
    // ^C is a signal for us, and so for the command.
    let script = "trap 'exit 9' INT; echo rea''dy; while :; do sleep 0.1; done";
    let mut terminal = Terminal::run(&engine, &["-i", "busybox", "sh", "-c", script]);
    terminal.expect("ready");
    terminal.keys("\x03");
    assert_eq!(terminal.end(), 9);
    let mut terminal = Terminal::run(&engine, &["busybox", "sh", "-c", "trap '' INT TERM; echo ready; sleep 100"]);
    terminal.expect("ready");
    for _ in 0..3 {
        terminal.keys("\x03");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(terminal.end(), 137);
    guard.check();
}

#[test]
fn a_terminal_that_is_only_looked_at_keeps_its_keys() {
    let Some(engine) = Engine::open() else { return };
    // -t without -i: the command's terminal gets no key; what is typed waits for the caller's shell.
    let mut terminal = Terminal::run(&engine, &["-t", "busybox", "sh", "-c", "echo rea''dy; sleep 0.3; echo done"]);
    terminal.expect("ready");
    terminal.keys("kept\r");
    terminal.expect("done");
    assert_eq!(terminal.end(), 0);
    let mut buffer = [0; 64];
    let size = read(&terminal.slave, &mut buffer).unwrap();
    assert_eq!(&buffer[..size], b"kept\n");
}

#[test]
fn a_caller_that_hangs_up_ends_the_shell() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    // At its prompt; while something runs that reads nothing; while something has the keys for itself.
    for command in ["", "sleep 1000", "vi /tmp/x"] {
        let mut terminal = at_prompt(&engine);
        let container = terminal.container();
        if !command.is_empty() {
            terminal.keys(&format!("{command}\r"));
            let words: Vec<_> = command.split(' ').map(str::to_string).collect();
            terminal.wait_until("the command", |_| {
                kernel::children(container).first().is_some_and(|pid| kernel::words(*pid) == words)
            });
        }
        // The window is closed: our end of the caller's terminal goes.
        let (read, _write) = nix::unistd::pipe().unwrap();
        terminal.master = read;
        let end = Instant::now() + *PATIENCE;
        while terminal.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "{command:?} does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!kernel::alive(container));
    }
    guard.check();
}
