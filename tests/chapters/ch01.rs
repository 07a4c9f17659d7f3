//! Chapter 01: the container's command has namespaces of its own, and what it does in them the host does not notice.

use super::check::{Check, Fault, Finding, Subject, expect, outcome, random, same, wait_for_cat, wait_until, wrong};
use crate::support::{Running, kernel};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

pub const CHECKS: &[Check] = &[
    Check { chapter: 1, name: "uts namespace", ask: |subject| own_namespace(subject, "uts") },
    Check { chapter: 1, name: "pid namespace", ask: |subject| own_namespace(subject, "pid") },
    Check { chapter: 1, name: "mnt namespace", ask: |subject| own_namespace(subject, "mnt") },
    Check { chapter: 1, name: "ipc namespace", ask: |subject| own_namespace(subject, "ipc") },
    Check { chapter: 1, name: "net namespace", ask: |subject| own_namespace(subject, "net") },
    Check { chapter: 1, name: "the command is process 1", ask: process_one },
    Check { chapter: 1, name: "/proc shows only its own processes", ask: own_proc },
    Check { chapter: 1, name: "the host does not see its mounts", ask: mounts_stay_inside },
    Check { chapter: 1, name: "a host name of its own", ask: host_name },
    Check { chapter: 1, name: "the host's addresses are not there", ask: addresses },
    Check { chapter: 1, name: "the last process takes the others along", ask: no_survivors },
    Check { chapter: 1, name: "exit status", ask: exit_status },
    Check { chapter: 1, name: "words arrive as they were typed", ask: words },
    Check { chapter: 1, name: "no descriptor of the host", ask: descriptors },
];

/// `/proc/PID/ns/KIND` is another inode than ours, and the program itself has stayed in ours.
pub fn own_namespace(subject: &Subject, kind: &str) -> Finding {
    let running = subject.idle(&[])?;
    let theirs = kernel::namespace(running.pid, kind);
    stayed(&running, kind)?;
    let ours = kernel::namespace(running.engine(), kind);
    expect(theirs.is_some() && theirs != ours, || {
        format!("/proc/{}/ns/{kind}: {}, and that is the host's too", running.pid, theirs.unwrap_or_default())
    })
}

/// Who unshares in the first process has left the host, and cannot put it in order afterwards.
fn stayed(running: &Running, kind: &str) -> Finding {
    // The thread's, which has left some of the machine's; what it starts is born in them.
    let ours = fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap_or_default().display().to_string();
    let engine = kernel::namespace(running.engine(), kind).unwrap_or_default();
    expect(engine == ours, || {
        format!("the program itself has left the host's {ours} for {engine}: only the child should")
    })
}

fn process_one(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let numbers = kernel::status(running.pid, "NSpid").unwrap_or_default();
    let levels: Vec<_> = numbers.split_whitespace().collect();
    expect(levels.len() > 1 && levels.last() == Some(&"1"), || format!("NSpid of the command: {numbers}, expected … 1"))
}

/// `/proc` in there lists the processes of its PID namespace, as the kernel lists them out here, and no others. Without
/// a PID namespace of its own the host's `/proc` would do so as well.
fn own_proc(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let ours = kernel::namespace(std::process::id(), "pid");
    expect(kernel::namespace(running.pid, "pid") != ours, || "its processes are those of the host".to_string())?;
    let entries = fs::read_dir(format!("/proc/{}/root/proc", running.pid));
    let Ok(entries) = entries else { return wrong("its /proc cannot be listed") };
    let shown: BTreeSet<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let namespace = kernel::namespace(running.pid, "pid");
    let members = kernel::processes().into_iter().filter(|pid| kernel::namespace(*pid, "pid") == namespace);
    let inner = |pid| kernel::status(pid, "NSpid")?.split_whitespace().last()?.parse().ok();
    same("/proc in the container", shown, members.filter_map(inner).collect())
}

/// Every mount of the host is shared here, as systemd has it: without private propagation each mount of the container
/// would appear on the host, and each change of propagation shows as well.
fn mounts_stay_inside(subject: &Subject) -> Finding {
    let name = format!("mount-{:x}", random(0, u64::MAX));
    let at = subject.engine.folder().join(&name);
    fs::create_dir(&at).unwrap();
    let before = kernel::mounts("thread-self");
    // Where the container may not mount, the mounts that the engine makes in it have to show it.
    let script = format!("mount -t tmpfs {name} {} 2>/dev/null; exec cat", at.display());
    let running = subject.start(&[], &["sh", "-c", &script])?;
    let pid = running.pid;
    wait_for_cat(&running)?;
    let after = kernel::mounts("thread-self");
    let inside = kernel::mounts(pid);
    drop(running);
    if after.iter().any(|mount| mount.source == name) {
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
    let new: Vec<_> = after.iter().filter(|mount| !before.contains(mount)).collect();
    expect(new.is_empty(), || format!("the host's mount table has got {new:?}"))?;
    expect(before.len() == after.len(), || "the host's mount table has lost something".to_string())?;
    let own = inside.iter().filter(|mount| !before.contains(mount)).count();
    expect(own > 0, || "the container's mount table is the host's, line by line".to_string())
}

fn host_name(subject: &Subject) -> Finding {
    let (name, ours) = (format!("host-{:x}", random(0, u64::MAX)), nix::unistd::gethostname().unwrap());
    let running = subject.start_any(&[&["--hostname", &name], &["-h", &name]], &["cat"])?;
    let inside = kernel::inside(running.pid, "uts", || nix::unistd::gethostname().unwrap());
    same("the host's own name", nix::unistd::gethostname().unwrap(), ours)?;
    match inside {
        Ok(inside) => same("gethostname in the container", inside, name.into()),
        Err(errno) => wrong(format!("its UTS namespace cannot be joined: {errno}")),
    }
}

/// An address that the host has at random is not in the container's tables.
fn addresses(subject: &Subject) -> Finding {
    let address = format!("198.18.{}.{}", random(0, 255), random(1, 255));
    let ip = |verb| {
        let words = ["address", verb, &format!("{address}/32"), "dev", "lo"];
        Command::new("ip").args(words).status().is_ok_and(|status| status.success())
    };
    if !ip("add") {
        return Err(Fault::Cannot("`ip address add` does not work".to_string()));
    }
    let shown = subject.idle(&[]).map(|running| {
        let table = |pid: u32| fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
        (stayed(&running, "net"), table(running.engine()).contains(&address), table(running.pid).contains(&address))
    });
    assert!(ip("del"));
    let (stayed, outside, inside) = shown?;
    stayed?;
    assert!(outside, "the kernel does not list the host's own address");
    expect(!inside, || format!("/proc/PID/net has {address}, which is the host's"))
}

/// A process left in the background ends with process 1 of its PID namespace.
fn no_survivors(subject: &Subject) -> Finding {
    let seconds = random(100_000, 900_000).to_string();
    let script = format!("sleep {seconds} & exec cat");
    let running = subject.start(&[], &["sh", "-c", &script])?;
    wait_for_cat(&running)?;
    let sleeper =
        || kernel::processes().into_iter().find(|pid| kernel::words(*pid).ends_with(std::slice::from_ref(&seconds)));
    wait_until(&running, "the process in the background", || sleeper().is_some())?;
    drop(running);
    match sleeper() {
        None => Ok(()),
        Some(pid) => {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
            wrong(format!("process {pid} (sleep {seconds}) has outlived its container"))
        }
    }
}

fn exit_status(subject: &Subject) -> Finding {
    for status in [0, 3, 125, 255] {
        let done = subject.run(&[], &["sh", "-c", &format!("exit {status}")])?;
        same(&format!("`exit {status}`"), done.status, status)?;
    }
    same("the status when signal 9 has ended the command", subject.idle(&[])?.stop().status, 137)
}

/// Not joined by spaces and split again; no shell has looked at them.
fn words(subject: &Subject) -> Finding {
    let words = ["sh", "-c", "read line", "two words", "", "*", "$HOME", "-v", "--", "it's"];
    // A shell that is handed them in between stumbles over the last one.
    let running = subject.start(&[], &words).map_err(|fault| match fault {
        Fault::Wrong(text) => Fault::Wrong(format!("told {words:?}, {text}")),
        other => other,
    })?;
    let shown = kernel::words(running.pid);
    if shown.is_empty() {
        return wrong(format!("told {words:?}, the command has ended at once: {}", outcome(&running.wait())));
    }
    same("/proc/PID/cmdline", shown, words.map(String::from).to_vec())
}

/// Standard input, output, error: a folder of the host held open would be a way out (CVE-2024-21626).
fn descriptors(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let open = || -> BTreeSet<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", running.pid)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let standard = ["0", "1", "2"].map(String::from).into();
    // The command may still be opening its libraries.
    let end = Instant::now() + crate::support::slow(Duration::from_secs(1));
    while open() != standard && Instant::now() < end {
        crate::support::nap(Duration::from_millis(1));
    }
    same("/proc/PID/fd", open(), standard)
}
