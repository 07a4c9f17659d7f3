//! Images through every door and back: commit, save, load, export, import; what others (skopeo, umoci) make of the
//! store; what damage does.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::Command;
use support::{Engine, skip, tree};

/// An image `mine:1` with everything in it that an archive can lose.
fn make(engine: &Engine) {
    let script = "mkdir -p /d/sub; echo x > /d/f; ln /d/f /d/hard; ln -s nowhere /d/link; mkfifo /d/fifo; \
            mknod /d/null c 1 3; chmod 4711 /d/f; chown 12:34 /d/sub; chmod 1777 /d/sub; rm /etc/group; \
            rm -r /var/www; mkdir /var/www; dd if=/dev/zero of=/d/sparse bs=1 seek=9000000 count=1 2>/dev/null; \
            touch -d '2001-02-03 04:05:06' /d/hard; ln -s $(yes y | head -c 300 | tr -d '\\n') /d/long";
    engine.output(["run", "--name", "maker", "busybox", "sh", "-c", script]);
    engine.output(["commit", "-m", "made", "-c", "ENV KEPT=yes", "maker", "mine:1"]);
    engine.output(["rm", "maker"]);
}

/// What the container of an image sees: kind, mode, owner, links, size, time, name, target.
fn listing(engine: &Engine, image: &str) -> String {
    let script = "find /d /etc/group /var/www /etc/passwd /bin/busybox 2>/dev/null | sort | while read -r f; do \
            stat -c '%n %f %u %g %h %s %Y %t:%T %N' \"$f\"; done";
    engine.output(["run", "--rm", image, "sh", "-c", script])
}

#[test]
fn an_image_survives_every_round_trip() {
    let Some(engine) = Engine::keeping() else { return };
    make(&engine);
    let before = listing(&engine, "mine:1");
    assert!(before.contains("/d/null") && !before.contains("/etc/group"), "{before}");
    let id = engine.output(["images", "-q", "--no-trunc", "mine:1"]);
    let (docker, oci, packed) = (engine.text("docker.tar"), engine.text("oci.tar"), engine.text("packed.tar.gz"));
    engine.output(["save", "-o", &docker, "mine:1"]);
    engine.output(["save", "--format", "oci", "-o", &oci, "mine:1"]);
    let gzip = fs::File::create(&packed).unwrap();
    assert!(Command::new("gzip").arg("-c").arg(&docker).stdout(gzip).status().unwrap().success());
    let folder = engine.text("folder");
    fs::create_dir(&folder).unwrap();
    assert!(Command::new("tar").args(["-xf", &oci, "-C", &folder]).status().unwrap().success());
    for source in [&docker, &oci, &packed, &folder] {
        engine.output(["rmi", "-f", "mine:1"]);
        assert_eq!(engine.output(["load", "-i", source]), "Loaded image: mine:1\n");
        assert_eq!(listing(&engine, "mine:1"), before, "{source}");
        assert_eq!(engine.output(["images", "-q", "--no-trunc", "mine:1"]), id, "{source}");
    }
    assert_eq!(engine.output(["run", "--rm", "mine:1", "sh", "-c", "echo $KEPT"]), "yes\n");
    // A container's tree, flat.
    engine.output(["create", "--name", "flat", "mine:1", "sh"]);
    engine.output(["run", "--name", "flat2", "mine:1", "true"]);
    let flat = engine.text("flat.tar");
    engine.output(["export", "-o", &flat, "flat2"]);
    engine.output(["import", &flat, "flat:1"]);
    assert_eq!(listing(&engine, "flat:1"), before);
}

#[test]
fn nothing_is_left_of_an_image_that_is_removed() {
    let Some(engine) = Engine::keeping() else { return };
    make(&engine);
    let refused = engine.run(["rmi", "mine:1", "nosuch"]);
    assert!(refused.status != 0);
    assert!(refused.stderr.contains("No such image: nosuch:latest"));
    engine.output(["rmi", "busybox"]);
    for folder in ["images/blobs/sha256", "layers"] {
        assert_eq!(fs::read_dir(engine.root().join(folder)).unwrap().count(), 0, "{folder}");
    }
    assert_eq!(engine.output(["images", "-q"]), "");
}

#[test]
fn what_is_used_is_not_removed() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--name", "user", "busybox", "true"]);
    let refused = engine.run(["rmi", "busybox"]);
    assert!(refused.status != 0 && refused.stderr.contains("is using its referenced image"));
    engine.output(["rmi", "-f", "busybox"]);
    engine.output(["start", "user"]);
    assert_eq!(engine.output(["wait", "user"]), "0\n");
    engine.output(["rm", "user"]);
    engine.output(["image", "prune", "-f"]);
    assert_eq!(fs::read_dir(engine.root().join("layers")).unwrap().count(), 0);
}

#[test]
fn damaged_archives_are_refused_and_leave_nothing() {
    let Some(engine) = Engine::keeping() else { return };
    make(&engine);
    let whole = engine.text("whole.tar");
    engine.output(["save", "-o", &whole, "mine:1"]);
    engine.output(["rmi", "mine:1", "busybox"]);
    let bytes = fs::read(&whole).unwrap();
    let mut flipped = bytes.clone();
    let at = flipped.len() / 3;
    flipped[at] ^= 1;
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("garbage", &[0x5a; 4096]),
        ("half", &bytes[..bytes.len() / 2]),
        ("a bit", &flipped),
        ("gzip of nothing", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
    ];
    for (name, bytes) in cases {
        let path = engine.text("bad.tar");
        fs::write(&path, bytes).unwrap();
        for words in [["load", "-i", &path].as_slice(), &["import", &path, "bad:1"]] {
            if words[0] == "import" && matches!(name, "a bit") {
                continue; // an archive of files like any other
            }
            let output = engine.run(words);
            let stderr = &output.stderr;
            assert!(output.status != 0 && stderr.lines().count() == 1, "{name} {words:?}: {stderr}");
            assert_eq!(engine.output(["images", "-aq"]), "", "{name}");
            assert_eq!(fs::read_dir(engine.root().join("layers")).unwrap().count(), 0, "{name}");
            assert_eq!(fs::read_dir(engine.root().join("tmp")).unwrap().count(), 1, "{name}: only the lock");
        }
    }
}

#[test]
fn skopeo_and_umoci_read_and_write_the_store_in_place() {
    let Some(engine) = Engine::keeping() else { return };
    make(&engine);
    let have = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !have("skopeo") || !have("umoci") {
        skip("skopeo and umoci are not installed");
        return;
    }
    let store = engine.root().join("images").display().to_string();
    let copy = Command::new("skopeo")
        .args(["copy", "-q", &format!("oci:{store}:mine:1"), &format!("oci:{store}:theirs:2")])
        .output();
    let copy = copy.unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    assert_eq!(listing(&engine, "theirs:2"), listing(&engine, "mine:1"));
    let bundle = engine.text("bundle");
    let unpack =
        Command::new("umoci").args(["unpack", "--image", &format!("{store}:mine:1"), &bundle]).output().unwrap();
    assert!(unpack.status.success(), "{}", String::from_utf8_lossy(&unpack.stderr));
    assert!(engine.path("bundle/rootfs/d/f").exists() && !engine.path("bundle/rootfs/etc/group").exists());
    // What skopeo packs another way (gzip) comes back the same.
    let archive = format!("docker-archive:{}:back:1", engine.text("back.tar"));
    let out = Command::new("skopeo").args(["copy", "-q", &format!("oci:{store}:mine:1"), &archive]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    engine.output(["load", "-i", &engine.text("back.tar")]);
    assert_eq!(listing(&engine, "back:1"), listing(&engine, "mine:1"));
}

/// Two files that are always equal, but for the moment between two writes; and one that is written in many pieces.
const WRITER: &str = "i=0; while :; do i=$((i+1)); echo $i > /a; echo $i > /b; \
    { for n in 1 2 3 4 5 6 7 8 9; do echo $i; done; } > /c; done";

#[test]
fn a_commit_pauses_the_container_and_tears_no_file() {
    let Some(engine) = Engine::keeping() else { return };
    let mut writer = engine.start(["run", "--name", "writer", "busybox", "sh", "-c", WRITER]);
    let folder = tree::container(&engine, "writer");
    writer.wait_until("its first files", || fs::read(folder.join("upper/c")).is_ok_and(|bytes| bytes.len() > 20));
    let count = |name: &str| -> i64 {
        let text = fs::read_to_string(folder.join("upper").join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    for number in 0..4 {
        let name = format!("torn:{number}");
        engine.output(["commit", "writer", &name]);
        let text = engine.output(["run", "--rm", &name, "cat", "/a", "/b"]);
        let numbers: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
        let close = match numbers[..] {
            [a, b] => (a - b).abs() <= 1,
            // Between the truncation and the write one of the two is empty.
            [_] => true,
            _ => false,
        };
        assert!(close, "{numbers:?}");
        // Frozen in the middle of its lines it has fewer of them, but never lines of two rounds.
        let lines = engine.output(["run", "--rm", &name, "cat", "/c"]);
        let lines: std::collections::BTreeSet<&str> = lines.lines().collect();
        assert!(lines.len() <= 1, "{lines:?}");
        // And it goes on.
        let before = count("b");
        writer.wait_until("it to go on", || count("b") > before);
    }
    // Paused by somebody else, it stays so.
    engine.output(["pause", "writer"]);
    engine.output(["commit", "writer", "paused:1"]);
    assert_eq!(engine.output(["inspect", "-f", "{{.State.Status}}", "writer"]), "paused\n");
    engine.output(["unpause", "writer"]);
    engine.output(["commit", "--pause=false", "writer", "running:1"]);
    assert_eq!(writer.stop().status, 137);
}

/// One line on a terminal, taken away at the end; not a byte anywhere else.
#[test]
fn what_takes_long_says_how_far_it_is_on_a_terminal() {
    let Some(engine) = Engine::keeping() else { return };
    let tree = engine.path("tree");
    fs::create_dir(&tree).unwrap();
    let big = fs::File::create(tree.join("big")).unwrap();
    // Not all zeros, which would be a hole.
    let pattern = [7u8; 1 << 20];
    (0..48).for_each(|_| std::io::Write::write_all(&mut &big, &pattern).unwrap());
    let archive = engine.text("tree.tar");
    assert!(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&tree).arg(".").status().unwrap().success());
    let quiet = engine.run(["import", &archive, "quiet:1"]);
    assert!(quiet.status == 0 && quiet.stderr.is_empty(), "{}", quiet.stderr);
    if Command::new("script").arg("-V").output().is_err() {
        return skip("`script`, which gives a command a terminal, is not installed");
    }
    let mut words: Vec<String> = Vec::new();
    let command = engine.command(["import", &archive, "loud:1"]);
    words.push(command.get_program().display().to_string());
    words.extend(command.get_args().map(|word| word.display().to_string()));
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).env("MYDOCKER_ROOT", engine.root());
    let done = engine.finish(script);
    assert_eq!(done.status, 0, "{}", done.stdout);
    if quiet.took.as_millis() > 1000 {
        assert!(done.stdout.contains("Importing: ") && done.stdout.contains("of 50.3MB"), "{:?}", done.stdout);
    }
    let last = done.stdout.trim_end().rsplit("\x1b[K").next().unwrap();
    assert!(last.starts_with("sha256:"), "{:?}", done.stdout);
}

#[test]
fn what_was_never_started_is_exported_and_committed_too() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["create", "--name", "new", "busybox", "true"]);
    let archive = engine.folder().join("new.tar").display().to_string();
    engine.output(["export", "-o", &archive, "new"]);
    engine.output(["import", &archive, "again:1"]);
    engine.output(["commit", "new", "same:1"]);
    assert_eq!(engine.output(["diff", "new"]), "");
    for image in ["again:1", "same:1"] {
        let done = engine.run(["run", "--rm", image, "/bin/sh", "-c", "test -x /bin/busybox && stat -c %a /tmp"]);
        assert_eq!((done.status, done.stdout.as_str()), (0, "1777\n"), "{image}: {}", done.stderr);
    }
    engine.output(["rm", "new"]);
}
