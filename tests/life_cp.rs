//! `cp`: docker's rules of what a path means, into containers that run and that do not, and nothing outside of the two
//! ends is ever touched, whatever a container has put in the way.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use support::life::open;
use support::{Done, Engine, Guard};

#[track_caller]
fn ok(engine: &Engine, words: &[&str]) -> String {
    let done = engine.run(words);
    assert_eq!(done.status, 0, "{words:?}: {}{}", done.stdout, done.stderr);
    done.stdout
}

/// One line, status 1, and within five seconds.
#[track_caller]
fn refused(done: &Done, text: &str) {
    assert_eq!(done.status, 1, "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains(text), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    assert!(done.took.as_secs() < 5);
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// What `path` is in the container, by what the kernel shows at the other side: the upper layer on the host.
fn upper(engine: &Engine, name: &str, path: &str) -> PathBuf {
    let folder = ok(engine, &["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", name]);
    Path::new(folder.trim()).join(path.trim_start_matches('/'))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Both kinds of container: one that runs, one that was never started.
fn both(test: impl Fn(&Engine, &str, &Path)) {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    ok(&engine, &["run", "-d", "--name", "runs", "busybox", "sleep", "1000"]);
    ok(&engine, &["create", "--name", "rests", "busybox", "true"]);
    for name in ["runs", "rests"] {
        let folder = engine.folder().join(name);
        fs::create_dir(&folder).unwrap();
        test(&engine, name, &folder);
    }
    ok(&engine, &["rm", "-f", "runs", "rests"]);
    guard.check();
}

#[test]
fn a_file_goes_in_and_comes_out() {
    both(|engine, name, here| {
        let at = |path: &str| format!("{name}:{path}");
        let path = file(here, "one", "text");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4750)).unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
        let path = path.to_str().unwrap();
        // A new name, a folder, a file that is there.
        ok(engine, &["cp", path, &at("/tmp/new")]);
        ok(engine, &["cp", path, &at("/tmp")]);
        ok(engine, &["cp", path, &at("tmp/")]);
        let (new, old) = (upper(engine, name, "/tmp/new"), upper(engine, name, "/tmp/one"));
        assert_eq!((text(&new), text(&old)), ("text".to_string(), "text".to_string()));
        let data = fs::metadata(&new).unwrap();
        // Docker's: root's; and without -a no set-user-ID.
        assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (0, 0, 0o750));
        fs::write(path, "other").unwrap();
        ok(engine, &["cp", "-a", path, &at("/tmp/new")]);
        let data = fs::metadata(&new).unwrap();
        assert_eq!((text(&new), data.uid(), data.gid()), ("other".to_string(), 1234, 2345));
        // Out again.
        let out = here.join("out");
        ok(engine, &["cp", &at("/tmp/new"), out.to_str().unwrap()]);
        assert_eq!((text(&out), fs::metadata(&out).unwrap().uid()), ("other".to_string(), 0));
        ok(engine, &["cp", "-a", &at("/tmp/new"), out.to_str().unwrap()]);
        assert_eq!(fs::metadata(&out).unwrap().uid(), 1234);
        ok(engine, &["cp", &at("/tmp/new"), here.to_str().unwrap()]);
        assert_eq!(text(&here.join("new")), "other");
        assert_eq!(engine.run(["cp", "-q", &at("/etc/passwd"), here.to_str().unwrap()]).stderr, "");
        assert!(text(&here.join("passwd")).starts_with("root:"));
    });
}

/// Both ways, for a folder as for what is in it; also where the container's user is not root.
#[test]
fn who_owns_what_was_copied() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    ok(&engine, &["run", "-d", "--name", "web", "-u", "77:78", "busybox", "sleep", "1000"]);
    let here = engine.folder().join("here");
    let inner = file(&here, "dir/inner", "text");
    for path in [&here.join("dir"), &inner] {
        std::os::unix::fs::chown(path, Some(1234), Some(2345)).unwrap();
    }
    let owners = |folder: &Path| {
        [folder.to_owned(), folder.join("inner")].map(|path| {
            let data = fs::metadata(path).unwrap();
            (data.uid(), data.gid())
        })
    };
    let dir = here.join("dir").display().to_string();
    ok(&engine, &["cp", &dir, "web:/in"]);
    ok(&engine, &["cp", "-a", &dir, "web:/kept"]);
    assert_eq!(owners(&upper(&engine, "web", "/in")), [(0, 0); 2]);
    assert_eq!(owners(&upper(&engine, "web", "/kept")), [(1234, 2345); 2]);
    // The caller is root here, in a group of its own.
    let out = here.join("out").display().to_string();
    let mut command = engine.command(["cp", "web:/kept", &out]);
    std::os::unix::process::CommandExt::gid(&mut command, 4321);
    assert_eq!(engine.finish(command).status, 0);
    ok(&engine, &["cp", "-a", "web:/kept", here.join("same").to_str().unwrap()]);
    assert_eq!(owners(&here.join("out")), [(0, 4321); 2]);
    assert_eq!(owners(&here.join("same")), [(1234, 2345); 2]);
    ok(&engine, &["rm", "-f", "web"]);
    guard.check();
}

#[test]
fn folders_by_dockers_rules() {
    both(|engine, name, here| {
        let at = |path: &str| format!("{name}:{path}");
        file(here, "dir/sub/deep", "deep");
        file(here, "dir/top", "top");
        symlink("/etc/passwd", here.join("dir/link")).unwrap();
        fs::hard_link(here.join("dir/top"), here.join("dir/twin")).unwrap();
        let dir = here.join("dir").display().to_string();
        // A new name: the folder itself. One that is there: in it. With `/.`: its content.
        ok(engine, &["cp", &dir, &at("/new")]);
        ok(engine, &["cp", &dir, &at("/tmp")]);
        ok(engine, &["cp", &format!("{dir}/."), &at("/var")]);
        for path in ["/new/sub/deep", "/tmp/dir/sub/deep", "/var/sub/deep"] {
            assert_eq!(text(&upper(engine, name, path)), "deep", "{path}");
        }
        assert_eq!(fs::read_link(upper(engine, name, "/new/link")).unwrap(), Path::new("/etc/passwd"));
        let inode = |path: &str| fs::metadata(upper(engine, name, path)).unwrap().ino();
        assert_eq!(inode("/new/top"), inode("/new/twin"));
        // And out, the same rules.
        let out = here.join("out");
        ok(engine, &["cp", &at("/new"), out.to_str().unwrap()]);
        ok(engine, &["cp", &at("/new"), out.to_str().unwrap()]);
        ok(engine, &["cp", &at("/new/."), out.join("sub").to_str().unwrap()]);
        for path in ["sub/deep", "new/sub/deep", "sub/sub/deep"] {
            assert_eq!(text(&out.join(path)), "deep", "{path}");
        }
        assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("/etc/passwd"));
        // What does not fit.
        refused(&engine.run(["cp", &dir, &at("/etc/passwd")]), "cannot copy directory");
        refused(&engine.run(["cp", &format!("{dir}/top"), &at("/nope/")]), "must exist");
        refused(&engine.run(["cp", &format!("{dir}/top"), &at("/no/pe")]), "must exist");
        refused(&engine.run(["cp", &format!("{dir}/top"), &at("/etc/passwd/")]), "ot a directory");
        refused(&engine.run(["cp", &at("/nope"), "."]), "Could not find the file /nope");
        refused(&engine.run(["cp", &at("/etc/passwd/"), "."]), "not a directory");
        refused(&engine.run(["cp", "/no/such", &at("/")]), "Could not find the file /no/such");
        fs::write(here.join("sub"), "").unwrap();
        refused(&engine.run(["cp", &at("/new/sub"), here.to_str().unwrap()]), "cannot overwrite non-directory");
        refused(&engine.run(["cp", &format!("{dir}/top"), &at("/new/nope/x")]), "must exist");
    });
}

#[test]
fn links_at_the_end_are_copied_or_followed() {
    both(|engine, name, here| {
        let at = |path: &str| format!("{name}:{path}");
        file(here, "real", "real");
        symlink("real", here.join("link")).unwrap();
        let link = here.join("link").display().to_string();
        ok(engine, &["cp", &link, &at("/tmp/a")]);
        ok(engine, &["cp", "-L", &link, &at("/tmp/b")]);
        assert_eq!(fs::read_link(upper(engine, name, "/tmp/a")).unwrap(), Path::new("real"));
        assert_eq!(text(&upper(engine, name, "/tmp/b")), "real");
        // A link at the end of the destination is followed, inside.
        symlink("../../../../../../tmp/target", here.join("up")).unwrap();
        ok(engine, &["cp", here.join("up").to_str().unwrap(), &at("/tmp/up")]);
        ok(engine, &["cp", "-L", &link, &at("/tmp/up")]);
        assert_eq!(text(&upper(engine, name, "/tmp/target")), "real");
        let out = here.join("copy");
        ok(engine, &["cp", &at("/tmp/up"), out.to_str().unwrap()]);
        assert!(out.is_symlink());
        fs::remove_file(&out).unwrap();
        ok(engine, &["cp", "--follow-link", &at("/tmp/up"), out.to_str().unwrap()]);
        assert_eq!(text(&out), "real");
        ok(engine, &["cp", "-L", &at("/tmp/b"), &link]);
        assert!(here.join("link").is_symlink() && text(&here.join("real")) == "real");
    });
}

#[test]
fn archives_on_stdin_and_stdout() {
    both(|engine, name, here| {
        let at = |path: &str| format!("{name}:{path}");
        file(here, "src/a/file", "text");
        fs::write(here.join("src/.wh.strange"), "a file").unwrap();
        std::os::unix::fs::chown(here.join("src/a/file"), Some(1234), Some(1234)).unwrap();
        let tar = |words: &[&str]| {
            let done = std::process::Command::new("tar").args(words).output().unwrap();
            assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
            done.stdout
        };
        let archive = tar(&["-C", here.join("src").to_str().unwrap(), "-c", "."]);
        let done = engine.run_with_input(["cp", "-", &at("/tmp")], &archive);
        assert_eq!((done.status, done.stderr.as_str()), (0, ""));
        let copy = upper(engine, name, "/tmp/a/file");
        assert_eq!((text(&copy), fs::metadata(&copy).unwrap().uid()), ("text".to_string(), 1234));
        assert_eq!(text(&upper(engine, name, "/tmp/.wh.strange")), "a file");
        let done = engine.run(["cp", &at("/tmp/a"), "-"]);
        assert_eq!(done.status, 0, "{}", done.stderr);
        let path = here.join("out.tar");
        fs::write(&path, done.stdout_bytes).unwrap();
        let list = tar(&["-tf", path.to_str().unwrap()]);
        assert_eq!(String::from_utf8(list).unwrap(), "a/\na/file\n");
        refused(&engine.run_with_input(["cp", "-", &at("/etc/passwd")], &archive), "must be a directory");
        refused(&engine.run_with_input(["cp", "-", &at("/nope")], &archive), "Could not find the file");
        refused(&engine.run_with_input(["cp", "-", &at("/tmp")], &archive[..700]), "truncated");
        refused(&engine.run_with_input(["cp", "-", &at("/tmp")], &[b'x'; 1000]), "archive");
    });
}

#[test]
fn bad_words() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    refused(&engine.run(["cp", "nope:/x", "."]), "No such container: nope");
    refused(&engine.run(["cp", "/etc/passwd", "nope:/x"]), "No such container: nope");
    refused(&engine.run(["cp", "a:/x", "b:/x"]), "copying between containers is not supported");
    refused(&engine.run(["cp", "/x", "/y"]), "must specify at least one container source");
    refused(&engine.run(["cp", "/x:y", "./a:b"]), "must specify at least one container source");
    refused(&engine.run(["cp", "", "b:/x"]), "SRC_PATH is empty");
    assert_eq!(engine.run(["cp", "--nosuch", "a:/x", "."]).status, 125);
    guard.check();
}

/// What a container puts in the way leads nowhere: a canary beside it must stay as it is (CVE-2018-15664).
#[test]
fn links_out_of_the_container_lead_back_into_it() {
    both(|engine, name, here| {
        let at = |path: &str| format!("{name}:{path}");
        let canary = file(here, "canary/file", "alive");
        let outside = canary.parent().unwrap().display().to_string();
        let plant = |path: &str, target: &str| {
            let link = here.join("planted");
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            ok(engine, &["cp", link.to_str().unwrap(), &at(path)]);
        };
        plant("/tmp/out", &outside);
        plant("/tmp/rel", &format!("../../../../../../../..{outside}"));
        plant("/tmp/file", canary.to_str().unwrap());
        plant("/tmp/loop", "loop");
        let evil = file(here, "evil", "evil").display().to_string();
        for path in ["/tmp/out/x", "/tmp/rel/x", "/tmp/out/../x/y", "/tmp/loop", "/tmp/loop/x", "/tmp/file/"] {
            let done = engine.run(["cp", &evil, &at(path)]);
            assert_eq!(done.status, 1, "{path}: {}", done.stderr);
        }
        let done = engine.run(["cp", &evil, &at("/tmp/file")]);
        assert_eq!(done.status, 1, "{}", done.stderr);
        assert!(engine.run(["cp", &at("/tmp/out/file"), "-"]).status == 1);
        assert!(engine.run(["cp", "-L", &at("/tmp/file"), "-"]).status == 1);
        // `..` ends at the container's root.
        ok(engine, &["cp", &evil, &at("../../../../..//tmp/evil")]);
        assert_eq!(text(&upper(engine, name, "/tmp/evil")), "evil");
        assert_eq!((text(&canary), fs::read_dir(&outside).unwrap().count()), ("alive".to_string(), 1));
        // What comes out as a link must not be followed by what comes out after it.
        let out = here.join("harvest");
        ok(engine, &["cp", &at("/tmp"), out.to_str().unwrap()]);
        assert!(out.join("out").is_symlink());
        file(here, "second/out/file", "evil");
        ok(engine, &["cp", here.join("second").to_str().unwrap(), &at("/second")]);
        refused(&engine.run(["cp", &at("/second/."), out.to_str().unwrap()]), "non-directory");
        assert_eq!(text(&canary), "alive");
    });
}

/// An archive from a stranger, by `cp -`.
#[test]
fn archives_do_not_climb_out() {
    both(|engine, name, here| {
        let at = |path: &str| format!("{name}:{path}");
        let canary = file(here, "canary", "alive");
        let header = |path: &str, kind: tar::EntryType, link: &str| {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
            builder.into_inner().unwrap()
        };
        let file = tar::EntryType::Regular;
        let done = engine.run_with_input(["cp", "-", &at("/tmp")], &header("../../x", file, ""));
        refused(&done, "`..`");
        // An absolute name begins at the folder that was named.
        let done = engine.run_with_input(["cp", "-", &at("/tmp")], &header("/etc/new", file, ""));
        assert_eq!((done.status, upper(engine, name, "/tmp/etc/new").exists()), (0, true), "{}", done.stderr);
        let hard = header("twin", tar::EntryType::Link, canary.to_str().unwrap());
        refused(&engine.run_with_input(["cp", "-", &at("/tmp")], &hard), "hard link");
        assert_eq!((text(&canary), fs::metadata(&canary).unwrap().nlink()), ("alive".to_string(), 1));
    });
}

#[test]
fn devices_and_the_kernels_files_stay_where_they_are() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let script = "mknod /tmp/disk b 7 99; mkfifo /tmp/pipe; echo > /tmp/ready; sleep 1000";
    ok(&engine, &["run", "-d", "--name", "web", "busybox", "sh", "-c", script]);
    let ready = upper(&engine, "web", "/tmp/ready");
    while !ready.exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let here = engine.folder().join("here");
    fs::create_dir(&here).unwrap();
    let to = here.to_str().unwrap();
    refused(&engine.run(["cp", "web:/tmp/disk", to]), "is a device");
    // In a folder it is left out, loudly; a FIFO is made and never opened.
    let done = engine.run(["cp", "web:/tmp/.", to]);
    assert!(done.status == 0 && done.stderr.contains("`/disk` is a device; left out"), "{}", done.stderr);
    assert!(!here.join("disk").exists() && fs::metadata(here.join("pipe")).unwrap().file_type().is_fifo());
    for path in ["/proc/1/environ", "/proc", "/sys/kernel", "/proc/self/exe"] {
        let done = engine.run(["cp", &format!("web:{path}"), to]);
        assert_eq!(done.status, 1, "{path}: {}", done.stderr);
    }
    let evil = file(&here, "evil", "evil");
    for path in ["/proc/", "/proc/sys/kernel/core_pattern", "/sys/fs/cgroup/", "/dev/pts/"] {
        let done = engine.run(["cp", evil.to_str().unwrap(), &format!("web:{path}")]);
        assert_eq!(done.status, 1, "{path}: {}", done.stderr);
    }
    // The whole root, without the kernel's part of it.
    let whole = engine.folder().join("whole");
    ok(&engine, &["cp", "web:/", whole.to_str().unwrap()]);
    assert!(whole.join("bin/busybox").exists() && fs::read_dir(whole.join("proc")).unwrap().count() == 0);
    ok(&engine, &["rm", "-f", "web"]);
    guard.check();
}

/// What is mounted in a container is part of it, whether it runs or not; what is read-only stays so.
#[test]
fn volumes_and_read_only_roots() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let here = engine.folder().join("here");
    let one = file(&here, "one", "text").display().to_string();
    let (data, sealed) = (engine.folder().join("data"), engine.folder().join("sealed"));
    fs::create_dir(&data).unwrap();
    file(&sealed, "kept", "kept");
    let (bind, seal) = (format!("{}:/data", data.display()), format!("{}:/sealed:ro", sealed.display()));
    let flags = ["--read-only", "-v", &bind, "-v", &seal, "-v", "vol:/vol"];
    ok(&engine, &[&["create", "--name", "web"], &flags[..], &["busybox", "sleep", "1000"]].concat());
    for round in 0..2 {
        ok(&engine, &["cp", &one, &format!("web:/data/{round}")]);
        assert_eq!(text(&data.join(round.to_string())), "text");
        ok(&engine, &["cp", &one, &format!("web:/vol/{round}")]);
        assert_eq!(text(&engine.root().join(format!("volumes/vol/_data/{round}"))), "text");
        for path in ["/sealed/x", "/tmp/x", "/sealed/kept"] {
            let done = engine.run(["cp", &one, &format!("web:{path}")]);
            assert!(done.status == 1 && done.stderr.contains("ead-only"), "{path}: {}", done.stderr);
        }
        ok(&engine, &["cp", "web:/sealed/kept", here.to_str().unwrap()]);
        ok(&engine, &["start", "web"]);
    }
    ok(&engine, &["pause", "web"]);
    ok(&engine, &["cp", &one, "web:/data/paused"]);
    ok(&engine, &["unpause", "web"]);
    // A file that is mounted is written in its place.
    ok(&engine, &["rm", "-f", "web"]);
    ok(&engine, &["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    ok(&engine, &["cp", &one, "web:/etc/hosts"]);
    assert_eq!(ok(&engine, &["exec", "web", "cat", "/etc/hosts"]), "text");
    ok(&engine, &["rm", "-f", "web"]);
    ok(&engine, &["volume", "rm", "vol"]);
    guard.check();
}

/// Somebody inside changes a folder into a link and back all the time: nothing ever lands outside.
#[test]
fn a_race_inside_leads_nowhere() {
    let Some(engine) = open() else { return };
    let guard = Guard::new(engine.root());
    let canary = engine.folder().join("canary");
    file(&canary, "file", "alive");
    let script = format!(
        "mkdir /a; ln -s {} /b; while :; do mv -T /a /c; mv -T /b /a; mv -T /a /b; mv -T /c /a; done 2>/dev/null",
        canary.display()
    );
    ok(&engine, &["run", "-d", "--name", "web", "busybox", "sh", "-c", &script]);
    let evil = file(&engine.folder().join("evil"), "file", "evil");
    let folder = format!("{}/.", evil.parent().unwrap().display());
    for _ in 0..60 {
        let done = engine.run(["cp", &folder, "web:/a"]);
        assert!(done.status <= 1, "{}", done.stderr);
        let out = engine.folder().join("out");
        engine.run(["cp", "web:/a/file", out.to_str().unwrap()]);
        assert!(fs::read_to_string(&out).is_ok_and(|text| text == "evil") || !out.exists());
    }
    assert_eq!((text(&canary.join("file")), fs::read_dir(&canary).unwrap().count()), ("alive".to_string(), 1));
    ok(&engine, &["rm", "-f", "web"]);
    guard.check();
}
