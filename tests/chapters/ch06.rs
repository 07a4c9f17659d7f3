//! Chapter 06: images at rest and on their way. What an archive holds is read by others (`tar`, the hashes of its
//! files); what a container of an image sees is read from outside.

use super::check::{Check, Fault, Finding, Subject, expect, needs_own_root, random, same, wait_for_cat, wrong};
use crate::support::{Done, Running, kernel};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

pub const CHECKS: &[Check] = &[
    Check { chapter: 6, name: "commit makes an image of what was written", ask: commit },
    Check { chapter: 6, name: "export writes the tree as one archive", ask: export },
    Check { chapter: 6, name: "import makes an image of any tree", ask: import },
    Check { chapter: 6, name: "save: every digest is that of its file", ask: save },
    Check { chapter: 6, name: "load brings back what save has written", ask: load },
];

/// The words of the command under test; a program that does not know them has not reached this chapter.
fn say(subject: &Subject, words: &[&str]) -> Finding<Done> {
    let done = subject.engine.run(words);
    let text = done.stderr.to_lowercase();
    let unknown = ["unrecognized", "unexpected", "unknown", "no such command", "usage", "not defined", "no help topic"];
    if done.status != 0 && unknown.iter().any(|word| text.contains(word)) {
        return Err(Fault::NotReached(done.stderr.trim().to_string()));
    }
    expect(done.status == 0, || format!("`{}`: {}", words.join(" "), done.stderr.trim()))?;
    Ok(done)
}

/// A container that has written a file and removed one, its name, and the file's.
struct Written {
    container: String,
    file: String,
    word: String,
    running: Running,
}

fn written(subject: &Subject) -> Finding<Written> {
    let name = |kind: &str| format!("{kind}-{:x}", random(0, u64::MAX));
    let (container, file, word) = (name("box"), name("/file"), name("word"));
    let script = format!("read word && {{ echo {word} > {file}; rm /etc/group; exec cat; }}");
    let mut running = subject.start(&["--name", &container], &["sh", "-c", &script])?;
    needs_own_root(&running)?;
    let told = running.stdin.as_mut().is_some_and(|stdin| stdin.write_all(b"go\n").is_ok());
    expect(told, || "the command does not read its input".to_string())?;
    wait_for_cat(&running)?;
    Ok(Written { container, file, word, running })
}

/// An image made of it, and its name.
fn committed(subject: &Subject) -> Finding<(Written, String)> {
    let written = written(subject)?;
    let image = format!("img-{:x}", random(0, u64::MAX));
    say(subject, &["commit", &written.container, &image])?;
    Ok((written, image))
}

/// A container of `image` that does nothing.
fn container_of(subject: &Subject, image: &str) -> Finding<Running> {
    let words = ["run", "-i", image, "cat"];
    subject.engine.try_start(words).map_err(|done| Fault::Wrong(format!("`run {image}`: {}", done.stderr.trim())))
}

fn read(running: &Running, path: &str) -> String {
    fs::read_to_string(format!("/proc/{}/root{path}", running.pid)).unwrap_or_default().trim().to_string()
}

fn commit(subject: &Subject) -> Finding {
    let (written, image) = committed(subject)?;
    let other = container_of(subject, &image)?;
    same(&format!("{} in a container of the new image", written.file), read(&other, &written.file), written.word)?;
    let removed = Path::new(&format!("/proc/{}/root/etc/group", other.pid)).exists();
    expect(!removed, || "/etc/group, removed before the commit, is back".to_string())?;
    let base = subject.idle(&[])?;
    let there = Path::new(&format!("/proc/{}/root{}", base.pid, written.file)).exists();
    expect(!there, || format!("{} is in the image that it was made from", written.file))?;
    drop(written.running);
    Ok(())
}

fn archive(subject: &Subject) -> PathBuf {
    subject.engine.folder().join(format!("archive-{:x}.tar", random(0, u64::MAX)))
}

/// Names (without a leading `./`) and contents of the archive's files.
fn members(bytes: &[u8]) -> Finding<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut plain = Vec::new();
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let read = flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain);
        read.map_err(|error| Fault::Wrong(format!("not a gzip file: {error}")))?;
        &plain[..]
    } else {
        bytes
    };
    let bad = |error: std::io::Error| Fault::Wrong(format!("not a tar archive: {error}"));
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let name = entry.path().map_err(bad)?.to_string_lossy().trim_start_matches("./").to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(bad)?;
        found.insert(name, content);
    }
    Ok(found)
}

fn export(subject: &Subject) -> Finding {
    let written = written(subject)?;
    let path = archive(subject);
    say(subject, &["export", "-o", &path.to_string_lossy(), &written.container])?;
    let members = members(&fs::read(&path).unwrap_or_default())?;
    let content = members.get(&written.file[1..]).map(|bytes| String::from_utf8_lossy(bytes).trim().to_string());
    same(&format!("{} in the archive", written.file), content, Some(written.word))?;
    expect(!members.contains_key("etc/group"), || "etc/group, which was removed, is in the archive".to_string())?;
    expect(members.contains_key("bin/busybox"), || "bin/busybox of the image is not in the archive".to_string())?;
    let proc = members.keys().filter(|name| name.starts_with("proc/") && name.len() > 5).count();
    same("entries below proc/ in the archive", proc, 0)
}

/// A tree that nobody has seen before: a static busybox and one file.
fn import(subject: &Subject) -> Finding {
    let busybox = ["/bin/busybox", "/usr/bin/busybox", "/usr/lib/busybox"].map(Path::new);
    let Some(busybox) = busybox.into_iter().find(|path| path.exists()) else {
        return Err(Fault::Cannot("there is no busybox here".to_string()));
    };
    let (path, image) = (archive(subject), format!("img-{:x}", random(0, u64::MAX)));
    let (name, word) = (format!("f{:x}", random(0, u64::MAX)), format!("{:x}", random(0, u64::MAX)));
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    builder.append_path_with_name(busybox, "bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(word.len() as u64);
    builder.append_data(&mut header, &name, word.as_bytes()).unwrap();
    builder.finish().unwrap();
    drop(builder);
    say(subject, &["import", &path.to_string_lossy(), &image])?;
    let words = ["run", "-i", &image, "/bin/busybox", "cat"];
    let running = subject
        .engine
        .try_start(words)
        .map_err(|done| Fault::Wrong(format!("`run {image}`: {}", done.stderr.trim())))?;
    same(&format!("/{name} in a container of it"), read(&running, &format!("/{name}")), word)?;
    let ours = kernel::namespace(std::process::id(), "mnt");
    expect(kernel::namespace(running.pid, "mnt") != ours, || "it runs in the host's mount namespace".to_string())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn save(subject: &Subject) -> Finding {
    let (written, image) = committed(subject)?;
    let path = archive(subject);
    say(subject, &["save", "-o", &path.to_string_lossy(), &image])?;
    let members = members(&fs::read(&path).unwrap_or_default())?;
    let blobs: Vec<_> =
        members.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("blobs/sha256/")?, bytes))).collect();
    for (name, bytes) in &blobs {
        if !name.is_empty() {
            same(&format!("the digest of blobs/sha256/{name}"), hex(bytes).as_str(), name)?;
        }
    }
    // The config names the digest of each layer as a plain archive; the last one holds what was written.
    let Some((config, layers)) = manifest(&members) else {
        return wrong("the archive has no manifest.json, or one that names no config and layers");
    };
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    let ids: Vec<_> = config["rootfs"]["diff_ids"].as_array().into_iter().flatten().map(|id| id.to_string()).collect();
    let mut shown = Vec::new();
    for layer in &layers {
        let mut plain = Vec::new();
        match layer.starts_with(&[0x1f, 0x8b]) {
            true => drop(flate2::read::MultiGzDecoder::new(&layer[..]).read_to_end(&mut plain)),
            false => plain.clone_from(layer),
        }
        shown.push(format!("\"sha256:{}\"", hex(&plain)));
    }
    same("rootfs.diff_ids of the config, and the layers' digests", shown, ids)?;
    let last = layers.last().map(|layer| self::members(layer)).transpose()?.unwrap_or_default();
    let content = last.get(&written.file[1..]).map(|bytes| String::from_utf8_lossy(bytes).trim().to_string());
    same(&format!("{} in the last layer", written.file), content, Some(written.word))?;
    expect(last.contains_key("etc/.wh.group"), || {
        "the last layer has no etc/.wh.group for what was removed".to_string()
    })
}

/// Docker's manifest.json: the config and the layers, lowest first.
fn manifest(members: &BTreeMap<String, Vec<u8>>) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let manifest: serde_json::Value = serde_json::from_slice(members.get("manifest.json")?).ok()?;
    let file = |name: &serde_json::Value| members.get(name.as_str()?).cloned();
    let layers = manifest[0]["Layers"].as_array()?.iter().map(file).collect::<Option<Vec<_>>>()?;
    Some((file(&manifest[0]["Config"])?, layers))
}

fn load(subject: &Subject) -> Finding {
    let (written, image) = committed(subject)?;
    let path = archive(subject);
    say(subject, &["save", "-o", &path.to_string_lossy(), &image])?;
    say(subject, &["rmi", &image])?;
    let gone = subject.engine.run(["run", image.as_str(), "true"]);
    expect(gone.status != 0, || format!("{image} still runs after rmi"))?;
    say(subject, &["load", "-i", &path.to_string_lossy()])?;
    let other = container_of(subject, &image)?;
    same(&format!("{} in a container of the loaded image", written.file), read(&other, &written.file), written.word)
}
