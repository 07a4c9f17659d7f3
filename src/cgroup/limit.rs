//! Limits: what the OCI document asks for, as values in the kernel's files, or the reason why that is impossible here.

use super::layout::{Layout, Tree, Version};
use super::list::List;
use super::place::Place;
use super::{v1, v2};
use anyhow::{Result, bail};
use oci_spec::runtime::LinuxResources;
use std::fs;
use std::path::PathBuf;

/// Why `--blkio-weight` cannot be had.
pub const NO_WEIGHTS: &str = "the kernel's I/O scheduler has no weights here";

/// One value in one file of the container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub controller: &'static str,
    /// The flag that asks for it.
    pub flag: &'static str,
    pub file: &'static str,
    pub value: String,
    pub why: &'static str,
}

/// Whether the kernel has a file, as far as that can be told without making a cgroup (see [`Tree::offers`]).
pub type Offers<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// The controllers that the document needs, each with the flag that asks for it first.
pub fn needed(resources: &LinuxResources) -> Vec<(&'static str, &'static str)> {
    let mut needed = Vec::new();
    let mut need = |said: bool, controller, flag| {
        if said && needed.iter().all(|(known, _)| *known != controller) {
            needed.push((controller, flag));
        }
    };
    if let Some(memory) = resources.memory() {
        need(memory.limit().is_some(), "memory", "--memory");
        need(memory.swap().is_some(), "memory", "--memory-swap");
        need(memory.reservation().is_some(), "memory", "--memory-reservation");
        need(memory.disable_oom_killer() == Some(true), "memory", "--oom-kill-disable");
    }
    if let Some(cpu) = resources.cpu() {
        need(cpu.shares().is_some(), "cpu", "--cpu-shares");
        need(cpu.quota().is_some() || cpu.period().is_some(), "cpu", bandwidth_flag(resources));
        need(cpu.cpus().is_some(), "cpuset", "--cpuset-cpus");
        need(cpu.mems().is_some(), "cpuset", "--cpuset-mems");
    }
    need(resources.pids().is_some(), "pids", "--pids-limit");
    need(resources.block_io().as_ref().is_some_and(|io| io.weight().is_some()), "blkio", "--blkio-weight");
    needed
}

/// Which flag has set quota and period: both, with the kernel's own period, is what `--cpus` means.
pub fn bandwidth_flag(resources: &LinuxResources) -> &'static str {
    match resources.cpu().as_ref().map(|cpu| (cpu.quota(), cpu.period())) {
        Some((Some(_), Some(super::flags::PERIOD))) => "--cpus",
        Some((Some(_), _)) => "--cpu-quota",
        _ => "--cpu-period",
    }
}

/// The limits, each with its tree, in the order in which they are to be written.
pub fn limits<'a>(layout: &'a Layout, place: &Place, resources: &LinuxResources) -> Result<Vec<(&'a Tree, Limit)>> {
    let mut limits = Vec::new();
    // The deepest first: the nearest relative of the cgroup that is to be made.
    let near: Vec<PathBuf> = place.parents.iter().rev().cloned().chain([super::place::OURS.into()]).collect();
    for (controller, flag) in needed(resources) {
        let Some(tree) = layout.home(controller) else {
            bail!("{flag}: {}", missing(layout, controller));
        };
        let offers = |file: &str| tree.offers(controller, file, &near);
        let list = match tree.version {
            Version::V1 => v1::limits(controller, resources, &offers)?,
            Version::V2 => v2::limits(controller, resources, &offers)?,
        };
        for limit in list {
            if offers(limit.file) == Some(false) {
                bail!("{}: this kernel has no `{}`{}", limit.flag, limit.file, reason(&limit));
            }
            if controller == "cpuset" {
                check_available(tree, place, &limit)?;
            }
            limits.push((tree, limit));
        }
    }
    Ok(limits)
}

/// Where both generations have the same files.
pub fn same_in_both(controller: &'static str, resources: &LinuxResources) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut limit = |flag, file, value: String, why| limits.push(Limit { controller, flag, file, value, why });
    match (controller, resources.cpu(), resources.pids()) {
        ("cpuset", Some(cpu), _) => {
            if let Some(list) = cpu.cpus() {
                limit(
                    "--cpuset-cpus",
                    "cpuset.cpus",
                    list.clone(),
                    "Only on these CPUs; on a large machine that keeps caches warm.",
                );
            }
            if let Some(list) = cpu.mems() {
                limit(
                    "--cpuset-mems",
                    "cpuset.mems",
                    list.clone(),
                    "Memory only from these nodes, the ones near its CPUs.",
                );
            }
        }
        ("pids", _, Some(pids)) => {
            let why = "Processes and threads; at the limit `fork` fails with EAGAIN, so a fork bomb stays in its box.";
            limit("--pids-limit", "pids.max", pids.limit().to_string(), why);
        }
        _ => {}
    }
    limits
}

/// Why a kernel comes without a file.
fn reason(limit: &Limit) -> &'static str {
    match limit.file {
        "memory.memsw.limit_in_bytes" | "memory.swap.max" => {
            ": it does not count swap (CONFIG_SWAP, or swapaccount=1 on the kernel's command line)"
        }
        "cpu.cfs_quota_us" | "cpu.cfs_period_us" | "cpu.max" => ": it was built without CONFIG_CFS_BANDWIDTH",
        "memory.soft_limit_in_bytes" => ": a real-time kernel leaves soft limits out",
        _ => "",
    }
}

/// Why no tree carries `controller`: what of the many possible reasons holds on this machine.
fn missing(layout: &Layout, controller: &'static str) -> String {
    if layout.trees.is_empty() {
        return "no cgroup file system is mounted here (mount -t cgroup2 cgroup2 /sys/fs/cgroup)".to_string();
    }
    if let Some(tree) = layout.trees.iter().find(|tree| tree.carries(controller)) {
        let mount = tree.mount.display();
        return format!("`{mount}` is mounted read-only, as in a container: only the outer engine may set limits");
    }
    let known = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let unified = layout.trees.iter().find(|tree| tree.version == Version::V2);
    why_missing(controller, &known, unified.filter(|tree| !tree.is_real_root()))
}

/// The same, from the text of `/proc/cgroups` (name, hierarchy, number of cgroups, enabled) and the tree of version 2
/// if that is somebody else's cgroup.
fn why_missing(controller: &'static str, known: &str, handed_over: Option<&Tree>) -> String {
    let entry = known.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let entry = entry.into_iter().find(|fields| fields.first() == Some(&controller));
    match (entry.as_deref(), handed_over) {
        (Some([.., "0"]), _) => {
            format!("the controller `{controller}` is switched off (cgroup_disable= on the kernel's command line)")
        }
        (Some([_, hierarchy, ..]), _) if *hierarchy != "0" => {
            format!("the hierarchy of the controller `{controller}` is not mounted here")
        }
        (_, Some(tree)) => {
            let (word, mount) = (Version::V2.word(controller), tree.mount.display());
            format!("the controller `{word}` was not delegated to `{mount}` (systemd: Delegate=yes)")
        }
        (Some(_), None) => format!(
            "the controller `{controller}` is in no mounted tree (mount -t cgroup2 cgroup2 DIR, or mount -t cgroup -o \
             {controller} {controller} DIR)"
        ),
        (None, None) => format!("this kernel has no controller `{controller}`"),
    }
}

/// A cpuset can only hand down what its parent has.
fn check_available(tree: &Tree, place: &Place, limit: &Limit) -> Result<()> {
    let what = if limit.file == "cpuset.cpus" { "CPUs" } else { "memory nodes" };
    let Some(text) = available(tree, place, limit.file) else { return Ok(()) };
    match (List::parse(&text), List::parse(&limit.value)) {
        (Some(there), Some(asked)) if !there.contains(&asked) => {
            bail!("{}: requested {what} are not available: `{}`; available: {text}", limit.flag, limit.value)
        }
        _ => Ok(()),
    }
}

/// What the nearest existing parent has: on version 2 an empty file means "as my parent", and another file tells.
pub fn available(tree: &Tree, place: &Place, file: &str) -> Option<String> {
    let file = match tree.version {
        Version::V1 => file.to_string(),
        Version::V2 => format!("{file}.effective"),
    };
    let dirs = place.parents.iter().rev().map(|parent| tree.mount.join(parent)).chain([tree.mount.clone()]);
    let text = |dir: PathBuf| fs::read_to_string(dir.join(&file)).ok();
    dirs.filter_map(text).map(|text| text.trim_ascii_end().to_string()).find(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_controller_has_one_reason() {
        let known = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t0\t1\t0\npids\t0\t1\t1\n";
        let tree = Tree {
            version: Version::V2,
            mount: "/sys/fs/cgroup".into(),
            own: "/sys/fs/cgroup".into(),
            controllers: vec![],
            read_only: false,
        };
        let cases = [
            ("memory", None, "cgroup_disable="),
            ("memory", Some(&tree), "cgroup_disable="),
            ("cpu", None, "is not mounted here"),
            ("pids", None, "is in no mounted tree"),
            ("pids", Some(&tree), "was not delegated to `/sys/fs/cgroup`"),
            ("blkio", Some(&tree), "the controller `io` was not delegated"),
            ("cpuset", None, "this kernel has no controller `cpuset`"),
        ];
        for (controller, handed_over, part) in cases {
            let text = why_missing(controller, known, handed_over);
            assert!(text.contains(part), "{controller}: {text}");
        }
    }

    #[test]
    fn without_any_tree_every_limit_is_refused_by_name() {
        let mut resources = LinuxResources::default();
        let mut pids = oci_spec::runtime::LinuxPids::default();
        pids.set_limit(5);
        resources.set_pids(Some(pids));
        let place = Place::parse("/mydocker/x".as_ref()).unwrap();
        let error = limits(&Layout::default(), &place, &resources).unwrap_err().to_string();
        assert!(error.starts_with("--pids-limit: no cgroup file system is mounted here"), "{error}");
    }
}
