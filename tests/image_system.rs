//! What takes the disk, and what is taken away: `system df`, `system prune`, and the prunes and filters of images and
//! volumes, judged by the data root's own files.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use support::Engine;

/// The words of a table's lines, by their first column.
fn table(text: &str) -> BTreeMap<String, Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_string).collect()
    };
    text.lines()
        .map(cells)
        .filter(|cells| !cells.is_empty())
        .map(|cells| (cells[0].clone(), cells[1..].to_vec()))
        .collect()
}

fn names(engine: &Engine, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(engine.root().join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[test]
fn df_counts_what_is_shared_once() {
    let Some(engine) = Engine::keeping() else { return };
    let empty = table(&engine.output(["system", "df"]));
    assert_eq!(empty["TYPE"], ["TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for kind in ["Images", "Containers", "Local Volumes", "Build Cache"] {
        assert_eq!(empty[kind], ["0", "0", "0B", "0B"], "{kind}");
    }
    let script = "head -c 3000000 /dev/urandom > /big; head -c 2000000 /dev/urandom > /v/f";
    engine.output(["run", "--name", "cc", "-v", "data:/v", "busybox", "sh", "-c", script]);
    let one = table(&engine.output(["system", "df"]));
    assert_eq!(one["Images"][..2], ["1", "1"]);
    assert_eq!(one["Images"][3], "0B (0%)");
    assert_eq!(one["Containers"], ["1", "0", "3MB", "3MB (100%)"]);
    assert_eq!(one["Local Volumes"], ["1", "1", "2MB", "0B (0%)"]);
    // Two images of the same layers and one more: the sum grows by what is new, as its tree and as its archive.
    let size = |text: &str| -> f64 { text.trim_end_matches("MB").parse().unwrap() };
    engine.output(["commit", "cc", "more:1"]);
    engine.output(["tag", "more:1", "more:2"]);
    let two = table(&engine.output(["system", "df"]));
    assert_eq!(two["Images"][..2], ["2", "1"]);
    let grown = size(&two["Images"][2]) - size(&one["Images"][2]);
    assert!((5.9..6.2).contains(&grown), "{one:?} {two:?}");
    let free = size(two["Images"][3].split(' ').next().unwrap());
    assert!((5.9..6.2).contains(&free), "{two:?}");
    let json = engine.output(["system", "df", "--format", "{{.Type}}={{.TotalCount}}"]);
    assert_eq!(json, "Images=2\nContainers=1\nLocal Volumes=1\nBuild Cache=0\n");
    let verbose = engine.output(["system", "df", "-v"]);
    for words in ["more", "SHARED SIZE", "cc", "data", "VOLUME NAME"] {
        assert!(verbose.contains(words), "{words}: {verbose}");
    }
}

#[test]
fn prune_takes_what_nothing_uses_and_leaves_the_rest() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--name", "old", "-v", "/anonymous", "-v", "named:/n", "busybox", "touch", "/x"]);
    engine.output(["commit", "old", "kept:1"]);
    engine.output(["commit", "old"]);
    engine.output(["commit", "-c", "LABEL of=me", "old", "labelled:1"]);
    let mut running = engine.start(["run", "-i", "--name", "runs", "kept:1", "cat"]);
    running.wait_for_command();
    // Nobody answers: nothing happens.
    let asked = engine.run(["system", "prune", "-a", "--volumes"]);
    assert!(asked.stdout.contains("all stopped containers") && asked.stdout.contains("[y/N]"), "{}", asked.stdout);
    assert_eq!(names(&engine, "containers").len(), 2);

    let told = engine.output(["system", "prune", "-f"]);
    assert!(told.contains("Deleted Containers:") && told.contains("Total reclaimed space: "), "{told}");
    assert_eq!(names(&engine, "containers").len(), 1);
    assert_eq!(names(&engine, "volumes").len(), 2, "volumes stay without --volumes");
    let images = |filter: &[&str]| {
        let words = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
        let text = engine.output(words.iter().chain(filter));
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(images(&[]), ["busybox:latest", "kept:1", "labelled:1"]);
    engine.output(["system", "prune", "-f", "-a", "--volumes", "--filter", "label!=of"]);
    assert_eq!(images(&[]), ["kept:1", "labelled:1"], "a filter spares what it does not fit, and what runs is used");
    assert_eq!(names(&engine, "volumes"), ["named"]);
    let layers = names(&engine, "layers").len();
    engine.output(["system", "prune", "-fa"]);
    assert_eq!(images(&[]), ["kept:1"]);
    assert!(names(&engine, "layers").len() <= layers);
    assert_eq!(running.stop().status, 137);
    engine.output(["system", "prune", "-fa"]);
    for folder in ["containers", "layers", "images/blobs/sha256", "tmp"] {
        assert_eq!(names(&engine, folder), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn images_are_listed_by_what_one_asks() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--name", "cc", "busybox", "true"]);
    for name in ["localhost:5000/a/b:1", "a/b:2", "other"] {
        engine.output(["commit", "-c", &format!("LABEL of={name}"), "cc", name]);
    }
    engine.output(["commit", "cc"]);
    let list = |words: &[&str]| -> Vec<String> {
        let text = engine.output(["images", "--format", "{{.Repository}}:{{.Tag}}"].iter().chain(words));
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(list(&["-f", "dangling=true"]), ["<none>:<none>"]);
    assert_eq!(list(&["-f", "label=of=other"]), ["other:latest"]);
    assert_eq!(list(&["-f", "label=of", "-f", "reference=a/*"]), ["a/b:2"]);
    assert_eq!(list(&["-f", "reference=*/*/b"]), ["localhost:5000/a/b:1"]);
    assert_eq!(list(&["a/b"]), ["a/b:2"]);
    assert_eq!(list(&["-f", "before=localhost:5000/a/b:1"]), ["busybox:latest"]);
    assert_eq!(list(&["-f", "since=a/b:2", "-f", "dangling=false"]), ["other:latest"]);
    assert_eq!(list(&["-f", "until=1h"]), Vec::<String>::new());
    let id = engine.output(["images", "-q", "--no-trunc", "other"]);
    assert!(id.starts_with("sha256:") && id.trim().len() == 71);
    assert_eq!(engine.output(["images", "-q", "other"]).trim(), &id[7..19]);
    let digests = engine.output(["images", "--digests", "other"]);
    assert!(digests.starts_with("REPOSITORY   TAG       DIGEST"), "{digests}");
    let json: serde_json::Value =
        serde_json::from_str(&engine.output(["images", "--format", "json", "other"])).unwrap();
    assert_eq!(json["Tag"], "latest");
    for bad in ["nosuch=1", "dangling=maybe", "until=yesterday"] {
        let done = engine.run(["images", "-f", bad]);
        assert!(
            done.status == 1 && done.stderr.contains("--filter") && done.stderr.lines().count() == 1,
            "{bad}: {done:?}"
        );
    }
}

#[test]
fn volumes_are_made_listed_and_pruned() {
    let Some(engine) = Engine::keeping() else { return };
    assert_eq!(engine.output(["volume", "create", "--label", "of=me", "mine"]), "mine\n");
    assert_eq!(engine.output(["volume", "create", "mine"]), "mine\n", "docker says the same of one that is there");
    let random = engine.output(["volume", "create"]);
    assert_eq!(random.trim().len(), 64);
    engine.output(["run", "--name", "cc", "-v", "used:/u", "busybox", "true"]);
    let list = |words: &[&str]| engine.output(["volume", "ls", "-q"].iter().chain(words));
    assert_eq!(list(&["-f", "label=of=me"]), "mine\n");
    assert_eq!(list(&["-f", "dangling=false"]), "used\n");
    assert_eq!(list(&["-f", "name=se"]), "used\n");
    let mountpoint = engine.output(["volume", "inspect", "-f", "{{.Mountpoint}}", "mine"]);
    assert_eq!(mountpoint.trim(), engine.root().join("volumes/mine/_data").display().to_string());
    fs::write(engine.root().join("volumes/mine/_data/f"), [0; 1500]).unwrap();

    let pruned = engine.output(["volume", "prune", "-f"]);
    assert!(pruned.contains(random.trim()) && !pruned.contains("mine"), "only nameless ones: {pruned}");
    let pruned = engine.output(["volume", "prune", "-fa", "--filter", "label!=of"]);
    assert_eq!(pruned, "Total reclaimed space: 0B\n");
    assert_eq!(engine.output(["volume", "prune", "-fa"]), "Deleted Volumes:\nmine\n\nTotal reclaimed space: 1.5kB\n");
    assert_eq!(names(&engine, "volumes"), ["used"]);
    let used = engine.run(["volume", "rm", "used"]);
    assert!(used.status == 1 && used.stderr.contains("volume is in use"), "{}", used.stderr);
    engine.output(["rm", "cc"]);
    assert_eq!(engine.output(["volume", "rm", "used"]), "used\n");
    let long = "n".repeat(256);
    for (bad, words) in
        [("a/b", "invalid characters"), ("-x", ""), ("..", "invalid"), ("", "invalid"), (long.as_str(), "invalid")]
    {
        let done = engine.run(["volume", "create", bad]);
        assert!(done.status != 0 && done.stderr.contains(words), "{bad}: {done:?}");
    }
    assert_eq!(names(&engine, "volumes"), Vec::<String>::new());
}
