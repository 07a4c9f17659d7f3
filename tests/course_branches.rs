//! `scripts/chapters branches|start|diff|solution`: each chapter as a branch, made from HEAD alone, the same at every
//! run, and nothing of a student's is touched. That every branch builds and passes is `scripts/chapters matrix`.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::skip;

/// A repository of its own with what stands in this work tree; `None`: this machine cannot.
struct Copy {
    _folder: tempfile::TempDir,
    repo: PathBuf,
}

fn run(at: &Path, line: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-ec", line]).current_dir(at);
    for (name, value) in [("NAME", "a student"), ("EMAIL", "student@example.invalid")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

impl Copy {
    fn make() -> Option<Self> {
        let ready = "command -v git cargo python3 tar && git rev-parse --git-dir";
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !run(here, ready).status.success() {
            skip("needs git, cargo, python3 and tar, and a work tree of git");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("mydocker");
        let line = format!(
            "mkdir {repo}; git ls-files -co --exclude-standard -z | tar --null --ignore-failed-read -T - -c 2>/dev/null \
             | tar -x -C {repo}; cd {repo}; git init -q -b main; git add -A; git commit -q -m everything",
            repo = repo.display()
        );
        let made = run(here, &line);
        assert!(made.status.success(), "{}", said(&made));
        Some(Self { _folder: folder, repo })
    }

    /// It must succeed: what it says.
    fn sh(&self, line: &str) -> String {
        let output = run(&self.repo, line);
        assert!(output.status.success(), "{line}: {}", said(&output));
        said(&output).trim().to_string()
    }

    fn branches(&self) -> Vec<(String, String)> {
        let text = self.sh("git for-each-ref --format='%(refname:short) %(objectname)' 'refs/heads/ch*'");
        text.lines().map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }
}

#[test]
fn a_branch_for_each_chapter() {
    let Some(copy) = Copy::make() else { return };
    copy.sh("echo mine > untracked; echo '# mine' >> README.md; git add README.md");
    let state = "git status --porcelain; git rev-parse HEAD; git diff --cached | sha256sum";
    let before = copy.sh(state);
    let told = copy.sh("scripts/chapters branches");
    assert_eq!(copy.sh(state), before, "the work tree or the index was touched");
    let made = copy.branches();
    let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
    let expected: Vec<String> = (0..10)
        .flat_map(|n| [Some(format!("ch{n:02}")), (n > 0).then(|| format!("ch{n:02}-start"))])
        .flatten()
        .collect();
    assert_eq!(names, expected);
    lessons(&copy);
    // What a student has before him, in lines of Rust without tests; not more, unless somebody means it.
    for (branch, most) in [("ch01", 5400), ("ch02", 7100), ("ch03", 8600), ("ch05", 12400), ("ch07", 24000)] {
        let line = told.lines().find(|line| line.starts_with(&format!("{branch} "))).unwrap();
        let lines: usize = line.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(lines <= most, "{line}: more than {most}");
    }
    // The marks are the branch maker's, and so are files that a chapter does not need yet.
    assert_eq!(copy.sh("git grep -lE '// (before )?ch[0-9]' ch01 -- src || true"), "");
    assert_eq!(copy.sh("git ls-tree -r --name-only ch01 src/container src/network src/engine/monitor.rs"), "");

    // What a student has written on a branch, or works on, stays; the others are the same ones at the second run.
    let tree = copy.sh("git commit-tree ch03-start^{tree} -p ch03-start -m mine");
    copy.sh(&format!("git update-ref refs/heads/ch03-start {tree}; git update-ref -d refs/heads/ch08"));
    let mine = copy.sh("git rev-parse ch03-start");
    let start = copy.sh("scripts/chapters start 5");
    let folder = copy.repo.with_file_name("mydocker-ch05");
    assert!(start.contains("my-ch05") && folder.join("chapters/05-volumes/README.md").exists(), "{start}");
    std::fs::write(folder.join("notes"), "mine").unwrap();
    let again = run(&copy.repo, "scripts/chapters start 5");
    assert!(again.status.code() == Some(2) && said(&again).contains("there already"), "{}", said(&again));
    let second = run(&copy.repo, "scripts/chapters branches");
    assert!(second.status.code() == Some(1) && said(&second).contains("LEFT ALONE"), "{}", said(&second));
    assert_eq!(copy.sh("git rev-parse ch03-start"), mine, "somebody's commit was moved");
    assert_eq!(std::fs::read_to_string(folder.join("notes")).unwrap(), "mine");
    let others =
        |all: Vec<(String, String)>| all.into_iter().filter(|(name, _)| name != "ch03-start").collect::<Vec<_>>();
    assert_eq!(others(copy.branches()), others(made), "the same HEAD, and other ids");
    assert_eq!(copy.sh(state), before);
}

/// `git diff ch04 ch05` is chapter 05: its page, its checks, its room, and little else.
fn lessons(copy: &Copy) {
    for (chapter, rooms, most) in [
        // A cgroup says in an attribute whose it is.
        (2, &["src/cgroup/", "src/plan/undo.rs", "src/sys/xattr.rs"][..], 3000),
        (3, &["src/rootfs/", "src/security.rs", "src/sys/"], 2500),
        // An image may have deleted its passwd in a layer.
        (4, &["src/layers/", "src/tree/", "src/sys/xattr.rs", "src/process/user.rs"], 1500),
        // Its tables tell sizes and ages; that a volume was made is told, too.
        (5, &["src/volume/", "src/cli/", "src/container/duration.rs", "src/container/events.rs"], 2500),
        // `cp` unpacks what comes in.
        (8, &["src/engine/", "src/cli/", "src/cgroup/stats.rs", "src/image/", "src/tree/sink.rs"], 1500),
        // Their undos are the plan's.
        (
            9,
            &["src/network/", "src/cli/", "src/sys/", "src/plan/undo", "src/plan/iptables.rs", "src/engine/operate.rs"],
            7000,
        ),
    ] {
        let (one, other) = (format!("ch{:02}", chapter - 1), format!("ch{chapter:02}"));
        let (mut added, mut strange) = (0, Vec::new());
        for line in copy.sh(&format!("git diff --numstat {one} {other}")).lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let (plus, path) = (fields[0].parse::<usize>().unwrap_or(0), fields[2]);
            let own = path.starts_with(&format!("chapters/{chapter:02}-")) || path.ends_with(&format!("{other}.rs"));
            let room = rooms.iter().any(|room| path.starts_with(room));
            // The doors: which rooms there are, which crates they need, which checks are asked.
            let door = [
                "Cargo.toml",
                "Cargo.lock",
                "src/lib.rs",
                "src/main.rs",
                "tests/chapters.rs",
                "tests/chapters/check.rs",
            ]
            .contains(&path)
                || path.ends_with("/mod.rs");
            added += if path.starts_with("src/") { plus } else { 0 };
            if !own && !room && !door {
                strange.push(path.to_string());
            }
        }
        assert!(strange.is_empty() && added <= most, "git diff {one} {other}: {added} lines of Rust; {strange:?}");
    }
    assert!(copy.sh("scripts/chapters diff 5").contains("src/volume/store.rs"));
    assert!(copy.sh("scripts/chapters diff 5 --all").contains("cli::VOLUME"));
    let solution = copy.sh("scripts/chapters solution 5");
    assert!(solution.contains("const ROOMS") && solution.contains("src/volume/store.rs"), "{solution}");
}
