//! What goes in and comes out of a container without a terminal: every byte, in its order, to the last one, and nothing
//! of the caller's besides.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Done, Engine, Guard};

/// Runs a script of the host's bash: `$M` is `mydocker run`, `$DIR` a folder of the test's own.
fn shell(engine: &Engine, script: &str) -> Done {
    let words = engine.command(["run"]);
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("M() {{ {:?} run --rm \"$@\"; }}\n{script}", words.get_program())])
        .stdin(Stdio::null());
    command.env("DIR", engine.folder()).env("MYDOCKER_ROOT", engine.root());
    engine.finish(command)
}

/// Prints it, and compares the whole.
#[track_caller]
fn expect(done: &Done, status: i32, stdout: &str) {
    assert_eq!((done.status, done.stdout.as_str()), (status, stdout), "stderr: {}", done.stderr);
}

/// Bytes in which every shift, swap and loss shows.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn a_hundred_megabytes_through_wc() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let done = shell(&engine, "head -c 100M /dev/zero | M --rm -i busybox wc -c");
    expect(&done, 0, "104857600\n");
    guard.check();
}

#[test]
fn bytes_are_unaltered_through_pipes_and_files() {
    let Some(engine) = Engine::open() else { return };
    let bytes = noise(5 << 20);
    let (input, output) = (engine.folder().join("in"), engine.folder().join("out"));
    fs::write(&input, &bytes).unwrap();
    for script in [
        "cat $DIR/in | M -i busybox cat | cat > $DIR/out",
        "M -i busybox cat < $DIR/in | cat > $DIR/out",
        "cat $DIR/in | M -i busybox cat > $DIR/out",
        "M -i busybox cat < $DIR/in > $DIR/out",
        "M -i --init busybox cat < $DIR/in > $DIR/out",
        "M -i busybox sh -c 'cat >&2' < $DIR/in 2> $DIR/out",
    ] {
        fs::write(&output, "").unwrap();
        expect(&shell(&engine, script), 0, "");
        assert!(fs::read(&output).unwrap() == bytes, "altered: {script}");
    }
}

#[test]
fn a_socket_is_a_stdin_and_a_stdout() {
    let Some(engine) = Engine::open() else { return };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command = engine.command(["run", "--rm", "-i", "busybox", "tr", "a-z", "A-Z"]);
    command.stdin(theirs.try_clone().unwrap()).stdout(theirs).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    ours.write_all(b"hello").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    ours.set_read_timeout(Some(crate::support::slow(Duration::from_secs(10)))).unwrap();
    ours.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), child.wait().unwrap().code()), ("HELLO", Some(0)));
}

#[test]
fn the_end_of_stdin_is_passed_on() {
    let Some(engine) = Engine::open() else { return };
    for script in [
        "M -i busybox cat < /dev/null",
        "M -i busybox cat <&-",
        "true | M -i busybox cat",
        ": > $DIR/empty; M -i busybox cat < $DIR/empty",
        "M busybox cat",
        "M busybox cat <&-",
    ] {
        expect(&shell(&engine, script), 0, "");
    }
    // The command sees the end while it runs, not when something else ends.
    expect(&shell(&engine, "echo one | M -i busybox sh -c 'cat; echo two'"), 0, "one\ntwo\n");
}

#[test]
fn stdin_is_not_touched_without_interactive() {
    let Some(engine) = Engine::open() else { return };
    expect(&shell(&engine, "printf 'a\\nb\\n' | { M busybox cat; cat; }"), 0, "a\nb\n");
    expect(&shell(&engine, "printf 'a\\nb\\n' > $DIR/f; { M busybox cat; cat; } < $DIR/f"), 0, "a\nb\n");
    // The classic: a loop whose body must not eat the list.
    let list = "printf '1\\n2\\n3\\n' | while read line; do M busybox echo $line; done";
    expect(&shell(&engine, list), 0, "1\n2\n3\n");
    // And the control: with -i it does.
    let eaten = "printf '1\\n2\\n3\\n' | while read line; do M -i busybox sh -c \"echo $line; cat >/dev/null\"; done";
    expect(&shell(&engine, eaten), 0, "1\n");
}

#[test]
fn a_full_device_is_told_and_counts_as_our_failure() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for (script, stream) in [
        ("M busybox echo hi > /dev/full", "stdout"),
        ("M busybox sh -c 'echo hi >&2' 3>&2 2>/dev/full 2>&3", ""),
        ("M busybox dd if=/dev/zero bs=64k count=100 2>/dev/null > /dev/full", "stdout"),
        ("M -t busybox echo hi > /dev/full", "stdout"),
    ] {
        let done = shell(&engine, script);
        if stream.is_empty() {
            assert_eq!(done.status, 0);
            continue;
        }
        // A stderr of our own that is full too would leave only the status.
        assert_eq!(done.status, 125, "{script}: {}", done.stderr);
        if !script.contains("2>/dev/null") {
            let line = done.stderr.lines().last().unwrap_or_default();
            assert!(line.contains(stream) && line.contains("No space left on device"), "{script}: {line}");
            assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        }
    }
    let silent = shell(&engine, "M busybox sh -c 'echo hi >&2' 2>/dev/full");
    expect(&silent, 125, "");
    guard.check();
}

#[test]
fn closed_descriptors_do_no_harm() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let done = shell(&engine, "M busybox echo hi >&-");
    expect(&done, 125, "");
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    assert!(done.stderr.contains("stdout is closed"), "{}", done.stderr);
    expect(&shell(&engine, "M busybox sh -c 'echo out; echo err >&2' 2>&-"), 0, "out\n");
    expect(&shell(&engine, "M -i busybox sh -c 'cat; echo out; echo err >&2' <&- 2>&-"), 0, "out\n");
    // With nobody to tell and nothing to tell it on, the status is all there is.
    expect(&shell(&engine, "M busybox nosuch 2>&-"), 127, "");
    expect(&shell(&engine, "M busybox echo hi <&- >&- 2>&-"), 125, "");
    guard.check();
}

#[test]
fn a_reader_that_goes_ends_the_writer() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let since = Instant::now();
    expect(&shell(&engine, "M busybox yes | head -n 2"), 0, "y\ny\n");
    expect(&shell(&engine, "M --init busybox yes | head -n 2"), 0, "y\ny\n");
    // A FIFO with a name is relayed.
    let fifo = "mkfifo $DIR/fifo; head -n 2 < $DIR/fifo & M busybox yes > $DIR/fifo; wait";
    expect(&shell(&engine, fifo), 0, "y\ny\n");
    assert!(since.elapsed() < crate::support::slow(Duration::from_secs(10)));
    guard.check();
}

#[test]
fn stdout_and_stderr_are_two() {
    let Some(engine) = Engine::open() else { return };
    let script = "sh -c 'echo out; echo err >&2'";
    let done = shell(&engine, &format!("M busybox {script}"));
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    let done = shell(&engine, &format!("M busybox {script} > $DIR/out 2> $DIR/err; cat $DIR/out; cat $DIR/err >&2"));
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
}

#[test]
fn one_file_for_both_keeps_their_order() {
    let Some(engine) = Engine::open() else { return };
    let expected: String = (1..=200).map(|number| format!("{number}\n")).collect();
    let script = "sh -c 'i=1; while [ $i -le 200 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done'";
    for to in ["> $DIR/log 2>&1; cat $DIR/log", "2>&1 | cat", ">> $DIR/log2 2>> $DIR/log2; cat $DIR/log2"] {
        expect(&shell(&engine, &format!("M busybox {script} {to}")), 0, &expected);
    }
}

#[test]
fn nothing_is_lost_when_the_command_ends_at_once() {
    let Some(engine) = Engine::open() else { return };
    let out = engine.folder().join("out");
    let part = noise(2 << 20);
    fs::write(engine.folder().join("part"), &part).unwrap();
    let expected = part.repeat(10);
    let p = "/tmp/part ".repeat(10);
    for time in 0..50 {
        let script = format!("M -i busybox sh -c 'cat > /tmp/part; cat {p}; exit 7' < $DIR/part > $DIR/out");
        let done = shell(&engine, &script);
        assert_eq!((done.status, done.stderr.as_str()), (7, ""), "time {time}");
        let got = fs::read(&out).unwrap();
        assert!(got == expected, "time {time}: {} of {} bytes", got.len(), expected.len());
    }
}

#[test]
fn nothing_is_lost_to_a_slow_reader() {
    let Some(engine) = Engine::open() else { return };
    // More than a pipe holds, so the command has ended long before the reader has all of it.
    expect(&shell(&engine, "M busybox sh -c 'head -c 300000 /dev/zero' | (sleep 0.3; wc -c)"), 0, "300000\n");
    let fifo =
        "mkfifo $DIR/fifo; (sleep 0.3; wc -c) < $DIR/fifo & M busybox head -c 300000 /dev/zero > $DIR/fifo; wait";
    expect(&shell(&engine, fifo), 0, "300000\n");
}

#[test]
fn a_stuck_reader_does_not_hold_us_for_ever() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    // Nobody reads the FIFO, whose other end stays open: the command is gone, its last bytes are not.
    let script = "mkfifo $DIR/stuck; exec 9<>$DIR/stuck
        M busybox head -c 100000 /dev/zero > $DIR/stuck &
        until read -t 0 <&9; do sleep 0.01; done; sleep 0.5
        kill -0 $! && kill -TERM $(cat /proc/$!/task/$!/children) && wait $!";
    let done = shell(&engine, script);
    assert!(done.stderr.contains("stdout: what the command wrote is lost"), "{}", done.stderr);
    expect(&done, 125, "");
    guard.check();
}

#[test]
fn a_file_as_stdout_is_not_the_containers() {
    let Some(engine) = Engine::open() else { return };
    let kept = engine.folder().join("kept");
    let attack = ": > /proc/self/fd/1; exec 3<>/proc/self/fd/1 && head -c 4 <&3; echo mine";
    let run = |runner: &str| {
        fs::write(&kept, "keep\n").unwrap();
        shell(&engine, &format!("{runner} sh -c '{}' >> $DIR/kept 2>/dev/null", attack.replace("head -c 4 <&3;", "")));
        fs::read_to_string(&kept).unwrap()
    };
    // The control: it works on whoever has the file itself.
    assert_eq!(run(""), "mine\n");
    assert_eq!(run("M busybox"), "keep\nmine\n");
    // Nor is a file on stdin, opened for reading, a file to write in.
    let script = "echo keep > $DIR/in; M -i busybox sh -c 'echo gone > /proc/self/fd/0' < $DIR/in; cat $DIR/in";
    assert_eq!(shell(&engine, script).stdout, "keep\n");
}

#[test]
fn a_fifo_of_the_callers_stays_the_callers() {
    let Some(engine) = Engine::open() else { return };
    let script = "mkfifo -m 600 $DIR/fifo; cat $DIR/fifo & M -u 1000 busybox echo hi > $DIR/fifo; wait";
    expect(&shell(&engine, script), 0, "hi\n");
    let metadata = fs::metadata(engine.folder().join("fifo")).unwrap();
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (0, 0o600));
    // What is written in there before cannot be read back by the command.
    let script = "mkfifo $DIR/two; exec 9<>$DIR/two; echo secret >&9
        M busybox sh -c 'exec 3</proc/self/fd/1; read -t 1 x <&3; echo \"got $x\" >&2' > $DIR/two";
    let done = shell(&engine, script);
    assert!(!done.stderr.contains("secret"), "{}", done.stderr);
}

#[test]
fn another_user_may_open_its_own_stdout_again() {
    let Some(engine) = Engine::open() else { return };
    for to in ["", "| cat", "> $DIR/f; cat $DIR/f"] {
        let script = format!("M -u 1000 busybox sh -c 'echo one > /dev/stdout; echo two > /proc/self/fd/1' {to}");
        let done = shell(&engine, &script);
        assert!(done.stdout.contains("two\n"), "{script}: {done:?}");
    }
}

#[test]
fn the_callers_descriptors_keep_their_flags() {
    let Some(engine) = Engine::open() else { return };
    let flags = "for n in 0 1 2; do grep flags /proc/self/fdinfo/$n; done >> $DIR/flags";
    let script = format!(
        "{flags}; cp $DIR/flags $DIR/before; rm $DIR/flags; M -i busybox cat; {flags}
        cmp $DIR/before $DIR/flags && echo same"
    );
    let done = shell(&engine, &format!("echo hi > $DIR/in; ({script}) < $DIR/in 2>&1 | tail -n 1"));
    expect(&done, 0, "same\n");
}

#[test]
fn a_nonblocking_pipe_is_no_trap_for_the_command() {
    let Some(engine) = Engine::open() else { return };
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let mut command = engine.command(["run", "--rm", "-i", "busybox", "cat"]);
    command.stdin(reader);
    let running = engine.spawn(command);
    // Longer than the command needs to ask for its first byte.
    std::thread::sleep(Duration::from_millis(300));
    fs::File::from(writer).write_all(b"late\n").unwrap();
    expect(&running.wait(), 0, "late\n");
}
