//! Plans for machines of either generation, drawn over folders that look like theirs.

use super::*;
use crate::plan::{Dirs, Id, ImageConfig};
use std::path::PathBuf;
use tempfile::TempDir;

/// A machine whose trees lie in a temporary folder.
struct Machine {
    layout: Layout,
    root: TempDir,
}

impl Room for Machine {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        draw(&self.layout, spec, plan)
    }
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { layout: Layout::default(), root }
    }

    fn tree(mut self, version: Version, mount: &str, controllers: &str) -> Self {
        let mount: PathBuf = self.root.path().join(mount);
        let controllers = controllers.split(' ').map(str::to_string).collect();
        self.layout.trees.push(Tree { version, own: mount.clone(), mount, controllers, read_only: false });
        self
    }

    fn v1() -> Self {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/memory.memsw.limit_in_bytes", "9223372036854771712"),
            ("memory/memory.oom_control", ""),
            ("memory/release_agent", ""),
            ("cpuset/cpuset.cpus", "0-1\n"),
            ("cpuset/cpuset.mems", "0\n"),
            ("cpuset/cgroup.clone_children", "0\n"),
            ("pids/release_agent", ""),
        ];
        let machine = Self::new(&files).tree(Version::V1, "memory", "memory");
        machine.tree(Version::V1, "cpuset", "cpuset").tree(Version::V1, "pids", "pids")
    }

    fn v2() -> Self {
        let files = [
            ("v2/cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("v2/cgroup.subtree_control", "memory pids\n"),
            ("v2/cpuset.cpus.effective", "0-1\n"),
            ("v2/cgroup.procs", "1\n2\n"),
        ];
        Self::new(&files).tree(Version::V2, "v2", "cpuset cpu io memory pids")
    }

    /// The room's steps for these flags, one `name args` a line, with `$T` for the place of the trees and `$ID` for
    /// the container; or the refusal.
    fn steps(&self, words: &str) -> Result<Vec<String>, String> {
        let words = ["run"].into_iter().chain(words.split(' ').filter(|word| !word.is_empty()));
        let said = flags::add(clap::Command::new("run")).try_get_matches_from(words).unwrap();
        let value = |flag: &'static str| said.get_one::<String>(flag).map(String::as_str);
        let resources = flags::resources(&value, said.get_flag("oom-kill-disable"), 2).unwrap();
        let parent = place::parent(value("cgroup-parent").unwrap_or(place::OURS)).unwrap();
        let id = Id::random().unwrap();
        let mut spec = Spec::new(id.clone(), Dirs::new(None), ImageConfig::default(), vec![]);
        describe(&self.layout, resources, &parent, &mut spec);
        let plan = Plan::draw(&[self], &spec).map_err(|error| self.short(&error.to_string(), &id))?;
        let line = |step: &crate::plan::Step| self.short(&format!("{} {}", step.name, step.op.args.join(" ")), &id);
        Ok(plan.steps().iter().map(line).collect())
    }

    fn short(&self, text: &str, id: &Id) -> String {
        text.replace(&self.root.path().display().to_string(), "$T").replace(id.as_str(), "$ID").replace("cgroup.", "")
    }
}

#[test]
fn the_first_container_on_version_1() {
    let steps = Machine::v1().steps("-m 8m --pids-limit 9 --cpuset 1").unwrap();
    let expected = [
        "mkdir.memory $T/memory/mydocker/$ID",
        "mark $T/memory/mydocker/$ID trusted.mydocker.root /var/lib/mydocker",
        "limit.memory.limit_in_bytes $T/memory/mydocker/$ID/memory.limit_in_bytes 8388608",
        "limit.memory.memsw.limit_in_bytes $T/memory/mydocker/$ID/memory.memsw.limit_in_bytes 16777216",
        "parent.cpuset/mydocker $T/cpuset/mydocker",
        "inherit.cpuset.cpus/mydocker $T/cpuset/mydocker/cpuset.cpus 0-1",
        "inherit.cpuset.mems/mydocker $T/cpuset/mydocker/cpuset.mems 0",
        "inherit.clone_children $T/cpuset/mydocker/clone_children 1",
        "mkdir.cpuset $T/cpuset/mydocker/$ID",
        "limit.cpuset.cpus $T/cpuset/mydocker/$ID/cpuset.cpus 1",
        "mkdir.pids $T/pids/mydocker/$ID",
        "limit.pids.max $T/pids/mydocker/$ID/pids.max 9",
        "engine.clone 0",
        "join.memory $T/memory/mydocker/$ID/tasks 0",
        "join.cpuset $T/cpuset/mydocker/$ID/tasks 0",
        "join.pids $T/pids/mydocker/$ID/tasks 0",
        "namespace CLONE_NEWCGROUP",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn the_next_one_finds_its_parent_ready() {
    let machine = Machine::v1();
    fs::create_dir(machine.root.path().join("cpuset/mydocker")).unwrap();
    fs::write(machine.root.path().join("cpuset/mydocker/cgroup.clone_children"), "1\n").unwrap();
    let steps = machine.steps("").unwrap();
    assert!(steps.iter().all(|step| !step.starts_with("inherit") && !step.starts_with("parent")), "{steps:?}");
}

#[test]
fn a_parent_of_the_users_is_made_filled_and_goes_again() {
    let machine = Machine::v1();
    fs::create_dir_all(machine.root.path().join("cpuset/lab")).unwrap();
    let steps = machine.steps("--cgroup-parent /lab/a").unwrap();
    let cpuset: Vec<_> = steps.iter().filter(|step| step.contains("cpuset")).collect();
    let expected = [
        "parent.cpuset/lab/a $T/cpuset/lab/a",
        "mkdir.cpuset $T/cpuset/lab/a/$ID",
        "inherit.cpuset.cpus/lab $T/cpuset/lab/cpuset.cpus 0-1",
        "inherit.cpuset.mems/lab $T/cpuset/lab/cpuset.mems 0",
        "inherit.cpuset.cpus/lab/a $T/cpuset/lab/a/cpuset.cpus 0-1",
        "inherit.cpuset.mems/lab/a $T/cpuset/lab/a/cpuset.mems 0",
        "inherit.cpuset.cpus $T/cpuset/lab/a/$ID/cpuset.cpus 0-1",
        "inherit.cpuset.mems $T/cpuset/lab/a/$ID/cpuset.mems 0",
        "join.cpuset $T/cpuset/lab/a/$ID/tasks 0",
    ];
    assert_eq!(cpuset, expected.iter().collect::<Vec<_>>());
}

#[test]
fn version_2_enables_what_is_missing_and_is_born_inside() {
    let steps = Machine::v2().steps("-m 8m --memory-reservation 7m --cpus 0.5 -c 2 --cpuset 0").unwrap();
    let expected = [
        "mkdir.unified $T/v2/mydocker/$ID",
        "enable./ $T/v2/subtree_control +cpuset +cpu +io",
        "enable./mydocker $T/v2/mydocker/subtree_control +cpuset +cpu +io +memory +pids",
        "mark $T/v2/mydocker/$ID trusted.mydocker.root /var/lib/mydocker",
        "limit.memory.max $T/v2/mydocker/$ID/memory.max 8388608",
        "limit.memory.swap.max $T/v2/mydocker/$ID/memory.swap.max 8388608",
        "limit.memory.low $T/v2/mydocker/$ID/memory.low 7340032",
        "limit.cpu.weight $T/v2/mydocker/$ID/cpu.weight 1",
        "limit.cpu.max $T/v2/mydocker/$ID/cpu.max 50000 100000",
        "limit.cpuset.cpus $T/v2/mydocker/$ID/cpuset.cpus 0",
        "engine.clone 0 CLONE_INTO_CGROUP $T/v2/mydocker/$ID",
        "namespace CLONE_NEWCGROUP",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_crowded_cgroup_hands_nothing_down() {
    // What is not the kernel's own root has a type.
    let machine = Machine::v2();
    for (file, text) in [("cgroup.type", "domain\n"), ("cpu.max", "max 100000\n"), ("pids.max", "max\n")] {
        fs::write(machine.root.path().join("v2").join(file), text).unwrap();
    }
    let error = machine.steps("--cpus 1").unwrap_err();
    assert!(error.starts_with("--cpus: `$T/v2` has processes of its own"), "{error}");
    let steps = machine.steps("").unwrap();
    assert!(steps.iter().all(|step| !step.starts_with("enable./ ")), "{steps:?}");
    assert!(machine.steps("--pids-limit 5").is_ok(), "pids is enabled already");
}

#[test]
fn what_cannot_work_here_is_refused_by_name() {
    let (v1, v2) = (Machine::v1(), Machine::v2());
    fs::create_dir(v1.root.path().join("pids/x")).unwrap();
    fs::create_dir(v1.root.path().join("memory/x")).unwrap();
    fs::write(v2.root.path().join("v2/file"), "").unwrap();
    fs::create_dir_all(v2.root.path().join("v2/old.slice")).unwrap();
    fs::write(v2.root.path().join("v2/old.slice/cgroup.controllers"), "memory io").unwrap();
    let cases = [
        (&v1, "--pids-limit 5", "--pids-limit: this kernel has no `pids.max`"),
        (
            &v1,
            "-m 8m --memory-reservation 8m",
            "--memory-reservation: this kernel has no `memory.soft_limit_in_bytes`: a",
        ),
        (&v1, "--cpuset 2", "--cpuset-cpus: requested CPUs are not available: `2`; available: 0-1"),
        (&v1, "--cpuset-mems 1", "--cpuset-mems: requested memory nodes are not available: `1`; available: 0"),
        (&v1, "--cgroup-parent lab.slice", "--cgroup-parent: there is no `/lab.slice`: slices are systemd's"),
        (&v2, "--oom-kill-disable", "--oom-kill-disable: cgroup v2 has no such switch"),
        (&v2, "--cpuset 0-2", "--cpuset-cpus: requested CPUs are not available: `0-2`; available: 0-1"),
        (&v2, "-m 8m --memory-swap 9m", "--memory: this kernel has no `memory.max`"),
        (&v2, "--blkio-weight 10", "--blkio-weight: the kernel's I/O scheduler has no weights here"),
        (&v2, "--cgroup-parent file", "--cgroup-parent: `/file` is a file of the kernel's"),
    ];
    for (machine, words, expected) in cases {
        let error = machine.steps(words).unwrap_err();
        assert!(error.starts_with(expected), "{words}: {error}");
    }
    assert!(v2.steps("--cgroup-parent old.slice").is_ok());
}

#[test]
fn swap_is_limited_by_default_only_where_it_is_counted() {
    let machine = Machine::v2();
    let files = machine.root.path().join("v2/mydocker");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("cgroup.controllers"), "memory").unwrap();
    fs::write(files.join("memory.max"), "max").unwrap();
    let steps = machine.steps("-m 8m").unwrap();
    assert!(steps.iter().all(|step| !step.contains("swap")), "{steps:?}");
    let error = machine.steps("-m 8m --memory-swap 9m").unwrap_err();
    assert!(
        error.starts_with("--memory-swap: this kernel has no `memory.swap.max`: it does not count swap"),
        "{error}"
    );
    fs::write(files.join("memory.swap.max"), "max").unwrap();
    assert!(machine.steps("-m 8m").unwrap().iter().any(|step| step.contains("swap.max 8388608")));
}

#[test]
fn a_machine_without_cgroups_runs_without_limits() {
    let machine = Machine::new(&[]);
    assert_eq!(machine.steps("").unwrap(), ["engine.clone 0", "namespace CLONE_NEWCGROUP"]);
    assert!(machine.steps("--cpus 1").unwrap_err().starts_with("--cpus: no cgroup file system is mounted here"));
}
