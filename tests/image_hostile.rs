//! Layers that want out, each beside the legal layer that looks most like it. Every case ends within five seconds,
//! leaves a canary on the host's side as it was, and, if it is refused, nothing in the store. The merged result of the
//! legal ones is judged by the kernel: a real overlay mount, looked at by a shell. A positive control shows that the
//! attacks are attacks: GNU tar, told to believe every name, hits the canary.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use support::archive::{Member, archive, dir, file, hard, image, link, member, node};
use support::{Done, Engine};

/// A data root, and beside it what must not be touched.
struct Bench<'a> {
    engine: &'a Engine,
    dir: tempfile::TempDir,
}

impl<'a> Bench<'a> {
    fn new(engine: &'a Engine) -> Self {
        let bench = Bench { engine, dir: tempfile::tempdir_in(engine.folder()).unwrap() };
        let canary = bench.canary();
        fs::create_dir_all(canary.join("dir")).unwrap();
        fs::set_permissions(canary.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        fs::write(canary.join("secret"), "secret").unwrap();
        fs::set_permissions(canary.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        bench
    }

    fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Names, kinds, modes, link counts, times and contents of the canary.
    fn look(&self) -> Vec<String> {
        let mut all: Vec<String> = walk(&self.canary())
            .into_iter()
            .map(|path| {
                let data = fs::symlink_metadata(&path).unwrap();
                let content = fs::read(&path).unwrap_or_default();
                let (mode, links, uid) = (data.mode(), data.nlink(), data.uid());
                format!("{} {mode:o} {links} {uid} {} {content:?}", path.display(), data.mtime())
            })
            .collect();
        all.sort();
        all
    }

    fn mydocker(&self, words: &[&str]) -> Done {
        let root = self.root().display().to_string();
        self.engine.run(["--root", &root].iter().chain(words))
    }

    fn load(&self, bytes: &[u8]) -> Done {
        let path = self.dir.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        self.mydocker(&["load", "-i", path.to_str().unwrap()])
    }

    /// What is in the store: nothing but the empty layout, if all is well after a refusal.
    fn stored(&self) -> Vec<PathBuf> {
        let folders = [self.root().join("images/blobs/sha256"), self.root().join("layers"), self.root().join("tmp")];
        let all = folders.iter().flat_map(|folder| walk(folder).into_iter().skip(1));
        all.filter(|path| !path.ends_with(".lock")).collect()
    }

    /// Runs `script` in the merged tree of the image, as the kernel's overlay shows it.
    fn check(&self, script: &str) -> Output {
        let inspect = self.mydocker(&[
            "image",
            "inspect",
            "-f",
            "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}",
            "case",
        ]);
        let lower = inspect.stdout.trim().trim_end_matches(':').to_string();
        let merged = self.dir.path().join("merged");
        fs::create_dir_all(&merged).unwrap();
        let empty = self.dir.path().join("empty");
        fs::create_dir_all(&empty).unwrap();
        // A single lower layer needs a second one.
        let shell = "mount -t overlay overlay -o lowerdir=$LOWER:$EMPTY $MERGED && cd $MERGED && eval \"$SCRIPT\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", shell]);
        command.env("LOWER", lower).env("EMPTY", empty).env("MERGED", merged).env("SCRIPT", script);
        command.output().unwrap()
    }
}

fn walk(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    if fs::symlink_metadata(path).is_ok_and(|data| data.is_dir()) {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| all.extend(walk(entry)));
    }
    all
}

enum Expect {
    /// Refused, with these words in the one line of the error.
    Refused(&'static str),
    /// Loaded; this script succeeds in the merged tree.
    Legal(&'static str),
}
use Expect::{Legal, Refused};

/// `@` stands for the canary's path.
fn cases() -> Vec<(&'static str, Vec<Vec<Member>>, Expect)> {
    let long = |length| "n".repeat(length);
    let deep = "d/".repeat(2100);
    let vfs_cap = [1u8, 0, 0, 2, 10, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let one = |members: Vec<Member>| vec![members];
    vec![
        ("dotdot file", one(vec![file("../canary/new", "x")]), Refused("`..`")),
        ("dotdot inside", one(vec![dir("a"), file("a/../../../canary/new", "x")]), Refused("`..`")),
        (
            "dots in a name are a name",
            one(vec![file("..a", "x"), file("a../...", "y")]),
            Legal("test -f ..a -a -f a../..."),
        ),
        ("absolute file", one(vec![file("@/file", "x")]), Legal("test \"$(cat .@/file)\" = x")),
        ("dot slash file", one(vec![dir("./"), file("./a/./b", "x")]), Legal("test -f a/b")),
        (
            "link out, then through it",
            one(vec![link("out", "@"), file("out/file", "x")]),
            Legal("test -L out && test \"$(cat .@/file)\" = x"),
        ),
        (
            "relative link out, then through it",
            one(vec![link("out", "../../../../../../../../@"), file("out/new", "x")]),
            Legal("test -f .@/new"),
        ),
        (
            "link out, then onto it",
            one(vec![link("out", "@/file"), file("out", "x")]),
            Legal("test ! -L out && test \"$(cat out)\" = x"),
        ),
        (
            "link inside, then through it",
            one(vec![dir("real"), link("short", "real"), file("short/f", "x")]),
            Legal("test -L short -a -f real/f"),
        ),
        (
            "chain of links out",
            one(vec![link("a", "b"), link("b", "/c"), link("c", "@"), file("a/new", "x")]),
            Legal("test -f .@/new"),
        ),
        (
            "loop of links",
            one(vec![link("a", "b"), link("b", "a"), file("a/x", "x")]),
            Refused("oo many symbolic links"),
        ),
        ("hard link out", one(vec![hard("passwd", "../canary/secret")]), Refused("`..`")),
        ("absolute hard link out", one(vec![hard("stolen", "@/secret")]), Refused("does not exist")),
        (
            "hard link through a link out",
            one(vec![link("out", "@"), hard("stolen", "out/secret")]),
            Refused("does not exist"),
        ),
        (
            "hard link to a link out, then through it",
            one(vec![link("l", "@/file"), hard("h", "l"), file("h", "x")]),
            Legal("test -L l && test ! -L h && test \"$(cat h)\" = x"),
        ),
        (
            "hard link inside",
            one(vec![file("a", "x"), hard("b", "a"), hard("c", "/a")]),
            Legal("test \"$(stat -c %h c)\" = 3"),
        ),
        ("hard link to itself", one(vec![file("a", "x"), hard("a", "./a")]), Legal("test \"$(cat a)\" = x")),
        ("hard link to a folder", one(vec![dir("d"), hard("h", "d")]), Refused("folder")),
        ("hard link to what comes later", one(vec![hard("b", "a"), file("a", "x")]), Refused("does not exist")),
        (
            "hard link to a lower layer's file",
            vec![vec![file("a", "x")], vec![hard("b", "a")]],
            Legal("test \"$(cat b)\" = x"),
        ),
        ("whiteout of the parent", one(vec![file(".wh...", "")]), Refused("whiteout of `..`")),
        ("whiteout of the folder itself", one(vec![dir("a"), file("a/.wh..", "")]), Refused("whiteout of `.`")),
        ("whiteout of nothing", one(vec![file(".wh.", "")]), Refused("whiteout of ``")),
        (
            "whiteout through a link out",
            one(vec![link("out", "@"), file("out/.wh.file", "")]),
            Legal("test ! -e .@/file"),
        ),
        ("something in a whiteout", one(vec![file(".wh.a/b", "x")]), Refused("whiteout")),
        ("whiteout", vec![vec![file("a", "x"), file("b", "x")], vec![file(".wh.a", "")]], Legal("test ! -e a -a -e b")),
        (
            "whiteout and file of one layer",
            vec![vec![file("a", "old")], vec![file("a", "new"), file(".wh.a", "")]],
            Legal("test \"$(cat a)\" = new"),
        ),
        (
            "whiteout, then a folder",
            vec![vec![dir("a"), file("a/old", "x")], vec![file(".wh.a", ""), dir("a"), file("a/new", "x")]],
            Legal("test ! -e a/old -a -e a/new"),
        ),
        (
            "opaque folder",
            vec![vec![dir("a"), file("a/old", "x")], vec![dir("a"), file("a/.wh..wh..opq", ""), file("a/new", "x")]],
            Legal("test ! -e a/old -a -e a/new"),
        ),
        (
            "opaque after its content",
            vec![vec![dir("a"), file("a/old", "x")], vec![dir("a"), file("a/new", "x"), file("a/.wh..wh..opq", "")]],
            Legal("test ! -e a/old -a -e a/new"),
        ),
        (
            "aufs's bookkeeping",
            one(vec![dir(".wh..wh.plnk"), file(".wh..wh.aufs", ""), file("a", "x")]),
            Legal("test -e a && test ! -e .wh..wh.aufs"),
        ),
        (
            "overlay's own attribute on a folder",
            vec![
                vec![dir("secret"), file("secret/s", "x")],
                vec![dir("mine").pax("SCHILY.xattr.trusted.overlay.redirect", b"/secret")],
            ],
            Legal("test ! -e mine/s"),
        ),
        (
            "overlay's opaque attribute",
            vec![vec![dir("a"), file("a/old", "x")], vec![dir("a").pax("SCHILY.xattr.trusted.overlay.opaque", b"y")]],
            Legal("test -e a/old"),
        ),
        (
            "a user attribute",
            one(vec![file("a", "x").pax("SCHILY.xattr.user.k", b"v\n\0w")]),
            Legal("test \"$(getfattr -n user.k -e hex --only-values a | od -An -tx1)\" = ' 76 0a 00 77'"),
        ),
        (
            "a file capability",
            one(vec![file("a", "x").mode(0o755).pax("SCHILY.xattr.security.capability", &vfs_cap)]),
            Legal("getfattr -n security.capability a"),
        ),
        ("a device 0:0", one(vec![node(b'3', "a", (0, 0))]), Refused("0:0")),
        ("a block device 0:0", one(vec![node(b'4', "a", (0, 0))]), Refused("0:0")),
        (
            "a device",
            one(vec![node(b'3', "null", (1, 3)), node(b'4', "disk", (7, 0))]),
            Legal("test -c null -a -b disk"),
        ),
        (
            "FIFO over passwd",
            one(vec![dir("etc"), file("etc/passwd", "x"), node(b'6', "etc/passwd", (0, 0))]),
            Legal("test -p etc/passwd"),
        ),
        (
            "device through a link out",
            one(vec![link("out", "@"), node(b'3', "out/dev", (1, 3))]),
            Legal("test -c .@/dev"),
        ),
        (
            "folder onto a link out",
            one(vec![link("out", "@"), dir("out").mode(0o777), file("out/new", "x")]),
            Legal("test ! -L out -a -f out/new"),
        ),
        (
            "link onto a folder",
            one(vec![dir("d"), file("d/f", "x"), link("d", "@"), file("d/new", "x")]),
            Legal("test -L d -a -f .@/new"),
        ),
        ("file onto a folder", one(vec![dir("d"), file("d/f", "x"), file("d", "y")]), Legal("test -f d")),
        ("folder onto a file", vec![vec![file("a", "x")], vec![dir("a"), file("a/b", "y")]], Legal("test -f a/b")),
        ("file as a parent", one(vec![file("a", "x"), file("a/b", "y")]), Refused("ot a directory")),
        (
            "link of the layer below on the way",
            vec![vec![dir("run"), dir("var"), link("var/run", "/run")], vec![file("var/run/x", "y")]],
            Legal("test -L var/run && test \"$(cat run/x)\" = y"),
        ),
        (
            "link out of the layer below on the way",
            vec![vec![link("out", "@")], vec![file("out/new", "x")]],
            Legal("test -L out -a -f .@/new"),
        ),
        (
            "folder of the layer below keeps its mode",
            vec![vec![dir("a").mode(0o700)], vec![file("a/b", "x")]],
            Legal("test \"$(stat -c %a a)\" = 700"),
        ),
        ("name of 255 bytes", one(vec![file(&long(255), "x")]), Legal("test \"$(ls | wc -c)\" = 256")),
        ("name of 256 bytes", one(vec![file(&long(256), "x")]), Refused("256 bytes")),
        ("path of 4200 bytes", one(vec![file(&deep, "x")]), Refused("bytes")),
        (
            "deep path",
            one(vec![file(&format!("{}f", "d/".repeat(1000)), "x")]),
            Legal("test \"$(find . -name f | wc -l)\" = 1"),
        ),
        ("link to 5000 bytes", one(vec![link("l", &long(5000))]), Refused("5000 bytes")),
        ("NUL in a name", one(vec![file("a", "x").pax("path", b"a\0b")]), Refused("NUL")),
        (
            "bytes that are no UTF-8",
            one(vec![Member { name: b"\xff\xfe".to_vec(), ..file("a", "x") }]),
            Legal("test -f \"$(printf '\\377\\376')\""),
        ),
        ("newline in a name", one(vec![file("a\nb", "x")]), Legal("test -f \"$(printf 'a\\nb')\"")),
        ("owner -1", one(vec![file("a", "x").pax("uid", b"4294967295")]), Refused("owner")),
        (
            "large owner",
            one(vec![file("a", "x").pax("uid", b"4294967294")]),
            Legal("test \"$(stat -c %u a)\" = 4294967294"),
        ),
        (
            "set-user-ID and sticky",
            one(vec![file("a", "x").mode(0o6755), dir("t").mode(0o1777)]),
            Legal("test \"$(stat -c %a a)$(stat -c %a t)\" = 67551777"),
        ),
        (
            "nanoseconds",
            one(vec![
                file("a", "x").pax("mtime", b"1700000000.123456789"),
                dir("d").pax("mtime", b"1.5"),
                file("d/x", ""),
            ]),
            Legal("test \"$(stat -c %.9Y a) $(stat -c %.9Y d)\" = '1700000000.123456789 1.500000000'"),
        ),
        (
            "sparse map that leaves the file",
            one(vec![
                file("a", "1\n0\n99999\n")
                    .pax("GNU.sparse.major", b"1")
                    .pax("GNU.sparse.minor", b"0")
                    .pax("GNU.sparse.realsize", b"10"),
            ]),
            Refused("sparse"),
        ),
        (
            "sparse file",
            one(vec![
                Member {
                    content: [format!("{:\0<512}", "1\n1048576\n3\n").into_bytes(), b"end".to_vec()].concat(),
                    ..file("a", "")
                }
                .pax("GNU.sparse.major", b"1")
                .pax("GNU.sparse.minor", b"0")
                .pax("GNU.sparse.realsize", b"9000000000")
                .pax("GNU.sparse.name", b"big"),
            ]),
            Legal(
                "test \"$(stat -c %s big)\" = 9000000000 && test \"$(stat -c %b big)\" -lt 100 && test \"$(dd if=big bs=1 skip=1048576 count=3 2>/dev/null)\" = end",
            ),
        ),
        ("claimed size", one(vec![file("a", "x").pax("size", b"9223372036854775807")]), Refused("")),
        ("unknown type", one(vec![member(b'V', "a")]), Refused("unknown type")),
        ("entry for the root", one(vec![dir("./").mode(0o711), file("a", "x")]), Legal("test -f a")),
        ("hard link as the root", one(vec![hard("./", "a")]), Legal("true")),
    ]
}

#[test]
fn hostile_layers_are_harmless_and_their_twins_work() {
    let Some(engine) = Engine::open() else { return };
    let table = cases();
    assert!(table.len() > 60);
    let mut failures = Vec::new();
    for (name, layers, expect) in table {
        let bench = Bench::new(&engine);
        let canary = bench.canary().display().to_string();
        let place = |text: &[u8]| String::from_utf8_lossy(text).replace('@', &canary).into_bytes();
        let plain = |text: &[u8]| if text.contains(&b'@') { place(text) } else { text.to_vec() };
        let layers: Vec<Vec<Member>> = layers
            .into_iter()
            .map(|layer| {
                let put = |one: Member| Member { name: plain(&one.name), link: plain(&one.link), ..one };
                layer.into_iter().map(put).collect()
            })
            .collect();
        let before = bench.look();
        let Done { status, stderr, took, .. } = bench.load(&image(&layers));
        let mut wrong = |what: String| failures.push(format!("{name}: {what}"));
        if bench.look() != before {
            wrong(format!("the canary was touched: {before:?} {:?}", bench.look()));
        }
        if took > crate::support::slow(Duration::from_secs(5)) {
            wrong(format!("took {took:?}"));
        }
        if stderr.contains("panicked") {
            wrong(stderr.clone());
        }
        match expect {
            Refused(words) => {
                if status != 1 || !stderr.contains(words) || stderr.lines().count() != 1 {
                    wrong(format!("{status} with {stderr:?}, not {words:?}"));
                }
                if !bench.stored().is_empty() {
                    wrong(format!("left {:?}", bench.stored()));
                }
            }
            Legal(script) => {
                let check = bench.check(&script.replace('@', &canary));
                if status != 0 || !check.status.success() {
                    wrong(format!("{stderr}{}", String::from_utf8_lossy(&check.stderr)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of the cases fail:\n{}", failures.len(), failures.join("\n"));
}

/// GNU tar with `-P` believes every name, as a naive extractor does: the same archives hit the canary.
#[test]
fn the_attacks_are_attacks() {
    let Some(engine) = Engine::open() else { return };
    for (name, layers, _) in cases() {
        if !["dotdot file", "absolute file", "link out, then through it", "device through a link out"].contains(&name) {
            continue;
        }
        let bench = Bench::new(&engine);
        let canary = bench.canary().display().to_string();
        let put = |one: &Member| {
            let place = |text: &[u8]| String::from_utf8_lossy(text).replace('@', &canary).into_bytes();
            Member { name: place(&one.name), link: place(&one.link), ..one.clone() }
        };
        let naive = bench.dir.path().join("naive");
        fs::create_dir(&naive).unwrap();
        let path = bench.dir.path().join("layer.tar");
        fs::write(&path, archive(&layers[0].iter().map(put).collect::<Vec<_>>())).unwrap();
        let before = bench.look();
        let tar = Command::new("tar").arg("-Pxf").arg(&path).arg("-C").arg(&naive).output().unwrap();
        assert_ne!(bench.look(), before, "{name}: tar -P did not hit the canary: {tar:?}");
    }
}
