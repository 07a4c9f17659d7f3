//! Break it: faults for the labs of the course, compiled only with the cargo feature `labs`. A plan is data, so a fault
//! is a step that is missing, bent, or put in another's place; which one, `MYDOCKER_LAB=B7` says.
//!
//! What a student sees of each, and the check that proves it, are in `tests/chapters/labs.json`.

use super::{Op, Phase, Plan, Step, c_string};
use crate::sys;
use anyhow::{Result, bail};
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::path::Path;

/// Bends the plan by the fault that the environment names, if it names one.
pub fn bend(plan: &mut Plan) -> Result<()> {
    let Ok(code) = std::env::var("MYDOCKER_LAB") else { return Ok(()) };
    let faults = [namespaces, cgroups, root, files, enter, wire];
    if code.is_empty() || faults.iter().any(|fault| fault(&code, plan)) {
        return Ok(());
    }
    bail!("MYDOCKER_LAB: there is no fault `{}`", code.escape_debug())
}

/// An `exec` makes no mount namespace: it joins one.
fn is_exec(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| step.name == "namespaces.enter")
}

/// Leaves out every step whose name begins so.
fn drop_steps(plan: &mut Plan, names: &[&str]) {
    plan.steps.retain(|step| !names.iter().any(|name| step.name.starts_with(name)));
}

fn each(plan: &mut Plan, name: &str, change: impl Fn(&mut Step)) {
    plan.steps.iter_mut().filter(|step| step.name.starts_with(name)).for_each(change);
}

/// Chapter 01.
fn namespaces(code: &str, plan: &mut Plan) -> bool {
    match code {
        "B1" => drop_steps(plan, &["namespaces.private"]),
        "B2" => drop_steps(plan, &["namespaces.proc"]),
        "B3" => drop_steps(plan, &["namespaces.hostname"]),
        "B4" => plan.namespaces.remove(CloneFlags::CLONE_NEWPID),
        "B5" => plan.namespaces.remove(CloneFlags::CLONE_NEWIPC),
        "B6" => {
            plan.namespaces.remove(CloneFlags::CLONE_NEWNET);
            // They would change the host's.
            drop_steps(plan, &["namespaces.sysctl", "namespaces.loopback"]);
        }
        "B7" => each(plan, "process.exec", |step| step.op = through_shell(step, |words| (words.join(" "), vec![]))),
        "B8" => each(plan, "process.exec", |step| {
            step.op = through_shell(step, |words| ("\"$0\" \"$@\"; exit 0".to_string(), words.to_vec()));
        }),
        "B9" => {
            each(plan, "process.exec", |step| {
                step.op = through_shell(step, |words| ("exec \"$0\" \"$@\"".to_string(), words.to_vec()));
            });
            let op = Op::new("openat", ["/"], "exec 9</", |_| {
                let folder = nix::fcntl::open(c"/", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
                std::mem::forget(folder);
                Ok(())
            });
            plan.add(Phase::Enter, "leak", op);
        }
        _ => return false,
    }
    true
}

/// The command, as the argument of a shell.
fn through_shell(step: &Step, script: impl Fn(&[String]) -> (String, Vec<String>)) -> Op {
    let (script, rest) = script(&step.op.args);
    let argv: Vec<CString> =
        ["sh", "-c", &script].into_iter().map(String::from).chain(rest).map(|word| c_string(word.as_bytes())).collect();
    Op::new("execve", step.op.args.clone(), step.op.shell.clone(), move |_| {
        sys::default_signals()?;
        nix::unistd::execv(c"/bin/sh", &argv).map(|_| ())
    })
}

/// Chapter 02.
fn cgroups(code: &str, plan: &mut Plan) -> bool {
    match code {
        "B10" => {
            plan.into_cgroup = None;
            drop_steps(plan, &["cgroup.join."]);
        }
        "B11" => drop_steps(plan, &["cgroup.limit.memory."]),
        "B12" => each(plan, "cgroup.limit.cpu.", |step| {
            let value = if step.name.ends_with("max") { "max 100000" } else { "-1" };
            if step.name.ends_with("max") || step.name.ends_with("quota_us") {
                step.op = Op::set(Path::new(&step.op.args[0]), value);
            }
        }),
        "B13" => each(plan, "cgroup.limit.pids.", |step| {
            step.op = Op::set(Path::new(&step.op.args[0]), format!("{}0", step.op.args[1]));
        }),
        "B14" => each(plan, "cgroup.mkdir.", |step| step.undo = None),
        "B15" => drop_steps(plan, &["cgroup.namespace"]),
        _ => return false,
    }
    true
}

/// Chapter 03.
fn root(code: &str, plan: &mut Plan) -> bool {
    match code {
        "B16" => {
            drop_steps(plan, &["rootfs.let-go"]);
            each(plan, "rootfs.pivot", |step| {
                step.op = Op::new("chroot", ["."], "chroot $ROOT", |stage| {
                    if let Some(root) = &stage.root {
                        nix::unistd::fchdir(root)?;
                    }
                    nix::unistd::chroot(".")
                });
            });
        }
        "B17" => each(plan, "rootfs.let-go", |step| {
            step.op = Op::new("chdir", ["/"], "cd /", |_| nix::unistd::chdir("/"));
        }),
        "B18" => drop_steps(plan, &["rootfs.mask.", "rootfs.bind./proc", "rootfs.read-only./proc"]),
        "B19" => drop_steps(plan, &["security."]),
        "B20" => drop_steps(plan, &["rootfs.node.random"]),
        "B21" => drop_steps(plan, &["rootfs.pivot", "rootfs.let-go"]),
        _ => return false,
    }
    true
}

/// Chapters 04 and 05.
fn files(code: &str, plan: &mut Plan) -> bool {
    match code {
        // The image's own tree in the place of an overlay; in the labs' own store, where it may be spoilt.
        "B22" => each(plan, "layers.overlay", |step| {
            let lower = layer_option(step, "lowerdir=");
            let target = target(step);
            step.op = Op::mount(&lower, &target, "", MsFlags::MS_BIND | MsFlags::MS_REC, "");
        }),
        "B23" => {
            let shared = |path: &str| Path::new(path).ancestors().nth(2).map(|root| root.join("shared"));
            for (name, folder) in [("layers.mkdir.upper", "upper"), ("layers.mkdir.work", "work")] {
                each(plan, name, |step| {
                    if let Some(shared) = shared(&step.op.args[0]) {
                        step.op = Op::mkdir(&shared.join(folder), 0o755);
                    }
                });
            }
            each(plan, "layers.overlay", |step| {
                let (upper, target) = (layer_option(step, "upperdir="), target(step));
                let Some(folder) = Path::new(&upper).parent().map(|path| path.display().to_string()) else { return };
                let Some(shared) = shared(&upper).map(|path| path.display().to_string()) else { return };
                let data = step.op.args[3].replace(&folder, &shared);
                step.op = Op::mount("overlay", &target, "overlay", MsFlags::empty(), &data);
            });
        }
        "B24" => drop_steps(plan, &["rootfs.read-only./mnt"]),
        "B25" => each(plan, "volume.create.", |step| step.op = Op::mkdir(Path::new(&step.op.args[0]), 0o755)),
        _ => return false,
    }
    true
}

fn layer_option(step: &Step, name: &str) -> String {
    let option = step.op.args[3].split(',').find_map(|option| option.strip_prefix(name));
    option.unwrap_or_default().split(':').next().unwrap_or_default().to_string()
}

/// Where a mount goes is the last word of its command.
fn target(step: &Step) -> String {
    step.op.shell.rsplit(' ').next().unwrap_or_default().to_string()
}

/// Chapter 08.
fn enter(code: &str, plan: &mut Plan) -> bool {
    let exec = is_exec(plan);
    match code {
        "B26" => drop_steps(plan, &["namespaces.enter-pid"]),
        "B27" if exec => {
            plan.into_cgroup = None;
            drop_steps(plan, &["cgroup.join."]);
        }
        "B28" if exec => drop_steps(plan, &["security."]),
        "B29" if exec => each(plan, "process.exec", |step| {
            step.op = through_shell(step, |words| ("\"$0\" \"$@\"; exit 0".to_string(), words.to_vec()));
        }),
        "B27" | "B28" | "B29" => {}
        _ => return false,
    }
    true
}

/// Chapter 09.
fn wire(code: &str, plan: &mut Plan) -> bool {
    match code {
        "B30" => drop_steps(plan, &["network.address", "network.route"]),
        "B31" => drop_steps(plan, &["network.route"]),
        "B32" => drop_steps(plan, &["network.publish"]),
        _ => return false,
    }
    true
}
