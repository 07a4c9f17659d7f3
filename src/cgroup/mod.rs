//! What a container may use. A control group (cgroup) is a set of processes that the kernel counts together and limits
//! together: memory, CPU time, the number of processes, the share of the disks (`man 7 cgroups`).
//!
//! Inside, a limit shows only by its effects (and, read-only, in /sys/fs/cgroup): `fork` fails, a process is killed,
//! the CPU is gone for a while. A process joins a cgroup by a write of its number into a file; its children are born
//! there.
//!
//! There are two generations, version 1 with many trees and version 2 with one, and machines that have both.
//!
//! Try it without us: `cat /proc/self/cgroup; ls /sys/fs/cgroup`

mod doctor;
mod flags;
mod freeze;
mod layout;
mod limit;
mod list;
mod oom;
mod orphans;
mod pause;
mod place;
mod size;
mod stats;
mod steps;
mod v1;
mod v2;
mod view;

pub use freeze::Freezer;
pub use pause::freezer;
pub use stats::Stats;

use crate::plan::{Dirs, Fact, Op, Orphan, Phase, Plan, Room, Spec, Target};
use anyhow::{Result, bail};
use clap::ArgMatches;
use layout::{Layout, Tree, Version};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxResources};
use place::Place;
use std::fs;
use std::path::Path;

/// The room.
pub struct Cgroup;

impl Room for Cgroup {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        flags::add(command)
    }

    fn doctor(&self, _dirs: &Dirs) -> Vec<Fact> {
        doctor::facts(Layout::here())
    }

    fn orphans(&self) -> Vec<Orphan> {
        orphans::find(Layout::here())
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let value = |flag: &'static str| said.get_one::<String>(flag).map(String::as_str);
        let cpus = if value("cpus").is_some() { online() } else { 0 };
        let resources = flags::resources(&value, said.get_flag("oom-kill-disable"), cpus)?;
        let parent = match value("cgroup-parent").filter(|path| !path.is_empty()) {
            Some(path) => place::parent(path)?,
            None => Path::new("/").join(place::OURS),
        };
        describe(Layout::here(), resources, &parent, spec);
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        draw(Layout::here(), spec, plan)
    }

    fn update_flags(&self, command: clap::Command) -> clap::Command {
        let all = flags::add(clap::Command::new("update"));
        let fixed = ["oom-kill-disable", "cgroup-parent"];
        command.args(all.get_arguments().filter(|arg| !fixed.contains(&arg.get_id().as_str())).cloned())
    }

    fn update(&self, said: &ArgMatches, spec: &mut Spec, plan: &mut Plan) -> Result<()> {
        let string = |name: &'static str| said.get_one::<String>(name).map(String::as_str);
        let new = flags::resources(&string, false, online())?;
        if new == LinuxResources::default() {
            return Ok(());
        }
        let Some(path) = spec.linux().cgroups_path().clone() else { return Ok(()) };
        let (layout, place) = (Layout::here(), Place::parse(&path)?);
        for (tree, limit) in limit::limits(layout, &place, &new)? {
            steps::limit(tree, &place, &limit, plan);
        }
        let mut all = serde_json::to_value(spec.linux().resources().clone().unwrap_or_default())?;
        overlay(&mut all, serde_json::to_value(new)?);
        spec.linux_mut().set_resources(Some(serde_json::from_value(all)?));
        Ok(())
    }

    fn join(&self, spec: &Spec, _target: &Target, plan: &mut Plan) -> Result<()> {
        let (layout, linux) = (Layout::here(), spec.linux());
        let Some(path) = linux.cgroups_path() else { return Ok(()) };
        let place = Place::parse(path)?;
        let needed = limit::needed(&linux.resources().clone().unwrap_or_default());
        for tree in layout.used(&needed) {
            match tree.version {
                Version::V1 => v1::join(tree, &place, plan),
                Version::V2 => v2::join(tree, &place, plan),
            }
        }
        Ok(())
    }

    fn obituary(&self, spec: &Spec) -> Option<String> {
        oom::obituary(Layout::here(), spec)
    }
}

/// Puts what `new` says over `old`; what it does not speak of stays.
fn overlay(old: &mut serde_json::Value, new: serde_json::Value) {
    use serde_json::Value;
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new.into_iter().filter(|(_, value)| !value.is_null()) {
                overlay(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

/// How many CPUs are online.
fn online() -> u64 {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|text| list::List::parse(&text));
    list.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u64), |list| list.count())
}

/// Writes down what was asked, and what the container will see of it.
fn describe(layout: &Layout, mut resources: LinuxResources, parent: &Path, spec: &mut Spec) {
    if let Some(mut memory) = *resources.memory()
        && let (Some(limit), None, true) = (memory.limit(), memory.swap(), counts_swap(layout))
    {
        // As docker: as much swap as memory.
        memory.set_swap(Some(limit.saturating_mul(2)));
        resources.set_memory(Some(memory));
    }
    let needed = limit::needed(&resources);
    let path = parent.join(spec.id.as_str());
    let linux = spec.linux_mut();
    linux.set_cgroups_path(Some(path));
    if resources != LinuxResources::default() {
        linux.set_resources(Some(resources));
    }
    if !Path::new("/proc/self/ns/cgroup").exists() {
        return; // before Linux 4.6; without the namespace the mounts would show the host's cgroups
    }
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(LinuxNamespaceType::Cgroup);
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.push(namespace);
    linux.set_namespaces(Some(namespaces));
    let trees: Vec<&Tree> = layout.used(&needed).collect();
    spec.mounts_mut().extend(view::mounts(&trees));
}

/// Whether a limit of swap can be set; where no cgroup can tell yet, whether the kernel has swap at all.
fn counts_swap(layout: &Layout) -> bool {
    let Some(tree) = layout.home("memory") else { return false };
    let file = match tree.version {
        Version::V1 => "memory.memsw.limit_in_bytes",
        Version::V2 => "memory.swap.max",
    };
    tree.offers("memory", file, &[place::OURS.into()]).unwrap_or_else(|| Path::new("/proc/swaps").exists())
}

/// The steps for a machine of this layout.
fn draw(layout: &Layout, spec: &Spec, plan: &mut Plan) -> Result<()> {
    let linux = spec.linux();
    let Some(path) = linux.cgroups_path() else { return Ok(()) };
    let place = Place::parse(path)?;
    let resources = linux.resources().clone().unwrap_or_default();
    let limits = limit::limits(layout, &place, &resources)?;
    let needed = limit::needed(&resources);
    let trees: Vec<&Tree> = layout.used(&needed).collect();
    if trees.is_empty() {
        log::warn!(
            "no cgroup file system can be written here: the container runs in the engine's own cgroups, without limits"
        );
    }
    check_parents(layout, &trees, &place)?;
    for (number, tree) in trees.into_iter().enumerate() {
        match tree.version {
            Version::V1 => v1::make(tree, &place, plan),
            Version::V2 => v2::make(tree, &place, &needed, plan)?,
        }
        if number == 0 && place.is_ours() {
            orphans::mark(tree, &place, &spec.dirs.root, plan);
        }
        for (_, limit) in limits.iter().filter(|(home, _)| *home == tree) {
            steps::limit(tree, &place, limit, plan);
        }
        match tree.version {
            Version::V1 => v1::join(tree, &place, plan),
            Version::V2 => v2::join(tree, &place, plan),
        }
    }
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    if namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup) {
        hide_the_rest(plan);
    }
    Ok(())
}

/// The parents are folders, or can become some; a slice is there, for only systemd makes slices.
fn check_parents(layout: &Layout, trees: &[&Tree], place: &Place) -> Result<()> {
    for parent in place.parents.iter().filter(|_| !place.is_ours()) {
        let shown = Path::new("/").join(parent);
        let exists = |mount: &Path| mount.join(parent).is_dir();
        for tree in trees {
            if tree.mount.join(parent).exists() && !exists(&tree.mount) {
                bail!("--cgroup-parent: `{}` is a file of the kernel's in `{}`", shown.display(), tree.mount.display());
            }
        }
        let slice = parent.extension().is_some_and(|extension| extension == "slice");
        let known = layout.trees.iter().any(|tree| exists(&tree.mount)) || exists(Path::new("/sys/fs/cgroup/systemd"));
        if slice && !known {
            let name = parent.file_name().unwrap_or_default().display();
            bail!(
                "--cgroup-parent: there is no `{}`: slices are systemd's to make (systemctl start {name})",
                shown.display()
            );
        }
    }
    Ok(())
}

/// The cgroup namespace. It begins where its maker *is*, and `clone3` would make it while the child still is where the
/// engine is (`copy_cgroup_ns` asks for the css_set of the caller); so the child makes it, after it has joined.
fn hide_the_rest(plan: &mut Plan) {
    let op = Op::new("unshare", ["CLONE_NEWCGROUP"], "unshare --cgroup sh", |_| unshare(CloneFlags::CLONE_NEWCGROUP));
    let op = op.hint(|errno, _| match errno {
        Errno::EPERM => Some("a cgroup namespace needs CAP_SYS_ADMIN".to_string()),
        Errno::ENOSPC => Some("the limit in /proc/sys/user/max_cgroup_namespaces is reached".to_string()),
        _ => None,
    });
    plan.add(Phase::Enter, "namespace", op)
        .why("From now on the container's cgroup is the root of all that it sees of cgroups.")
        .look("readlink /proc/$PID/ns/cgroup; nsenter -t $PID -C cat /proc/$PID/cgroup");
}

#[cfg(test)]
mod tests;
