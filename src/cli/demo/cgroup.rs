//! The demo of what a container may use. The limits stand in the kernel's files outside (`man 7 cgroups`), under other
//! names on version 1 and 2; the checks read them there.

use super::{Demo, Scene, Stage, Verdict, kernel};
use anyhow::Result;
use std::path::{Path, PathBuf};

pub const DEMO: Demo = Demo {
    name: "cgroup",
    minutes: 8,
    scenes: &[
        Scene { name: "folder", play: folder },
        Scene { name: "memory", play: memory },
        Scene { name: "oom", play: oom },
        Scene { name: "cpu", play: cpu },
        Scene { name: "freeze", play: freeze },
        Scene { name: "pids", play: pids },
        Scene { name: "end", play: end },
    ],
};

const LIMITS: [(&str, &str); 2] = [("memory", "--memory 64m"), ("pids", "--pids-limit 20")];

/// On a busy machine others may leave a process less than its ration: so often it is asked to work.
const TRIES: usize = 5;

/// A scene for a machine that lacks a controller.
fn missing(stage: &Stage<'_>, controller: &str) -> Verdict {
    Verdict::Skipped(format!("{}: {controller}", stage.word("no-controller")))
}

/// Sets `$CG` to the container's folder in the tree of that controller: the folder, and whether it is of version 2.
/// `None`: no tree carries it.
fn enter(stage: &mut Stage<'_>, controller: &str) -> Result<Option<(PathBuf, bool)>> {
    let (Some((tree, unified)), Some(folder)) =
        (kernel::tree(controller), kernel::cgroup(&stage.value("pid"), controller))
    else {
        return Ok(None);
    };
    let which = if unified { "^0::" } else { controller };
    let word = format!("{}$(grep -w {which} /proc/{{pid}}/cgroup | cut -d: -f3)", tree.display());
    if stage.value("cg") != folder.display().to_string() {
        stage.set("cg", &word)?;
    }
    Ok(Some((folder, unified)))
}

fn folder(stage: &mut Stage<'_>) -> Result<Verdict> {
    let flags = LIMITS.iter().filter(|(controller, _)| kernel::tree(controller).is_some());
    let flags: Vec<&str> = flags.map(|(_, flag)| *flag).collect();
    stage.start(format!("{} --network none", flags.join(" ")).trim(), "sleep 1d")?;
    let Some((folder, _)) = enter(stage, "pids")? else { return Ok(missing(stage, "pids")) };
    stage.outside("cat $CG/cgroup.procs")?;
    let (inside, pid) = (kernel::text(folder.join("cgroup.procs")), stage.value("pid"));
    Ok(Verdict::of(&[
        (inside == pid, format!("in {}: {inside:?}", folder.display())),
        (stage.value("cg") == folder.display().to_string(), stage.value("cg")),
    ]))
}

fn memory(stage: &mut Stage<'_>) -> Result<Verdict> {
    let Some((folder, unified)) = enter(stage, "memory")? else { return Ok(missing(stage, "memory")) };
    let file = if unified { "memory.max" } else { "memory.limit_in_bytes" };
    // Inside, a tree is where the host has it, if there is more than one.
    let tree = kernel::tree("memory").map(|(tree, _)| tree).unwrap_or_default();
    let place = match (unified, tree.file_name()) {
        (true, _) if tree == Path::new("/sys/fs/cgroup") => "/sys/fs/cgroup".to_string(),
        (_, name) => format!("/sys/fs/cgroup/{}", name.unwrap_or_default().to_string_lossy()),
    };
    let (inside, _) = stage.both(&format!("cd {place}; cat {file}"), &format!("cat $CG/{file}"))?;
    let kept = kernel::text(folder.join(file));
    Ok(Verdict::of(&[
        (kept == "67108864", format!("{file} outside is {kept:?}")),
        (inside.text.trim() == kept, format!("{file} inside is {:?}", inside.text.trim())),
    ]))
}

fn oom(stage: &mut Stage<'_>) -> Result<Verdict> {
    let Some((folder, unified)) = enter(stage, "memory")? else { return Ok(missing(stage, "memory")) };
    let file = if unified { "memory.events" } else { "memory.oom_control" };
    let before = kernel::count(folder.join(file), "oom_kill");
    let done = stage.inside("head -c 256m /dev/zero | tail > /dev/null")?;
    stage.outside(&format!("grep oom_kill $CG/{file}"))?;
    let killed = kernel::count(folder.join(file), "oom_kill") - before;
    if killed == 0 && done.status == 0 && swaps() {
        return Ok(Verdict::Skipped(stage.word("swap")));
    }
    Ok(Verdict::of(&[
        (done.status == 137, format!("exit status {}", done.status)),
        (killed > 0, format!("oom_kill {killed} in {}", folder.join(file).display())),
    ]))
}

/// Where memory can be swapped out and the kernel does not count that, a limit of memory kills nobody.
fn swaps() -> bool {
    kernel::text("/proc/swaps").lines().count() > 1
}

fn cpu(stage: &mut Stage<'_>) -> Result<Verdict> {
    let Some((folder, unified)) = enter(stage, "cpu")? else { return Ok(missing(stage, "cpu")) };
    let throttled = |folder: &Path| kernel::count(folder.join("cpu.stat"), "nr_throttled");
    stage.needs("mydocker update --cpus 0.1 {name}")?;
    let before = throttled(&folder);
    let work = "timeout 1 sh -c 'while :; do :; done'";
    stage.inside(work)?;
    for _ in 1..TRIES {
        if throttled(&folder) == before {
            stage.ask(&["exec", &stage.value("name"), "sh", "-c", work])?;
        }
    }
    let limit = if unified { "cpu.max" } else { "cpu.cfs_quota_us" };
    stage.outside(&format!("cat $CG/{limit}; grep throttled $CG/cpu.stat"))?;
    let kept = kernel::text(folder.join(limit));
    Ok(Verdict::of(&[
        (kept.split(' ').next() == Some("10000"), format!("{limit} is {kept:?}")),
        (throttled(&folder) > before, "it was never throttled".to_string()),
    ]))
}

fn freeze(stage: &mut Stage<'_>) -> Result<Verdict> {
    let Some((folder, unified)) = enter(stage, "freezer")? else { return Ok(missing(stage, "freezer")) };
    stage.needs("mydocker pause {name}")?;
    stage.outside(if unified { "grep frozen $CG/cgroup.events" } else { "cat $CG/freezer.state" })?;
    let frozen = is_frozen(&folder, unified);
    stage.needs("mydocker unpause {name}")?;
    let still = is_frozen(&folder, unified);
    Ok(Verdict::of(&[
        (frozen, "the kernel does not say that it is frozen".to_string()),
        (!still, "it is still frozen".to_string()),
    ]))
}

fn is_frozen(folder: &Path, unified: bool) -> bool {
    match unified {
        true => kernel::count(folder.join("cgroup.events"), "frozen") == 1,
        false => kernel::text(folder.join("freezer.state")) == "FROZEN",
    }
}

fn pids(stage: &mut Stage<'_>) -> Result<Verdict> {
    let Some((folder, _)) = enter(stage, "pids")? else { return Ok(missing(stage, "pids")) };
    let done = stage.inside("for i in $(seq 30); do sleep 2 & done")?;
    stage.outside("cat $CG/pids.max $CG/pids.events")?;
    let (most, refused) = (kernel::text(folder.join("pids.max")), kernel::count(folder.join("pids.events"), "max"));
    Ok(Verdict::of(&[
        (most == "20", format!("pids.max is {most:?}")),
        (done.text.contains("fork"), format!("all thirty were started: {:?}", done.text)),
        (refused > 0, "the kernel has refused no fork".to_string()),
    ]))
}

fn end(stage: &mut Stage<'_>) -> Result<Verdict> {
    let folder = kernel::cgroup(&stage.value("pid"), "pids");
    stage.needs("mydocker rm -f {name}")?;
    let Some(folder) = folder else { return Ok(missing(stage, "pids")) };
    stage.outside("ls -d $CG")?;
    Ok(Verdict::of(&[(!folder.exists(), format!("{} is still there", folder.display()))]))
}
