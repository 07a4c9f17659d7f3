//! Break it: faults for the labs of the course, compiled only with the cargo feature `labs`. A plan is data, so a fault
//! is a step that is missing, bent, or put in another's place; which one, `MYDOCKER_LAB=B7` says.
//!
//! What a student sees of each, and the check that proves it, are in `tests/chapters/labs.json`.

use super::{Op, Phase, Plan, Step, c_string};
use crate::sys;
use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
        "B33" => join_late(plan),
        "B34" => {
            plan.into_cgroup = plan.into_cgroup.as_deref().map(shared);
            each(plan, "cgroup.mkdir.", |step| {
                let folder = shared(Path::new(&step.op.args[0]));
                step.op = Op::new("mkdir", [folder.display().to_string()], step.op.shell.clone(), move |_| {
                    std::fs::create_dir_all(&folder).map_err(|_| Errno::EIO)
                });
                step.undo = None;
            });
            for name in ["cgroup.limit.", "cgroup.join."] {
                each(plan, name, |step| {
                    step.op = Op::set(&shared(Path::new(&step.op.args[0])), step.op.args[1].clone());
                });
            }
        }
        "B35" => {
            // Version 1 has a file for each.
            let typed = |end: &str| {
                let step = plan.steps.iter().find(|step| step.name.ends_with(end));
                step.map(|step| step.op.args[1].clone()).unwrap_or_default()
            };
            let (quota, period) = (typed("quota_us"), typed("period_us"));
            each(plan, "cgroup.limit.cpu.", |step| {
                let (path, value) = (PathBuf::from(&step.op.args[0]), step.op.args[1].clone());
                step.op = match value.split_once(' ') {
                    Some((quota, period)) => Op::set(&path, format!("{period} {quota}")),
                    None if step.name.ends_with("period_us") => Op::set(&path, quota.clone()),
                    None => Op::set(&path, period.clone()),
                };
            });
        }
        _ => return false,
    }
    true
}

/// The child's cgroups, once it is another program already.
fn join_late(plan: &mut Plan) {
    let made = plan.steps.iter().filter(|step| step.name.starts_with("cgroup.mkdir."));
    let folders: Vec<PathBuf> = made.map(|step| PathBuf::from(&step.op.args[0])).collect();
    plan.into_cgroup = None;
    drop_steps(plan, &["cgroup.join."]);
    let op = Op::new("write", ["cgroup.procs"], "(sleep 0.03; echo $PID > cgroup.procs) &", move |stage| {
        let (Some(child), folders) = (&stage.child, folders.clone()) else { return Ok(()) };
        let pid = child.pid.to_string();
        std::thread::spawn(move || {
            let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
            while program(&pid) == program("self") {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(30));
            folders.iter().for_each(|folder| drop(std::fs::write(folder.join("cgroup.procs"), &pid)));
        });
        Ok(())
    });
    plan.add(Phase::Beside, "join-late", op);
}

/// The same path, with one name in the place of the container's id.
fn shared(path: &Path) -> PathBuf {
    let text = path.display().to_string();
    let Some((before, rest)) = text.split_once("/mydocker/") else { return path.to_owned() };
    let file = rest.split_once('/').map(|(_, file)| format!("/{file}")).unwrap_or_default();
    format!("{before}/mydocker/lab-shared{file}").into()
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
        // The plan says it, and nothing is called.
        "B36" => each(plan, "security.", |step| {
            step.op = Op::new(step.op.call, step.op.args.clone(), step.op.shell.clone(), |_| Ok(()));
        }),
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
        "B30" => {
            // `up` takes the card's number from the step that gives the address.
            drop_steps(plan, &["network.address", "network.route", "network.up."]);
            afterwards(plan, "nsenter -t $PID -n ip link set eth0 up");
        }
        "B31" => drop_steps(plan, &["network.route"]),
        "B32" => drop_steps(plan, &["network.publish"]),
        "B37" => drop_steps(plan, &["network.forward."]),
        "B38" => afterwards(
            plan,
            "iptables -t nat -S | grep mydocker | grep MASQUERADE | sed s/^-A/-D/ | xargs -rL1 iptables -t nat",
        ),
        "B39" => afterwards(
            plan,
            "iptables -t nat -S OUTPUT | grep mydocker:jump | sed s/^-A/-D/ | xargs -rL1 iptables -t nat",
        ),
        "B40" => {
            let route = plan.steps.iter().find(|step| step.name == "network.route");
            let gateway = route.and_then(|step| step.op.args.last()).cloned().unwrap_or_default();
            let same = gateway.rsplit_once('.').map(|(net, _)| format!("{net}.9")).unwrap_or_default();
            let change = format!(
                "nsenter -t $PID -n sh -c 'ip addr flush dev eth0; ip addr add {same}/16 dev eth0; ip route replace default via {gateway}'"
            );
            afterwards(plan, &change);
        }
        _ => return false,
    }
    true
}

/// Spoils on the host what the network's steps have made.
fn afterwards(plan: &mut Plan, line: &str) {
    if !plan.steps.iter().any(|step| step.name.starts_with("network.veth.")) {
        return;
    }
    let script = line.to_string();
    let op = Op::new("posix_spawn", ["sh"], line, move |stage| {
        let pid = stage.child.as_ref().map(|child| child.pid.to_string()).unwrap_or_default();
        let done = std::process::Command::new("sh").args(["-c", &script]).env("PID", pid).status();
        done.map(|_| ()).map_err(|_| Errno::EIO)
    });
    plan.add(Phase::Beside, "spoil", op);
}
