//! The process in the container: how it begins, as whom, what it hears, how it ends. Judged from outside, by `/proc`.

#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Done, Engine, Guard, Running, kernel};

#[track_caller]
fn expect(done: &Done, status: i32, stdout: &str) {
    assert_eq!((done.status, done.stdout.as_str()), (status, stdout), "stderr: {}", done.stderr);
}

/// `run busybox sh -c SCRIPT`, with flags before the image.
fn sh(engine: &Engine, flags: &[&str], script: &str) -> Done {
    engine.run(["run", "--rm"].iter().chain(flags).chain(&["busybox", "sh", "-c", script]))
}

/// Starts `run FLAGS busybox COMMAND` through a script of the host's bash, in which `"$@"` is the engine's command.
fn through(engine: &Engine, script: &str, words: &[&str]) -> Running {
    let run = engine.command(["run", "--rm"].iter().chain(words));
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DIR", engine.folder()).stdin(Stdio::piped());
    let mut running = engine.spawn(command);
    // The starter becomes the engine, and that is what the command is told from.
    let (id, program) = (running.engine(), std::path::absolute(run.get_program()).unwrap());
    running.wait_until("the engine", || fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == program));
    running.wait_for_command();
    // The kernel names the new program a moment before it shows its words and its environment.
    let pid = running.pid;
    running
        .wait_until("its environment", || fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| !text.is_empty()));
    running
}

fn namespace_pid(pid: u32) -> u32 {
    kernel::status(pid, "NSpid").unwrap().split_whitespace().last().unwrap().parse().unwrap()
}

/// The container's PID 1 below this engine.
fn first(engine: u32) -> u32 {
    let is_first =
        |pid: &u32| kernel::status(*pid, "NSpid").is_some_and(|list| list.split_whitespace().last() == Some("1"));
    // A list of children that changes while it is read may lack one of them.
    let end = Instant::now() + crate::support::slow(Duration::from_secs(5));
    loop {
        match kernel::descendants(engine).into_iter().find(is_first) {
            Some(pid) => return pid,
            None => assert!(Instant::now() < end, "the engine has no child that is PID 1"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn exit_codes_are_dockers() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let cases: &[(&[&str], i32, &str)] = &[
        (&["busybox", "true"], 0, ""),
        (&["busybox", "false"], 1, ""),
        (&["busybox", "sh", "-c", "exit 255"], 255, ""),
        (&["busybox", "sh", "-c", "exit 125"], 125, ""),
        (&["busybox", "nosuch"], 127, "exec: \"nosuch\": executable file not found in $PATH"),
        (&["busybox", "/nosuch"], 127, "exec: \"/nosuch\": no such file or directory"),
        (&["busybox", "/bin/nosuch/x"], 127, "exec: \"/bin/nosuch/x\": no such file or directory"),
        (&["busybox", "/etc"], 126, "exec: \"/etc\": is a directory: permission denied"),
        (&["busybox", "/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied"),
        (&["busybox", "/dev/null"], 126, "exec: \"/dev/null\": permission denied"),
        (&["busybox", ""], 127, "exec: \"\": executable file not found in $PATH"),
        (&["-e", "PATH=/nosuch", "busybox", "true"], 127, "executable file not found in $PATH"),
        (&["-u", "1000", "busybox", "/root/x"], 126, "exec: \"/root/x\": permission denied"),
        (&["--init", "busybox", "nosuch"], 127, "executable file not found in $PATH"),
        (&["--init", "busybox", "/etc/passwd"], 126, "permission denied"),
        (&["nosuchimage:1"], 125, "Unable to find image 'nosuchimage:1' locally"),
        (&["--nosuch", "busybox", "true"], 125, "--nosuch"),
        (&["--init", "busybox", "sh", "-c", "kill -TERM $$"], 143, ""),
        (&["--init", "busybox", "sh", "-c", "kill -KILL $$"], 137, ""),
        (&["--init", "busybox", "sh", "-c", "exit 42"], 42, ""),
    ];
    for (words, status, stderr) in cases {
        let done = engine.run(["run", "--rm"].iter().chain(*words));
        assert_eq!((done.status, done.stdout.as_str()), (*status, ""), "{words:?}: {}", done.stderr);
        assert!(done.stderr.contains(stderr), "{words:?}: {}", done.stderr);
        assert_eq!(done.stderr.is_empty(), stderr.is_empty(), "{words:?}: {}", done.stderr);
    }
    guard.check();
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    let Some(engine) = Engine::open() else { return };
    expect(&engine.run(["run", "--rm", "busybox", "true"]), 0, "");
    let bin = engine.image_tree().join("bin");
    // A program of another machine, a text, and scripts whose interpreter is not there.
    let mut other = fs::read(bin.join("busybox")).unwrap();
    other[18..20].copy_from_slice(&243u16.to_le_bytes()); // e_machine: RISC-V
    let cases: [(&str, &[u8], i32, &str); 4] = [
        ("other", &other, 126, "exec format error: a program for another architecture than"),
        ("text", b"just text\n", 126, "exec format error"),
        ("empty", b"", 126, "exec format error"),
        ("script", b"#!/no/such/shell\n", 126, "interpreter"),
    ];
    for (name, content, status, stderr) in cases {
        support_program(&bin.join(name), content);
        let done = engine.run(["run", "--rm", "busybox", name]);
        assert_eq!(done.status, status, "{name}: {}", done.stderr);
        assert!(done.stderr.contains(stderr) && done.stderr.lines().count() == 1, "{name}: {}", done.stderr);
    }
    support_program(&bin.join("good"), b"#!/bin/sh\necho \"$0 $*\"\n");
    expect(&engine.run(["run", "--rm", "busybox", "good", "a", "b c"]), 0, "/bin/good a b c\n");
    let done = engine.run(["run", "--rm", "busybox", "echo", &"x".repeat(120_000), &"y".repeat(120_000)]);
    assert_eq!((done.status, done.stdout.len()), (0, 240_002));
}

fn support_program(path: &std::path::Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn arguments_arrive_as_they_were_typed() {
    let Some(engine) = Engine::open() else { return };
    let done = engine
        .run(["run", "--rm", "busybox", "printf", "[%s]", "a  b", "", "it's", "\"", "$HOME", "-e", "--rm", "\n", "ü"]);
    expect(&done, 0, "[a  b][][it's][\"][$HOME][-e][--rm][\n][ü]");
    expect(&engine.run(["run", "--rm", "--", "busybox", "echo", "-n", "x"]), 0, "x");
}

#[test]
fn signals_are_forwarded() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    use Signal::*;
    for init in ["--rm", "--init"] {
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM] {
            let name = &signal.as_str()[3..];
            let script = format!("trap 'echo {name}; exit 42' {name}; echo ready; while :; do sleep 0.02; done");
            let mut running = through(&engine, "exec \"$@\"", &[init, "busybox", "sh", "-c", &script]);
            wait_for_handler(&mut running, signal);
            running.signal(signal);
            let done = running.wait();
            expect(&done, 42, &format!("ready\n{name}\n"));
        }
    }
    guard.check();
}

/// Waits until some process of the container catches `signal`.
fn wait_for_handler(running: &mut Running, signal: Signal) {
    let engine = running.engine();
    running.wait_until("the handler", || {
        let catches = |pid: u32| {
            let mask = kernel::status(pid, "SigCgt").unwrap_or_default();
            u64::from_str_radix(&mask, 16).unwrap_or(0) >> (signal as u32 - 1) & 1 == 1
        };
        kernel::descendants(engine).into_iter().any(catches)
    });
    // Its `echo ready` comes after the trap.
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn the_third_request_to_end_is_an_order() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // PID 1 has no default reactions: `sleep` does not even notice.
        let running = engine.start(["run", "--rm", "busybox", "sleep", "1000"]);
        for _ in 0..2 {
            running.signal(signal);
            std::thread::sleep(Duration::from_millis(100));
            assert!(kernel::alive(running.pid));
        }
        running.signal(signal);
        let done = running.wait();
        assert_eq!(done.status, 137, "{}", done.stderr);
        assert!(done.took < crate::support::slow(Duration::from_secs(5)));
        // With an init the first one is enough.
        let running = engine.start(["run", "--rm", "--init", "busybox", "sleep", "1000"]);
        running.signal(signal);
        assert_eq!(running.wait().status, 128 + signal as i32);
    }
    guard.check();
}

#[test]
fn a_signal_during_the_start_is_not_lost() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for delay in 0..20 {
        let mut command = engine.command(["run", "--rm", "--init", "busybox", "sleep", "1000"]);
        command.stdin(Stdio::null());
        let running = engine.spawn(command);
        std::thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::SIGTERM);
        let done = running.wait();
        // Before the engine listens it ends by itself; afterwards the command does.
        assert_eq!(done.status, 143, "after {delay} ms: {}", done.stderr);
        assert!(done.took < crate::support::slow(Duration::from_secs(5)), "after {delay} ms");
    }
    // Whatever a signal has interrupted, the next start finds nothing of it.
    expect(&engine.run(["run", "--rm", "busybox", "true"]), 0, "");
    guard.check();
}

#[test]
fn the_command_is_pid_1() {
    let Some(engine) = Engine::open() else { return };
    expect(&sh(&engine, &[], "kill -KILL $$; kill -TERM $$; kill -SEGV $$; echo alive $$"), 0, "alive 1\n");
    let running = engine.start(["run", "--rm", "busybox", "sleep", "1000"]);
    assert_eq!(namespace_pid(running.pid), 1);
    assert_eq!(kernel::children(running.engine()), [running.pid]);
    // A session of its own: what is typed at the caller's terminal is not for it.
    let session = nix::unistd::getsid(Some(Pid::from_raw(running.pid as i32))).unwrap();
    assert_eq!(session.as_raw() as u32, running.pid);
    kill(Pid::from_raw(running.pid as i32), Signal::SIGKILL).unwrap();
    assert_eq!(running.wait().status, 137);
}

#[test]
fn orphans_end_with_pid_1() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for init in ["--rm", "--init"] {
        let since = Instant::now();
        // They hold stdout and stderr, ignore what can be ignored, and sit in sessions of their own.
        let script = "trap '' TERM HUP INT; for i in 1 2 3; do setsid sleep 1000 & done; sleep 0.1; exit 5";
        assert_eq!(sh(&engine, &[init], script).status, 5);
        assert!(since.elapsed() < crate::support::slow(Duration::from_secs(60)));
    }
    guard.check();
}

#[test]
fn an_init_reaps() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    // Twenty orphans that end; then a command that never waits for strangers.
    let script = "for i in $(seq 20); do sh -c 'sleep 0.5 & exit'; done; exec sleep 1000";
    let over = |running: &Running| {
        let words: Vec<_> = kernel::descendants(running.engine()).into_iter().map(kernel::words).collect();
        words.iter().any(|words| words == &["sleep", "1000"]) && !words.iter().any(|words| words == &["sleep", "0.5"])
    };
    for (init, expected) in [("--rm", 1..21), ("--init", 0..1)] {
        let mut running = engine.start(["run", "--rm", init, "busybox", "sh", "-c", script]);
        let end = Instant::now() + crate::support::slow(Duration::from_secs(10));
        while !over(&running) {
            assert!(Instant::now() < end, "the orphans do not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let id = running.engine();
        running.wait_until("its zombies", || {
            let zombie = |pid: &u32| kernel::state(*pid) == Some('Z');
            expected.contains(&kernel::descendants(id).into_iter().filter(zombie).count())
        });
        running.pid = first(running.engine());
        assert_eq!(running.stop().status, 137);
    }
    guard.check();
}

#[test]
fn an_init_shows_nothing_of_the_engine() {
    let Some(engine) = Engine::open() else { return };
    let secret = "-e SECRET=host";
    let words = ["run", "--rm", "--init", secret, "busybox", "sh", "-c"];
    let script = "cat /proc/1/exe /proc/1/environ /proc/1/mem /proc/1/maps 2>/dev/null | wc -c; \
        for l in exe root cwd fd/0; do readlink /proc/1/$l; done | wc -l; cat /proc/1/cmdline | tr -d '\\0'; echo; cat /proc/1/comm; \
        cat /proc/self/exe | head -c 4 | tail -c 3; echo; cat /proc/$$/environ | tr '\\0' '\\n' | grep -c PATH";
    let mut command = engine.command(words.into_iter().chain([script]));
    command.env("HOST_SECRET", "hidden");
    let done = engine.finish(command);
    expect(&done, 0, "0\n0\nmydocker-init\nmydocker-init\nELF\n1\n");
}

#[test]
fn who_it_is() {
    let Some(engine) = Engine::open() else { return };
    let cases: [(&[&str], u32, u32, &str, &str); 10] = [
        (&[], 0, 0, "0 10", "/root"),
        (&["-u", "0"], 0, 0, "0 10", "/root"),
        (&["-u", "root"], 0, 0, "0 10", "/root"),
        (&["-u", "1000"], 1000, 0, "0", "/"),
        (&["-u", "1000:1001"], 1000, 1001, "1001", "/"),
        (&["-u", "daemon"], 1, 1, "1", "/usr/sbin"),
        (&["-u", "nobody"], 65534, 65534, "65534", "/home"),
        (&["-u", "nobody:daemon"], 65534, 1, "1", "/home"),
        (&["-u", ":5"], 0, 5, "5", "/root"),
        (&["-u", "2147483647:2147483647"], 2147483647, 2147483647, "2147483647", "/"),
    ];
    for (flags, uid, gid, groups, home) in cases {
        // The caller's own groups are others.
        let script = "exec setpriv --groups 4,27,1234 \"$@\"";
        let words = [flags, &["busybox", "sleep", "1000"]].concat();
        let running = through(&engine, script, &words);
        let status = |field: &str| kernel::status(running.pid, field).unwrap();
        assert_eq!(status("Uid"), [uid; 4].map(|id| id.to_string()).join("\t"), "{flags:?}");
        assert_eq!(status("Gid"), [gid; 4].map(|id| id.to_string()).join("\t"), "{flags:?}");
        assert_eq!(status("Groups"), groups, "{flags:?}");
        let environment = fs::read(format!("/proc/{}/environ", running.pid)).unwrap();
        let environment = String::from_utf8(environment).unwrap();
        assert!(environment.split('\0').any(|line| line == format!("HOME={home}")), "{flags:?}: {environment:?}");
        running.stop();
    }
}

#[test]
fn the_environment_is_dockers() {
    let Some(engine) = Engine::open() else { return };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = |flags: &[&str]| {
        let mut command = engine.command([&["run", "--rm", "--hostname", "box"], flags, &["busybox", "env"]].concat());
        command.env("CALLER", "yes").env("EMPTY", "").env_remove("NOSUCH").stdin(Stdio::null());
        let done = engine.finish(command);
        assert_eq!(done.status, 0, "{}", done.stderr);
        let mut lines: Vec<_> = done.stdout.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    let basic = |more: &[&str]| {
        let mut lines: Vec<_> =
            ["HOME=/root", "HOSTNAME=box", path].iter().chain(more).map(|line| line.to_string()).collect();
        lines.sort();
        lines
    };
    assert_eq!(env(&[]), basic(&[]));
    assert_eq!(env(&["-t"]), basic(&["TERM=xterm"]));
    assert_eq!(env(&["-e", "A=1", "-e", "A=2", "-e", "B=", "-e", "C=x=y"]), basic(&["A=2", "B=", "C=x=y"]));
    assert_eq!(env(&["-e", "CALLER", "-e", "EMPTY", "-e", "NOSUCH"]), basic(&["CALLER=yes", "EMPTY="]));
    assert_eq!(env(&["-e", "HOME=/x", "-e", "HOSTNAME=y"]), ["HOME=/x", "HOSTNAME=y", path]);
    let file = engine.folder().join("env");
    fs::write(&file, "# comment\n\nFROM_FILE=1\nA=file\nCALLER\nNOSUCH\nSPACED= a b \nQUOTED=\"q\"\n").unwrap();
    let expected = ["A=flag", "CALLER=yes", "FROM_FILE=1", "QUOTED=\"q\"", "SPACED= a b "];
    assert_eq!(env(&["--env-file", file.to_str().unwrap(), "-e", "A=flag"]), basic(&expected));
}

#[test]
fn the_callers_umask_is_not_the_containers() {
    let Some(engine) = Engine::open() else { return };
    let script = "umask; stat -c %a / /dev/null /dev/tty /etc/hosts /etc/resolv.conf /tmp /dev/shm; touch /tmp/x; stat -c %a /tmp/x";
    for umask in ["022", "077", "000", "777"] {
        let words = ["-u", "1000", "busybox", "sh", "-c", script];
        let run = engine.command(["run", "--rm"].iter().chain(&words));
        let mut command = Command::new("bash");
        command
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "bash"])
            .arg(run.get_program())
            .args(run.get_args());
        command.env("MYDOCKER_ROOT", engine.root()).stdin(Stdio::null());
        expect(&engine.finish(command), 0, "0022\n755\n666\n666\n644\n644\n1777\n1777\n644\n");
    }
    // The folders that the first one made, with 022.
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| fs::metadata(engine.root().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("containers"), mode("layers"), mode("names")), (0o711, 0o700, 0o700, 0o700));
}

#[test]
fn the_working_directory() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for (flags, expected) in [
        (&[][..], "/"),
        (&["-w", "/tmp"], "/tmp"),
        (&["-w", "/made/for/this"], "/made/for/this"),
        (&["-w", "/made/for/this", "-u", "1000"], "/made/for/this"),
        (&["-w", "/tmp/../etc/"], "/etc"),
        (&["-w", "/proc/self"], "/proc/1"),
    ] {
        let running = engine.start([&["run", "--rm"][..], flags, &["busybox", "sleep", "1000"]].concat());
        let cwd = fs::read_link(format!("/proc/{}/cwd", running.pid)).unwrap();
        running.stop();
        assert_eq!(cwd.to_str().unwrap(), expected, "{flags:?}");
    }
    expect(&sh(&engine, &["-w", "/made/here"], "stat -c '%U %a' /made /made/here"), 0, "root 755\nroot 755\n");
    guard.check();
}

#[test]
fn entrypoint_takes_the_commands_place() {
    let Some(engine) = Engine::open() else { return };
    expect(&engine.run(["run", "--rm", "--entrypoint", "echo", "busybox", "a", "b"]), 0, "a b\n");
    expect(&engine.run(["run", "--rm", "--entrypoint", "/bin/pwd", "busybox"]), 0, "/\n");
    expect(&engine.run(["run", "--rm", "--entrypoint", "", "busybox", "echo", "x"]), 0, "x\n");
    expect(&engine.run(["run", "--rm", "--entrypoint=echo", "busybox"]), 0, "\n");
    let done = engine.run(["run", "--rm", "--entrypoint", "", "busybox"]);
    assert_eq!((done.status, done.stderr.as_str()), (125, "mydocker: no command specified\n"));
    assert_eq!(engine.run(["run", "--rm", "--entrypoint", "nosuch", "busybox"]).status, 127);
}

/// The options of the container's mount at `at`: the mount's own and the file system's.
#[track_caller]
fn mount(pid: u32, at: &str) -> (Vec<String>, Vec<String>) {
    let mounts = kernel::mounts(pid);
    let mount = mounts.iter().rfind(|mount| mount.at == at).unwrap_or_else(|| panic!("nothing is mounted at {at}"));
    (mount.options.clone(), mount.super_options.clone())
}

#[test]
fn read_only_is_the_root_and_not_what_is_mounted_in_it() {
    let Some(engine) = Engine::open() else { return };
    let script = "for f in /x /etc/x /tmp/x /var/x; do touch $f 2>/dev/null && echo $f; done; \
        for f in /dev/shm/x /scratch/x /dev/x; do touch $f || echo no $f; done";
    let flags = ["--read-only", "--tmpfs", "/scratch"];
    // A mount point must be in the image if its root cannot be written; docker makes it all the same.
    expect(&sh(&engine, &flags, script), 0, "");
    let running = engine.start(["run", "--rm", "--read-only", "busybox", "sleep", "1000"]);
    assert!(mount(running.pid, "/").0.contains(&"ro".to_string()));
    running.stop();
    let running = engine.start(["run", "--rm", "busybox", "sleep", "1000"]);
    assert!(mount(running.pid, "/").0.contains(&"rw".to_string()));
    running.stop();
}

#[test]
fn tmpfs_and_shm_have_their_sizes() {
    let Some(engine) = Engine::open() else { return };
    let words = [
        "run",
        "--rm",
        "--tmpfs",
        "/a",
        "--tmpfs",
        "/b:size=1m,mode=700,exec",
        "--tmpfs",
        "/c/d:ro",
        "--shm-size",
        "2m",
    ];
    let running = engine.start(words.into_iter().chain(["busybox", "sleep", "1000"]));
    let has = |at: &str, options: &[&str]| {
        let (own, of_the_system) = mount(running.pid, at);
        for option in options {
            let found = own.iter().chain(&of_the_system).any(|other| other == option);
            assert!(found, "{at}: no {option} in {own:?} {of_the_system:?}");
        }
        own
    };
    has("/a", &["rw", "nosuid", "nodev", "noexec"]);
    let own = has("/b", &["nosuid", "nodev", "size=1024k", "mode=700"]);
    assert!(!own.contains(&"noexec".to_string()));
    has("/c/d", &["ro"]);
    has("/dev/shm", &["nosuid", "nodev", "noexec", "size=2048k"]);
    running.stop();
    let fill = "dd if=/dev/zero of=/b/x bs=1k count=2000 2>/dev/null; stat -c %s /b/x";
    expect(&sh(&engine, &["--tmpfs", "/b:size=1m"], fill), 0, "1048576\n");
    // And the default.
    let running = engine.start(["run", "--rm", "busybox", "sleep", "1000"]);
    assert!(mount(running.pid, "/dev/shm").1.contains(&"size=65536k".to_string()));
    running.stop();
}

#[test]
fn kernel_parameters_are_the_containers_own() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let names = ["net.ipv4.ip_forward", "kernel.shmmax", "net.ipv4.ip_unprivileged_port_start", "fs.mqueue.msg_max"];
    let flags =
        ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shmmax=4096", "--sysctl", "fs.mqueue.msg_max=7"];
    let script = names.map(|name| format!("cat /proc/sys/{}", name.replace('.', "/"))).join("; ");
    expect(&sh(&engine, &flags, &script), 0, "1\n4096\n0\n7\n");
    guard.check();
}

#[test]
fn the_host_name() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    let script = "hostname; cat /etc/hostname /proc/sys/kernel/hostname; echo $HOSTNAME";
    expect(&sh(&engine, &["--hostname", "box-1.example"], script), 0, &"box-1.example\n".repeat(4));
    let done = sh(&engine, &[], script);
    let names: Vec<_> = done.stdout.lines().collect();
    assert!(names.len() == 4 && names.iter().all(|name| *name == names[0] && name.len() == 12), "{names:?}");
    guard.check();
}

#[test]
fn resource_limits() {
    let Some(engine) = Engine::open() else { return };
    let limits = |words: &[&str]| {
        let running = engine.start(words.iter().copied());
        let text = fs::read_to_string(format!("/proc/{}/limits", running.pid)).unwrap();
        running.stop();
        let field = |line: &str| {
            (line[..26].trim().to_string(), line[26..].split_whitespace().take(2).collect::<Vec<_>>().join(":"))
        };
        text.lines().skip(1).map(field).collect::<std::collections::BTreeMap<_, _>>()
    };
    let set = [
        "run",
        "--rm",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--ulimit",
        "nproc=50",
        "--ulimit",
        "cpu=-1",
        "busybox",
    ];
    let set = limits(&[&set[..], &["sleep", "1000"]].concat());
    assert_eq!(set["Max open files"], "100:200");
    assert_eq!(set["Max core file size"], "0:0");
    assert_eq!(set["Max processes"], "50:50");
    assert_eq!(set["Max cpu time"], "unlimited:unlimited");
    let done = engine.run(["run", "--rm", "--ulimit", "nofile=1:99999999999", "busybox", "true"]);
    assert_eq!(done.status, 125);
    assert!(done.stderr.contains("--ulimit") && done.stderr.contains("nofile"), "{}", done.stderr);
}

#[test]
fn nothing_of_the_callers_leaks_in() {
    let Some(engine) = Engine::open() else { return };
    fs::write(engine.folder().join("secret"), "secret").unwrap();
    // A file, a folder, pipes; signals ignored; a low priority is inherited as everywhere.
    let script = "exec 9<$DIR/secret 10<$DIR 200>$DIR/out 7<&0 8>&1; trap '' HUP INT TERM USR1 PIPE; exec \"$@\"";
    for init in ["--rm", "--init"] {
        let mut running = through(&engine, script, &[init, "busybox", "sleep", "1000"]);
        for pid in kernel::descendants(first(running.engine())).into_iter().chain([first(running.engine())]) {
            let mut fds: Vec<_> =
                fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|entry| entry.file_name()).collect();
            fds.sort();
            assert_eq!(fds, ["0", "1", "2"], "{init}: {:?}", kernel::words(pid));
        }
        let command = running.pid;
        running.wait_until("the command", || kernel::words(command) == ["sleep", "1000"]);
        let field = |name: &str| kernel::status(command, name).unwrap();
        for mask in ["SigIgn", "SigBlk", "SigPnd", "ShdPnd", "CapInh", "CapAmb"] {
            assert_eq!(field(mask), "0000000000000000", "{init}: {mask}");
        }
        running.pid = first(running.engine());
        running.stop();
    }
    // nohup's SIGHUP, from a caller that ignores it, still reaches a command that wants it.
    let words = ["busybox", "sh", "-c", "trap 'exit 6' HUP; while :; do sleep 0.02; done"];
    let mut running = through(&engine, "exec nohup \"$@\"", &words);
    wait_for_handler(&mut running, Signal::SIGHUP);
    running.signal(Signal::SIGHUP);
    assert_eq!(running.wait().status, 6);
}

#[test]
fn the_container_ends_with_its_engine() {
    let Some(engine) = Engine::open() else { return };
    let guard = Guard::new(engine.root());
    for flags in [
        &["--name", "web"][..],
        &["--name", "web", "--init"],
        &["--name", "web", "-u", "1000"],
        &["--name", "web", "-t"],
    ] {
        let words =
            [&["run", "--rm"][..], flags, &["busybox", "sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000"]].concat();
        let mut running = engine.start(words);
        let id = running.engine();
        running.wait_until("its processes", || kernel::descendants(id).len() >= 3);
        let family = kernel::descendants(id);
        running.signal(Signal::SIGKILL);
        let ended = running.wait();
        assert_eq!(ended.status, 137);
        let end = Instant::now() + crate::support::slow(Duration::from_secs(5));
        while family.iter().any(|pid| kernel::alive(*pid)) {
            assert!(Instant::now() < end, "{flags:?}: lives on without its engine");
            std::thread::sleep(Duration::from_millis(1));
        }
        // The next command, of any name, has cleaned up; and the same name is free.
        expect(&engine.run(["run", "--rm", "--name", "web", "busybox", "echo", "next"]), 0, "next\n");
    }
    guard.check();
}
