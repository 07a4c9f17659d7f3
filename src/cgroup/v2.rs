//! Version 2: one tree for all controllers (`Documentation/admin-guide/cgroup-v2.rst` of the kernel). A parent names in
//! `cgroup.subtree_control` the controllers that its children have, and then has no processes of its own. The child is
//! born in its cgroup: `clone3` takes the folder.
//!
//! Try it without us: `cd /sys/fs/cgroup; mkdir x; echo 5 > x/pids.max; sh -c 'echo 0 > x/cgroup.procs; …'; rmdir x`

use super::layout::{Tree, words};
use super::limit::{self, Limit, NO_WEIGHTS, Offers};
use super::place::Place;
use super::steps;
use crate::plan::{Op, Phase, Plan, quote};
use anyhow::{Result, bail};
use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;
use std::path::Path;

/// What a container gets if it can be had: without a limit they still count, for statistics.
pub const WANTED: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// The values for one controller.
pub fn limits(controller: &'static str, resources: &LinuxResources, offers: Offers) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    let mut limit = |flag, file, value: String, why| limits.push(Limit { controller, flag, file, value, why });
    match controller {
        "memory" => {
            let Some(memory) = resources.memory() else { return Ok(limits) };
            if memory.disable_oom_killer() == Some(true) {
                bail!("--oom-kill-disable: cgroup v2 has no such switch");
            }
            if let Some(bytes) = memory.limit() {
                let why =
                    "Bytes of memory, page cache included; whoever needs more is killed once nothing can be freed.";
                limit("--memory", "memory.max", bytes.to_string(), why);
            }
            if let (Some(sum @ 0..), Some(bytes)) = (memory.swap(), memory.limit()) {
                let why =
                    "Bytes of swap alone (--memory-swap less --memory): without it the host's swap would fill up.";
                limit("--memory-swap", "memory.swap.max", (sum - bytes).max(0).to_string(), why);
            }
            if let Some(bytes) = memory.reservation() {
                let why =
                    "When the machine runs short, others give their memory first until the container is above this.";
                limit("--memory-reservation", "memory.low", bytes.to_string(), why);
            }
        }
        "cpu" => {
            let Some(cpu) = resources.cpu() else { return Ok(limits) };
            if let Some(shares) = cpu.shares() {
                let why = "Its part of the CPUs when others want them too; 2-262144 of version 1 become 1-10000.";
                limit("--cpu-shares", "cpu.weight", weight_of_shares(shares).to_string(), why);
            }
            let quota = cpu.quota().filter(|quota| *quota > 0).map(|quota| quota.to_string());
            if quota.is_some() || cpu.period().is_some() {
                let why =
                    "CPU time per period, on all CPUs together, in microseconds; then it waits for the next period.";
                let (quota, period) = (quota.as_deref().unwrap_or("max"), cpu.period().unwrap_or(super::flags::PERIOD));
                limit(limit::bandwidth_flag(resources), "cpu.max", format!("{quota} {period}"), why);
            }
        }
        "blkio" => {
            let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()) else { return Ok(limits) };
            let (file, value) = match (offers("io.bfq.weight"), offers("io.weight")) {
                (Some(true), _) => ("io.bfq.weight", weight.into()),
                (_, Some(true)) => ("io.weight", weight_of_io(weight)),
                (None, _) if offers("io.cost.qos") == Some(true) => ("io.weight", weight_of_io(weight)),
                (None, _) => ("io.bfq.weight", weight.into()),
                _ => bail!(
                    "--blkio-weight: {NO_WEIGHTS} (no io.bfq.weight, which `modprobe bfq` may bring, and no io.weight)"
                ),
            };
            let why = "Its part of the disk's time when others want it too; used by the scheduler BFQ, or by io.cost.";
            limit("--blkio-weight", file, value.to_string(), why);
        }
        _ => limits = limit::same_in_both(controller, resources),
    }
    Ok(limits)
}

/// 2…262144 of version 1 onto 1…10000, in a straight line.
fn weight_of_shares(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
}

/// 10…1000 of version 1 onto 1…10000, in a straight line.
fn weight_of_io(weight: u16) -> u32 {
    1 + u32::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// The folders, made before there is a child, with the controllers enabled on the way to them; `needed` are those
/// without which a limit could not be set, each with its flag.
pub fn make(tree: &Tree, place: &Place, needed: &[(&'static str, &'static str)], plan: &mut Plan) -> Result<()> {
    steps::make_all(tree, place, plan);
    let needed: Vec<_> = needed.iter().filter(|(controller, _)| tree.carries(controller)).collect();
    let flag = needed.first().map_or("", |(_, flag)| flag);
    let needed: Vec<&str> = needed.iter().map(|(controller, _)| tree.version.word(controller)).collect();
    let offered: Vec<&str> =
        WANTED.into_iter().filter(|word| tree.controllers.iter().any(|other| other == word)).collect();
    for parent in [None].into_iter().chain(place.parents.iter().map(Some)) {
        let dir = parent.map_or_else(|| tree.mount.clone(), |parent| tree.mount.join(parent));
        // A parent that is not ours may go and come between now and then, and what it has enabled with it.
        let stays = parent.is_none() || place.is_ours();
        let enabled = if stays { words(&dir.join("cgroup.subtree_control")) } else { vec![] };
        let absent = |words: &[&str]| -> Vec<String> {
            let absent = words.iter().filter(|word| enabled.iter().all(|other| other != *word));
            absent.map(|word| format!("+{word}")).collect()
        };
        let (all, least) = (absent(&offered), absent(&needed));
        if all.is_empty() {
            continue;
        }
        let root = parent.is_none() && tree.is_real_root();
        match (!root && !words(&dir.join("cgroup.procs")).is_empty(), least.is_empty()) {
            (true, false) => bail!("{flag}: {}", crowded(&dir)),
            (true, true) => continue,
            (false, _) => {}
        }
        let level = parent.map_or(String::new(), |parent| parent.display().to_string());
        plan.add(Phase::Host, format!("enable./{level}"), enable(&dir, &all, &least))
            .why("A cgroup has only the controllers that its parent has enabled for its children.")
            .look(format!("cat {}/cgroup.subtree_control", dir.display()));
    }
    Ok(())
}

/// The rule of "no internal processes". With `cpu`, `cpuset` and `pids` alone the kernel would not refuse, but turn
/// the cgroup into a threaded one, in which no process can be born any more; so we do not even try.
fn crowded(dir: &Path) -> String {
    let dir = quote(&dir.display().to_string());
    format!(
        "`{dir}` has processes of its own, and cgroup v2 hands controllers down only where there are none: move them \
         into a cgroup inside it first (mkdir {dir}/init; for p in $(cat {dir}/cgroup.procs); do echo $p > \
         {dir}/init/cgroup.procs; done)"
    )
}

/// Enables all, or, if that cannot be, at least what is needed.
fn enable(dir: &Path, all: &[String], least: &[String]) -> Op {
    let path = dir.join("cgroup.subtree_control");
    let (words, nothing) = (least.join(" ").replace('+', ""), least.is_empty());
    let (all, least) = (Op::set(&path, all.join(" ")), Op::set(&path, least.join(" ")));
    let (args, shell) = (all.args.clone(), all.shell.clone());
    let op = Op::new("write", args, shell, move |stage| match all.act(stage) {
        Err(_) if nothing => Ok(()),
        Err(Errno::ENOENT | Errno::EINVAL) => least.act(stage),
        other => other,
    });
    let dir = dir.to_owned();
    op.hint(move |errno, _| match errno {
        Errno::EBUSY => Some(crowded(&dir)),
        Errno::ENOENT => Some(format!("the controllers {words} are not delegated to `{}`", dir.display())),
        Errno::EOPNOTSUPP => Some(format!("`{}` is threaded, and takes only threaded controllers", dir.display())),
        errno => steps::no_right(errno).map(str::to_string),
    })
}

/// The way in: `clone3` takes the folder (CLONE_INTO_CGROUP, Linux 5.7); on an older kernel the child goes by itself.
pub fn join(tree: &Tree, place: &Place, plan: &mut Plan) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if can_be_born_inside(&release) {
        plan.into_cgroup = Some(tree.mount.join(&place.leaf));
        return;
    }
    let why =
        "Before Linux 5.7 a process cannot be born in another cgroup than its parent's, so the child moves itself.";
    steps::join(tree, place, "cgroup.procs", why, plan);
}

fn can_be_born_inside(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_ends() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
        assert_eq!([10, 500, 1000].map(weight_of_io), [1, 4950, 10_000]);
    }

    #[test]
    fn kernels_that_clone_into_a_cgroup() {
        for (release, can) in
            [("6.18.1-x", true), ("5.7.0", true), ("5.6.19", false), ("4.19.0-27-amd64", false), ("", false)]
        {
            assert_eq!(can_be_born_inside(release), can, "{release}");
        }
    }
}
