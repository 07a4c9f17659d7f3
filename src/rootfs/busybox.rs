//! The default image, `busybox:latest`: made on first use from the host's static busybox, with no network and no
//! registry. One folder, `layers/busybox/diff`; whoever sees it sees it whole.

use crate::plan::{Dirs, Fact, ImageConfig};
use anyhow::{Context, Result, bail};
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 4] = ["busybox", "busybox:latest", "library/busybox:latest", "docker.io/library/busybox:latest"];

/// Where distributions put it.
const HOST: [&str; 4] = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/usr/local/bin/busybox"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";

const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwheel:x:10:root\nwww-data:x:33:\nnobody:x:65534:\n";

/// The image that `words` mean, and how many of them (the last ones) are the command. The first word is the image if
/// it is called so; else, if it is a command in the default image, the default image runs it.
pub fn find(dirs: &Dirs, words: &[String], dry: bool) -> Result<(ImageConfig, usize)> {
    let tree = dirs.root.join("layers/busybox/diff");
    let named = words.first().is_some_and(|word| NAMES.contains(&word.as_str()));
    if !dry {
        make(&dirs.root, &tree)?;
    }
    if let Some(word) = words.first()
        && !named
        && !has_command(&tree, word)
    {
        let tag = if word.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) { "" } else { ":latest" };
        bail!("Unable to find image '{}{tag}' locally", word.escape_debug());
    }
    let image = ImageConfig {
        reference: NAMES[1].to_string(),
        layers: vec![tree],
        cmd: vec!["sh".to_string()],
        ..ImageConfig::default()
    };
    Ok((image, words.len() - usize::from(named)))
}

/// Whether the default image is there, or can be made.
pub fn doctor(dirs: &Dirs) -> Fact {
    if dirs.root.join("layers/busybox/diff/bin/busybox").exists() {
        return Fact::met("default image", "busybox:latest is there");
    }
    match host_busybox() {
        Ok(path) => Fact::met("default image", format!("will be made from {}", path.display())),
        Err(error) => Fact::need("default image", "cannot be made", false, error.to_string().replace("\nhint: ", "; ")),
    }
}

/// Whether the default image can run `word`. What an ordinary user may not look at is believed (a dry run).
pub fn has_command(tree: &Path, word: &str) -> bool {
    if word.is_empty() || word.contains(':') {
        return false;
    }
    let path =
        if word.starts_with('/') { tree.join(word.trim_start_matches('/')) } else { tree.join("bin").join(word) };
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(_) if fs::symlink_metadata(tree.join("bin")).is_err() => !word.contains('/'),
        Err(_) => false,
    }
}

/// Makes the tree if it is not there: whole in a folder of another name, then renamed. Starts at the same moment wait
/// for one of them.
fn make(root: &Path, tree: &Path) -> Result<()> {
    if tree.join("bin/busybox").exists() {
        return Ok(());
    }
    let layers = root.join("layers");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&layers)
        .with_context(|| format!("cannot make `{}`", layers.display()))?;
    let lock = layers.join(".lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write `{}`", lock.display()))?;
    lock.lock().context("cannot lock the layers")?;
    if tree.join("bin/busybox").exists() {
        return Ok(());
    }
    let busybox = host_busybox()?;
    let making = layers.join(".busybox");
    let made = (|| {
        // What a crash has left of an earlier try; nobody else works here while the lock is held.
        if making.exists() {
            fs::remove_dir_all(&making)?;
        }
        fill(&making.join("diff"), &busybox)?;
        let home = tree.parent().context("the tree has a parent")?;
        fs::rename(&making, home).context("cannot put the image in its place")
    })();
    if made.is_err() {
        let _ = fs::remove_dir_all(&making);
    }
    made.context("cannot make the default image")
}

/// Fills the new folder `tree` with it; whoever keeps images puts it where they are kept.
pub fn make_default(tree: &Path) -> Result<()> {
    fill(tree, &host_busybox()?).context("cannot make the default image")
}

/// The host's busybox, if it needs no library.
fn host_busybox() -> Result<PathBuf> {
    let install = "hint: install it: apt-get install busybox-static";
    let Some(path) = HOST.iter().map(Path::new).find(|path| path.exists()) else {
        bail!("the default image is made from the host's static busybox, and there is none\n{install}");
    };
    let program = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if !is_static(&program) {
        bail!("`{}` is linked dynamically; the default image needs a static one\n{install}", path.display());
    }
    Ok(path.to_owned())
}

/// Whether an ELF program names no interpreter (`man 5 elf`: no program header of type PT_INTERP).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let mut bytes = [0u8; 8];
        bytes[..size].copy_from_slice(elf.get(at..at + size)?);
        Some(u64::from_le_bytes(bytes))
    };
    // Only 64-bit little-endian machines run this engine.
    if elf.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) {
        return false;
    }
    let headers = || Some((number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize));
    let Some((start, size, count)) = headers() else { return false };
    (0..count).all(|index| number(start.saturating_add(index * size), 4).is_some_and(|kind| kind as u32 != PT_INTERP))
}

/// The whole tree.
fn fill(tree: &Path, busybox: &Path) -> Result<()> {
    let folder = |name: &str, mode: u32| -> Result<()> {
        let path = tree.join(name);
        fs::create_dir_all(&path)?;
        // The mode whatever the umask.
        Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
    };
    for name in ["", "bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/www", "run"]
    {
        folder(name, 0o755)?;
    }
    for (name, mode) in [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)] {
        folder(name, mode)?;
    }
    let file = |name: &str, content: &str| -> Result<()> {
        fs::write(tree.join(name), content)?;
        Ok(fs::set_permissions(tree.join(name), Permissions::from_mode(0o644))?)
    };
    file("etc/passwd", PASSWD)?;
    file("etc/group", GROUP)?;
    for name in super::etc::FILES {
        file(&format!("etc/{name}"), "")?;
    }
    let copy = tree.join("bin/busybox");
    fs::copy(busybox, &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    let list =
        Command::new(busybox).arg("--list").output().with_context(|| format!("cannot run `{}`", busybox.display()))?;
    let names = String::from_utf8_lossy(&list.stdout);
    for name in names.lines().filter(|name| *name != "busybox" && !name.is_empty() && !name.contains('/')) {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    symlink("../../bin/busybox", tree.join("usr/bin/env"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(&[]));
        assert!(!is_static(&fs::read("/bin/ls").unwrap()), "every distribution's ls is dynamic");
        if let Ok(busybox) = fs::read("/bin/busybox") {
            assert!(is_static(&busybox), "the tests install busybox-static");
        }
    }
}
