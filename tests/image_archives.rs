//! Archives that are damaged, lie about themselves, or swell, each beside what looks like it and is well. What is
//! refused is refused within five seconds, in one line that says what is wrong, and leaves the store as it was.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::archive::{Member, archive, dir, file, member, sha256};
use support::{Done, Engine, skip};

/// What is in a store, but for the locks.
fn stored(root: &std::path::Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for folder in ["images/blobs/sha256", "layers", "tmp"] {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten().map(|entry| entry.path());
        all.extend(entries.filter(|path| !path.ends_with(".lock")));
    }
    all
}

fn refused(name: &str, done: &Done, words: &str) -> Option<String> {
    let line = done.stderr.trim_end();
    let fine = done.status == 1
        && line.contains(words)
        && line.lines().count() == 1
        && line.len() < 600
        && done.took < crate::support::slow(Duration::from_secs(5));
    (!fine).then(|| format!("{name}: {} after {:?}, not `{words}`: {line}", done.status, done.took))
}

fn pack(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

fn layer() -> Vec<u8> {
    archive(&[dir("d"), file("d/f", "hello")])
}

fn put(name: &str, bytes: impl Into<Vec<u8>>) -> Member {
    Member { content: bytes.into(), ..file(name, "") }
}

const GOOD: &str = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[DIFF]}}"#;

/// docker's archive with this config (`DIFF` is the layer's digest), these tags and this list of layers.
fn docker(config: &str, tags: &str, layers: &str) -> Vec<u8> {
    let config = config.replace("DIFF", &format!("\"sha256:{}\"", sha256(&layer())));
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":[{tags}],"Layers":[{layers}]}}]"#);
    archive(&[put("config.json", config), put("manifest.json", manifest), put("l/layer.tar", layer())])
}

/// An OCI archive; `bend` may change its documents before they are hashed: config, manifest, index.
fn oci(bend: impl Fn(&str, String) -> String) -> Vec<u8> {
    let layer = layer();
    let digest = sha256(&layer);
    let config = bend("config", GOOD.replace("DIFF", &format!("\"sha256:{digest}\"")));
    let size = layer.len();
    let manifest = bend(
        "manifest",
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{digest}","size":{size}}}]}}"#,
            sha256(config.as_bytes()),
            config.len(),
        ),
    );
    let index = bend(
        "index",
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"case:latest"}}}}]}}"#,
            sha256(manifest.as_bytes()),
            manifest.len(),
        ),
    );
    let blob = |bytes: &[u8]| put(&format!("blobs/sha256/{}", sha256(bytes)), bytes);
    let blobs = [blob(&layer), blob(config.as_bytes()), blob(manifest.as_bytes())];
    let rest = [put("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), put("index.json", index)];
    archive(&blobs.into_iter().chain(rest).collect::<Vec<_>>())
}

/// docker's archive before 1.10: two layers, the upper one's `json` names the lower one.
fn old(parent_of_lower: &str) -> Vec<u8> {
    let upper = archive(&[file("d/g", "upper")]);
    archive(&[
        put("repositories", r#"{"case":{"latest":"bbbb"}}"#),
        put("aaaa/json", format!(r#"{{"id":"aaaa","parent":"{parent_of_lower}","created":"2015-01-01T00:00:00Z"}}"#)),
        put("aaaa/VERSION", "1.0"),
        put("aaaa/layer.tar", layer()),
        put(
            "bbbb/json",
            r#"{"id":"bbbb","parent":"aaaa","created":"2015-01-02T00:00:00Z","architecture":"amd64","os":"linux",
            "config":{"Cmd":["cat","/d/f"],"Env":["A=b"]},"container_config":{"Cmd":["/bin/sh","-c","made it"]}}"#,
        ),
        put("bbbb/layer.tar", upper),
    ])
}

/// What an archive is named in the table; its bytes; the words of the refusal, or nothing if it is to be loaded.
fn cases() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let good = docker(GOOD, r#""case:latest""#, r#""l/layer.tar""#);
    let cut = |at: usize| good[..at].to_vec();
    let mut flipped = good.clone();
    let at = flipped.windows(5).position(|part| part == b"hello").unwrap();
    flipped[at] ^= 1;
    let gzip = pack("gzip", &good);
    let mut bad_gzip = gzip.clone();
    let middle = bad_gzip.len() / 2;
    bad_gzip[middle] ^= 0x55;
    let members = [pack("gzip", &good[..1000]), pack("gzip", &good[1000..])].concat();
    let tags = |tag: &str| docker(GOOD, &format!("\"{tag}\""), r#""l/layer.tar""#);
    let config = |config: &str| docker(config, r#""case:latest""#, r#""l/layer.tar""#);
    let text = |name: &str, bytes: &str| archive(&[put(name, bytes)]);
    let swap = |what: &'static str, from: &'static str, to: &'static str| {
        oci(move |name, text| if name == what { text.replacen(from, to, 1) } else { text })
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut table = vec![
        ("docker's", good.clone(), None),
        ("empty", vec![], Some("empty")),
        ("garbage", vec![0x5a; 4096], Some("not a tar archive")),
        ("zeros", vec![0; 10240], Some("neither")),
        ("cut in a document", cut(600), Some("truncated")),
        ("cut in a header", cut(1100), Some("truncated")),
        ("cut in a layer", cut(good.len() - 1024 - 600), Some("truncated")),
        ("without the two blocks at the end", cut(good.len() - 1024), None),
        ("a bit", flipped, Some("wrong diff id")),
        ("two archives, one after the other", [good.clone(), good.clone()].concat(), None),
        ("an archive and garbage", [good.clone(), vec![0x5a; 3000]].concat(), None),
        ("gzip", gzip.clone(), None),
        ("gzip, several members", members, None),
        ("gzip, cut", gzip[..gzip.len() - 20].to_vec(), Some("inflate")),
        ("gzip, damaged", bad_gzip, Some("inflate")),
        ("gzip of nothing", pack("gzip", b""), Some("neither")),
        ("xz", [b"\xfd7zXZ\0".to_vec(), vec![0; 100]].concat(), Some("xz")),
        ("bzip2", [b"BZh9".to_vec(), vec![0; 100]].concat(), Some("bzip2")),
        ("no documents", layer(), Some("no `manifest.json`")),
        ("manifest.json is none", text("manifest.json", "{}"), Some("manifest.json")),
        ("manifest.json is cut", text("manifest.json", r#"[{"Config":"#), Some("manifest.json")),
        ("manifest.json is deep", text("manifest.json", &deep), Some("manifest.json")),
        ("manifest.json is huge", text("manifest.json", &" ".repeat(17 << 20)), Some("bytes long")),
        ("manifest.json of nothing", text("manifest.json", "[]"), None),
        ("no config", text("manifest.json", r#"[{"Config":"x.json","Layers":[]}]"#), Some("no `x.json`")),
        ("config outside", text("manifest.json", r#"[{"Config":"../../etc/passwd"}]"#), Some("no `../../etc/passwd`")),
        ("config without rootfs", config(r#"{"architecture":"amd64","os":"linux"}"#), Some("config")),
        ("config of another type", config(&GOOD.replace("\"layers\"", "\"base\"")), Some("rootfs.type")),
        ("config of no layer", config(&GOOD.replace("DIFF", "")), Some("0 layers")),
        ("config of two layers", config(&GOOD.replace("DIFF", "DIFF,DIFF")), Some("2 layers")),
        (
            "diff id of another layer",
            config(&GOOD.replace("DIFF", &format!("\"sha256:{}\"", "0".repeat(64)))),
            Some("wrong diff id"),
        ),
        ("diff id that is none", config(&GOOD.replace("DIFF", "\"../../x\"")), Some("config")),
        ("layer that is not there", docker(GOOD, r#""case:latest""#, r#""m/layer.tar""#), Some("no `m/layer.tar`")),
        ("another machine", config(&GOOD.replace("amd64", "s390x")), None),
        ("upper case", tags("UPPER/x"), Some("must be lowercase")),
        ("a host in upper case", tags("UPPER.org/x"), None),
        ("two slashes", tags("a//b"), Some("invalid reference")),
        ("too long", tags(&"a".repeat(300)), Some("255")),
        ("bad tag", tags("a:b c"), Some("invalid reference")),
        ("dots", tags("../../etc"), Some("invalid reference")),
        (
            "config of another digest",
            {
                let config = GOOD.replace("DIFF", "");
                let name = format!("{}.json", "0".repeat(64));
                let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["case"],"Layers":[]}}]"#);
                archive(&[put(&name, config), put("manifest.json", manifest)])
            },
            Some("wrong digest"),
        ),
        ("OCI", oci(|_, text| text), None),
        ("OCI, manifest of another size", swap("index", "\"size\":", "\"size\":1"), Some("wrong size")),
        ("OCI, layer of another size", swap("manifest", "\"size\":2560}]", "\"size\":2559}]"), Some("wrong size")),
        (
            "OCI, layer that is not there",
            swap(
                "manifest",
                "[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:",
                "[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:0000",
            ),
            Some(""),
        ),
        (
            "OCI, digest that is a path",
            swap("index", "\"digest\":\"sha256:", "\"digest\":\"sha256:../../../"),
            Some(""),
        ),
        ("OCI, index of nothing", swap("index", "\"manifests\":[", "\"manifests\":[],\"x\":["), None),
        ("OCI, a name of another program", swap("index", "case:latest", "!!"), Some("reference")),
        ("before docker 1.10", old(""), None),
        ("before docker 1.10, its own parent", old("bbbb"), Some("more than 500 parents")),
        ("before docker 1.10, no parent", old("cccc"), Some("no `cccc/json`")),
        ("a socket's type", archive(&[member(b's', "x")]), Some("neither")),
    ];
    if Command::new("zstd").arg("--version").output().is_ok() {
        let zstd = pack("zstd", &good);
        table.push(("zstd, cut", zstd[..zstd.len() - 8].to_vec(), Some("inflate")));
        table.push(("zstd", zstd, None));
    }
    table
}

#[test]
fn bad_archives_are_refused_and_their_twins_are_loaded() {
    let Some(engine) = Engine::keeping() else { return };
    let (path, root) = (engine.text("case.tar"), engine.text("store"));
    let mut failures = Vec::new();
    for (name, bytes, expected) in cases() {
        fs::write(&path, &bytes).unwrap();
        // From a file and from a pipe.
        for words in [&["--root", &root, "load", "-i", &path][..], &["--root", &root, "load"]] {
            let mut command = engine.command(words);
            command.stdin(fs::File::open(&path).unwrap());
            let done = engine.finish(command);
            match expected {
                Some(words) => failures.extend(refused(name, &done, words)),
                None if done.status != 0 => failures.push(format!("{name}: {}", done.stderr)),
                None => {}
            }
            let left = stored(&PathBuf::from(&root));
            if expected.is_some() && !left.is_empty() {
                failures.push(format!("{name}: left {left:?}"));
            }
            fs::remove_dir_all(&root).unwrap();
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn an_archive_of_old_becomes_the_same_image() {
    let Some(engine) = Engine::keeping() else { return };
    let path = engine.text("old.tar");
    fs::write(&path, old("")).unwrap();
    assert_eq!(engine.output(["load", "-i", &path]), "Loaded image: case:latest\n");
    let words = "{{.Config.Cmd}} {{.Config.Env}} {{.Created}} {{len .RootFS.Layers}}";
    assert_eq!(engine.output(["image", "inspect", "-f", words, "case"]), "[cat /d/f] [A=b] 2015-01-02T00:00:00Z 2\n");
    assert!(engine.output(["history", "--no-trunc", "case"]).contains("/bin/sh -c made it"));
}

/// An image for another machine is loaded, as docker loads it; a start warns.
#[test]
fn an_image_for_another_machine_is_told_of() {
    let Some(engine) = Engine::keeping() else { return };
    let path = engine.text("other.tar");
    fs::write(&path, docker(&GOOD.replace("amd64", "s390x"), r#""case:latest""#, r#""l/layer.tar""#)).unwrap();
    engine.output(["load", "-i", &path]);
    let done = engine.run(["run", "--rm", "case", "/d/f"]);
    assert!(done.stderr.contains("linux/s390x"), "{}", done.stderr);
}

/// Members of gzip may follow each other: ten megabytes of them are ten gigabytes of archive.
#[test]
fn a_bomb_goes_off_in_an_empty_room() {
    let Some(engine) = Engine::keeping() else { return };
    let small = engine.path("small");
    fs::create_dir(&small).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=44m", "tmpfs"];
    if !Command::new("mount").args(mount).arg(&small).status().unwrap().success() {
        return skip("no tmpfs can be mounted");
    }
    let root = small.join("root").display().to_string();
    let used = || nix::sys::statvfs::statvfs(&small).map(|stat| stat.blocks() - stat.blocks_free()).unwrap();
    engine.output(["--root", &root, "images"]);
    let before = used();
    let header = Member { content: vec![], ..file("big", "").pax("size", b"10737418240") };
    let mut bomb = pack("gzip", &archive(&[header])[..1536]);
    let part = pack("gzip", &vec![b'x'; 10 << 20]);
    (0..1024).for_each(|_| bomb.extend_from_slice(&part));
    assert!(bomb.len() < 11 << 20, "{}", bomb.len());
    let path = engine.text("bomb.tar.gz");
    fs::write(&path, &bomb).unwrap();
    // As a file system, as an archive of images, and as a layer in one.
    let inner = engine.text("inner.tar");
    let (config, manifest) = (
        GOOD.replace("DIFF", &format!("\"sha256:{}\"", "0".repeat(64))),
        r#"[{"Config":"config.json","RepoTags":["case"],"Layers":["l/layer.tar"]}]"#,
    );
    fs::write(&inner, archive(&[put("config.json", config), put("manifest.json", manifest), put("l/layer.tar", bomb)]))
        .unwrap();
    for words in [&["import", &path, "bomb"][..], &["load", "-i", &path], &["load", "-i", &inner]] {
        let done = engine.run(["--root", &root].iter().chain(words));
        if let Some(failure) = refused(words[0], &done, "no space left") {
            panic!("{failure}");
        }
        assert!(stored(&PathBuf::from(&root)).is_empty(), "{words:?}");
        assert!(used() <= before + 8, "{words:?}: {} blocks, {before} before", used());
    }
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
}

#[test]
fn what_import_reads_and_what_it_refuses() {
    let Some(engine) = Engine::keeping() else { return };
    let folder = engine.path("folder");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/f"), "content").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
    let done = engine.run(["import", "-m", "a note", "-c", "CMD [\"x\"]", folder.to_str().unwrap(), "folder:1"]);
    assert!(done.status == 0 && done.stderr.contains("socket"), "{}", done.stderr);
    drop(socket);
    let tree = &support::tree::layers(&engine, "folder:1")[0];
    assert!(tree.join("sub/f").is_file() && !tree.join("socket").exists());
    assert!(engine.output(["history", "folder:1"]).contains("a note"));
    let packed = pack("gzip", &layer());
    let done = engine.run_with_input(["import", "-", "piped:1"], &packed);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(support::tree::layers(&engine, "piped:1")[0].join("d/f").is_file());
    for (source, words) in [("/nosuch", "/nosuch"), ("/dev/null", "empty"), ("https://host/x.tar", "fetch it first")] {
        let done = engine.run(["import", source, "refused"]);
        assert!(done.status == 1 && done.stderr.contains(words), "{source}: {}", done.stderr);
    }
    for bad in ["UPPER/x", "a//b", "-x", "a:b:c", &"a".repeat(300), "a@sha256:00", ""] {
        let done = engine.run(["import", "--", folder.to_str().unwrap(), bad]);
        assert!(done.status == 1 && done.stderr.lines().count() == 1, "{bad}: {done:?}");
        let done = engine.run(["tag", "--", "folder:1", bad]);
        assert!(done.status == 1 && done.stderr.lines().count() == 1, "{bad}: {done:?}");
    }
    for bad in ["FROM x", "ENV", "NOSUCH 1", "EXPOSE x/y"] {
        let done = engine.run(["import", "-c", bad, folder.to_str().unwrap(), "refused"]);
        assert!(done.status == 1 && done.stderr.lines().count() == 1, "{bad}: {done:?}");
    }
    assert!(!engine.output(["images"]).contains("refused"));
}
