//! Images through every door and back: commit, save, load, export, import; what others (skopeo, umoci) make of the
//! store; what damage does.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: containers are made by root");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn run(&self, words: &[&str]) -> Output {
        let binary = std::env::var("MYDOCKER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mydocker").to_string());
        Command::new(binary).arg("--root").arg(self.path("root")).args(words).output().unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// An image `mine:1` with everything in it that an archive can lose.
    fn make(&self) {
        let script = "mkdir -p /d/sub; echo x > /d/f; ln /d/f /d/hard; ln -s nowhere /d/link; mkfifo /d/fifo; \
            mknod /d/null c 1 3; chmod 4711 /d/f; chown 12:34 /d/sub; chmod 1777 /d/sub; rm /etc/group; \
            rm -r /var/www; mkdir /var/www; dd if=/dev/zero of=/d/sparse bs=1 seek=9000000 count=1 2>/dev/null; \
            touch -d '2001-02-03 04:05:06' /d/hard; ln -s $(yes y | head -c 300 | tr -d '\\n') /d/long";
        self.ok(&["run", "--name", "maker", "busybox", "sh", "-c", script]);
        self.ok(&["commit", "-m", "made", "-c", "ENV KEPT=yes", "maker", "mine:1"]);
        self.ok(&["rm", "maker"]);
    }

    /// What the container of an image sees: kind, mode, owner, links, size, time, name, target.
    fn listing(&self, image: &str) -> String {
        let script = "find /d /etc/group /var/www /etc/passwd /bin/busybox 2>/dev/null | sort | while read -r f; do \
            stat -c '%n %f %u %g %h %s %Y %t:%T %N' \"$f\"; done";
        self.ok(&["run", "--rm", image, "sh", "-c", script])
    }
}

#[test]
fn an_image_survives_every_round_trip() {
    let Some(bench) = Bench::new() else { return };
    bench.make();
    let before = bench.listing("mine:1");
    assert!(before.contains("/d/null") && !before.contains("/etc/group"), "{before}");
    let id = bench.ok(&["images", "-q", "--no-trunc", "mine:1"]);
    let (docker, oci, packed) = (bench.text("docker.tar"), bench.text("oci.tar"), bench.text("packed.tar.gz"));
    bench.ok(&["save", "-o", &docker, "mine:1"]);
    bench.ok(&["save", "--format", "oci", "-o", &oci, "mine:1"]);
    let gzip = fs::File::create(&packed).unwrap();
    assert!(Command::new("gzip").arg("-c").arg(&docker).stdout(gzip).status().unwrap().success());
    let folder = bench.text("folder");
    fs::create_dir(&folder).unwrap();
    assert!(Command::new("tar").args(["-xf", &oci, "-C", &folder]).status().unwrap().success());
    for source in [&docker, &oci, &packed, &folder] {
        bench.ok(&["rmi", "-f", "mine:1"]);
        assert_eq!(bench.ok(&["load", "-i", source]), "Loaded image: mine:1\n");
        assert_eq!(bench.listing("mine:1"), before, "{source}");
        assert_eq!(bench.ok(&["images", "-q", "--no-trunc", "mine:1"]), id, "{source}");
    }
    assert_eq!(bench.ok(&["run", "--rm", "mine:1", "sh", "-c", "echo $KEPT"]), "yes\n");
    // A container's tree, flat.
    bench.ok(&["create", "--name", "flat", "mine:1", "sh"]);
    bench.ok(&["run", "--name", "flat2", "mine:1", "true"]);
    let flat = bench.text("flat.tar");
    bench.ok(&["export", "-o", &flat, "flat2"]);
    bench.ok(&["import", &flat, "flat:1"]);
    assert_eq!(bench.listing("flat:1"), before);
}

#[test]
fn nothing_is_left_of_an_image_that_is_removed() {
    let Some(bench) = Bench::new() else { return };
    bench.make();
    let refused = bench.run(&["rmi", "mine:1", "nosuch"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("No such image: nosuch:latest"));
    bench.ok(&["rmi", "busybox"]);
    for folder in ["root/images/blobs/sha256", "root/layers"] {
        assert_eq!(fs::read_dir(bench.path(folder)).unwrap().count(), 0, "{folder}");
    }
    assert_eq!(bench.ok(&["images", "-q"]), "");
}

#[test]
fn what_is_used_is_not_removed() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["run", "--name", "user", "busybox", "true"]);
    let refused = bench.run(&["rmi", "busybox"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is using its referenced image")
    );
    bench.ok(&["rmi", "-f", "busybox"]);
    bench.ok(&["start", "user"]);
    assert_eq!(bench.ok(&["wait", "user"]), "0\n");
    bench.ok(&["rm", "user"]);
    bench.ok(&["image", "prune", "-f"]);
    assert_eq!(fs::read_dir(bench.path("root/layers")).unwrap().count(), 0);
}

#[test]
fn damaged_archives_are_refused_and_leave_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.make();
    let whole = bench.text("whole.tar");
    bench.ok(&["save", "-o", &whole, "mine:1"]);
    bench.ok(&["rmi", "mine:1", "busybox"]);
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
        let path = bench.text("bad.tar");
        fs::write(&path, bytes).unwrap();
        for words in [["load", "-i", &path].as_slice(), &["import", &path, "bad:1"]] {
            if words[0] == "import" && matches!(name, "a bit") {
                continue; // an archive of files like any other
            }
            let output = bench.run(words);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && stderr.lines().count() == 1, "{name} {words:?}: {stderr}");
            assert_eq!(bench.ok(&["images", "-aq"]), "", "{name}");
            assert_eq!(fs::read_dir(bench.path("root/layers")).unwrap().count(), 0, "{name}");
            assert_eq!(fs::read_dir(bench.path("root/tmp")).unwrap().count(), 1, "{name}: only the lock");
        }
    }
}

#[test]
fn skopeo_and_umoci_read_and_write_the_store_in_place() {
    let Some(bench) = Bench::new() else { return };
    bench.make();
    let have = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !have("skopeo") || !have("umoci") {
        eprintln!("skipped: skopeo and umoci are not installed");
        return;
    }
    let store = bench.text("root/images");
    let copy = Command::new("skopeo")
        .args(["copy", "-q", &format!("oci:{store}:mine:1"), &format!("oci:{store}:theirs:2")])
        .output();
    let copy = copy.unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    assert_eq!(bench.listing("theirs:2"), bench.listing("mine:1"));
    let bundle = bench.text("bundle");
    let unpack =
        Command::new("umoci").args(["unpack", "--image", &format!("{store}:mine:1"), &bundle]).output().unwrap();
    assert!(unpack.status.success(), "{}", String::from_utf8_lossy(&unpack.stderr));
    assert!(bench.path("bundle/rootfs/d/f").exists() && !bench.path("bundle/rootfs/etc/group").exists());
    // What skopeo packs another way (gzip) comes back the same.
    let archive = format!("docker-archive:{}:back:1", bench.text("back.tar"));
    let out = Command::new("skopeo").args(["copy", "-q", &format!("oci:{store}:mine:1"), &archive]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    bench.ok(&["load", "-i", &bench.text("back.tar")]);
    assert_eq!(bench.listing("back:1"), bench.listing("mine:1"));
}

#[test]
fn a_commit_pauses_the_container() {
    let Some(bench) = Bench::new() else { return };
    // Two files that are always equal, but for the moment between two writes.
    let script = "i=0; while :; do i=$((i+1)); echo $i > /a; echo $i > /b; done";
    bench.ok(&["run", "-d", "--name", "writer", "busybox", "sh", "-c", script]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    for number in 0..5 {
        let name = format!("torn:{number}");
        bench.ok(&["commit", "writer", &name]);
        let text = bench.ok(&["run", "--rm", &name, "cat", "/a", "/b"]);
        let numbers: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
        let close = match numbers[..] {
            [a, b] => (a - b).abs() <= 1,
            // Between the truncation and the write one of the two is empty.
            [_] => true,
            _ => false,
        };
        assert!(close, "{numbers:?}");
    }
    let state = bench.ok(&["inspect", "-f", "{{.State.Status}}", "writer"]);
    bench.ok(&["rm", "-f", "writer"]);
    assert_eq!(state, "running\n");
}
