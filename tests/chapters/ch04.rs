//! Chapter 04: every container writes into a layer of its own, over an image that stays as it was. Which folder is
//! whose the kernel tells: the options of the mount at `/`.

use super::check::{Check, Fault, Finding, Subject, expect, needs_own_root, random, same, wait_for_cat, wrong};
use crate::support::{Running, kernel};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub const CHECKS: &[Check] = &[
    Check { chapter: 4, name: "what it writes is its own", ask: own_files },
    Check { chapter: 4, name: "a union of layers at /", ask: union_at_root },
    Check { chapter: 4, name: "a file is copied up when it is written", ask: copy_on_write },
    Check { chapter: 4, name: "a deleted name is a whiteout", ask: whiteout },
    Check { chapter: 4, name: "a new folder hides the old one", ask: opaque },
    Check { chapter: 4, name: "the image stays as it was", ask: image_untouched },
];

/// The container's `/` is an overlay or an aufs: its own folder, and those below, the uppermost first.
struct Union {
    upper: PathBuf,
    lower: Vec<PathBuf>,
}

fn union(running: &Running) -> Finding<Union> {
    let table = kernel::mounts(running.pid);
    let Some(root) = table.iter().rfind(|mount| mount.at == "/") else { return wrong("nothing is mounted at /") };
    let option = |name: &str| {
        root.super_options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')).map(str::to_string)
    };
    match root.kind.as_str() {
        "overlay" => {
            let lower = option("lowerdir").unwrap_or_default().split(':').map(PathBuf::from).collect();
            match option("upperdir") {
                Some(upper) => Ok(Union { upper: upper.into(), lower }),
                None => wrong("the overlay at / has no upperdir: nothing can be written"),
            }
        }
        // `br` is only told by sysfs on newer kernels; without it there is nothing to look at.
        "aufs" => Err(Fault::Cannot("an aufs does not tell its branches here".to_string())),
        kind => wrong(format!("at / is a {kind}, no union of layers (overlay)")),
    }
}

/// What the container sees of one of its files, from outside.
fn inside(running: &Running, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{path}", running.pid))
}

/// Starts a container that does nothing until it is told to, then `script`.
fn poised(subject: &Subject, script: &str) -> Finding<Running> {
    let script = format!("read word && {{ {script}; exec cat; }}");
    let running = subject.start(&[], &["sh", "-c", &script])?;
    needs_own_root(&running)?;
    Ok(running)
}

fn go(running: &mut Running) -> Finding {
    let told = running.stdin.as_mut().is_some_and(|stdin| stdin.write_all(b"go\n").is_ok());
    expect(told, || "the command does not read its input".to_string())?;
    wait_for_cat(running)
}

fn own_files(subject: &Subject) -> Finding {
    let (name, word) = (format!("/own-{:x}", random(0, u64::MAX)), format!("{:x}", random(0, u64::MAX)));
    let mut one = poised(subject, &format!("echo {word} > {name}"))?;
    let other = subject.idle(&[])?;
    go(&mut one)?;
    let text = fs::read_to_string(inside(&one, &name)).unwrap_or_default();
    same(&format!("{name} in the container that has written it"), text.trim(), word.as_str())?;
    expect(!inside(&other, &name).exists(), || format!("{name} is in another container of the image too"))?;
    expect(!Path::new(&name).exists(), || format!("{name} is on the host"))
}

fn union_at_root(subject: &Subject) -> Finding {
    let (one, two) = (subject.idle(&[])?, subject.idle(&[])?);
    let (first, second) = (union(&one)?, union(&two)?);
    expect(first.upper != second.upper, || format!("two containers write into {}", first.upper.display()))?;
    let there = |folder: &PathBuf| folder.is_dir() || folder.is_relative();
    expect(first.lower.iter().all(there), || format!("the layers below are not there: {:?}", first.lower))
}

/// Where a file of the image lies, before anything is written: a name in the container, its folder below.
fn of_image(running: &Running, union: &Union) -> Finding<(&'static str, PathBuf)> {
    let names = ["/etc/group", "/etc/passwd"];
    expect(names.iter().any(|name| inside(running, name).is_file()), || {
        format!("the image has none of {names:?}, which the container is to change: chapter 03, step 1")
    })?;
    let found = names.into_iter().find_map(|name| {
        let below = union.lower.iter().map(|layer| layer.join(&name[1..])).find(|path| path.is_file())?;
        inside(running, name).is_file().then_some((name, below))
    });
    found.ok_or_else(|| Fault::Cannot(format!("the image has none of {names:?} in a layer that can be seen from here")))
}

fn copy_on_write(subject: &Subject) -> Finding {
    let word = format!("word-{:x}", random(0, u64::MAX));
    let mut running = poised(subject, &format!("echo {word} >> /etc/group 2>/dev/null || echo {word} >> /etc/passwd"))?;
    let union = union(&running)?;
    let (name, below) = of_image(&running, &union)?;
    let above = union.upper.join(&name[1..]);
    expect(!above.exists(), || format!("{} is there before anything was written", above.display()))?;
    let before = fs::read(&below).unwrap_or_default();
    go(&mut running)?;
    let copy = fs::read_to_string(&above).unwrap_or_default();
    expect(copy.contains(&word), || format!("{} has not got what was written to {name}", above.display()))?;
    expect(copy.as_bytes().starts_with(&before), || format!("{} is not a copy of the image's", above.display()))?;
    same(&format!("{}, the image's", below.display()), fs::read(&below).unwrap_or_default() == before, true)
}

fn whiteout(subject: &Subject) -> Finding {
    let mut running = poised(subject, "rm /etc/group /etc/passwd")?;
    let union = union(&running)?;
    let (name, below) = of_image(&running, &union)?;
    go(&mut running)?;
    expect(!inside(&running, name).exists(), || format!("{name} is still in the container"))?;
    expect(below.exists(), || format!("{} of the image is gone", below.display()))?;
    let above = union.upper.join(&name[1..]);
    let Ok(meta) = above.symlink_metadata() else { return wrong(format!("{} marks nothing", above.display())) };
    expect(meta.file_type().is_char_device() && meta.rdev() == 0, || {
        format!("{} is no character device 0:0: mode {:o}, device {:x}", above.display(), meta.mode(), meta.rdev())
    })
}

/// A folder that was removed and made again must not show what the image has below (`trusted.overlay.opaque`).
fn opaque(subject: &Subject) -> Finding {
    // Beside the files that an engine may bind into /etc, only these are everywhere.
    let mut running = poised(subject, "rm -r /usr && mkdir /usr")?;
    let union = union(&running)?;
    let had = fs::read_dir(inside(&running, "/usr")).map(Iterator::count).unwrap_or(0);
    if had == 0 {
        return Err(Fault::Cannot("the image has nothing in /usr: chapter 03, step 1".to_string()));
    }
    go(&mut running)?;
    let shown = fs::read_dir(inside(&running, "/usr")).map(Iterator::count);
    same("entries in the new /usr", shown.ok(), Some(0))?;
    let below = union.lower.iter().any(|layer| fs::read_dir(layer.join("usr")).is_ok_and(|list| list.count() > 0));
    expect(below, || "the image's /usr is empty now".to_string())
}

fn image_untouched(subject: &Subject) -> Finding {
    let word = format!("word-{:x}", random(0, u64::MAX));
    let mut spoiler =
        poised(subject, &format!("echo {word} >> /etc/group; rm -f /etc/passwd; echo {word} > /bin/sleep"))?;
    let list = |running: &Running| {
        let names = ["/etc/group", "/etc/passwd", "/bin/sleep", "/bin/busybox"];
        names.map(|name| fs::read(inside(running, name)).ok().map(|bytes| bytes.len()))
    };
    let sizes = list(&spoiler);
    go(&mut spoiler)?;
    expect(list(&spoiler) != sizes, || "the container could not change its files".to_string())?;
    drop(spoiler);
    let after = subject.idle(&[])?;
    same("sizes of files of the image in the next container", list(&after), sizes)
}
