//! A crash or a full disk in the middle of a change of the store leaves it as it was: the index, the blobs and the
//! layers are those from before, or those from after, and the next command has swept up the rest. `strace` kills the
//! engine at one system call after another, or makes it fail.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::{Done, Engine, skip};

/// What the store holds: names with ids, blobs, layers with how many files each has.
fn state(engine: &Engine, root: &Path) -> BTreeSet<String> {
    let text = root.display().to_string();
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    let images = engine.output(["--root", &text, "images", "--no-trunc", "--format", format]);
    let mut all: BTreeSet<String> = images.lines().map(str::to_string).collect();
    for folder in ["images/blobs/sha256", "layers"] {
        for entry in fs::read_dir(root.join(folder)).unwrap().flatten() {
            let files = walk(&entry.path());
            all.insert(format!("{folder}/{} {files}", entry.file_name().display()));
        }
    }
    all
}

fn walk(path: &Path) -> usize {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    1 + entries.map(|entry| if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum::<usize>()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// What is left of changes, but for an empty folder that its maker did not get to lock.
fn leftovers(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join("tmp")).unwrap().flatten();
    let kept =
        names.filter(|entry| walk(&entry.path()) > 1 || !entry.file_name().to_string_lossy().starts_with("new-"));
    kept.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name != ".lock").collect()
}

struct Work {
    what: &'static str,
    words: Vec<String>,
}

/// A store with a layered image and a container with changes, and what is done to it.
fn prepare(engine: &Engine) -> Vec<Work> {
    let root = engine.text("fast/template");
    let on = |words: &[&str]| engine.output(["--root", &root].iter().chain(words));
    on(&["run", "--name", "cc", "busybox", "sh", "-c", "mkdir /d; for i in 1 2 3 4 5 6; do echo $i > /d/$i; done"]);
    on(&["commit", "cc", "mine:1"]);
    on(&["run", "--name", "dd", "mine:1", "sh", "-c", "echo more > /d/more; rm /d/1"]);
    on(&["commit", "dd", "mine:2"]);
    on(&["save", "-o", &engine.text("mine.tar"), "mine:2"]);
    on(&["export", "-o", &engine.text("flat.tar"), "dd"]);
    on(&["rm", "dd"]);
    // What `load` brings is not there yet, and one image has no name.
    on(&["tag", "mine:2", "gone:1"]);
    on(&["rmi", "mine:2", "gone:1"]);
    on(&["commit", "cc"]);
    let work = |what: &'static str, words: &[&str]| Work { what, words: words.iter().map(|w| w.to_string()).collect() };
    vec![
        work("import", &["import", &engine.text("flat.tar"), "flat:1"]),
        work("load", &["load", "-i", &engine.text("mine.tar")]),
        work("commit", &["commit", "cc", "new:1"]),
        work("tag", &["tag", "mine:1", "other:1"]),
        work("rmi", &["rmi", "-f", "mine:1"]),
        work("prune", &["image", "prune", "-f"]),
    ]
}

/// Runs `work` on a fresh copy of the store with `strace` injecting a fault.
fn strike(engine: &Engine, work: &Work, root: &Path, inject: &str) -> Done {
    let text = root.display().to_string();
    strike_words(engine, ["--root".to_string(), text].into_iter().chain(work.words.iter().cloned()), inject)
}

fn strike_words(engine: &Engine, words: impl Iterator<Item = String>, inject: &str) -> Done {
    let calls = inject.split(':').next().unwrap();
    let (trace, inject, log) = (format!("trace={calls}"), format!("inject={inject}"), engine.text("strace.log"));
    let strace = ["strace", "-f", "-qq", "-o", &log, "-e", &trace, "-e", &inject];
    engine.finish(engine.command_under(&strace, words))
}

/// At which of these calls: the first few, then ever larger steps.
const NUMBERS: [u32; 5] = [1, 2, 3, 5, 9];

fn sweep(fault: &str, all_calls: &[&str], check_line: bool) {
    let Some(engine) = Engine::keeping() else { return };
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace is not installed");
    }
    // In memory, for many copies are made.
    let fast = engine.path("fast");
    fs::create_dir(&fast).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&fast).status().unwrap().success());
    let works = prepare(&engine);
    let (template, root) = (fast.join("template"), fast.join("store"));
    let mut failures = Vec::new();
    let mut hits = 0;
    for work in &works {
        copy(&template, &root);
        let text = root.display().to_string();
        let before = state(&engine, &root);
        engine.output(["--root".to_string(), text.clone()].into_iter().chain(work.words.iter().cloned()));
        let after = state(&engine, &root);
        for calls in all_calls {
            for number in NUMBERS {
                copy(&template, &root);
                let done = strike(&engine, work, &root, &format!("{calls}:{fault}:when={number}"));
                let log = fs::read_to_string(engine.path("strace.log")).unwrap_or_default();
                if done.status != 137 && !log.contains("(INJECTED)") {
                    break;
                }
                hits += 1;
                let name = format!("{} with {fault} at {calls} number {number}", work.what);
                if check_line
                    && (done.stderr.contains("panicked")
                        || done.stderr.lines().filter(|line| !line.contains("warn")).count() > 1)
                {
                    failures.push(format!("{name}: {}", done.stderr));
                }
                // Whatever the dead have left, the next change of the store finds.
                let next = engine.run(["--root", &text, "tag", "busybox", "busybox"]);
                let now = state(&engine, &root);
                let fine = now == before || now == after || same_but_for_ids(&now, &after);
                if next.status != 0 || !fine || !leftovers(&root).is_empty() {
                    let new: Vec<_> = now.difference(&before).collect();
                    let lost: Vec<_> = before.difference(&now).collect();
                    failures.push(format!(
                        "{name}: {} new {new:?} lost {lost:?} left {:?}",
                        next.stderr,
                        leftovers(&root)
                    ));
                }
            }
        }
    }
    assert!(Command::new("umount").arg(&fast).status().unwrap().success());
    assert!(hits > 60, "only {hits} faults were injected");
    assert!(failures.is_empty(), "{} of {hits}:\n{}", failures.len(), failures.join("\n"));
}

/// A commit writes the time into its config, so two have different ids; the names and the number of files must fit.
fn same_but_for_ids(a: &BTreeSet<String>, b: &BTreeSet<String>) -> bool {
    let shape = |state: &BTreeSet<String>| -> Vec<String> {
        let cut = |line: &String| match line.split_once("/sha256/") {
            Some((folder, _)) => folder.to_string(),
            None => line.split(' ').next().unwrap().split("layers/").next().unwrap().to_string(),
        };
        let mut lines: Vec<String> = state.iter().map(cut).collect();
        lines.sort();
        lines
    };
    shape(a) == shape(b)
}

#[test]
fn a_killed_engine_leaves_the_store_as_it_was() {
    let calls = [
        "mkdir,mkdirat",
        "rename,renameat,renameat2",
        "unlink,unlinkat,rmdir",
        "write,copy_file_range",
        "fdatasync,syncfs",
    ];
    sweep("signal=KILL", &calls, false);
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let calls =
        ["mkdir,mkdirat,mknodat,symlinkat,linkat", "rename,renameat,renameat2", "openat", "write,copy_file_range"];
    sweep("error=ENOSPC", &calls, true);
}

/// A commit that is killed while its container stands still leaves it as `pause` does; one that fails lets it go on.
#[test]
fn a_commit_that_dies_leaves_a_container_that_can_go_on() {
    let Some(engine) = Engine::keeping() else { return };
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace is not installed");
    }
    engine.output(["run", "-d", "--name", "cc", "busybox", "sh", "-c", "echo x > /x; exec sleep 1000"]);
    let state = || engine.output(["inspect", "-f", "{{.State.Status}}", "cc"]).trim().to_string();
    let words = || ["commit", "cc", "mine:1"].map(str::to_string).into_iter();
    let mut paused = 0;
    for (fault, calls) in [
        ("signal=KILL", "mkdir,mkdirat"),
        ("signal=KILL", "rename,renameat,renameat2"),
        ("signal=KILL", "write,copy_file_range"),
        ("error=ENOSPC", "mkdir,mkdirat"),
        ("error=ENOSPC", "rename,renameat,renameat2"),
    ] {
        for number in NUMBERS {
            let done = strike_words(&engine, words(), &format!("{calls}:{fault}:when={number}"));
            let what = format!("{fault} at {calls} number {number}");
            let now = state();
            match now.as_str() {
                "paused" if done.status == 137 => {
                    paused += 1;
                    engine.output(["unpause", "cc"]);
                }
                now => assert_eq!(now, "running", "{what}"),
            }
            // It goes on: what was frozen would never answer, nor could it be killed.
            let frozen = engine.run(["unpause", "cc"]);
            assert!(frozen.status == 1 && frozen.stderr.contains("is not paused"), "{what}: {}", frozen.stderr);
            let mut exec = engine.command(["exec", "cc", "cat", "/x"]);
            exec.stdin(std::process::Stdio::null());
            assert_eq!(engine.finish(exec).stdout, "x\n", "{what}");
        }
    }
    assert!(paused > 2, "only {paused} were killed while it stood still");
    engine.output(["commit", "cc", "mine:1"]);
    engine.output(["rm", "-f", "cc"]);
}

/// An archive is under its name whole or not at all; what stood there before stays until then. And beside it nothing is
/// left, but for the whole one, if it was about to get its name.
#[test]
fn save_writes_all_or_nothing() {
    let Some(engine) = Engine::keeping() else { return };
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace is not installed");
    }
    engine.output(["run", "--name", "cc", "busybox", "sh", "-c", "head -c 3m /dev/urandom > /x"]);
    engine.output(["commit", "cc", "mine:1"]);
    let (folder, store) = (engine.path("out"), engine.root().to_owned());
    fs::create_dir(&folder).unwrap();
    let archive = folder.join("mine.tar");
    let words = ["save".to_string(), "-o".into(), archive.display().to_string(), "mine:1".into()];
    engine.output(words.iter());
    let whole = fs::read(&archive).unwrap();
    engine.output(words.iter());
    assert!(fs::read(&archive).unwrap() == whole, "the same image makes another archive");
    let before = state(&engine, &store);
    let mut hits = 0;
    for fault in ["signal=KILL", "error=ENOSPC"] {
        for calls in ["write,copy_file_range,sendfile", "openat", "linkat", "rename,renameat,renameat2"] {
            for (number, older) in NUMBERS.into_iter().zip([false, true].into_iter().cycle()) {
                let _ = fs::remove_dir_all(&folder);
                fs::create_dir(&folder).unwrap();
                if older {
                    fs::write(&archive, "older").unwrap();
                }
                let done = strike_words(&engine, words.iter().cloned(), &format!("{calls}:{fault}:when={number}"));
                let log = fs::read_to_string(engine.path("strace.log")).unwrap_or_default();
                if done.status != 137 && !log.contains("(INJECTED)") {
                    break;
                }
                hits += 1;
                let what = format!("{fault} at {calls} number {number}: {}", done.stderr);
                match fs::read(&archive) {
                    Ok(found) if done.status == 0 || found != b"older" => assert!(found == whole, "{what}"),
                    Ok(_) => assert!(older, "{what}"),
                    Err(_) => assert!(!older && done.status != 0, "{what}"),
                }
                for other in fs::read_dir(&folder).unwrap().flatten().filter(|entry| entry.path() != archive) {
                    let about = done.status == 137 && calls.starts_with("rename");
                    assert!(about && fs::read(other.path()).unwrap() == whole, "{what}: {:?}", other.file_name());
                }
                assert!(done.status == 137 || done.status == 0 || done.stderr.lines().count() == 1, "{what}");
            }
        }
    }
    assert!(hits > 15, "only {hits} faults were injected");
    assert_eq!(state(&engine, &store), before);
    engine.output(["rm", "cc"]);
}
