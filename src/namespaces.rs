//! What a container cannot see: each namespace gives its processes a world of their own for one kind of thing
//! (`man 7 namespaces`).
//!
//! Inside, the host name, the process numbers, the mounts, the shared memory, the network cards and the cgroup tree
//! are the container's. Outside, `ls -l /proc/PID/ns` shows one inode per namespace; the same inode is the same world.
//!
//! Try it without us: `unshare --uts sh -c 'hostname inside; hostname'; hostname`

use crate::plan::{Dirs, Fact, Op, Phase, Plan, Room, Spec, Target};
use crate::sys;
use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind, Mount};
use std::collections::HashMap;
use std::path::Path;

/// The room.
pub struct Namespaces;

/// Kind, flag of the clone, word of `lsns`, what it hides.
const KINDS: [(Kind, CloneFlags); 5] = [
    (Kind::Uts, CloneFlags::CLONE_NEWUTS),
    (Kind::Pid, CloneFlags::CLONE_NEWPID),
    (Kind::Mount, CloneFlags::CLONE_NEWNS),
    (Kind::Ipc, CloneFlags::CLONE_NEWIPC),
    (Kind::Network, CloneFlags::CLONE_NEWNET),
];

impl Room for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        command.args([
            Arg::new("hostname").long("hostname").short('h').value_name("NAME").help("Host name in the container"),
            Arg::new("domainname").long("domainname").value_name("NAME").help("NIS domain name in the container"),
            Arg::new("network")
                .long("network")
                .alias("net")
                .value_name("none|host")
                .value_parser(none_or_host)
                .help("Network namespace"),
            Arg::new("sysctl")
                .long("sysctl")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Set a kernel parameter that belongs to one of the container's namespaces"),
        ])
    }

    fn doctor(&self, _dirs: &Dirs) -> Vec<Fact> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let mut facts = Vec::new();
        for kind in ["uts", "pid", "mnt", "ipc", "net", "cgroup"] {
            let inode = std::fs::read_link(format!("/proc/self/ns/{kind}"));
            let why = format!("this kernel has no {kind} namespaces");
            let found = inode.as_ref().map(|link| link.display().to_string()).unwrap_or_default();
            facts.push(Fact::need("namespace", found, inode.is_ok(), why));
        }
        let limits =
            ["uts", "pid", "mnt", "ipc", "net"].map(|kind| read(&format!("/proc/sys/user/max_{kind}_namespaces")));
        let why = "a limit in /proc/sys/user is 0: no namespace of that kind can be made";
        facts.push(Fact::need(
            "limits",
            format!("at most {}", limits.join(", ")),
            !limits.iter().any(|n| n == "0"),
            why,
        ));
        let mounts = read("/proc/self/mountinfo");
        let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default();
        let shared = root.split(' ').any(|field| field.starts_with("shared:"));
        let found =
            if shared { "/ is shared: only the step `namespaces.private` keeps mounts inside" } else { "/ is private" };
        facts.push(Fact::met("propagation", found));
        facts
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let string = |name| said.get_one::<String>(name).map(String::as_str);
        // The room of the network, where it is in the list, knows more words; all of them but `host` mean: not the host's.
        let host_network = string("network") == Some("host");
        let hostname = string("hostname").unwrap_or(spec.id.short()).to_string();
        spec.oci.set_hostname(Some(host_name("--hostname", hostname)?));
        let domain = string("domainname").map(|name| host_name("--domainname", name.to_string()));
        spec.oci.set_domainname(domain.transpose()?);
        let mut namespaces: Vec<LinuxNamespace> = Vec::new();
        for (kind, _) in KINDS {
            if !(kind == Kind::Network && host_network) {
                let mut namespace = LinuxNamespace::default();
                namespace.set_typ(kind);
                namespaces.push(namespace);
            }
        }
        let mut sysctls: HashMap<String, String> = HashMap::new();
        if !host_network {
            // As docker: no port is privileged and ping needs no capability in a network of one's own.
            sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
            sysctls.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
        }
        for text in said.get_many::<String>("sysctl").into_iter().flatten() {
            let (name, value) = sysctl(text, host_network)?;
            sysctls.insert(name, value);
        }
        spec.linux_mut().set_namespaces(Some(namespaces)).set_sysctl(Some(sysctls));
        let mut proc = Mount::default();
        proc.set_destination("/proc".into()).set_typ(Some("proc".into())).set_source(Some("proc".into()));
        proc.set_options(Some(["nosuid", "noexec", "nodev"].map(String::from).to_vec()));
        spec.mounts_mut().insert(0, proc);
        Ok(())
    }

    fn join(&self, spec: &Spec, target: &Target, plan: &mut Plan) -> Result<()> {
        enter(spec, target, plan)
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        // One with a path is not made but joined, by the room that has put the path there.
        let made = spec.linux().namespaces().iter().flatten().filter(|namespace| namespace.path().is_none());
        let wanted: Vec<Kind> = made.map(|namespace| namespace.typ()).collect();
        for (kind, flag) in KINDS {
            if wanted.contains(&kind) {
                plan.namespaces |= flag;
            }
        }
        // Before anything else is mounted: on most machines `/` is shared, and a mount made in here would travel out.
        let op = Op::mount("", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "").hint(|errno, _| {
            let chroot = "/ is not a mount point here (a chroot?): mount --bind DIR DIR before chroot DIR";
            (errno == nix::errno::Errno::EINVAL).then(|| chroot.to_string())
        });
        plan.add(Phase::Enter, "private", op)
            .why("systemd makes / shared: without this, every mount of the container would appear on the host.")
            .look("cut -d' ' -f5,7 /proc/$PID/mountinfo");
        if spec.rootfs().is_none() {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            plan.add(Phase::Mounts, "proc", Op::mount("proc", "/proc", "proc", flags, ""))
                .why("The host's /proc still shows the host's processes; a new one shows those of this PID namespace.")
                .look("ls /proc/$PID/root/proc");
        }
        names(spec, plan);
        if wanted.contains(&Kind::Network) {
            let op = Op::new("ioctl", ["SIOCSIFFLAGS", "lo"], "ip link set lo up", |_| sys::loopback_up());
            plan.add(Phase::Names, "loopback", op)
                .why("A new network namespace has one interface, lo, and it is down.")
                .look("nsenter -t $PID -n ip addr");
        }
        Ok(())
    }
}

/// How a process enters the namespaces of another. The kernel has one call for all of them; only the PID namespace is
/// different: a process cannot change its own, so the engine says before the clone where its next child is born
/// (`man 2 setns`, `man 7 pid_namespaces`).
fn enter(spec: &Spec, target: &Target, plan: &mut Plan) -> Result<()> {
    let kinds: Vec<Kind> = spec.linux().namespaces().iter().flatten().map(|namespace| namespace.typ()).collect();
    let mut flags = CloneFlags::empty();
    let mut words = Vec::new();
    let cgroup = [(Kind::Cgroup, CloneFlags::CLONE_NEWCGROUP)];
    for (kind, flag) in KINDS.into_iter().chain(cgroup).filter(|(kind, _)| kinds.contains(kind)) {
        if kind == Kind::Pid {
            let pidfd = target.pidfd.try_clone()?;
            // A copy of the engine that a container can see must not be traced or opened from there (CVE-2016-9962,
            // CVE-2019-5736).
            plan.add(
                Phase::Host,
                "hide",
                Op::new("prctl", ["PR_SET_DUMPABLE", "0"], "# not dumpable", |_| nix::sys::prctl::set_dumpable(false)),
            )
            .why(
                "Until it execs, the child is a copy of the engine inside the container: nobody in there may open it.",
            );
            let shell = format!("nsenter -t {} -p sh", target.pid);
            let op =
                Op::new("setns", ["pidfd", "CLONE_NEWPID"], shell, move |_| setns(&pidfd, CloneFlags::CLONE_NEWPID));
            plan.add(Phase::Host, "enter-pid", op.hint(gone))
                .why("The next child of the engine is born in the container's PID namespace.")
                .look(format!("readlink /proc/{}/ns/pid", target.pid));
        } else {
            flags |= flag;
            words.push(format!("{flag:?}"));
        }
    }
    if !flags.is_empty() {
        let pidfd = target.pidfd.try_clone()?;
        let shell = format!("nsenter -t {} -a sh", target.pid);
        let op = Op::new("setns", ["pidfd".to_string(), words.join("|")], shell, move |_| setns(&pidfd, flags));
        plan.add(Phase::Root, "enter", op.hint(gone))
            .why("One call for all the others, by a descriptor of its first process, which no other can take over.")
            .look(format!("ls -l /proc/$PID/ns /proc/{}/ns", target.pid));
    }
    Ok(())
}

fn gone(errno: Errno, _: u64) -> Option<String> {
    match errno {
        Errno::ESRCH => Some("the container has just ended".to_string()),
        Errno::EPERM => Some("to enter namespaces takes CAP_SYS_ADMIN".to_string()),
        _ => None,
    }
}

/// All that there is before the network's chapter.
fn none_or_host(word: &str) -> Result<String, String> {
    match word {
        "none" | "host" => Ok(word.to_string()),
        _ => Err("until the network's chapter there are `none` and `host`".to_string()),
    }
}

/// Host name, domain name and kernel parameters.
fn names(spec: &Spec, plan: &mut Plan) {
    if let Some(name) = spec.oci.hostname().clone() {
        let op = Op::new("sethostname", [name.clone()], format!("hostname {name}"), move |_| {
            nix::unistd::sethostname(&name)
        });
        plan.add(Phase::Names, "hostname", op)
            .why("In its own UTS namespace a container may be called what it likes; the host does not notice.")
            .look("nsenter -t $PID -u hostname");
    }
    if let Some(name) = spec.oci.domainname().clone() {
        let op = Op::new("setdomainname", [name.clone()], format!("domainname {name}"), move |_| {
            sys::setdomainname(name.as_bytes())
        });
        plan.add(Phase::Names, "domainname", op).why("The other half of the UTS namespace.");
    }
    let mut sysctls: Vec<_> = spec.linux().sysctl().iter().flatten().collect();
    sysctls.sort();
    for (name, value) in sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let op = match spec.rootfs() {
            Some(_) => Op::set_in_root(Path::new(&path), value.clone()),
            None => Op::set(Path::new(&path), value.clone()),
        };
        let flag = name.clone();
        let op = op.hint(move |errno, _| Some(format!("--sysctl: the kernel refuses `{flag}`: {}", errno.desc())));
        plan.add(Phase::Names, format!("sysctl.{name}"), op)
            .why("A kernel parameter of the container's own namespace; the host's stays.")
            .look(format!("nsenter -t $PID -a cat {path}"));
    }
}

/// A host name that the kernel takes: at most 64 bytes of letters, digits, `-`, `.` and `_`.
fn host_name(flag: &str, name: String) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
        bail!("{flag}: `{}` is not a host name of at most 64 letters, digits, `-`, `.` and `_`", name.escape_debug());
    }
    Ok(name)
}

/// `NAME=VALUE` for a parameter that belongs to a namespace which the container has to itself.
fn sysctl(text: &str, host_network: bool) -> Result<(String, String)> {
    const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let shown = text.escape_debug();
    let Some((name, value)) = text.split_once('=') else { bail!("--sysctl: `{shown}` is not of the form NAME=VALUE") };
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*".contains(&byte);
    if name.is_empty() || !name.bytes().all(part) || name.split('.').any(str::is_empty) || value.contains('\0') {
        bail!("--sysctl: `{shown}` does not name a kernel parameter");
    }
    let ipc = name.strip_prefix("kernel.").is_some_and(|rest| IPC.contains(&rest)) || name.starts_with("fs.mqueue.");
    let net = name.starts_with("net.");
    match (ipc, net, host_network) {
        (true, ..) | (_, true, false) => Ok((name.to_string(), value.to_string())),
        (_, true, true) => bail!("--sysctl: `{name}` is the host's own with --network host"),
        _ => bail!("--sysctl: `{name}` belongs to no namespace: setting it would change the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_a_namespace_may_be_set() {
        for good in ["net.ipv4.ip_forward=1", "kernel.shmmax=1", "kernel.sem=1 2 3 4", "fs.mqueue.msg_max=5"] {
            assert!(sysctl(good, false).is_ok(), "{good}");
        }
        for bad in
            ["kernel.panic=1", "vm.swappiness=1", "net", "=1", "net.ipv4/../x=1", "net..x=1", "kernel.hostname=x"]
        {
            assert!(sysctl(bad, false).is_err(), "{bad}");
        }
        assert!(sysctl("net.ipv4.ip_forward=1", true).is_err());
    }

    #[test]
    fn host_names_are_short_and_plain() {
        assert!(host_name("--hostname", "box-1.example".into()).is_ok());
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(host_name("--hostname", bad.into()).is_err(), "{bad:?}");
        }
    }
}
