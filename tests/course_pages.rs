//! The pages of the course tell the truth: each command in them is run by that chapter's own program, translations keep
//! up, pictures are those of a real run. The work is done by `scripts/chapters`.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{examples, skip};

/// Runs `scripts/chapters words`; `None`: this machine has no Python.
fn chapters(words: &[&str]) -> Option<Output> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
    match Command::new("python3").arg(program).args(words).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("python3: {error}"));
            None
        }
    }
}

/// Passes on what was skipped; fails with everything that was said.
fn judge(output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| line.strip_prefix("skipped: ")).for_each(skip);
    assert!(output.status.success(), "\n{text}");
}

fn programs() -> PathBuf {
    examples(Path::new(env!("CARGO_BIN_EXE_mydocker")))
}

#[test]
fn every_console_block_is_what_the_machine_says() {
    let Some(output) = chapters(&["pages", "--if-ready", "--programs", &programs().to_string_lossy()]) else { return };
    judge(&output);
}

#[test]
fn no_translation_lags_behind() {
    let Some(output) = chapters(&["stale"]) else { return };
    judge(&output);
}

#[test]
fn every_picture_is_that_of_a_real_run() {
    let Some(output) = chapters(&["figures", "--check", "--programs", &programs().to_string_lossy()]) else { return };
    judge(&output);
}

#[test]
fn a_chapter_only_adds() {
    let Some(output) = chapters(&["table", "--check", "--programs", &programs().to_string_lossy()]) else { return };
    judge(&output);
}

/// A command as a student would type it in `folder`, with nothing of this repository or of cargo in sight.
fn student(folder: &Path, line: &str) -> Output {
    let repository = env!("CARGO_MANIFEST_DIR");
    let hidden =
        format!("mount --make-rprivate / && mount -t tmpfs none {repository} && cd {} && {line}", folder.display());
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", &hidden]).env_clear().env("HOME", folder).env("LANG", "C.UTF-8");
    // Where a lab that is on is kept.
    command.env("TMPDIR", folder);
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The compiled checks, if they are there: the newest of their kind beside the program.
fn checker() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_BIN_EXE_mydocker")).parent()?.join("deps");
    let found = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("chapters-"));
    let compiled = found.filter(|path| named(path) && path.extension().is_none());
    compiled.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

/// In an empty folder, without a network, without cargo, and without anything of ours but the archive.
#[test]
fn the_bundle_works_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("course.tar.gz");
    let (product, out) = (env!("CARGO_BIN_EXE_mydocker"), archive.to_string_lossy().into_owned());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can make containers");
    }
    // None need be compiled for this test alone.
    let compiled = checker();
    let given = compiled.clone().unwrap_or_else(|| "/bin/true".into());
    let mut command = Command::new("python3");
    command.arg(program).args(["bundle", "--bin", product, "--out", &out]).env("MYDOCKER_CHECKER", given);
    let Ok(output) = command.output() else { return skip("there is no python3") };
    judge(&output);
    let unpacked = student(dir.path(), "tar -xf course.tar.gz && ls");
    assert!(text(&unpacked).contains("mydocker-course") && !text(&unpacked).contains(".half"), "{}", text(&unpacked));
    let folder = dir.path().join("mydocker-course");
    let ok = |line: &str, wanted: &str| {
        let output = student(&folder, line);
        assert!(output.status.success() && text(&output).contains(wanted), "{line}: {}", text(&output));
    };
    ok("./start", "a container runs");
    ok("./start", "a container runs"); // twice does no harm
    let enter = "eval \"$(./start | grep export)\"";
    ok(&format!("{enter}; mydocker run --network none sh -c 'echo I am process $$'"), "I am process 1");
    // The pages' own line, with the links for it; the data are the folder's own.
    ok(&format!("{enter}; ln -sf \"$COURSE/target/debug/mydocker\" ~/course/mydocker; mydocker images"), "busybox");
    ok("ls data", "layers");
    ok("scripts/chapters list", "P2  projects/counter");
    ok("scripts/chapters stale", "none lags behind");
    ok("scripts/chapters next", "chapters/00-machine/README.md");
    ok("scripts/chapters solution 2", "src/cgroup/v2.rs");
    ok("scripts/chapters lab list", "B1   chapter 01");
    for (line, wanted) in [
        ("scripts/chapters start 2", "no git repository"),
        ("scripts/chapters branches", "no git repository"),
        ("scripts/chapters diff 2", "no git repository"),
        ("scripts/chapters lab start B1", "bundle --all"),
    ] {
        let output = student(&folder, line);
        let said = text(&output);
        assert!(
            output.status.code() == Some(2) && said.contains(wanted) && !said.contains("Traceback"),
            "{line}: {said}"
        );
    }
    if compiled.is_some() {
        ok("scripts/chapters check 1", "14 ok");
        ok("scripts/chapters next", "Next: chapter 02");
    }
}

/// Ctrl-C goes to all of a terminal's programs at once: to this one, the checks, the engine and the container.
#[test]
fn whoever_interrupts_a_check_leaves_nothing() {
    use std::os::unix::process::CommandExt;
    let Some(checker) = checker() else { return skip("the checks were not compiled") };
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can make containers");
    }
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
    // Whoever starts this test may have told its children to ignore the signal, as a shell's `&` does.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", "python3"]).arg(program);
    command.args(["check", "1", "--bin", env!("CARGO_BIN_EXE_mydocker")]);
    command.env("MYDOCKER_CHECKER", checker).env("TMPDIR", dir.path()).process_group(0);
    let Ok(mut check) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return skip("there is no python3");
    };
    let names = |dir: &Path| -> Vec<_> { std::fs::read_dir(dir).into_iter().flatten().flatten().collect() };
    // place of the checks / folder of a test / data root / containers
    let begun = || {
        let tests = names(dir.path()).into_iter().flat_map(|place| names(&place.path()));
        tests.into_iter().any(|test| !names(&test.path().join("root/containers")).is_empty())
    };
    support::life::until("there is a container", begun);
    let group = nix::unistd::Pid::from_raw(check.id() as i32);
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(check.wait().unwrap().code(), Some(130));
    let left = names(dir.path());
    assert!(left.is_empty(), "{left:?}");
    support::life::until("its processes end", || nix::sys::signal::killpg(group, None).is_err());
}

#[test]
fn a_bundle_that_cannot_be_written_is_refused_at_once() {
    for (out, bin) in [("/nosuch/folder/x.tar.gz", "/bin/true"), ("/tmp", "/bin/true"), ("/tmp/x.tar.gz", "/nosuch")] {
        // What would be compiled is given, so that only the refusal takes time.
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
        let mut command = Command::new("python3");
        command.arg(program).args(["bundle", "--out", out, "--bin", bin]).env("MYDOCKER_CHECKER", "/bin/true");
        let Ok(output) = command.output() else { return skip("there is no python3") };
        let said = text(&output);
        assert!(output.status.code() == Some(2) && said.starts_with("chapters: `"), "{out}: {said}");
    }
}

/// `check` with findings that are given, and then what `next` and `hint` say.
#[test]
fn what_comes_next_follows_from_the_last_check() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        return skip("only root asks the checks");
    }
    let dir = tempfile::tempdir().unwrap();
    let checker = dir.path().join("checker");
    std::fs::write(&checker, "#!/bin/sh\nprintf '%s\\n' \"$FOUND\" > \"$MYDOCKER_FINDINGS\"\n").unwrap();
    std::fs::set_permissions(&checker, PermissionsExt::from_mode(0o755)).unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/chapters");
    let say = |words: &[&str], chapter: &str, verdict: &str| {
        let finding =
            format!(r#"{{"chapter": {chapter}, "name": "memory limit", "verdict": "{verdict}", "text": "no limit"}}"#);
        let mut command = Command::new("python3");
        command.arg(&program).args(words).env("MYDOCKER_CHECKER", &checker).env("FOUND", finding);
        command
            .env("XDG_STATE_HOME", dir.path())
            .env_remove("SUDO_USER")
            .env_remove("SUDO_UID")
            .current_dir(dir.path());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), text(&output))
    };
    let next = || say(&["next"], "0", "");
    let expect = |(status, said): (i32, String), wanted_status, wanted: &[&str]| {
        assert!(status == wanted_status && wanted.iter().all(|words| said.contains(words)), "{status}: {said}");
    };
    expect(next(), 0, &["no check was asked yet", "chapters/00-machine/README.md"]);
    assert_eq!(say(&["check", "2", "--bin", "/bin/true"], "2", "wrong").0, 1);
    expect(next(), 1, &["chapter 02 is not done: memory limit", "scripts/chapters hint", "check 2 --bin"]);
    expect(say(&["hint"], "0", ""), 0, &["hint 1 of 4", "no limit"]);
    expect(say(&["hint"], "0", ""), 0, &["chapters/02-cgroups/README.md", "Write it yourself, step 3"]);
    expect(say(&["hint"], "0", ""), 0, &["hint 3 of 4", "tests/chapters/ch02.rs"]);
    expect(say(&["hint"], "0", ""), 0, &["hint 4 of 4", "ch02", "run --dry-run sh", "solution 2"]);
    assert_eq!(say(&["check", "2", "--bin", "/bin/true"], "2", "ok").0, 0);
    expect(next(), 0, &["chapter 02 is done", "Next: chapter 03", "chapters/03-rootfs/README.md", "check 3 --bin"]);
    // What this machine cannot is nobody's fault.
    assert_eq!(say(&["check", "4", "--bin", "/bin/true"], "4", "cannot").0, 0);
    expect(next(), 0, &["Next: chapter 05"]);
    assert_eq!(say(&["check", "9", "--bin", "/bin/true"], "9", "ok").0, 0);
    expect(next(), 0, &["the last one", "chapters/projects/web/README.md"]);
    std::fs::write(dir.path().join("mydocker-course.json"), "{ half").unwrap();
    expect(next(), 0, &["no check was asked yet"]);
}
