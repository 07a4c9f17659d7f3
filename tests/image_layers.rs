//! The drivers that put layers together, and more layers than fit into one page of mount options.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Engine, tree};

#[test]
fn every_driver_shows_the_same_and_spoils_no_image() {
    let Some(engine) = Engine::keeping() else { return };
    let script = "rm /etc/group; echo x > /new; ls -R /etc /bin /new | sort | md5sum";
    let overlay = engine.output(["run", "--rm", "--storage-driver", "overlay", "busybox", "sh", "-c", script]);
    let vfs = engine.output(["run", "--rm", "--storage-driver", "vfs", "busybox", "sh", "-c", script]);
    assert_eq!(overlay, vfs);
    assert_eq!(engine.output(["run", "--rm", "busybox", "ls", "/etc/group"]), "/etc/group\n");
    // The file system of the container's root, as the kernel tells it.
    let script = "grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo";
    let kind = |driver| engine.output(["run", "--rm", "--storage-driver", driver, "busybox", "sh", "-c", script]);
    assert!(kind("overlay").contains(" - overlay ") && !kind("vfs").contains(" - overlay "));
    if !std::fs::read_to_string("/proc/filesystems").unwrap().contains("aufs") {
        let refused = engine.run(["run", "--rm", "--storage-driver", "aufs", "busybox", "true"]);
        assert!(refused.status == 125 && refused.stderr.contains("never accepted"));
    }
}

#[test]
fn an_image_of_127_layers_runs() {
    let Some(engine) = Engine::keeping() else { return };
    engine.output(["run", "--name", "cc", "busybox", "true"]);
    let mut image = "busybox".to_string();
    for number in 1..127 {
        let next = format!("many:{number}");
        engine.output(["rm", "cc"]);
        engine.output([
            "run",
            "--name",
            "cc",
            &image,
            "sh",
            "-c",
            &format!("echo {number} > /f{number}; rm -f /f{}", number - 50),
        ]);
        engine.output(["commit", "cc", &next]);
        image = next;
    }
    let words = ["run", "--rm", "many:126", "sh", "-c", "ls / | grep -c '^f'; cat /f100; echo new > /f100; cat /f100"];
    assert_eq!(engine.output(words), "50\n100\nnew\n");
}

/// What an own layer and a comparison of two trees can get wrong.
const CHANGES: &str = r#"
    rm /etc/group; echo new > /etc/new; chmod 600 /etc/passwd
    rm -r /var/www; echo file > /var/www
    rm /etc/shadow 2>/dev/null || true; mkdir -p /etc/shadow/deep; echo x > /etc/shadow/deep/f
    mkdir -p /d/a /d/b; echo 1 > /d/a/f; ln /d/a/f /d/b/f; ln -s /d/a /d/l; mkfifo /d/p
    ln /bin/busybox /bin/again; touch -d '2001-02-03 04:05:06' /root; chmod 711 /; chown 7:8 /
"#;

#[test]
fn a_commit_shows_what_the_container_showed_whichever_the_driver() {
    let Some(engine) = Engine::keeping() else { return };
    for driver in ["overlay", "vfs"] {
        engine.output(["run", "--name", driver, "--storage-driver", driver, "busybox", "sh", "-ec", CHANGES]);
        let folder = tree::container(&engine, driver);
        let truth = match driver {
            "vfs" => tree::listing(&folder.join("tree")),
            _ => {
                let mut trees = tree::layers(&engine, "busybox");
                trees.push(folder.join("upper"));
                tree::merged(&engine, &trees)
            }
        };
        let image = format!("{driver}:1");
        engine.output(["commit", driver, &image]);
        // What the engine has made for its mounts is no change of the container's.
        let ours = ["dev ", "proc ", "sys ", "etc/hosts ", "etc/hostname ", "etc/resolv.conf "];
        let truth: Vec<String> =
            truth.into_iter().filter(|line| !ours.iter().any(|name| line.starts_with(name))).collect();
        let committed: Vec<String> = tree::image(&engine, &image)
            .into_iter()
            .filter(|line| !ours.iter().any(|name| line.starts_with(name)))
            .collect();
        tree::same(driver, &committed, &truth);
        let diff = engine.output(["diff", driver]);
        let lines: Vec<&str> = diff.lines().collect();
        for line in
            ["D /etc/group", "A /etc/new", "C /etc/passwd", "C /var/www", "A /d", "A /d/b/f", "A /bin/again", "C /root"]
        {
            assert!(lines.contains(&line), "{driver}: no `{line}` in {lines:?}");
        }
        assert!(!lines.iter().any(|line| line.ends_with("/etc/hosts") || *line == "A /proc"), "{driver}: {lines:?}");
        // The container's own root looks like the image's.
        let stat = ["run", "--rm", "--storage-driver", driver, &image, "stat", "-c", "%a %u:%g", "/"];
        assert_eq!(engine.output(stat), "711 7:8\n", "{driver}");
    }
}

/// On a data root that is itself on an overlay, overlay is refused and vfs is what a start takes by itself.
#[test]
fn on_an_overlay_every_container_gets_a_copy() {
    let Some(engine) = Engine::keeping() else { return };
    let names = ["lower", "upper", "work", "over"].map(|name| engine.path(name));
    names.iter().for_each(|name| std::fs::create_dir(name).unwrap());
    let [lower, upper, work, over] = names.map(|name| name.display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mount = std::process::Command::new("mount").args(["-t", "overlay", "o", "-o", &options, &over]).status();
    assert!(mount.unwrap().success());
    let root = ["--root", &over];
    let on = |words: &[&str]| engine.run(root.iter().chain(words));
    let done = on(&["run", "--name", "cc", "busybox", "sh", "-c", "echo x > /new; rm /etc/group"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let refused = on(&["run", "--rm", "--storage-driver", "overlay", "busybox", "true"]);
    assert!(refused.status == 125 && refused.stderr.contains("overlay"), "{}", refused.stderr);
    let done = on(&["commit", "cc", "mine"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert_eq!(on(&["run", "--rm", "mine", "sh", "-c", "cat /new; ls /etc/group"]).stdout, "x\n");
    let told = on(&["doctor"]).stdout;
    assert!(told.lines().any(|line| line.contains("storage driver") && line.contains("vfs")), "{told}");
}
