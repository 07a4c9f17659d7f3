//! A whole distribution through every door: made by `mmdebstrap`, imported, run, changed, committed, exported,
//! imported, saved, and loaded elsewhere, and the trees compared file by file. Takes minutes and needs a Debian mirror
//! once, so it is not run by default: `cargo test --test image_debian -- --ignored`
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::debian::debian;
use support::{Engine, tree};

/// Everything that an archive can lose, on top of what a distribution has.
const CHANGES: &str = r#"
    apt-get check; dpkg --audit; useradd -m somebody
    dpkg --remove --force-depends nano tasksel 2>/dev/null || true
    echo new > /etc/motd; ln /etc/motd /etc/motd.hard; rm -r /usr/share/doc/base-files
    rm -r /var/log/apt; mkdir /var/log/apt; echo x > /var/log/apt/only
    mv /usr/share/common-licenses /usr/share/moved
    mkdir -p /odd; cd /odd
    truncate -s 9G sparse; printf end | dd of=sparse bs=1 seek=5000000000 conv=notrunc status=none
    mknod block b 7 3; mknod char c 1 3; mkfifo fifo; ln -s nowhere link; touch "$(printf 'a\nb\377')"
    chown -h 4242:4243 link; touch -h -d '2001-02-03 04:05:06.123456789' link; touch -d '1969-12-31 23:59:59.5Z' old
    chmod 6755 old; mkdir sticky; chmod 1777 sticky; touch -d '2001-02-03 04:05:06.000000001' sticky
    cp /bin/true capable; touch "$(printf 'n%.0s' $(seq 255))"; chown 4294967294:0 old
    chmod 6755 old
"#;

#[test]
#[ignore = "takes minutes, and a Debian mirror once"]
fn a_distribution_survives_every_round_trip() {
    let Some(archive) = debian("debian.tar", &["--variant=important"]) else { return };
    let Some(mut engine) = Engine::keeping() else { return };
    engine.limit = crate::support::slow(Duration::from_secs(600));
    engine.output(["import", archive.to_str().unwrap(), "debian:1"]);
    for check in [["dpkg", "--audit"], ["apt-get", "check"]] {
        let done = engine.run(["run", "--rm", "debian:1"].into_iter().chain(check));
        assert!(done.status == 0 && !done.stderr.contains("E:"), "{check:?}: {}{}", done.stdout, done.stderr);
    }
    engine.output(["run", "--name", "cc", "debian:1", "bash", "-ec", CHANGES]);
    // What a container's own process cannot set with docker's capabilities is set from outside.
    let folder = tree::container(&engine, "cc");
    let odd = folder.join("upper/odd");
    let set = |words: &[&str], name: &str| {
        assert!(Command::new(words[0]).args(&words[1..]).arg(odd.join(name)).status().unwrap().success(), "{words:?}");
    };
    set(&["setfattr", "-n", "security.capability", "-v", "0x0100000200040000000000000000000000000000"], "capable");
    set(&["setfattr", "-n", "user.key", "-v", "0x00ff0a3d"], "capable");

    let mut trees = tree::layers(&engine, "debian:1");
    trees.push(folder.join("upper"));
    let truth = tree::merged(&engine, &trees);
    assert!(truth.len() > 5000);
    engine.output(["commit", "cc", "debian:2"]);
    tree::same("committed", &tree::image(&engine, "debian:2"), &truth);

    let (flat, saved) = (engine.text("flat.tar"), engine.text("saved.tar"));
    engine.output(["export", "-o", &flat, "cc"]);
    engine.output(["import", &flat, "debian:3"]);
    tree::same("exported and imported", &tree::image(&engine, "debian:3"), &truth);
    // Another reader than ours.
    let unpacked = engine.path("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", &flat, "-C"]).arg(&unpacked);
    assert!(tar.status().unwrap().success());
    tree::same("exported, read by tar", &tree::listing(&unpacked), &truth);

    engine.output(["save", "-o", &saved, "debian:2"]);
    let elsewhere = engine.text("elsewhere");
    engine.output(["--root", &elsewhere, "load", "-i", &saved]);
    let ids = engine.output(["images", "-q", "--no-trunc", "debian:2"]);
    assert_eq!(engine.output(["--root", &elsewhere, "images", "-q", "--no-trunc", "debian:2"]), ids);
    let here: Vec<PathBuf> = tree::layers(&engine, "debian:2");
    let there: Vec<PathBuf> =
        here.iter().map(|path| engine.path("elsewhere").join(path.strip_prefix(engine.root()).unwrap())).collect();
    tree::same("saved and loaded elsewhere", &tree::merged(&engine, &there), &truth);
    let sparse = std::fs::metadata(there[1].join("odd/sparse")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) < 1000, "the holes are filled");
    let done = engine.run(["--root", &elsewhere, "run", "--rm", "debian:2", "sh", "-c", "apt-get check; id somebody"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
}
