//! Version 1: one tree per controller (or per group of them), each with its own folders, files and units
//! (`Documentation/admin-guide/cgroup-v1` of the kernel). A process is in one cgroup of every tree, and joins them one
//! by one.
//!
//! Try it without us: `cd /sys/fs/cgroup/pids; mkdir x; echo 5 > x/pids.max; sh -c 'echo 0 > x/tasks; …'; rmdir x`

use super::layout::Tree;
use super::limit::{self, Limit, NO_WEIGHTS, Offers};
use super::place::{OURS, Place};
use super::steps;
use crate::plan::{Op, Phase, Plan};
use anyhow::{Result, bail};
use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;
use std::fs;
use std::path::{Path, PathBuf};

/// The values for one controller, in the order in which the kernel takes them.
pub fn limits(controller: &'static str, resources: &LinuxResources, offers: Offers) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    let mut limit = |flag, file, value: String, why| limits.push(Limit { controller, flag, file, value, why });
    match controller {
        "memory" => {
            let Some(memory) = resources.memory() else { return Ok(limits) };
            // Memory first: the kernel refuses a sum below the limit, which begins as unlimited.
            if let Some(bytes) = memory.limit() {
                let why =
                    "Bytes of memory, page cache included; whoever needs more is killed once nothing can be freed.";
                limit("--memory", "memory.limit_in_bytes", bytes.to_string(), why);
            }
            if let Some(bytes @ 0..) = memory.swap() {
                let why = "Bytes of memory and swap together: without it the container would fill the host's swap.";
                limit("--memory-swap", "memory.memsw.limit_in_bytes", bytes.to_string(), why);
            }
            if let Some(bytes) = memory.reservation() {
                let why = "When the machine runs short, the kernel pushes the container back to this many bytes.";
                limit("--memory-reservation", "memory.soft_limit_in_bytes", bytes.to_string(), why);
            }
            if memory.disable_oom_killer() == Some(true) {
                let why = "At its limit the container waits for memory instead of being killed.";
                limit("--oom-kill-disable", "memory.oom_control", "1".to_string(), why);
            }
        }
        "cpu" => {
            let Some(cpu) = resources.cpu() else { return Ok(limits) };
            let flag = limit::bandwidth_flag(resources);
            if let Some(shares) = cpu.shares() {
                let why =
                    "Its part of the CPUs when others want them too; 1024 is one part. An idle CPU is free for all.";
                limit("--cpu-shares", "cpu.shares", shares.to_string(), why);
            }
            if let Some(period) = cpu.period() {
                limit(flag, "cpu.cfs_period_us", period.to_string(), "The period of the CPU limit, in microseconds.");
            }
            if let Some(quota @ 1..) = cpu.quota() {
                let why =
                    "CPU time per period, on all CPUs together, in microseconds; then it waits for the next period.";
                limit(flag, "cpu.cfs_quota_us", quota.to_string(), why);
            }
        }
        "blkio" => {
            let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()) else { return Ok(limits) };
            let Some(file) = ["blkio.bfq.weight", "blkio.weight"].into_iter().find(|file| has_weights(file, offers))
            else {
                bail!("--blkio-weight: {NO_WEIGHTS} (no blkio.bfq.weight, which `modprobe bfq` may bring)");
            };
            let why =
                "Its part of the disk's time when others want it too; used by the I/O scheduler BFQ (CFQ before 5.0).";
            limit("--blkio-weight", file, weight.to_string(), why);
        }
        _ => limits = limit::same_in_both(controller, resources),
    }
    Ok(limits)
}

/// The root of the tree has no weight of its own, but other files of the same scheduler.
fn has_weights(file: &str, offers: Offers) -> bool {
    offers(file).unwrap_or_else(|| file == "blkio.bfq.weight" && offers("blkio.bfq.io_serviced") == Some(true))
}

/// The folders of one tree, made before there is a child, and ready to be joined.
pub fn make(tree: &Tree, place: &Place, plan: &mut Plan) {
    let cpuset = tree.carries("cpuset");
    if cpuset && place.is_ours() {
        prepare_ours(tree, place, plan);
    }
    steps::make_all(tree, place, plan);
    if cpuset && !place.is_ours() {
        for dir in place.parents.iter().chain([&place.leaf]) {
            inherit(tree, place, dir, plan);
        }
    }
}

/// The way in.
///
/// The child itself does it, into `tasks` and not into `cgroup.procs`: for a single thread that is the caller the
/// kernel needs no `cgroup_threadgroup_rwsem`, since it can neither exit nor exec meanwhile (`cgroup_procs_write_start`
/// in kernel/cgroup/cgroup.c). That lock waits for an RCU grace period on an idle machine: 15 ms instead of 25 µs.
pub fn join(tree: &Tree, place: &Place, plan: &mut Plan) {
    let why = "The child joins by itself: what it starts from now on is born in this cgroup, and under its limits.";
    steps::join(tree, place, "tasks", why, plan);
}

/// A new cpuset is empty and takes no process. `cgroup.clone_children` makes the kernel copy the parent's CPUs and
/// memory nodes into every new one; set once on our parent, it saves two writes per container.
fn prepare_ours(tree: &Tree, place: &Place, plan: &mut Plan) {
    let ours = tree.mount.join(OURS);
    let switch = ours.join("cgroup.clone_children");
    // The switch is written last, so it tells that the rest is done.
    if fs::read_to_string(&switch).is_ok_and(|text| text.trim_ascii_end() == "1") {
        return;
    }
    plan.add(Phase::Host, format!("parent.{}/{OURS}", tree.label()), steps::make(&ours, 0o755))
        .why("The parent of all containers, made once; it stays.")
        .look(format!("ls {}", ours.display()));
    inherit(tree, place, Path::new(OURS), plan);
    plan.add(Phase::Host, "inherit.cgroup.clone_children", Op::set(&switch, "1"))
        .why("From now on the kernel itself hands the parent's CPUs and memory nodes to every new cpuset in here.")
        .look(format!("cat {}", switch.display()));
}

/// Hands the parents' CPUs and memory nodes down to `dir`, unless it has some.
fn inherit(tree: &Tree, place: &Place, dir: &Path, plan: &mut Plan) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Some(value) = limit::available(tree, place, file) else { continue };
        let path = tree.mount.join(dir).join(file);
        let level = if dir == place.leaf { String::new() } else { format!("/{}", dir.display()) };
        plan.add(Phase::Host, format!("inherit.{file}{level}"), set_if_empty(&path, value))
            .why("A new cpuset is empty, and an empty one takes no process: it gets what its parent has.")
            .look(format!("cat {}", path.display()));
    }
}

fn set_if_empty(path: &Path, value: String) -> Op {
    let set = Op::set(path, value);
    let shell = format!("grep -q . {} || {}", crate::plan::quote(&path.display().to_string()), set.shell);
    let path: PathBuf = path.to_owned();
    let op = Op::new("write", set.args.clone(), shell, move |stage| {
        match fs::read_to_string(&path).map_err(steps::errno)?.trim_ascii_end() {
            "" => set.act(stage),
            _ => Ok(()),
        }
    });
    op.hint(|errno, _| match errno {
        Errno::EINVAL | Errno::EACCES => {
            Some("a cpuset beside it has these CPUs for itself (cpuset.cpu_exclusive)".to_string())
        }
        errno => steps::no_right(errno).map(str::to_string),
    })
}
