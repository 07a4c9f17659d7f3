//! Volumes and bind mounts, judged by the host's own files and by `/proc/PID/mountinfo`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;
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

    fn run(&self, words: &[&str]) -> Output {
        let binary = std::env::var("MYDOCKER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mydocker").to_string());
        Command::new(binary).arg("--root").arg(self.path("root")).args(words).output().unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn volumes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("root/volumes")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

#[test]
fn a_bind_mount_shows_the_same_files() {
    let Some(bench) = Bench::new() else { return };
    let host = bench.path("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "old").unwrap();
    let bind = format!("{}:/mnt", host.display());
    bench.ok(&["run", "--rm", "-v", &bind, "busybox", "sh", "-c", "cat /mnt/f > /mnt/copy"]);
    assert_eq!(fs::read_to_string(host.join("copy")).unwrap(), "old");
    let output = bench.run(&["run", "--rm", "-v", &format!("{bind}:ro"), "busybox", "touch", "/mnt/new"]);
    assert!(!output.status.success() && !host.join("new").exists());
    // A file as the source, over a file of the image.
    let file = format!("{}:/etc/passwd:ro", host.join("f").display());
    assert_eq!(bench.ok(&["run", "--rm", "-v", &file, "busybox", "cat", "/etc/passwd"]), "old");
}

#[test]
fn read_only_reaches_the_mounts_below() {
    let Some(bench) = Bench::new() else { return };
    let host = bench.path("host");
    fs::create_dir_all(host.join("below")).unwrap();
    let script = "mount -t tmpfs tmpfs \"$1/below\" && exec \"$2\" --root \"$3\" run --rm -v \"$1:/m:ro\" busybox touch /m/below/x";
    let binary = std::env::var("MYDOCKER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mydocker").to_string());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&host).arg(binary).arg(bench.path("root"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("Read-only"), "{stderr}");
}

#[test]
fn what_is_missing_on_the_host_is_made_or_refused() {
    let Some(bench) = Bench::new() else { return };
    let (made, refused) = (bench.path("a/b"), bench.path("c"));
    bench.ok(&["run", "--rm", "-v", &format!("{}:/x", made.display()), "busybox", "true"]);
    assert!(made.is_dir());
    let long = format!("type=bind,source={},target=/x", refused.display());
    assert!(!bench.run(&["run", "--rm", "--mount", &long, "busybox", "true"]).status.success());
    assert!(!refused.exists());
}

#[test]
fn a_named_volume_is_filled_once_and_stays() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["run", "--rm", "-v", "data:/root", "busybox", "sh", "-c", "echo kept > /root/f"]);
    let data = bench.path("root/volumes/data/_data");
    assert_eq!(fs::read_to_string(data.join("f")).unwrap(), "kept\n");
    // The image's folder is 0700, and a new volume takes that over.
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(bench.ok(&["run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/f"]), "kept\n");
    bench.ok(&["run", "--rm", "-v", "etc:/etc", "busybox", "true"]);
    assert!(bench.path("root/volumes/etc/_data/passwd").is_file());
    bench.ok(&["run", "--rm", "-v", "none:/etc:nocopy", "busybox", "true"]);
    assert!(!bench.path("root/volumes/none/_data/passwd").exists());
    bench.ok(&["volume", "rm", "data", "etc", "none"]);
    assert!(bench.volumes().is_empty());
}

#[test]
fn an_anonymous_volume_goes_with_its_container() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["run", "--rm", "-v", "/x", "busybox", "touch", "/x/f"]);
    assert!(bench.volumes().is_empty());
    bench.ok(&["run", "--name", "kept", "-v", "/x", "-v", "named:/y", "busybox", "touch", "/x/f"]);
    assert_eq!(bench.volumes().len(), 2);
    let used = bench.run(&["volume", "rm", "named"]);
    assert!(!used.status.success() && String::from_utf8_lossy(&used.stderr).contains("in use"));
    bench.ok(&["rm", "-v", "kept"]);
    assert_eq!(bench.volumes(), ["named"]);
}

#[test]
fn volumes_from_another_container_and_nested_ones() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["run", "--name", "first", "-v", "data:/a", "busybox", "sh", "-c", "echo x > /a/f"]);
    assert_eq!(bench.ok(&["run", "--rm", "--volumes-from", "first", "busybox", "cat", "/a/f"]), "x\n");
    let sealed = bench.run(&["run", "--rm", "--volumes-from", "first:ro", "busybox", "touch", "/a/g"]);
    assert!(!sealed.status.success());
    // A volume inside of a read-only one stays writable, whichever is said first.
    let words = [
        "run",
        "--rm",
        "-v",
        "inner:/a/in",
        "-v",
        "data:/a:ro",
        "busybox",
        "sh",
        "-c",
        "touch /a/in/y && ! touch /a/z",
    ];
    bench.ok(&words);
    assert!(bench.path("root/volumes/inner/_data/y").exists());
}

#[test]
fn what_is_no_mount_is_refused_and_makes_nothing() {
    let Some(bench) = Bench::new() else { return };
    for bad in ["rel:/x:y", "/a:rel", "/a:/", "/a:/proc", "/a:/b:ro,rw", "a/b:/x", "", ":", "../x:/proc/1", "/a:/b:c:d"]
    {
        let output = bench.run(&["run", "--rm", "-v", bad, "busybox", "true"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains("--volume: "), "{bad}: {stderr}");
    }
    let twice = bench.run(&["run", "--rm", "-v", "/a:/x", "-v", "/b:/x", "busybox", "true"]);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("duplicate mount point"));
    assert!(bench.volumes().is_empty());
}

#[test]
fn a_link_of_the_image_leads_elsewhere_in_the_image() {
    let Some(bench) = Bench::new() else { return };
    let canary = bench.path("canary");
    fs::create_dir(&canary).unwrap();
    let link = format!("ln -s {} /out; ln -s /var/tmp /in", canary.display());
    bench.ok(&["run", "--name", "cc", "busybox", "sh", "-c", &link]);
    bench.ok(&["commit", "cc", "links"]);
    bench.ok(&["run", "--rm", "-v", "vol:/in/data", "links", "touch", "/var/tmp/data/f"]);
    assert!(bench.path("root/volumes/vol/_data/f").exists());
    // Where that is missing in the image: refused or made, but inside.
    bench.run(&["run", "--rm", "-v", "vol:/out/data", "links", "true"]);
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "the link led out of the image");
}
