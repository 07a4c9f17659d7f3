//! The drivers that put layers together, and more layers than fit into one page of mount options.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(root: &std::path::Path, words: &[&str]) -> Output {
    let binary = std::env::var("MYDOCKER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mydocker").to_string());
    Command::new(binary).arg("--root").arg(root).args(words).output().unwrap()
}

fn ok(root: &std::path::Path, words: &[&str]) -> String {
    let output = run(root, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_driver_shows_the_same_and_spoils_no_image() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: containers are made by root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, script) = (dir.path(), "rm /etc/group; echo x > /new; ls -R /etc /bin /new | sort | md5sum");
    let overlay = ok(root, &["run", "--rm", "--storage-driver", "overlay", "busybox", "sh", "-c", script]);
    let vfs = ok(root, &["run", "--rm", "--storage-driver", "vfs", "busybox", "sh", "-c", script]);
    assert_eq!(overlay, vfs);
    assert_eq!(ok(root, &["run", "--rm", "busybox", "ls", "/etc/group"]), "/etc/group\n");
    // The file system of the container's root, as the kernel tells it.
    let script = "grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo";
    let kind = |driver| ok(root, &["run", "--rm", "--storage-driver", driver, "busybox", "sh", "-c", script]);
    assert!(kind("overlay").contains(" - overlay ") && !kind("vfs").contains(" - overlay "));
    if !std::fs::read_to_string("/proc/filesystems").unwrap().contains("aufs") {
        let refused = run(root, &["run", "--rm", "--storage-driver", "aufs", "busybox", "true"]);
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("never accepted"));
    }
}

#[test]
fn an_image_of_127_layers_runs() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: containers are made by root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    ok(root, &["run", "--name", "cc", "busybox", "true"]);
    let mut image = "busybox".to_string();
    for number in 1..127 {
        let next = format!("many:{number}");
        ok(root, &["rm", "cc"]);
        ok(
            root,
            &[
                "run",
                "--name",
                "cc",
                &image,
                "sh",
                "-c",
                &format!("echo {number} > /f{number}; rm -f /f{}", number - 50),
            ],
        );
        ok(root, &["commit", "cc", &next]);
        image = next;
    }
    let words = ["run", "--rm", "many:126", "sh", "-c", "ls / | grep -c '^f'; cat /f100; echo new > /f100; cat /f100"];
    assert_eq!(ok(root, &words), "50\n100\nnew\n");
}
