//! Chapter 02: the container's command is in cgroups of its own, with the limits that were asked for, from its first
//! instruction to its end, and nothing of them stays.

use super::check::{
    Check, Fault, Finding, Subject, cgroup, expect, needs_controller, outcome, random, same, wait_for_cat, wait_until,
    wrong,
};
use crate::support::{Running, kernel};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const CHECKS: &[Check] = &[
    Check { chapter: 2, name: "memory limit", ask: memory_limit },
    Check { chapter: 2, name: "processor quota", ask: processor_quota },
    Check { chapter: 2, name: "limit of processes", ask: pids_limit },
    Check { chapter: 2, name: "cgroup namespace", ask: own_tree },
    Check { chapter: 2, name: "a cgroup for each container", ask: one_each },
    Check { chapter: 2, name: "in force before the first instruction", ask: from_the_start },
    Check { chapter: 2, name: "out of memory ends with 137", ask: out_of_memory },
    Check { chapter: 2, name: "its cgroups are gone afterwards", ask: gone_afterwards },
];

/// A container with a memory limit of so many MiB.
fn limited(subject: &Subject, mebibytes: u64, command: &[&str]) -> Finding<Running> {
    needs_controller("memory")?;
    let size = format!("{mebibytes}m");
    subject.start_any(&[&["--mem", &size], &["-m", &size], &["--memory", &size]], command)
}

/// The content of the first of these files that is there.
fn read(cgroup: &Path, names: [&str; 2]) -> Finding<String> {
    let text = names.iter().find_map(|name| fs::read_to_string(cgroup.join(name)).ok());
    text.map(|text| text.trim().to_string())
        .ok_or_else(|| Fault::Wrong(format!("{} has no {names:?}", cgroup.display())))
}

/// Not the cgroup that the engine itself, and so everybody, is in.
fn not_ours(path: &Path, controller: &str) -> Finding {
    let ours = kernel::cgroup(std::process::id(), controller);
    expect(ours.as_deref() != Some(path), || {
        format!("when its command begins, the container is in {}, as everybody", path.display())
    })
}

/// It begins where its maker is: one that was made before the joining still shows the way down from the host's top.
fn own_tree(subject: &Subject) -> Finding {
    super::ch01::own_namespace(subject, "cgroup")?;
    needs_controller("memory")?;
    let running = limited(subject, 50, &["cat"])?;
    let shown = kernel::inside(running.pid, "cgroup", || fs::read_to_string(format!("/proc/{}/cgroup", running.pid)));
    let Ok(Ok(table)) = shown else { return wrong("its cgroup namespace cannot be joined") };
    let of_memory =
        |line: &&str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|one| one == "memory"));
    let unified = || table.lines().find(|line| line.starts_with("0::"));
    let line = table.lines().find(of_memory).or_else(unified).unwrap_or_default();
    let outside = cgroup(&running, "memory")?;
    let what = format!("{}, as /proc/PID/cgroup names it from inside", outside.display());
    same(&what, line.rsplit(':').next().unwrap_or_default(), "/")
}

fn memory_limit(subject: &Subject) -> Finding {
    let mebibytes = random(40, 90);
    let running = limited(subject, mebibytes, &["cat"])?;
    let path = cgroup(&running, "memory")?;
    not_ours(&path, "memory")?;
    let limit = read(&path, ["memory.limit_in_bytes", "memory.max"])?;
    same(&format!("the memory limit in {}", path.display()), limit, (mebibytes << 20).to_string())
}

fn processor_quota(subject: &Subject) -> Finding {
    needs_controller("cpu")?;
    let percent = random(11, 90);
    let running = subject.start(&["--cpus", &format!("0.{percent}")], &["cat"])?;
    let path = cgroup(&running, "cpu")?;
    not_ours(&path, "cpu")?;
    let both = match fs::read_to_string(path.join("cpu.max")) {
        Ok(text) => text,
        Err(_) => read(&path, ["cpu.cfs_quota_us", ""])? + " " + &read(&path, ["cpu.cfs_period_us", ""])?,
    };
    let numbers: Vec<u64> = both.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [quota, period] = numbers[..] else { return wrong(format!("quota and period: {both}")) };
    same("hundredths of a processor", quota * 100 / period, percent)
}

fn pids_limit(subject: &Subject) -> Finding {
    needs_controller("pids")?;
    let limit = random(20, 90).to_string();
    let running = subject.start(&["--pids-limit", &limit], &["cat"])?;
    let path = cgroup(&running, "pids")?;
    not_ours(&path, "pids")?;
    same("pids.max", read(&path, ["pids.max", ""])?, limit)
}

fn one_each(subject: &Subject) -> Finding {
    let (one, other) = (limited(subject, 50, &["cat"])?, limited(subject, 50, &["cat"])?);
    let (one, other) = (cgroup(&one, "memory")?, cgroup(&other, "memory")?);
    not_ours(&one, "memory")?;
    expect(one != other, || format!("both containers are in {}", one.display()))
}

/// The command's very first act is to fork. A parent that joins the command to its cgroup only after the exec has lost
/// that child; and it is late for sure, because `strace` holds every write of the engine up, and lets go of what has
/// been exec'ed. Who joins before the exec only takes longer.
fn from_the_start(subject: &Subject) -> Finding {
    needs_controller("memory")?;
    let (ways, command) =
        ([["--mem", "50m"], ["-m", "50m"], ["--memory", "50m"]], ["sh", "-c", "sleep 1000 & exec cat"]);
    let inject = "inject=write:delay_enter=50000";
    let slow = ["strace", "-f", "-b", "execve", "-qq", "-o", "/dev/null", "-e", "trace=write", "-e", inject];
    let slow = if std::process::Command::new("strace").arg("-V").output().is_ok() { &slow[..] } else { &[] };
    let running = subject.start_any_under(slow, &ways.each_ref().map(|way| &way[..]), &command)?;
    let pid = running.pid;
    wait_for_cat(&running)?;
    wait_until(&running, "the process in the background", || !kernel::children(pid).is_empty())?;
    // Whoever joins late has joined by then.
    std::thread::sleep(crate::support::slow(Duration::from_millis(100)));
    for process in [pid].into_iter().chain(kernel::descendants(pid)) {
        let path = kernel::cgroup(process, "memory").unwrap_or_default();
        not_ours(&path, "memory")?;
        let limit = read(&path, ["memory.limit_in_bytes", "memory.max"])?;
        same(&format!("the limit of {:?}", kernel::words(process)), limit, (50 << 20).to_string())?;
    }
    running.wait();
    Ok(())
}

/// If no limit is in force, the shell's own limit of its address space ends it: the host's memory is not at stake.
fn out_of_memory(subject: &Subject) -> Finding {
    needs_controller("memory")?;
    let ways: [&[&str]; 3] = [&["--mem", "32m"], &["-m", "32m"], &["--memory", "32m"]];
    let kills = || {
        let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok())
    };
    let before = kills();
    let done = subject.run_any(&ways, &["sh", "-c", "ulimit -v 500000; exec tail /dev/zero"])?;
    // Linux 4.13 and newer count them; a status alone can be made up.
    expect(before.is_none() || kills() > before, || {
        format!("the kernel has killed nothing for want of memory; the run: {}", outcome(&done))
    })?;
    same("the exit status of what took more memory than it has", done.status, 137)
}

fn gone_afterwards(subject: &Subject) -> Finding {
    let running = limited(subject, 50, &["cat"])?;
    let folders = |pid| -> BTreeSet<PathBuf> {
        let controllers = ["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "io"];
        controllers.iter().filter_map(|controller| kernel::cgroup(pid, controller)).collect()
    };
    let theirs = &folders(running.pid) - &folders(std::process::id());
    expect(!theirs.is_empty(), || "the container was in no cgroup of its own".to_string())?;
    running.wait();
    let end = Instant::now() + crate::support::slow(Duration::from_secs(2));
    while theirs.iter().any(|path| path.exists()) {
        expect(Instant::now() < end, || format!("still there: {theirs:?}"))?;
        crate::support::nap(Duration::from_millis(5));
    }
    Ok(())
}
