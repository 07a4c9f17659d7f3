//! What makes no sense, or means harm: one clear line that names the field and the value, the right exit status, nothing
//! made and nothing left, within five seconds.

#![allow(clippy::unwrap_used)]

mod support;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Done, Engine, Guard, kernel, skip};

/// The contract.
#[track_caller]
fn refused(done: &Done, status: i32, named: &[&str], words: &dyn std::fmt::Debug) {
    assert_eq!((done.status, done.stdout.as_str()), (status, ""), "{words:?}: {}", done.stderr);
    let lines: Vec<_> = done.stderr.lines().filter(|line| !line.starts_with("hint: ")).collect();
    assert_eq!(lines.len(), 1, "{words:?}: {}", done.stderr);
    assert!(lines[0].starts_with("mydocker: "), "{words:?}: {}", done.stderr);
    assert!(lines[0].len() < 500 && !lines[0].chars().any(char::is_control), "{words:?}: {:?}", lines[0]);
    for name in named {
        assert!(lines[0].contains(name), "{words:?}: no {name:?} in: {}", lines[0]);
    }
    assert!(!done.stderr.contains("panicked") && !done.stderr.contains("RUST_BACKTRACE"), "{}", done.stderr);
    assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{words:?}: {:?}", done.took);
}

/// `run WORDS` is refused, and the host stays as it was.
#[track_caller]
fn refuse(engine: &Engine, words: &[&str], named: &[&str]) {
    let guard = Guard::new(engine.root());
    let mut command = engine.command(["run", "--rm"].iter().chain(words));
    command.stdin(Stdio::null());
    let done = engine.finish(command);
    refused(&done, 125, named, &words);
    guard.check();
}

/// An engine whose image and folders are made.
fn open() -> Option<Engine> {
    let engine = Engine::open()?;
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    Some(engine)
}

#[test]
fn flags_and_their_values() {
    let Some(engine) = open() else { return };
    let long = "x".repeat(200);
    let cases: &[(&[&str], &[&str])] = &[
        (&["--nosuch", "busybox", "true"], &["'--nosuch'"]),
        (&["-ti", "--rm", "-name", "busybox"], &["'-n'"]),
        (&["--name"], &["--name", "value is required"]),
        (&["--rm=maybe", "busybox", "true"], &["--rm", "maybe"]),
        (&["--memory"], &["--memory", "value is required"]),
        (&["-e"], &["--env", "value is required"]),
        (&["-m", "1", "busybox", "true"], &["--memory", "`1`"]),
        (&["-m", "3k", "busybox", "true"], &["--memory", "`3k`"]),
        (&["-m", "-5", "busybox", "true"], &["--memory", "`-5`"]),
        (&["-m", "99999999999999999999g", "busybox", "true"], &["--memory", "`99999999999999999999g`"]),
        (&["-m", "lots", "busybox", "true"], &["--memory", "`lots`"]),
        (&["-m", "", "busybox", "true"], &["--memory", "``"]),
        (&["--memory-swap", "1g", "busybox", "true"], &["--memory-swap", "`1g`"]),
        (&["-m", "64m", "--memory-swap", "32m", "busybox", "true"], &["--memory-swap", "`32m`"]),
        (&["--cpus", "0", "busybox", "true"], &["--cpus", "`0`"]),
        (&["--cpus", "nan", "busybox", "true"], &["--cpus", "`nan`"]),
        (&["--cpus", "-1", "busybox", "true"], &["--cpus", "`-1`"]),
        (&["--cpus", "4096", "busybox", "true"], &["--cpus", "`4096`", "available"]),
        (&["--cpu-shares", "-1", "busybox", "true"], &["--cpu-shares", "`-1`"]),
        (&["--cpu-period", "1", "busybox", "true"], &["--cpu-period", "`1`"]),
        (&["--cpu-quota", "5", "busybox", "true"], &["--cpu-quota", "`5`"]),
        (&["--cpuset-cpus", "7-1", "busybox", "true"], &["--cpuset-cpus", "`7-1`"]),
        (&["--cpuset-cpus", "4095", "busybox", "true"], &["--cpuset-cpus", "`4095`"]),
        (&["--cpuset-mems", "x", "busybox", "true"], &["--cpuset-mems", "`x`"]),
        (&["--pids-limit", "-2", "busybox", "true"], &["--pids-limit", "`-2`"]),
        (&["--pids-limit", "1.5", "busybox", "true"], &["--pids-limit", "`1.5`"]),
        (&["--blkio-weight", "5", "busybox", "true"], &["--blkio-weight", "`5`"]),
        (&["--cgroup-parent", "../x", "busybox", "true"], &["--cgroup-parent", "`../x`"]),
        (&["--name", "../x", "busybox", "true"], &["name", "`../x`"]),
        (&["--name", "", "busybox", "true"], &["name", "``"]),
        (&["--name", "a\nb", "busybox", "true"], &["name", "`a\\nb`"]),
        (&["--name", "--rm", "busybox", "true"], &["name", "`--rm`"]),
        (&["--name", &long, "busybox", "true"], &["name"]),
        (&["-e", "", "busybox", "true"], &["--env", "``"]),
        (&["-e", "=x", "busybox", "true"], &["--env", "`=x`"]),
        (&["-w", "../..", "busybox", "true"], &["--workdir", "`../..`"]),
        (&["-w", "tmp", "busybox", "true"], &["--workdir", "`tmp`"]),
        (&["-w", "/etc/passwd", "busybox", "true"], &["--workdir", "`/etc/passwd`"]),
        (&["-w", "/etc/passwd/x", "busybox", "true"], &["--workdir", "`/etc/passwd/x`"]),
        (&["-w", "/proc/nosuch", "busybox", "true"], &["--workdir", "`/proc/nosuch`"]),
        (&["-u", "4294967296", "busybox", "true"], &["--user", "`4294967296`"]),
        (&["-u", "2147483648", "busybox", "true"], &["--user", "`2147483648`"]),
        (&["-u", "-1", "busybox", "true"], &["--user", "`-1`"]),
        (&["-u", "0:-1", "busybox", "true"], &["--user", "`-1`"]),
        (&["-u", "nosuch", "busybox", "true"], &["--user", "`nosuch`"]),
        (&["-u", "root:nosuch", "busybox", "true"], &["--user", "group", "`nosuch`"]),
        (&["-u", "a\x1b[31mb", "busybox", "true"], &["--user", "`a\\u{1b}[31mb`"]),
        (&["--hostname", "a b", "busybox", "true"], &["--hostname", "`a b`"]),
        (&["--hostname", "", "busybox", "true"], &["--hostname", "``"]),
        (&["--hostname", &long, "busybox", "true"], &["--hostname"]),
        (&["--stop-signal", "FOO", "busybox", "true"], &["--stop-signal", "`FOO`"]),
        (&["--ulimit", "nofile", "busybox", "true"], &["--ulimit", "`nofile`"]),
        (&["--ulimit", "nosuch=1", "busybox", "true"], &["--ulimit", "`nosuch`"]),
        (&["--ulimit", "nofile=2:1", "busybox", "true"], &["--ulimit", "`nofile=2:1`"]),
        (&["--tmpfs", "x", "busybox", "true"], &["--tmpfs", "`x`"]),
        (&["--tmpfs", "/", "busybox", "true"], &["--tmpfs", "`/`"]),
        (&["--tmpfs", "/a/../..", "busybox", "true"], &["--tmpfs", "`/a/../..`"]),
        (&["--tmpfs", "/dev", "busybox", "true"], &["--tmpfs", "`/dev`"]),
        (&["--tmpfs", "/proc/sys", "busybox", "true"], &["--tmpfs", "`/proc/sys`"]),
        (&["--tmpfs", "/x:nosuch", "busybox", "true"], &["--tmpfs", "`nosuch`"]),
        (&["--tmpfs", "/x:size=-1", "busybox", "true"], &["--tmpfs", "`-1`"]),
        (&["--shm-size", "0", "busybox", "true"], &["--shm-size", "`0`"]),
        (&["--shm-size", "x", "busybox", "true"], &["--shm-size", "`x`"]),
        (&["--sysctl", "x", "busybox", "true"], &["--sysctl", "`x`"]),
        (&["--sysctl", "kernel.panic=1", "busybox", "true"], &["--sysctl", "`kernel.panic`"]),
        (&["--sysctl", "net/../kernel.panic=1", "busybox", "true"], &["--sysctl"]),
        (&["--sysctl", "net.nosuch=1", "busybox", "true"], &["--sysctl", "`net.nosuch`"]),
        (&["--sysctl", "net.ipv4.ip_forward=x", "busybox", "true"], &["--sysctl", "`net.ipv4.ip_forward`"]),
        (&["--network", "nosuch", "busybox", "true"], &["--network", "`nosuch`"]),
        (&["--explain=xml", "busybox", "true"], &["--explain", "xml"]),
        (&["--only", "nosuch", "busybox", "true"], &["--only", "`nosuch`"]),
        (&["--without", "process", "busybox", "true"], &["--without"]),
        (&["nosuchimage", "true"], &["'nosuchimage:latest'"]),
        (&["../../etc", "true"], &["../../etc"]),
        (&["a\nb"], &["a\\nb"]),
        (&["--entrypoint", "", "busybox"], &["no command"]),
    ];
    for (words, named) in cases {
        refuse(&engine, words, named);
    }
}

#[test]
fn words_that_are_no_text() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for bad in [&b"\xff"[..], b"a\xc3"] {
        let bad = std::ffi::OsStr::from_bytes(bad);
        let words: [&std::ffi::OsStr; 4] = ["run".as_ref(), "busybox".as_ref(), "echo".as_ref(), bad];
        refused(&engine.run(words), 125, &["UTF-8"], &words);
    }
    guard.check();
}

#[test]
fn a_link_to_a_descriptor_is_no_working_directory() {
    let Some(engine) = open() else { return };
    for number in [0, 3, 7, 9, 12] {
        // A folder of the host's, open in the caller: the way of CVE-2024-21626.
        let script = "for fd in 3 7 9 12; do eval \"exec $fd</\"; done; exec \"$@\"";
        let run = engine.command(["run", "--rm", "-w", &format!("/proc/self/fd/{number}"), "busybox", "pwd"]);
        let mut command = Command::new("bash");
        command.args(["-c", script, "bash"]).arg(run.get_program()).args(run.get_args());
        command.env("MYDOCKER_ROOT", engine.root()).stdin(Stdio::null());
        let guard = Guard::new(engine.root());
        refused(&engine.finish(command), 125, &["--workdir", &format!("`/proc/self/fd/{number}`")], &number);
        guard.check();
    }
}

#[test]
fn files_of_variables() {
    let Some(engine) = open() else { return };
    let path = |name: &str| engine.folder().join(name).to_str().unwrap().to_string();
    fs::write(path("nul"), b"GOOD=1\nBAD=a\0b\n").unwrap();
    fs::write(path("long"), format!("LONG={}\n", "x".repeat(2 << 20))).unwrap();
    fs::write(path("binary"), fs::read("/bin/sh").unwrap()).unwrap();
    fs::write(path("name"), "two words=1\n").unwrap();
    fs::write(path("empty"), "=1\n").unwrap();
    nix::unistd::mkfifo(Path::new(&path("fifo")), Mode::S_IRWXU).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    symlink("loop", path("loop")).unwrap();
    let folder = engine.folder().to_str().unwrap().to_string();
    let cases: [(&str, &[&str]); 11] = [
        (&path("fifo"), &["not a regular file"]),
        (&folder, &["not a regular file"]),
        (&path("socket"), &[]),
        (&path("loop"), &[]),
        (&path("nosuch"), &["No such file or directory"]),
        (&path("binary"), &[]),
        (&path("name"), &["line 1", "`two words`"]),
        (&path("empty"), &["line 1"]),
        ("/dev/zero", &["larger than"]),
        ("", &[]),
        ("/proc/self/mem", &[]),
    ];
    for (file, named) in cases {
        let named: Vec<_> = named.iter().copied().chain(["--env-file", file]).collect();
        refuse(&engine, &["--env-file", file, "busybox", "true"], &named);
    }
    // Here the variable is the value in question.
    refuse(&engine, &["--env-file", &path("nul"), "busybox", "true"], &["--env-file", "`BAD`", "NUL"]);
    refuse(&engine, &["--env-file", &path("long"), "busybox", "true"], &["--env-file", "`LONG`", "2097157"]);
    drop(socket);
    // Many that are small each are too much together, which only the kernel can tell.
    let many: String = (0..40).map(|number| format!("V{number}={}\n", "x".repeat(100_000))).collect();
    fs::write(path("many"), many).unwrap();
    let guard = Guard::new(engine.root());
    let done = engine.run(["run", "--rm", "--env-file", &path("many"), "busybox", "true"]);
    refused(&done, 126, &["arguments and environment are too long"], &"many");
    guard.check();
}

/// The image's tree in this engine's own root.
fn image(engine: &Engine) -> PathBuf {
    engine.image_tree()
}

/// Puts something else in the place of `entry` of the image while `check` runs.
fn with_entry(engine: &Engine, entry: &str, make: &dyn Fn(&Path), check: impl FnOnce()) {
    let (place, aside) = (image(engine).join(entry), engine.folder().join("aside"));
    fs::rename(&place, &aside).unwrap();
    make(&place);
    check();
    match fs::symlink_metadata(&place) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&place).unwrap(),
        Ok(_) => fs::remove_file(&place).unwrap(),
        Err(_) => {}
    }
    fs::rename(&aside, &place).unwrap();
}

#[test]
fn images_whose_entries_are_not_what_they_should_be() {
    let Some(engine) = open() else { return };
    let canary = engine.folder().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("passwd"), "root:x:0:0::/canary:/bin/sh\n").unwrap();
    fs::write(canary.join("hosts"), "canary\n").unwrap();
    let shown = || -> Vec<_> {
        let entries = fs::read_dir(&canary).unwrap().flatten();
        let mut all: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
        all.sort();
        all
    };
    let before = shown();
    let absolute = |place: &Path| symlink(engine.folder().join("canary"), place).unwrap();
    let relative = |place: &Path| symlink("../../../../canary", place).unwrap();
    let inside = |place: &Path| symlink("/tmp", place).unwrap();
    let looped = |place: &Path| symlink(place, place).unwrap();
    let fifo = |place: &Path| nix::unistd::mkfifo(place, Mode::S_IRWXU).unwrap();
    let file = |place: &Path| fs::write(place, "").unwrap();
    type Spoil<'a> = &'a dyn Fn(&Path);
    let kinds: [(&str, Spoil); 6] = [
        ("absolute", &absolute),
        ("relative", &relative),
        ("inside", &inside),
        ("loop", &looped),
        ("fifo", &fifo),
        ("file", &file),
    ];
    for entry in ["proc", "sys", "dev"] {
        for (kind, make) in kinds {
            with_entry(&engine, entry, make, || {
                let guard = Guard::new(engine.root());
                let done = engine.run(["run", "--rm", "-t", "busybox", "true"]);
                refused(&done, 125, &[&format!("`/{entry}`")], &(entry, kind));
                guard.check();
            });
        }
    }
    for entry in ["etc/passwd", "etc/group"] {
        for (kind, make) in &kinds[..5] {
            with_entry(&engine, entry, *make, || {
                let guard = Guard::new(engine.root());
                let done = engine.run(["run", "--rm", "busybox", "true"]);
                refused(&done, 125, &[&format!("`/{entry}`")], &(entry, kind));
                guard.check();
            });
        }
        let huge = |place: &Path| fs::File::create(place).unwrap().set_len(1 << 40).unwrap();
        with_entry(&engine, entry, &huge, || {
            let done = engine.run(["run", "--rm", "busybox", "true"]);
            refused(&done, 125, &[&format!("`/{entry}`"), "larger than"], &(entry, "huge"));
        });
        let folder = |place: &Path| fs::create_dir(place).unwrap();
        with_entry(&engine, entry, &folder, || {
            let done = engine.run(["run", "--rm", "busybox", "true"]);
            refused(&done, 125, &[&format!("`/{entry}`")], &(entry, "folder"));
        });
        // Without it, root is still root.
        with_entry(&engine, entry, &|_| {}, || assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0));
    }
    assert_eq!(shown(), before);
    let wanted = engine.folder().to_str().unwrap();
    assert!(kernel::mounts("thread-self").iter().all(|mount| !mount.at.starts_with(&format!("{wanted}/canary"))));
}

#[test]
fn links_that_lead_out_of_the_image() {
    let Some(engine) = open() else { return };
    let canary = engine.folder().join("canary");
    fs::create_dir(&canary).unwrap();
    let out = |place: &Path| symlink("/../../../../../../../../tmp/../../..", place).unwrap();
    let canary_link = |place: &Path| symlink(&canary, place).unwrap();
    for (kind, make) in [("out", &out as &dyn Fn(&Path)), ("canary", &canary_link)] {
        // What we make or mount at a place in the image stays in the image, or is refused.
        with_entry(&engine, "tmp", make, || {
            for flags in [&["-w", "/tmp/made"][..], &["--tmpfs", "/tmp/made"]] {
                let guard = Guard::new(engine.root());
                let done = engine.run([&["run", "--rm"][..], flags, &["busybox", "true"]].concat());
                assert!([0, 125].contains(&done.status) && done.stderr.lines().count() <= 1, "{kind}: {done:?}");
                guard.check();
            }
        });
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "{kind}");
    }
}

#[test]
fn a_data_root_that_cannot_be_used() {
    let Some(engine) = open() else { return };
    let path = |name: &str| engine.folder().join(name).to_str().unwrap().to_string();
    fs::write(path("file"), "").unwrap();
    nix::unistd::mkfifo(Path::new(&path("fifo")), Mode::S_IRWXU).unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    for name in ["ro", "tiny"] {
        fs::create_dir(path(name)).unwrap();
    }
    let tmpfs = |name: &str, flags: MsFlags, data: &str| {
        mount(Some("tmpfs"), Path::new(&path(name)), Some("tmpfs"), flags, Some(data)).unwrap();
    };
    tmpfs("ro", MsFlags::MS_RDONLY, "size=1m");
    tmpfs("tiny", MsFlags::empty(), "size=256k");
    let full = |root: &str, words: &[&str]| -> Done {
        let mut command = engine.command(["--root", root, "run", "--rm"].iter().chain(words));
        command.stdin(Stdio::null());
        engine.finish(command)
    };
    let guard = Guard::new(engine.root());
    let cases = [
        (path("ro"), "Read-only file system"),
        (path("ro/deep/er"), "Read-only file system"),
        (path("file"), "not a folder"),
        (path("file/x"), "Not a directory"),
        (path("fifo"), "not a folder"),
        (path("loop"), "not a folder"),
        ("/proc/nosuch".to_string(), "No such file or directory"),
        (String::new(), "--root"),
    ];
    for (root, why) in &cases {
        refused(&full(root, &["busybox", "true"]), 125, &[root, why], &root);
    }
    // No room for the image: said, and nothing half made is left.
    let done = full(&path("tiny"), &["busybox", "true"]);
    refused(&done, 125, &["default image", "No space left on device"], &"tiny");
    let left = fs::read_dir(path("tiny/layers")).into_iter().flatten().flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name != ".lock").count(), 0, "a half-made image stays");
    guard.check();
    // Missing, with all that leads to it: made.
    let missing = path("not/yet/there");
    let done = full(&missing, &["busybox", "echo", "hi"]);
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (0, "hi\n", ""));
    // It was there, and became read-only.
    mount(Some(Path::new(&missing)), Path::new(&missing), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, Path::new(&missing), None::<&str>, flags, None::<&str>).unwrap();
    refused(&full(&missing, &["busybox", "true"]), 125, &[&missing, "Read-only file system"], &"became read-only");
}

#[test]
fn a_cgroup_root_that_is_read_only() {
    let Some(engine) = open() else { return };
    // Our own mounts only: this thread has a mount namespace of its own.
    for tree in kernel::mounts("thread-self").iter().filter(|mount| mount.kind.starts_with("cgroup")) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, Path::new(&tree.at), None::<&str>, flags, None::<&str>).unwrap();
    }
    // A limit that cannot be kept is refused, never forgotten.
    for (flags, flag) in
        [(["-m", "100m"], "--memory"), (["--cpus", "0.5"], "--cpus"), (["--pids-limit", "9"], "--pids-limit")]
    {
        refuse(&engine, &[&flags[..], &["busybox", "true"]].concat(), &[flag, "read-only"]);
    }
    let guard = Guard::new(engine.root());
    let done = engine.run(["run", "--rm", "busybox", "echo", "hi"]);
    assert_eq!((done.status, done.stdout.as_str()), (0, "hi\n"), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    assert!(done.stderr.contains("warn") && done.stderr.contains("cgroup"), "{}", done.stderr);
    guard.check();
}

#[test]
fn a_caller_without_the_rights() {
    let Some(engine) = open() else { return };
    let starters: [(&[&str], &str); 2] = [
        (&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "root"),
        (&["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"], "CAP_SYS_ADMIN"),
    ];
    for (starter, named) in starters {
        let run = engine.command(["run", "--rm", "busybox", "true"]);
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(run.get_program()).args(run.get_args());
        command.env("MYDOCKER_ROOT", engine.root()).stdin(Stdio::null());
        let guard = Guard::new(engine.root());
        let done = engine.finish(command);
        if done.stderr.contains("setpriv: failed to execute") {
            skip("the binary lies where another user cannot run it");
            continue;
        }
        refused(&done, 125, &[named], &starter);
        guard.check();
    }
}

#[test]
fn nobody_to_tell() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    for (script, status) in [
        ("\"$0\" run --nosuch 2>/dev/full", 125),
        ("\"$0\" run --nosuch 2>&-", 125),
        ("\"$0\" run --rm -u nosuch busybox true 2>/dev/full", 125),
        ("\"$0\" run --rm --explain busybox true 2>/dev/full", 0),
        ("\"$0\" --help >/dev/full", 0),
        ("\"$0\" run --help >&-", 0),
        ("\"$0\" run --dry-run busybox true >/dev/full", 125),
        ("\"$0\" run --help | head -n 1 >/dev/null", 0),
    ] {
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(engine.command(["run"]).get_program());
        command.env("MYDOCKER_ROOT", engine.root()).stdin(Stdio::null());
        let done = engine.finish(command);
        assert_eq!(done.status, status, "{script}: {}", done.stderr);
        assert!(!done.stderr.contains("panicked"), "{script}: {}", done.stderr);
    }
    guard.check();
}
