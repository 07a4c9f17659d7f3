//! The same images in other hands: docker (a daemon of the test's own, in its own network and mounts) loads what we
//! save and we load what it saves; random trees with random changes come out of `commit` as they went in, and as docker
//! shows them.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Engine, skip, tree};

/// A docker daemon under the test's folder.
struct Docker {
    daemon: Child,
    socket: String,
}

impl Docker {
    fn start(engine: &Engine) -> Option<Self> {
        let folder = engine.path("docker");
        fs::create_dir_all(&folder).unwrap();
        let at = |name: &str| folder.join(name).display().to_string();
        let socket = format!("unix://{}", at("sock"));
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "-p", &at("pid"), "-H", &socket]);
        command.args(["--iptables=false", "--ip6tables=false"]).stdin(Stdio::null());
        let Ok(daemon) = command.stdout(log.try_clone().unwrap()).stderr(log).spawn() else {
            skip("docker is not installed");
            return None;
        };
        let mut docker = Docker { daemon, socket };
        let since = Instant::now();
        while !docker.run(&["version"]).status.success() {
            if docker.daemon.try_wait().unwrap().is_some() || since.elapsed() > Duration::from_secs(60) {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                skip(&format!("dockerd does not start: {}", log.lines().last().unwrap_or_default()));
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(docker)
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new("docker").args(["-H", &self.socket]).args(words).output().unwrap()
    }

    fn output(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// What a container sees of /d: kind, mode, owner, size, number of names, device, where links lead, content. No times: what a
/// command makes now is made at another moment in the other engine.
const LISTING: &str = r#"find /d | sort | while read -r f; do
    stat -c '%n %f %u:%g %t:%T %N' "$f"; [ -L "$f" ] || [ ! -f "$f" ] || { stat -c '%s %h' "$f"; md5sum < "$f"; }; done"#;

/// A source of numbers that gives the same ones for the same seed (Numerical Recipes' generator).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "c", "dir", "x y", ".hidden"];
        let depth = 1 + self.below(3);
        let parts: Vec<&str> = (0..depth).map(|_| names[self.below(names.len() as u64) as usize]).collect();
        format!("'/d/{}'", parts.join("/"))
    }

    /// A shell line that changes something, if it can.
    fn change(&mut self) -> String {
        let (a, b) = (self.path(), self.path());
        let number = self.below(100_000);
        match self.below(15) {
            0..=2 => format!("mkdir -p {a}"),
            3 | 4 => format!("[ -p {a} ] || {{ mkdir -p \"$(dirname {a})\" && echo {number} > {a}; }}"),
            5 => format!("rm -rf {a}"),
            // What stood below must not shine through.
            6 => format!("rm -rf {a} && mkdir -p {a} && echo {number} > {a}/new"),
            7 => format!("rm -rf {a} && mkdir -p \"$(dirname {a})\" && echo {number} > {a}"),
            8 => format!("mv {a} {b}"),
            9 => format!("ln {a} {b}"),
            10 => format!("ln -sfn {b} {a}"),
            11 => format!("chmod {:o} {a}", [0o700, 0o644, 0o4755, 0o1777, 0o000][number as usize % 5]),
            12 => format!("chown -h {}:{} {a}", number % 70_000, number % 300),
            13 => format!("mkfifo {a} || mknod {b} c 1 {}", 3 + number % 6),
            // A write into a FIFO would wait for a reader.
            _ => format!(
                "[ -p {a} ] || echo more >> {a}; [ -p {b} ] || dd if=/dev/zero of={b} bs=1 seek={} count=1",
                number * 7
            ),
        }
    }

    fn script(&mut self) -> String {
        let lines: Vec<String> = (0..25).map(|_| format!("{{ {}; }} 2>/dev/null", self.change())).collect();
        format!("mkdir -p /d\n{}\ntrue", lines.join("\n"))
    }
}

/// What the engine has made for its mounts is no change of the container's.
fn without_mounts(lines: Vec<String>) -> Vec<String> {
    let ours = ["dev ", "proc ", "sys ", "etc/hosts ", "etc/hostname ", "etc/resolv.conf "];
    lines.into_iter().filter(|line| !ours.iter().any(|name| line.starts_with(name))).collect()
}

/// The container's own view, looked at by the kernel's overlay (or as the copy that it is), against the image's.
#[test]
fn random_trees_survive_commit_whichever_the_driver() {
    let Some(engine) = Engine::keeping() else { return };
    for seed in 1..=4 {
        let driver = if seed % 2 == 0 { "vfs" } else { "overlay" };
        let mut random = Random(seed);
        let mut image = "busybox".to_string();
        for round in 1..=3 {
            let (name, next) = (format!("cc-{seed}-{round}"), format!("random:{seed}-{round}"));
            let script = random.script();
            engine.output(["run", "--name", &name, "--storage-driver", driver, &image, "sh", "-c", &script]);
            let folder = tree::container(&engine, &name);
            let truth = match driver {
                "vfs" => tree::listing(&folder.join("tree")),
                _ => {
                    let mut trees = tree::layers(&engine, &image);
                    trees.push(folder.join("upper"));
                    tree::merged(&engine, &trees)
                }
            };
            engine.output(["commit", &name, &next]);
            engine.output(["rm", &name]);
            let what = format!("seed {seed}, round {round}, {driver}:\n{script}\n");
            tree::same(&what, &without_mounts(tree::image(&engine, &next)), &without_mounts(truth));
            image = next;
        }
        // The layers in an archive, and in another store.
        let (archive, other) = (engine.text("random.tar"), engine.text("other"));
        engine.output(["save", "-o", &archive, &image]);
        engine.output(["--root", &other, "load", "-i", &archive]);
        let there: Vec<PathBuf> = tree::layers(&engine, &image)
            .iter()
            .map(|path| PathBuf::from(&other).join(path.strip_prefix(engine.root()).unwrap()))
            .collect();
        tree::same("loaded elsewhere", &tree::merged(&engine, &there), &tree::image(&engine, &image));
    }
}

#[test]
fn random_trees_are_what_docker_makes_of_them() {
    let Some(mut engine) = Engine::keeping() else { return };
    engine.limit = Duration::from_secs(60);
    let Some(docker) = Docker::start(&engine) else { return };
    let archive = engine.text("image.tar");
    engine.output(["run", "--rm", "busybox", "true"]);
    engine.output(["save", "-o", &archive, "busybox"]);
    docker.output(&["load", "-i", &archive]);
    // Our grammar of names is docker's.
    for (name, good) in [
        ("UPPER/x", false),
        ("UPPER.org/x", true),
        ("x/UPPER", false),
        ("a//b", false),
        ("a.b/c:1", true),
        ("-x", false),
    ] {
        assert_eq!(docker.run(&["tag", "--", "busybox", name]).status.success(), good, "docker: {name}");
        assert_eq!(engine.run(["tag", "--", "busybox", name]).status == 0, good, "{name}");
    }
    let id = |text: String| text.trim().to_string();
    assert_eq!(
        id(docker.output(&["images", "-q", "--no-trunc", "busybox"])),
        id(engine.output(["images", "-q", "--no-trunc", "busybox"]))
    );
    for seed in 11..=12 {
        let mut random = Random(seed);
        let mut image = "busybox".to_string();
        let mut scripts = String::new();
        for round in 1..=3 {
            let next = format!("random:{seed}-{round}");
            let script = random.script();
            scripts += &script;
            engine.output(["run", "--name", "cc", &image, "sh", "-c", &script]);
            engine.output(["commit", "cc", &next]);
            engine.output(["rm", "cc"]);
            docker.output(&["run", "--net", "none", "--name", "cc", &image, "sh", "-c", &script]);
            docker.output(&["commit", "cc", &next]);
            docker.output(&["rm", "cc"]);
            image = next;
        }
        let lines = |text: String| -> Vec<String> { text.lines().map(str::to_string).collect() };
        let list = ["sh", "-c", LISTING];
        let ours = lines(engine.output(["run", "--rm", &image].iter().chain(&list)));
        let ask = |image: &str| {
            let words: Vec<&str> = ["run", "--rm", "--net", "none", image].into_iter().chain(list).collect();
            lines(docker.output(&words))
        };
        let theirs = ask(&image);
        assert!(ours.len() > 5, "{ours:?}");
        tree::same(&format!("seed {seed}, ours and docker's:\n{scripts}"), &ours, &theirs);

        // save → docker load → docker run.
        engine.output(["save", "-o", &archive, &image]);
        docker.output(&["load", "-i", &archive]);
        tree::same(&format!("seed {seed}, saved, in docker"), &ask(&image), &ours);
        // docker save → load → run, of what docker itself has committed on top.
        docker.output(&["run", "--net", "none", "--name", "dd", &image, "sh", "-c", &random.script()]);
        docker.output(&["commit", "dd", "top:1"]);
        docker.output(&["rm", "dd"]);
        docker.output(&["save", "-o", &archive, "top:1"]);
        engine.output(["load", "-i", &archive]);
        let back = lines(engine.output(["run", "--rm", "top:1"].iter().chain(&list)));
        tree::same(&format!("seed {seed}, docker's, here"), &back, &ask("top:1"));
        assert_eq!(
            id(docker.output(&["images", "-q", "--no-trunc", "top:1"])),
            id(engine.output(["images", "-q", "--no-trunc", "top:1"]))
        );
    }
    // docker export → import.
    docker.output(&["create", "--name", "ee", "top:1", "true"]);
    let flat = engine.text("flat.tar");
    docker.output(&["export", "-o", &flat, "ee"]);
    engine.output(["import", &flat, "flat:1"]);
    let ours = engine.output(["run", "--rm", "flat:1", "sh", "-c", LISTING]);
    assert_eq!(ours, engine.output(["run", "--rm", "top:1", "sh", "-c", LISTING]));
}
