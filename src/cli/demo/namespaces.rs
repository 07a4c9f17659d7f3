//! The demo of what a container cannot see. A namespace is a number: the check of each scene compares the container's
//! with the host's, as the kernel shows them (`man 7 namespaces`).

use super::{Demo, Scene, Stage, Verdict, kernel};
use anyhow::Result;

pub const DEMO: Demo = Demo {
    name: "namespaces",
    minutes: 8,
    scenes: &[
        Scene { name: "start", play: start },
        Scene { name: "links", play: links },
        Scene { name: "hostname", play: hostname },
        Scene { name: "processes", play: processes },
        Scene { name: "mounts", play: mounts },
        Scene { name: "net", play: net },
        Scene { name: "choice", play: choice },
        Scene { name: "end", play: end },
    ],
};

fn start(stage: &mut Stage<'_>) -> Result<Verdict> {
    stage.start("--hostname inside --network none", "sleep 1d")?;
    let pid = stage.value("pid");
    stage.outside("grep -E '^(Name|PPid|NSpid)' /proc/{pid}/status")?;
    let (name, numbers) = (kernel::status(&pid, "Name"), kernel::status(&pid, "NSpid"));
    Ok(Verdict::of(&[
        (name == ["sleep"], format!("process {pid} is {name:?}")),
        (numbers == [pid, "1".to_string()], format!("its numbers are {numbers:?}")),
    ]))
}

/// Those that `run` always makes anew.
const KINDS: [&str; 5] = ["uts", "pid", "mnt", "ipc", "net"];

fn links(stage: &mut Stage<'_>) -> Result<Verdict> {
    let line = "for n in uts pid mnt ipc net user; do readlink /proc/self/ns/$n; done";
    let (inside, outside) = stage.both(line, line)?;
    let pid = stage.value("pid");
    let apart = KINDS.map(|kind| {
        let (theirs, ours) = (kernel::namespace(&pid, kind), kernel::namespace("self", kind));
        let seen = inside.text.contains(&theirs) && outside.text.contains(&ours);
        (!theirs.is_empty() && theirs != ours && seen, format!("{theirs} inside, {ours} outside"))
    });
    let (theirs, ours) = (kernel::namespace(&pid, "user"), kernel::namespace("self", "user"));
    let user = [(theirs == ours, format!("{theirs} inside, {ours} outside"))];
    Ok(Verdict::of(&[&apart[..], &user].concat()))
}

fn hostname(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (inside, outside) = stage.both("hostname", "uname -n")?;
    let ours = nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned();
    Ok(Verdict::of(&[
        (inside.text.trim() == "inside", format!("`{}` inside", inside.text.trim())),
        (outside.text.trim() == ours && ours != "inside", format!("`{ours}` outside")),
    ]))
}

fn processes(stage: &mut Stage<'_>) -> Result<Verdict> {
    let (inside, _) = stage.both("ps -o pid,comm; kill -9 {pid}", "tr '\\0' ' ' < /proc/{pid}/cmdline")?;
    let pid = stage.value("pid");
    let first = inside.text.lines().any(|line| line.split_whitespace().eq(["1", "sleep"]));
    let all = inside.text.lines().count();
    Ok(Verdict::of(&[
        (first, "no `sleep` with number 1 inside".to_string()),
        (all < 10, format!("{all} lines of processes inside")),
        (inside.text.to_ascii_lowercase().contains("no such process"), inside.text.clone()),
        (kernel::status(&pid, "Name") == ["sleep"], format!("process {pid} is gone")),
    ]))
}

fn mounts(stage: &mut Stage<'_>) -> Result<Verdict> {
    let line = "echo /*; wc -l < /proc/self/mounts";
    stage.both(line, line)?;
    let pid = stage.value("pid");
    let theirs = kernel::mounts(&pid);
    let (own, root) = (kernel::has_own_root(&pid), theirs.iter().any(|mount| mount.at == "/"));
    // The root of a container would show on the host by the container's upper folder.
    let id = stage.ask(&["inspect", "-f", "{{.Id}}", &stage.value("name")])?;
    let leaked = kernel::mounts("self").iter().any(|mount| {
        let whole = format!("{} {}", mount.root, mount.super_options.join(","));
        whole.contains(&format!("{}/upper", id.trim()))
    });
    Ok(Verdict::of(&[
        (own && root, format!("the root of process {pid} is the host's")),
        (!leaked, "the host has the container's root in its mount table".to_string()),
    ]))
}

fn net(stage: &mut Stage<'_>) -> Result<Verdict> {
    let line = "sed -n 's/:.*//p' /proc/net/dev";
    let (inside, _) = stage.both(line, line)?;
    let pid = stage.value("pid");
    let (theirs, ours) = (kernel::namespace(&pid, "net"), kernel::namespace("self", "net"));
    Ok(Verdict::of(&[
        (theirs != ours, format!("{theirs} on both sides")),
        (inside.text.trim() == "lo", format!("links inside: {}", inside.text.trim())),
    ]))
}

fn choice(stage: &mut Stage<'_>) -> Result<Verdict> {
    let other = stage.also("2")?;
    let run = format!("mydocker run --rm --name {other} --network host busybox readlink /proc/self/ns/net");
    let joined = stage.needs(&run)?;
    stage.outside("readlink /proc/self/ns/net")?;
    let ours = kernel::namespace("self", "net");
    Ok(Verdict::of(&[(joined.text.trim() == ours, format!("{} inside, {ours} outside", joined.text.trim()))]))
}

fn end(stage: &mut Stage<'_>) -> Result<Verdict> {
    let before = kernel::namespace(&stage.value("pid"), "uts");
    stage.needs("mydocker rm -f {name}")?;
    stage.outside("ls /proc/{pid}/ns")?;
    let now = kernel::namespace(&stage.value("pid"), "uts");
    Ok(Verdict::of(&[(!before.is_empty() && now != before, format!("{now} is still there"))]))
}
