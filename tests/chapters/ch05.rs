//! Chapter 05: files that outlive the container. A bind mount is told by what it shows: the same inode on both sides.

use super::check::{Check, Fault, Finding, Subject, expect, random, same, wrong};
use crate::support::kernel;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub const CHECKS: &[Check] = &[
    Check { chapter: 5, name: "-v shows the host's own files", ask: same_inode },
    Check { chapter: 5, name: "what is written there stays", ask: outlives },
    Check { chapter: 5, name: ":ro holds, also for mounts below", ask: read_only },
    Check { chapter: 5, name: "a volume outlives its containers", ask: named },
    Check { chapter: 5, name: "a new volume begins with the image's files", ask: copy_up },
    Check { chapter: 5, name: "nothing is deleted through a mount", ask: no_deletion },
];

/// A folder on the host with a file of a random name in it.
fn folder(subject: &Subject) -> (PathBuf, String) {
    let folder = subject.engine.folder().join(format!("host-{:x}", random(0, u64::MAX)));
    let name = format!("file-{:x}", random(0, u64::MAX));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(&name), "precious").unwrap();
    (folder, name)
}

fn bind(folder: &Path, mode: &str) -> String {
    format!("{}:/mnt/data{mode}", folder.display())
}

fn identity(path: impl AsRef<Path>) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn same_inode(subject: &Subject) -> Finding {
    let (folder, name) = folder(subject);
    let running = subject.idle(&["-v", &bind(&folder, "")])?;
    let shown = identity(format!("/proc/{}/root/mnt/data/{name}", running.pid));
    same("device and inode of the file in the container", shown, identity(folder.join(&name)))?;
    let table = kernel::mounts(running.pid);
    let Some(mount) = table.iter().find(|mount| mount.at == "/mnt/data") else {
        return wrong("/mnt/data is no mount of the container's");
    };
    expect(!mount.propagation.iter().any(|word| word == "shared"), || {
        "the mount is shared: what the container mounts below would appear on the host".to_string()
    })
}

fn outlives(subject: &Subject) -> Finding {
    let (folder, _) = folder(subject);
    let word = format!("{:x}", random(0, u64::MAX));
    subject.run(&["-v", &bind(&folder, "")], &["sh", "-c", &format!("echo {word} > /mnt/data/new")])?;
    let text = fs::read_to_string(folder.join("new")).unwrap_or_default();
    same("the host's file, when the container is gone", text.trim(), word.as_str())
}

fn read_only(subject: &Subject) -> Finding {
    let (folder, name) = folder(subject);
    let below = folder.join("below");
    fs::create_dir(&below).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("below"), &below, Some("tmpfs"), flags, None::<&str>)
        .map_err(|errno| Fault::Cannot(format!("a tmpfs cannot be mounted: {errno}")))?;
    let asked = (|| {
        let running = subject.idle(&["-v", &bind(&folder, ":ro")])?;
        let table = kernel::mounts(running.pid);
        for at in ["/mnt/data", "/mnt/data/below"] {
            let Some(mount) = table.iter().find(|mount| mount.at == at) else {
                // Not to bring the mounts below along is an answer too.
                expect(at == "/mnt/data/below", || format!("{at} is no mount of the container's"))?;
                continue;
            };
            expect(mount.options.iter().any(|option| option == "ro"), || format!("{at} can be written to"))?;
        }
        drop(running);
        let script = format!("echo spoilt > /mnt/data/{name}; echo spoilt > /mnt/data/below/{name}");
        subject.run(&["-v", &bind(&folder, ":ro")], &["sh", "-c", &script])?;
        same("the host's file", fs::read_to_string(folder.join(&name)).unwrap_or_default().as_str(), "precious")?;
        expect(!below.join(&name).exists(), || "the container has written into a mount below".to_string())
    })();
    let _ = nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH);
    asked
}

/// A volume of a random name, removed afterwards.
fn with_volume(subject: &Subject, ask: impl FnOnce(&str) -> Finding) -> Finding {
    let name = format!("vol-{:x}", random(0, u64::MAX));
    let asked = ask(&name);
    subject.engine.run(["volume", "rm", name.as_str()]);
    asked
}

fn named(subject: &Subject) -> Finding {
    with_volume(subject, |name| {
        let (flag, word) = (format!("{name}:/mnt/data"), format!("{:x}", random(0, u64::MAX)));
        subject.run(&["-v", &flag], &["sh", "-c", &format!("echo {word} > /mnt/data/kept")])?;
        let (one, two) = (subject.idle(&["-v", &flag])?, subject.idle(&["-v", &flag])?);
        let kept = |pid: u32| PathBuf::from(format!("/proc/{pid}/root/mnt/data/kept"));
        let text = fs::read_to_string(kept(one.pid)).unwrap_or_default();
        same("what the first container has written, in the second", text.trim(), word.as_str())?;
        same("the file's inode in a third", identity(kept(two.pid)), identity(kept(one.pid)))
    })
}

fn copy_up(subject: &Subject) -> Finding {
    with_volume(subject, |name| {
        let plain = subject.idle(&[])?;
        let list = |pid: u32| {
            let entries = fs::read_dir(format!("/proc/{pid}/root/bin")).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let expected = list(plain.pid);
        if expected.is_empty() {
            return Err(Fault::Cannot("the image has nothing in /bin".to_string()));
        }
        let running = subject.idle(&["-v", &format!("{name}:/bin")])?;
        same("entries of /bin, in the volume", list(running.pid).len(), expected.len())?;
        let at = |mount: &kernel::Mount| mount.at == "/bin";
        expect(kernel::mounts(running.pid).iter().any(at), || "/bin is no mount of the container's".to_string())
    })
}

/// Removing a container must stop at what is mounted in it, also when the container is killed.
fn no_deletion(subject: &Subject) -> Finding {
    let (folder, name) = folder(subject);
    let running = subject.idle(&["-v", &bind(&folder, "")])?;
    let mounted = identity(format!("/proc/{}/root/mnt/data/{name}", running.pid)).is_some();
    drop(running);
    expect(mounted, || "the folder was not in the container".to_string())?;
    for id in subject.engine.run(["ps", "-aq"]).stdout.split_whitespace() {
        subject.engine.run(["rm", "-f", id]);
    }
    let text = fs::read_to_string(folder.join(&name)).unwrap_or_default();
    same("the host's file, when the container was removed", text.as_str(), "precious")
}
