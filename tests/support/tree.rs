//! Trees of files, listed so that two that print alike are alike: the test's own `mtree`, independent of the engine.

use super::Engine;
use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A line for each file below `root` but sockets: path, mode with its kind, owner, group, size, device, time to the
/// nanosecond, the first of its names if it has several, where a link leads, extended attributes, digest.
pub fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    let (attributes, digests) = (attributes(root), digests(root));
    let mut inodes: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let line = |relative: Vec<u8>| {
        let path = root.join(std::ffi::OsStr::from_bytes(&relative));
        let data = fs::symlink_metadata(&path).unwrap();
        let shared = if data.is_dir() || data.nlink() == 1 {
            "-".to_string()
        } else {
            inodes.entry((data.dev(), data.ino())).or_insert(relative.clone()).escape_ascii().to_string()
        };
        let size = if data.is_dir() { 0 } else { data.len() };
        let target = fs::read_link(&path).map(|target| target.into_os_string().into_vec()).unwrap_or_default();
        format!(
            "{} {:o} {}:{} {size} {:x} {}.{:09} ={shared} ->{} {:?} {}",
            relative.escape_ascii(),
            data.mode(),
            data.uid(),
            data.gid(),
            data.rdev(),
            data.mtime(),
            data.mtime_nsec(),
            target.escape_ascii(),
            attributes.get(&relative).map(Vec::as_slice).unwrap_or_default(),
            digests.get(&relative).map(String::as_str).unwrap_or_default()
        )
    };
    found.into_iter().map(line).collect()
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Vec<u8>>) {
    found.push(folder.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec());
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        match kind.is_dir() {
            true => walk(root, &entry.path(), found),
            false if kind.is_socket() => {}
            false => found.push(entry.path().strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec()),
        }
    }
}

/// By `getfattr`; overlay's own are left out.
fn attributes(root: &Path) -> HashMap<Vec<u8>, Vec<String>> {
    let mut command = Command::new("getfattr");
    command.args(["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", "."]).current_dir(root);
    let output = command.output().expect("getfattr (package attr)");
    let mut all = HashMap::new();
    for block in output.stdout.split(|byte| *byte == b'\n').collect::<Vec<_>>().split(|line| line.is_empty()) {
        let Some(name) = block.first().and_then(|line| line.strip_prefix(b"# file: ")) else { continue };
        let lines = block[1..].iter().map(|line| String::from_utf8_lossy(line).into_owned());
        let mut lines: Vec<String> = lines.filter(|line| !line.starts_with("trusted.overlay.")).collect();
        lines.sort();
        all.insert(unescape(name.strip_prefix(b"./").unwrap_or(b"")), lines);
    }
    all
}

/// `getfattr` and `sha256sum` write what would break a line as octal or by a backslash.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < name.len() {
        match &name[at..] {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                at += 4;
            }
            [b'\\', b'n', ..] => (out.push(b'\n'), at += 2).0,
            [b'\\', b'r', ..] => (out.push(b'\r'), at += 2).0,
            [b'\\', b'\\', ..] => (out.push(b'\\'), at += 2).0,
            [byte, ..] => (out.push(*byte), at += 1).0,
            [] => {}
        }
    }
    out
}

/// Of the regular files' bytes.
fn digests(root: &Path) -> HashMap<Vec<u8>, String> {
    // A large sparse file would take its time; its size and its extents say enough.
    let find = "find . -type f -size -200M -print0 | xargs -0r sha256sum";
    let output = Command::new("sh").args(["-c", find]).current_dir(root).output().unwrap();
    let mut all = HashMap::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |line| (true, line));
        let name = line[66..].strip_prefix(b"./").unwrap();
        let name = if escaped { unescape(name) } else { name.to_vec() };
        all.insert(name, String::from_utf8_lossy(&line[..64]).into_owned());
    }
    all
}

/// The trees that the image `name` is made of, lowest first.
pub fn layers(engine: &Engine, name: &str) -> Vec<PathBuf> {
    let format = "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}";
    let text = engine.output(["image", "inspect", "-f", format, name]);
    text.trim().trim_end_matches(':').split(':').rev().map(PathBuf::from).collect()
}

/// The folder of the container `name`.
pub fn container(engine: &Engine, name: &str) -> PathBuf {
    engine.root().join("containers").join(engine.output(["inspect", "-f", "{{.Id}}", name]).trim())
}

/// What the kernel shows of these trees, one upon the other, lowest first.
pub fn merged(engine: &Engine, layers: &[PathBuf]) -> Vec<String> {
    let (at, empty) = (engine.path("merged"), engine.path("empty"));
    for folder in [&at, &empty] {
        fs::create_dir_all(folder).unwrap();
    }
    // The layers' names are too long for a page of options when they are many, so they are mounted by short ones. A
    // single lower layer needs a second one.
    let names = engine.path("l");
    fs::create_dir_all(&names).unwrap();
    let mut list = vec![empty.display().to_string()];
    for (number, layer) in layers.iter().enumerate() {
        let name = names.join(number.to_string());
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink(layer, &name).unwrap();
        list.push(name.display().to_string());
    }
    list.reverse();
    let options = format!("lowerdir={}", list.join(":"));
    let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at).output().unwrap();
    assert!(mounted.status.success(), "{options}: {}", String::from_utf8_lossy(&mounted.stderr));
    let lines = listing(&at);
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    lines
}

/// What the image `name` shows.
pub fn image(engine: &Engine, name: &str) -> Vec<String> {
    // A layer that nobody has needed yet is unpacked by its first container.
    engine.output(["rm", engine.output(["create", name, "true"]).trim()]);
    merged(engine, &layers(engine, name))
}

/// Fails with the first lines that differ.
#[track_caller]
pub fn same(what: &str, left: &[String], right: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let those: std::collections::HashSet<&String> = those.iter().collect();
        these.iter().filter(|line| !those.contains(line)).take(20).cloned().collect()
    };
    let (left, right) = (only(left, right), only(right, left));
    assert!(
        left.is_empty() && right.is_empty(),
        "{what}:\nonly left:\n{}\nonly right:\n{}",
        left.join("\n"),
        right.join("\n")
    );
}
