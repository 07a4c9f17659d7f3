//! The demo of layers: one image, read by all, and a folder for each container that holds only what is different
//! (`Documentation/filesystems/overlayfs.rst` of the kernel). The checks look into both folders from outside.

use super::{Demo, Scene, Stage, Verdict, kernel};
use anyhow::Result;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub const DEMO: Demo = Demo {
    name: "layers",
    minutes: 7,
    scenes: &[
        Scene { name: "start", play: start },
        Scene { name: "write", play: write },
        Scene { name: "change", play: change },
        Scene { name: "whiteout", play: whiteout },
        Scene { name: "diff", play: diff },
        Scene { name: "second", play: second },
        Scene { name: "end", play: end },
    ],
};

/// The upper and the lowest folder; `Err`: there are none, and why.
fn folders(stage: &Stage<'_>) -> Result<(PathBuf, PathBuf), Verdict> {
    match (stage.value("upper"), stage.value("lower")) {
        (upper, lower) if !upper.is_empty() && !lower.is_empty() => Ok((upper.into(), lower.into())),
        _ => Err(Verdict::Skipped(stage.word("no-overlay"))),
    }
}

fn start(stage: &mut Stage<'_>) -> Result<Verdict> {
    stage.start("--network none", "sleep 1d")?;
    let driver = stage.ask(&["inspect", "-f", "{{.GraphDriver.Name}}", &stage.value("name")])?;
    if driver.trim() != "overlay" && driver.trim() != "overlay2" {
        return Ok(Verdict::Skipped(format!("{} ({})", stage.word("no-overlay"), driver.trim())));
    }
    stage.assign("upper", "mydocker inspect -f '{{.GraphDriver.Data.UpperDir}}' {name}")?;
    stage.assign("lower", "mydocker inspect -f '{{.GraphDriver.Data.LowerDir}}' {name}")?;
    let mounts = kernel::mounts(&stage.value("pid"));
    let root = mounts.iter().rfind(|mount| mount.at == "/");
    let option = |name: &str, value: String| {
        root.is_some_and(|root| root.super_options.iter().any(|option| *option == format!("{name}={value}")))
    };
    let kind = root.map(|root| root.kind.clone()).unwrap_or_default();
    Ok(Verdict::of(&[
        (kind == "overlay", format!("the container's root is `{kind}`")),
        (option("upperdir", stage.value("upper")), "it has another upper folder".to_string()),
        (option("lowerdir", stage.value("lower")), "it has other lower folders".to_string()),
    ]))
}

fn write(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (upper, lower) = match folders(stage) {
        Ok(folders) => folders,
        Err(skipped) => return Ok(skipped),
    };
    stage.both("echo hello > /root/note; ls /root", "for d in $UPPER $LOWER; do ls $d/root | wc -l; done")?;
    let kept = kernel::text(upper.join("root/note"));
    Ok(Verdict::of(&[
        (kept == "hello", format!("the upper folder has {kept:?}")),
        (!lower.join("root/note").exists(), "the image has it, too".to_string()),
    ]))
}

fn change(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (upper, lower) = match folders(stage) {
        Ok(folders) => folders,
        Err(skipped) => return Ok(skipped),
    };
    let file = "etc/passwd";
    let (image, copied) = (kernel::text(lower.join(file)), upper.join(file).exists());
    stage.both(
        "echo '# mine' >> /etc/passwd; wc -l < /etc/passwd",
        "for d in $UPPER $LOWER; do wc -l < $d/etc/passwd; done",
    )?;
    Ok(Verdict::of(&[
        (!copied, "it was copied up before anybody wrote".to_string()),
        (kernel::text(lower.join(file)) == image, "the image has changed".to_string()),
        (kernel::text(upper.join(file)) == format!("{image}\n# mine"), "the copy is not the whole file".to_string()),
    ]))
}

fn whiteout(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (upper, lower) = match folders(stage) {
        Ok(folders) => folders,
        Err(skipped) => return Ok(skipped),
    };
    stage
        .both("rm /etc/group; ls /etc/group", "for d in $UPPER $LOWER; do stat -c '%A %t,%T %F' $d/etc/group; done")?;
    let mark = std::fs::symlink_metadata(upper.join("etc/group"));
    let is_mark = mark.as_ref().is_ok_and(|data| data.file_type().is_char_device() && data.rdev() == 0);
    Ok(Verdict::of(&[
        (is_mark, format!("in the upper folder: {:?}", mark.map(|data| data.file_type()))),
        (lower.join("etc/group").is_file(), "the image has lost it".to_string()),
    ]))
}

fn diff(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Err(skipped) = folders(stage) {
        return Ok(skipped);
    }
    let done = stage.needs("mydocker diff {name}")?;
    let has = |line: &str| (done.text.lines().any(|other| other == line), format!("no `{line}`"));
    Ok(Verdict::of(&[has("A /root/note"), has("C /etc/passwd"), has("D /etc/group")]))
}

fn second(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Err(skipped) = folders(stage) {
        return Ok(skipped);
    }
    let other = stage.also("2")?;
    let look = "ls /root; ls /etc/group; wc -l /etc/passwd";
    let done = stage.needs(&format!("mydocker run --rm --name {other} --network none busybox sh -c '{look}'"))?;
    let lines = kernel::text(Path::new(&stage.value("lower")).join("etc/passwd")).lines().count();
    Ok(Verdict::of(&[
        (!done.text.contains("note"), "it sees the first one's note".to_string()),
        (done.text.contains("/etc/group"), "it has no /etc/group".to_string()),
        (done.text.contains(&format!("{lines} /etc/passwd")), done.text.clone()),
    ]))
}

fn end(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (upper, lower) = match folders(stage) {
        Ok(folders) => folders,
        Err(skipped) => return Ok(skipped),
    };
    stage.needs("mydocker rm -f {name}")?;
    stage.outside("ls -d $UPPER; ls $LOWER | wc -l")?;
    Ok(Verdict::of(&[
        (!upper.exists(), format!("{} is still there", upper.display())),
        (lower.join("bin/busybox").exists(), "the image is gone".to_string()),
    ]))
}
