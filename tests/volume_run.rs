//! Volumes and bind mounts, judged by the host's own files and by `/proc/PID/mountinfo`.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use support::Engine;

/// The volumes that lie there.
fn volumes(engine: &Engine) -> Vec<String> {
    let entries = fs::read_dir(engine.root().join("volumes")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn a_bind_mount_shows_the_same_files() {
    let Some(engine) = Engine::keeping() else { return };
    let host = engine.path("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "old").unwrap();
    let bind = format!("{}:/mnt", host.display());
    engine.output(["run", "--rm", "-v", &bind, "busybox", "sh", "-c", "cat /mnt/f > /mnt/copy"]);
    assert_eq!(fs::read_to_string(host.join("copy")).unwrap(), "old");
    let output = engine.run(["run", "--rm", "-v", &format!("{bind}:ro"), "busybox", "touch", "/mnt/new"]);
    assert!(output.status != 0 && !host.join("new").exists());
    // A file as the source, over a file of the image.
    let file = format!("{}:/etc/passwd:ro", host.join("f").display());
    assert_eq!(engine.output(["run", "--rm", "-v", &file, "busybox", "cat", "/etc/passwd"]), "old");
}

#[test]
fn read_only_reaches_the_mounts_below() {
    let Some(engine) = Engine::keeping() else { return };
    let host = engine.path("host");
    fs::create_dir_all(host.join("below")).unwrap();
    let under = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs \"$BELOW\" && exec \"$@\"", "sh"];
    let bind = format!("{}:/m:ro", host.display());
    let mut command = engine.command_under(&under, ["run", "--rm", "-v", &bind, "busybox", "touch", "/m/below/x"]);
    command.env("BELOW", host.join("below"));
    let output = engine.finish(command);
    let stderr = &output.stderr;
    assert!(output.status != 0 && stderr.contains("Read-only"), "{stderr}");
}

#[test]
fn what_is_missing_on_the_host_is_made_or_refused() {
    let Some(engine) = Engine::keeping() else { return };
    let (made, refused) = (engine.path("a/b"), engine.path("c"));
    engine.output(["run", "--rm", "-v", &format!("{}:/x", made.display()), "busybox", "true"]);
    assert!(made.is_dir());
    let long = format!("type=bind,source={},target=/x", refused.display());
    assert_ne!(engine.run(["run", "--rm", "--mount", &long, "busybox", "true"]).status, 0);
    assert!(!refused.exists());
}

#[test]
fn a_named_volume_is_filled_once_and_stays() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--rm", "-v", "data:/root", "busybox", "sh", "-c", "echo kept > /root/f"]);
    let data = engine.root().join("volumes/data/_data");
    assert_eq!(fs::read_to_string(data.join("f")).unwrap(), "kept\n");
    // The image's folder is 0700, and a new volume takes that over.
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(engine.output(["run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/f"]), "kept\n");
    engine.output(["run", "--rm", "-v", "etc:/etc", "busybox", "true"]);
    assert!(engine.root().join("volumes/etc/_data/passwd").is_file());
    engine.output(["run", "--rm", "-v", "none:/etc:nocopy", "busybox", "true"]);
    assert!(!engine.root().join("volumes/none/_data/passwd").exists());
    engine.output(["volume", "rm", "data", "etc", "none"]);
    assert!(volumes(&engine).is_empty());
}

#[test]
fn an_anonymous_volume_goes_with_its_container() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--rm", "-v", "/x", "busybox", "touch", "/x/f"]);
    assert!(volumes(&engine).is_empty());
    engine.output(["run", "--name", "kept", "-v", "/x", "-v", "named:/y", "busybox", "touch", "/x/f"]);
    assert_eq!(volumes(&engine).len(), 2);
    let used = engine.run(["volume", "rm", "named"]);
    assert!(used.status != 0 && used.stderr.contains("in use"));
    engine.output(["rm", "-v", "kept"]);
    assert_eq!(volumes(&engine), ["named"]);
}

#[test]
fn volumes_from_another_container_and_nested_ones() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--name", "first", "-v", "data:/a", "busybox", "sh", "-c", "echo x > /a/f"]);
    assert_eq!(engine.output(["run", "--rm", "--volumes-from", "first", "busybox", "cat", "/a/f"]), "x\n");
    let sealed = engine.run(["run", "--rm", "--volumes-from", "first:ro", "busybox", "touch", "/a/g"]);
    assert!(sealed.status != 0);
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
    engine.output(words);
    assert!(engine.root().join("volumes/inner/_data/y").exists());
}

#[test]
fn a_volume_at_etc_does_not_hide_what_is_the_containers_own() {
    let Some(engine) = Engine::open() else { return };
    let folder = engine.folder().join("conf");
    std::fs::create_dir(&folder).unwrap();
    let bind = format!("{}:/etc", folder.display());
    let running = engine.start(["run", "--rm", "-v", &bind, "--hostname", "named", "busybox", "sleep", "100"]);
    let seen = |name: &str| std::fs::read_to_string(format!("/proc/{}/root/etc/{name}", running.pid)).unwrap();
    assert_eq!(seen("hostname"), "named\n");
    assert!(seen("hosts").contains("localhost"), "{}", seen("hosts"));
    running.stop();
}

#[test]
fn what_is_no_mount_is_refused_and_makes_nothing() {
    let Some(engine) = Engine::keeping() else { return };
    for bad in ["rel:/x:y", "/a:rel", "/a:/", "/a:/proc", "/a:/b:ro,rw", "a/b:/x", "", ":", "../x:/proc/1", "/a:/b:c:d"]
    {
        let output = engine.run(["run", "--rm", "-v", bad, "busybox", "true"]);
        let stderr = &output.stderr;
        assert!(output.status != 0 && stderr.contains("--volume: "), "{bad}: {stderr}");
    }
    let twice = engine.run(["run", "--rm", "-v", "/a:/x", "-v", "/b:/x", "busybox", "true"]);
    assert!(twice.stderr.contains("duplicate mount point"));
    for more in
        [["--mount", "type=tmpfs,target=/x"], ["--tmpfs", "/x"], ["--mount", "type=volume,source=vol,target=//x/"]]
    {
        let twice = engine.run(["run", "--rm", "-v", "/tmp:/x"].iter().chain(&more).chain(&["busybox", "true"]));
        assert!(twice.status == 125 && twice.stderr.contains("duplicate mount point"), "{more:?}: {}", twice.stderr);
    }
    for bad in [
        "type=bind,source=rel,target=/x",
        "type=bind,target=/x",
        "type=x,target=/x",
        "source=v",
        "target=/proc/1",
        "type=tmpfs,source=/a,target=/x",
        "type=volume,source=v,target=x",
        "type=bind,source=/,target=/x,bogus=1",
    ] {
        let output = engine.run(["run", "--rm", "--mount", bad, "busybox", "true"]);
        assert!(output.status == 125 && output.stderr.contains("--mount: "), "{bad}: {}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{bad}: {}", output.stderr);
    }
    assert!(volumes(&engine).is_empty());
}

/// An image called `name`: the default one's tree, with `links` put in (target, name).
fn image_with_links(engine: &Engine, name: &str, links: &[(&str, &str)]) {
    if !engine.root().join("layers").exists() {
        engine.output(["run", "--rm", "busybox", "true"]);
    }
    let tree = engine.path(&format!("tree-{name}"));
    let copied = std::process::Command::new("cp").arg("-a").arg(engine.image_tree()).arg(&tree).status().unwrap();
    assert!(copied.success());
    for (target, name) in links {
        let _ = fs::remove_file(tree.join(name));
        symlink(target, tree.join(name)).unwrap();
    }
    engine.output(["import", tree.to_str().unwrap(), name]);
    fs::remove_dir_all(tree).unwrap();
}

#[test]
fn a_link_of_the_image_leads_elsewhere_in_the_image() {
    let Some(engine) = Engine::keeping() else { return };
    let canary = engine.path("canary");
    fs::create_dir(&canary).unwrap();
    let links = [(canary.to_str().unwrap(), "out"), ("/var/tmp", "in"), ("/proc/sys", "proc-sys"), ("loop", "loop")];
    image_with_links(&engine, "links", &links);
    engine.output(["run", "--rm", "-v", "vol:/in/data", "links", "touch", "/var/tmp/data/f"]);
    assert!(engine.root().join("volumes/vol/_data/f").exists());
    // Where that is missing in the image, it is made, inside.
    engine.output(["run", "--rm", "-v", "vol:/out/data", "links", "touch", "/out/data/g"]);
    engine.output(["run", "--rm", "--tmpfs", "/out/tmp", "links", "touch", "/out/tmp/h"]);
    let file = engine.path("file");
    fs::write(&file, "bound").unwrap();
    let bind = format!("{}:/out/file", file.display());
    assert_eq!(engine.output(["run", "--rm", "-v", &bind, "links", "cat", "/out/file"]), "bound");
    assert!(engine.root().join("volumes/vol/_data/g").exists());
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "the link led out of the image");
    for target in ["/proc-sys", "/proc-sys/kernel", "/loop/x"] {
        let refused = engine.run(["run", "--rm", "-v", &format!("vol:{target}"), "links", "true"]);
        assert_eq!((refused.status, refused.stderr.lines().count()), (125, 1), "{target}: {}", refused.stderr);
    }
}

#[test]
fn the_files_of_etc_may_be_links_in_the_image() {
    let Some(engine) = Engine::keeping() else { return };
    let canary = engine.path("canary");
    fs::write(&canary, "the host's").unwrap();
    let links = [
        // As systemd-resolved leaves it: the folder is made at boot, and there is no boot.
        ("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf"),
        (canary.to_str().unwrap(), "etc/hosts"),
        ("/run/name", "etc/hostname"),
    ];
    image_with_links(&engine, "links", &links);
    let script = "cat /etc/hosts /etc/hostname; test -f /run/systemd/resolve/stub-resolv.conf && cat /etc/resolv.conf";
    let text = engine.output(["run", "--rm", "--hostname", "inside", "links", "sh", "-c", script]);
    assert!(text.contains("localhost") && text.contains("inside"), "{text}");
    assert_eq!(fs::read_to_string(&canary).unwrap(), "the host's");
    image_with_links(&engine, "evil", &[("/proc/sys/kernel/hostname", "etc/hostname")]);
    let refused = engine.run(["run", "--rm", "evil", "true"]);
    assert!(refused.status == 125 && refused.stderr.contains("/etc/hostname"), "{}", refused.stderr);
}
