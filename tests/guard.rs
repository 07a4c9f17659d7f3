//! The host guard can fail: each kind of leak, made by hand in a private place, is seen.
#![allow(clippy::unwrap_used)]

mod support;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::process::{Child, Command};
use support::{Engine, Guard, kernel};

/// A guard that shows one change, of this kind and with this word in it; and none before and after.
fn sees(engine: &Engine, what: &str, word: &str, leak: impl FnOnce(), repair: impl FnOnce()) {
    let mut guard = Guard::new(engine.root());
    assert_eq!(guard.changes(), [""; 0]);
    leak();
    let changes = guard.changes();
    let seen = changes.iter().any(|line| line.starts_with(what) && line.contains(word));
    repair();
    assert!(seen, "nobody saw {word} in {what}: {changes:?}");
    guard.check();
}

#[test]
fn a_clean_run_changes_nothing() {
    let Some(engine) = Engine::open() else { return };
    let mut guard = Guard::new(engine.root());
    let done = engine.run(["run", "--rm", "--name", "guarded", "busybox", "true"]);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert_eq!(guard.ids().len(), 1, "the guard has seen the container's birth");
    guard.check();
}

#[test]
fn mounts() {
    let Some(engine) = Engine::open() else { return };
    let at = engine.folder().join("leak");
    fs::create_dir(&at).unwrap();
    let leak = || mount(Some("leak"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    sees(&engine, "mounts", "leak", leak, || umount2(&at, MntFlags::MNT_DETACH).unwrap());
}

#[test]
fn the_propagation_of_mounts() {
    let Some(engine) = Engine::open() else { return };
    let change = |flag| mount(None::<&str>, "/proc", None::<&str>, flag, None::<&str>).unwrap();
    sees(&engine, "mounts", "private", || change(MsFlags::MS_PRIVATE), || change(MsFlags::MS_SHARED));
}

#[test]
fn links_and_addresses() {
    let Some(engine) = Engine::open() else { return };
    let ip = |change| {
        let words = ["address", change, "192.0.2.7/24", "dev", "lo"];
        assert!(Command::new("ip").args(words).status().unwrap().success());
    };
    sees(&engine, "links", "192.0.2.7", || ip("add"), || ip("del"));
    sees(&engine, "routes", "192.0.2.7", || ip("add"), || ip("del"));
}

#[test]
fn firewall_rules() {
    let Some(engine) = Engine::open() else { return };
    let iptables = |change: &str| {
        let words = ["-w", change, "INPUT", "-s", "192.0.2.7", "-j", "ACCEPT"];
        Command::new("iptables").args(words).output().is_ok_and(|output| output.status.success())
    };
    if !iptables("-A") {
        return support::skip("iptables is missing, or the kernel refuses it");
    }
    iptables("-D");
    sees(&engine, "firewall", "192.0.2.7", || assert!(iptables("-A")), || assert!(iptables("-D")));
}

#[test]
fn ip_forward() {
    let Some(engine) = Engine::open() else { return };
    // The private host's own.
    let set = |value| fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap();
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let other = if before.trim() == "0" { "1" } else { "0" };
    sees(&engine, "kernel parameters", "ip_forward", || set(other), || set(before.trim()));
}

#[test]
fn cgroups_of_a_container_of_ours() {
    let Some(engine) = Engine::open() else { return };
    let Some(tree) = kernel::hierarchies().into_iter().next() else { return support::skip("no cgroups are mounted") };
    let id = "5eed".repeat(16);
    let ours = engine.root().join("containers").join(&id);
    // The parent is where the engine's is; left if it is in use.
    let parent = tree.at.join("mydocker");
    let leak = || {
        fs::create_dir(&ours).unwrap();
        fs::create_dir_all(parent.join(&id).join("below")).unwrap();
        fs::remove_dir(&ours).unwrap();
    };
    let repair = || {
        fs::remove_dir(parent.join(&id).join("below")).unwrap();
        fs::remove_dir(parent.join(&id)).unwrap();
        let _ = fs::remove_dir(&parent);
    };
    sees(&engine, "cgroups", "below", leak, repair);
}

#[test]
fn cgroups_of_strangers_are_passed_over() {
    let Some(engine) = Engine::open() else { return };
    let Some(tree) = kernel::hierarchies().into_iter().next() else { return support::skip("no cgroups are mounted") };
    let mut guard = Guard::new(engine.root());
    let parent = tree.at.join("mydocker");
    let theirs = parent.join(format!("{:064x}", std::process::id()));
    fs::create_dir_all(&theirs).unwrap();
    let changes = guard.changes();
    fs::remove_dir(&theirs).unwrap();
    let _ = fs::remove_dir(&parent);
    assert_eq!(changes, [""; 0]);
}

#[test]
fn processes_of_ours_in_namespaces_of_their_own() {
    let Some(engine) = Engine::open() else { return };
    let start = |words: &[&str]| Command::new(words[0]).args(&words[1..]).spawn().unwrap();
    for words in
        [&["sleep", "1000"][..], &["unshare", "--mount", "--pid", "--fork", "--kill-child", "sleep", "1000"][..]]
    {
        let leaked = std::cell::RefCell::new(None::<Child>);
        let leak = || {
            let child = start(words);
            wait_for_sleep(child.id());
            *leaked.borrow_mut() = Some(child);
        };
        let repair = || {
            let mut child = leaked.borrow_mut().take().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        };
        sees(&engine, "processes", "sleep", leak, repair);
    }
    // Started outside of our private host, as anybody else's.
    let outside = format!("--mount=/proc/{}/ns/mnt", std::process::id());
    let mut guard = Guard::new(engine.root());
    let mut stranger = start(&["nsenter", &outside, "sleep", "1000"]);
    wait_for_sleep(stranger.id());
    let changes = guard.changes();
    let words = kernel::words(stranger.id());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!((words, changes), (vec!["sleep".to_string(), "1000".into()], vec![]));
}

/// Until the process, or a child of it, has become `sleep`.
fn wait_for_sleep(pid: u32) {
    let sleeps = |pid: &u32| kernel::words(*pid).first().is_some_and(|word| word == "sleep");
    let end = std::time::Instant::now() + crate::support::slow(std::time::Duration::from_secs(10));
    while ![pid].into_iter().chain(kernel::descendants(pid)).any(|pid| sleeps(&pid)) {
        assert!(std::time::Instant::now() < end, "{pid} does not become `sleep`");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn state_folders_and_images() {
    let Some(engine) = Engine::open() else { return };
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    let root = engine.root();
    let journal = root.join("run/journal/leak");
    sees(&engine, "state", "leak", || fs::write(&journal, "").unwrap(), || fs::remove_file(&journal).unwrap());
    let half = root.join("layers/.half");
    sees(&engine, "state", ".half", || fs::create_dir(&half).unwrap(), || fs::remove_dir(&half).unwrap());
    let mut image = Vec::new();
    for entry in fs::read_dir(root.join("layers")).unwrap() {
        image.push(entry.unwrap().path().join("diff/etc/passwd"));
    }
    let passwd = image.into_iter().find(|path| path.exists()).unwrap();
    let added = passwd.with_file_name("added");
    sees(&engine, "state", "etc/added", || fs::write(&added, "").unwrap(), || fs::remove_file(&added).unwrap());
    let mut guard = Guard::new(root);
    fs::create_dir_all(root.join("layers/another/diff")).unwrap();
    fs::write(root.join("layers/another/diff/file"), "").unwrap();
    assert_eq!(guard.changes(), [""; 0], "a layer may be new");
    fs::write(&passwd, "changed").unwrap();
    assert!(guard.changes().iter().any(|line| line.contains("etc/passwd")));
    fs::remove_file(&passwd).unwrap();
    assert!(guard.changes().iter().any(|line| line.contains("- ") && line.contains("etc/passwd")));
    std::mem::forget(guard);
}

#[test]
#[should_panic(expected = "the host is not as it was")]
fn a_guard_that_nobody_asks_speaks_up() {
    let Some(engine) = Engine::open() else { panic!("the host is not as it was, for nobody could look") };
    let mut guard = Guard::new(engine.root());
    guard.patience = std::time::Duration::from_millis(10);
    fs::write(engine.root().join("containers/leak"), "").unwrap();
    drop(guard);
}
