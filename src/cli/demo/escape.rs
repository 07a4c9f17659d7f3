//! The demo of ways out, each tried for real and refused. Harmless by design: nothing is tried before the container's
//! root is proved to be its own, and what is aimed at are canaries that the demo has made: a file, a process, a copy of
//! this program. Where an attack needs a target in the kernel, it is one that only the container itself would feel.

use super::tiny::{Call, Word, program};
use super::{Demo, Scene, Stage, Verdict, kernel};
use crate::plan::quote;
use anyhow::{Result, bail};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub const DEMO: Demo = Demo {
    name: "escape",
    minutes: 12,
    scenes: &[
        Scene { name: "own", play: own },
        Scene { name: "mount", play: mount },
        Scene { name: "mknod", play: mknod },
        Scene { name: "sysctl", play: sysctl },
        Scene { name: "ptrace", play: ptrace },
        Scene { name: "handle", play: handle },
        Scene { name: "release", play: release },
        Scene { name: "chroot", play: chroot },
        Scene { name: "exe", play: exe },
        Scene { name: "end", play: end },
    ],
};

const CANARY: &str = "a canary";

/// The container, the canaries, and the proof. Without it the demo ends here.
fn own(stage: &mut Stage<'_>) -> Result<Verdict> {
    let folder = stage.folder()?;
    let canary = folder.join("canary");
    stage.learn("canary", canary.display().to_string());
    let victim = stage.process()?;
    stage.learn("victim", victim.to_string());
    stage.outside(&format!("echo {} > {{canary}}", quote(CANARY)))?;
    stage.start("--network none", "sleep 1d")?;
    let pid = stage.value("pid");
    let (inside, _) = stage.both("stat -c %d:%i /; cat {canary}", "stat -c %d:%i /; cat {canary}")?;
    let apart = kernel::namespace(&pid, "mnt") != kernel::namespace("self", "mnt");
    let unseen = !Path::new(&format!("/proc/{pid}/root{}", canary.display())).exists();
    if !(kernel::has_own_root(&pid) && apart && unseen && inside.status != 0) {
        bail!("it is not proved that the container's root is its own, so nothing is tried");
    }
    let plan = stage.ask(&["run", "--dry-run", "--init", "--network", "none", "busybox", "true"])?;
    stage.learn("plan", plan);
    Ok(Verdict::of(&[(unharmed(stage), "the canary is not as it was".to_string())]))
}

fn unharmed(stage: &Stage<'_>) -> bool {
    kernel::text(stage.value("canary")) == CANARY
}

/// Shows the step of the plan that stands in the way, in the plan's own words. That it is in the plan, and that the
/// canary lives, are part of every verdict.
fn refused(stage: &Stage<'_>, step: &str, facts: &[(bool, String)]) -> Result<Verdict> {
    let plan = stage.value("plan");
    let line =
        plan.lines().find_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with(&format!("{step}: "))));
    if let Some(line) = line {
        // Why there is an init at all says nothing of what it closes.
        let line = if step == "process.init" { "process.init: prctl(PR_SET_DUMPABLE, 0)" } else { line };
        let label = format!("{} {line}", stage.word("step"));
        stage.gap()?;
        stage.show(|page| page.label(&label) + "\n")?;
    }
    let more = [
        (line.is_some(), format!("the plan has no step {step}")),
        (unharmed(stage), "the canary is not as it was".to_string()),
    ];
    Ok(Verdict::of(&[facts, &more].concat()))
}

fn says(text: &str, words: &str) -> (bool, String) {
    (text.contains(words), format!("`{}`, and not `{words}`", text.trim()))
}

fn mount(stage: &mut Stage<'_>) -> Result<Verdict> {
    let done = stage.inside("mkdir -p /mnt; mount -t tmpfs none /mnt")?;
    stage.outside("grep CapEff /proc/{pid}/status")?;
    let powers = kernel::status(&stage.value("pid"), "CapEff").concat();
    let admin = u64::from_str_radix(&powers, 16).is_ok_and(|set| set & 1 << 21 != 0);
    let mounted = kernel::mounts(&stage.value("pid")).iter().any(|mount| mount.at == "/mnt");
    refused(
        stage,
        "security.capabilities",
        &[
            (done.status != 0 && !mounted, "it has mounted a file system".to_string()),
            (!admin, format!("it has CAP_SYS_ADMIN: {powers}")),
        ],
    )
}

/// A disk that nobody has: the answer shows how far the attempt came, and there is nothing to be reached. `EPERM` is a
/// device rule's answer, `ENXIO` that of a kernel which has looked for the driver.
fn mknod(stage: &mut Stage<'_>) -> Result<Verdict> {
    let make = |path: &str| format!("mknod {path} b 259 1048575; head -c 1 {path}");
    let folder = PathBuf::from(stage.value("canary")).with_file_name("disk");
    let (inside, outside) = stage.both(&make("/disk"), &make(&folder.display().to_string()))?;
    let looked = |text: &str| text.contains("No such device");
    match (looked(&inside.text), looked(&outside.text)) {
        // The machine's own rules, or a file system without devices, answer before the container's could.
        (_, false) => Ok(Verdict::Skipped(stage.word("no-devices"))),
        (same, true) => Ok(Verdict::of(&[
            (same, format!("inside: `{}`", inside.text.trim())),
            (unharmed(stage), "the canary is not as it was".to_string()),
        ])),
    }
}

/// The host name, which is the container's own: were the wall not there, nobody else would notice.
fn sysctl(stage: &mut Stage<'_>) -> Result<Verdict> {
    let done = stage.inside("echo other > /proc/sys/kernel/hostname")?;
    stage.outside("grep ' /proc/sys ' /proc/{pid}/mounts")?;
    let sealed = kernel::mounts(&stage.value("pid"));
    let sealed = sealed.iter().any(|mount| mount.at == "/proc/sys" && mount.options.iter().any(|word| word == "ro"));
    let facts = [says(&done.text, "Read-only file system"), (sealed, "/proc/sys can be written to".to_string())];
    refused(stage, "rootfs.read-only./proc/sys", &facts)
}

/// Puts a program of a few bytes into the container.
fn bring(stage: &mut Stage<'_>, name: &str, calls: &[Call<'_>]) -> Result<bool> {
    let Some(bytes) = program(calls) else { return Ok(false) };
    let path = PathBuf::from(stage.value("canary")).with_file_name(name);
    std::fs::write(&path, bytes)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    stage.needs(&format!("mydocker cp {} {{name}}:/bin/", path.display()))?;
    Ok(true)
}

fn answer(status: i32, errno: nix::errno::Errno) -> (bool, String) {
    (status == errno as i32, format!("status {status}, and not {} ({errno:?})", errno as i32))
}

fn ptrace(stage: &mut Stage<'_>) -> Result<Verdict> {
    let victim: i64 = stage.value("victim").parse()?;
    let words = vec![Word::Number(libc::PTRACE_ATTACH.into()), Word::Number(victim), Word::Number(0), Word::Number(0)];
    if !bring(stage, "ptrace", &[Call { number: libc::SYS_ptrace, words }])? {
        return Ok(Verdict::Skipped(stage.word("no-program")));
    }
    // Numbers in there begin at 1: that of a young machine's process could be one of its own.
    if victim < 300 {
        return Ok(Verdict::Skipped(stage.word("young")));
    }
    let (done, _) =
        stage.both("ptrace; echo $?; kill -9 {victim}", "grep -E '^(Name|State|NSpid)' /proc/{victim}/status")?;
    let status = done.text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(-1);
    let lives = kernel::status(&victim.to_string(), "Name") == ["sleep"];
    let traced = kernel::status(&victim.to_string(), "TracerPid") != ["0"];
    refused(
        stage,
        "engine.clone",
        &[answer(status, nix::errno::Errno::ESRCH), (lives && !traced, format!("process {victim} was reached"))],
    )
}

/// A file by its number (`man 2 open_by_handle_at`), past all paths: the "shocker" of 2014. /etc/hosts lies on a file
/// system of the host, and the number is the canary's.
fn handle(stage: &mut Stage<'_>) -> Result<Verdict> {
    let inode = std::fs::metadata(stage.value("canary"))?.ino() as u32;
    // Eight bytes of type 1 (FILEID_INO32_GEN): inode and generation.
    let handle = [8, 1, inode, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect::<Vec<u8>>();
    let read_only = || Word::Number(libc::O_RDONLY.into());
    let door = Call {
        number: libc::SYS_openat,
        words: vec![Word::Number(libc::AT_FDCWD.into()), Word::Bytes(b"/etc/hosts\0"), read_only()],
    };
    // 3: the first free number of a program that has nothing but its stdio.
    let open =
        Call { number: libc::SYS_open_by_handle_at, words: vec![Word::Number(3), Word::Bytes(&handle), read_only()] };
    if !bring(stage, "shocker", &[door, open])? {
        return Ok(Verdict::Skipped(stage.word("no-program")));
    }
    let (done, _) = stage.both("shocker; echo $?", "stat -c 'inode %i %n' {canary}")?;
    let status = done.text.trim().parse().unwrap_or(-1);
    refused(stage, "security.bounding", &[answer(status, nix::errno::Errno::EPERM)])
}

/// The first half of the trick alone: a tree that can be written to. Its second half would write to a file that is the
/// whole machine's.
fn release(stage: &mut Stage<'_>) -> Result<Verdict> {
    let mount = stage.inside("mkdir -p /tmp/cg; mount -t cgroup -o memory none /tmp/cg")?;
    let mkdir = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x && echo made; done 2>&1 | tail -1";
    let made = stage.inside(mkdir)?;
    // From outside, in the container's own view of the trees.
    let view = PathBuf::from(format!("/proc/{}/root/sys/fs/cgroup", stage.value("pid")));
    let trees = std::fs::read_dir(&view).into_iter().flatten().flatten().map(|tree| tree.path());
    let agent = trees.chain([view.clone()]).map(|tree| tree.join("release_agent")).find(|agent| agent.exists());
    let mounted = kernel::mounts(&stage.value("pid")).iter().any(|mount| mount.at == "/tmp/cg");
    let facts = [
        (mount.status != 0 && !mounted, "it has mounted a tree of cgroups".to_string()),
        (!made.text.contains("made"), "it has made a cgroup".to_string()),
        (agent.is_none(), format!("it sees {agent:?}")),
    ];
    refused(stage, "security.capabilities", &facts)
}

/// Out of a chroot of one's own making leads a way for whoever may chroot; it ends at the container's root.
fn chroot(stage: &mut Stage<'_>) -> Result<Verdict> {
    let path = format!("{}\0", stage.value("canary"));
    let one = |number, path| Call { number, words: vec![Word::Bytes(path)] };
    let open = |path| Call {
        number: libc::SYS_faccessat,
        words: vec![Word::Number(libc::AT_FDCWD.into()), Word::Bytes(path), Word::Number(0)],
    };
    let calls = [
        one(libc::SYS_chroot, b"/tmp\0"),
        one(libc::SYS_chdir, b"../../../../../../../../../..\0"),
        one(libc::SYS_chroot, b".\0"),
        // It is out of the chroot: there is the container's own program again.
        open(b"/bin/climb\0"),
        open(path.as_bytes()),
    ];
    if !bring(stage, "climb", &calls)? {
        return Ok(Verdict::Skipped(stage.word("no-program")));
    }
    let (done, _) = stage.both("cd /; climb; echo $?", "ls {canary}")?;
    let status = done.text.trim().parse().unwrap_or(-1);
    refused(stage, "rootfs.let-go", &[answer(status, nix::errno::Errno::ENOENT)])
}

/// CVE-2019-5736: the engine's own program, reached from inside by `/proc/PID/exe`. `--init` leaves a copy of the engine
/// in there for good. The engine of this scene is a copy of the program.
fn exe(stage: &mut Stage<'_>) -> Result<Verdict> {
    let copy = PathBuf::from(stage.value("canary")).with_file_name("mydocker");
    std::fs::copy(std::env::current_exe()?, &copy)?;
    let size = std::fs::metadata(&copy)?.len();
    let other = stage.also("2")?;
    stage.learn("other", other);
    let engine = copy.display().to_string();
    stage.needs(&format!("{engine} run -d --init --name {{other}} --network none busybox sleep 1d"))?;
    let second = stage.ask(&["inspect", "-f", "{{.State.Pid}}", &stage.value("other")])?;
    stage.outside(&format!("readlink /proc/{}/exe", second.trim()))?;
    let write = format!("{engine} exec {{other}} sh -c 'echo gone > /proc/1/exe'");
    let done = stage.outside(&write)?;
    let target = std::fs::read_link(format!("/proc/{}/exe", second.trim())).unwrap_or_default();
    let now = std::fs::metadata(&copy).map_or(0, |data| data.len());
    refused(
        stage,
        "process.init",
        &[
            (target == copy, format!("process 1 runs {}", target.display())),
            says(&done.text, "Permission denied"),
            (now == size, format!("the program has {now} bytes, and had {size}")),
        ],
    )
}

fn end(stage: &mut Stage<'_>) -> Result<Verdict> {
    stage.needs("mydocker rm -f {name}")?;
    stage.outside("cat {canary}; grep State /proc/{victim}/status")?;
    let lives = kernel::status(&stage.value("victim"), "Name") == ["sleep"];
    Ok(Verdict::of(&[
        (unharmed(stage), "the canary is not as it was".to_string()),
        (lives, "the process is gone".to_string()),
    ]))
}
