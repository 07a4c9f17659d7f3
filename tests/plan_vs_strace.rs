//! The plan is the law: what `strace` sees of a start is what the plan says, in its order, and nothing else. Compared
//! are the calls that make or change something of the kernel's for a container; calls that fail change nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;
use support::{Engine, Guard, kernel, skip};

/// One traced call that succeeded.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// As strace writes them.
    args: Vec<String>,
    result: String,
}

/// One step of the plan, as `--explain=json` tells it.
#[derive(Clone, Debug)]
struct Step {
    name: String,
    call: String,
    args: Vec<String>,
}

/// Calls that make processes, under one name: `fork` is what a C library makes of it.
const FORKS: [&str; 3] = ["fork", "vfork", "clone"];

/// Calls that must be in the plan whatever their arguments are.
const ALWAYS: [&str; 20] = [
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "clone3",
    "fork",
    "unshare",
    "setns",
    "sethostname",
    "setdomainname",
    "capset",
    "seccomp",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "swapon",
];

/// Calls that must be in the plan if they concern the kernel's own files, or devices.
const SOMETIMES: [&str; 7] = ["write", "pwrite64", "mkdir", "mkdirat", "rmdir", "mknod", "mknodat"];

/// What strace has recorded, up to the moment when the command runs: of each process, in the order of their ends.
fn calls(trace: &str) -> Vec<Call> {
    let mut begun: Vec<(String, String)> = Vec::new();
    let mut calls: Vec<Call> = Vec::new();
    let mut engine = None;
    for line in trace.lines() {
        let Some((pid, line)) = line.trim_start().split_once(' ') else { continue };
        let line = line.trim_start();
        let engine = engine.get_or_insert(pid.to_string());
        if let Some(head) = line.strip_suffix(" <unfinished ...>") {
            begun.push((pid.to_string(), head.to_string()));
            continue;
        }
        let whole = match line.strip_prefix("<... ") {
            Some(rest) => {
                let at = begun.iter().position(|(owner, _)| owner == pid).unwrap();
                begun.remove(at).1 + rest.split_once("resumed>").unwrap().1
            }
            None => line.to_string(),
        };
        let Some(call) = call(&whole) else { continue };
        if call.name == "execve" && pid != engine {
            return calls;
        }
        calls.push(call);
    }
    panic!("no command was executed:\n{trace}");
}

/// `name(args) = result` of a call that has succeeded.
fn call(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    if result.starts_with('-')
        || result.starts_with('?')
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return None;
    }
    let name = if FORKS.contains(&name) { "fork" } else { name };
    Some(Call { name: name.to_string(), args: split(args), result: result.to_string() })
}

/// The arguments, divided at the commas that stand outside of strings, brackets and the paths behind descriptors
/// (`cpu,cpuacct` is one hierarchy's folder); quotes are taken away.
fn split(text: &str) -> Vec<String> {
    let (mut args, mut depth) = (vec![String::new()], 0);
    let (mut quoted, mut escaped, mut path) = (false, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => path = true,
            '>' if !quoted => path = false,
            '(' | '{' | '[' if !quoted => depth += 1,
            ')' | '}' | ']' if !quoted => depth -= 1,
            ',' if !quoted && !path && depth == 0 => {
                args.push(String::new());
                continue;
            }
            _ => {}
        }
        args.last_mut().unwrap().push(c);
    }
    let plain = |arg: &String| {
        let arg = arg.trim();
        let inner = arg.strip_prefix('"').and_then(|arg| arg.strip_suffix('"'));
        let unescaped = inner
            .map(|text| text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\\\", "\\"));
        if arg == "NULL" { String::new() } else { unescaped.unwrap_or(arg.to_string()) }
    };
    args.iter().map(plain).collect()
}

/// The path behind a descriptor that strace shows as `7</path>`.
fn path_of(arg: &str) -> &str {
    arg.split_once('<').and_then(|(_, path)| path.strip_suffix('>')).unwrap_or(arg)
}

/// Whether it lies in a tree of cgroups, where a folder is a cgroup.
fn in_cgroups(path: &str) -> bool {
    static TREES: LazyLock<Vec<kernel::Hierarchy>> = LazyLock::new(kernel::hierarchies);
    TREES.iter().any(|tree| path.starts_with(&*tree.at.to_string_lossy()))
}

/// Whether a file is the kernel's own. In the container's root it is the same /proc and /sys, further down.
fn kernels_own(path: &str) -> bool {
    in_cgroups(path) || path.starts_with("/sys/") || path.contains("/proc/") || path.contains("/sys/fs/")
}

/// Whether the plan must have it.
fn matters(call: &Call) -> bool {
    let arg = |number: usize| call.args.get(number).map_or("", String::as_str);
    match call.name.as_str() {
        name if ALWAYS.contains(&name) => true,
        "write" | "pwrite64" => kernels_own(path_of(arg(0))),
        "mkdir" | "rmdir" => in_cgroups(arg(0)),
        "mkdirat" => in_cgroups(&format!("{}/{}", path_of(arg(0)), arg(1))),
        "mknod" => arg(1).contains("S_IFCHR") || arg(1).contains("S_IFBLK"),
        "mknodat" => arg(2).contains("S_IFCHR") || arg(2).contains("S_IFBLK"),
        _ => false,
    }
}

/// The same question of a step; those of the other calls may stand between.
fn promises(step: &Step) -> bool {
    let arg = |number: usize| step.args.get(number).map_or("", String::as_str);
    match step.call.as_str() {
        name if ALWAYS.contains(&name) || FORKS.contains(&name) => true,
        "write" => kernels_own(arg(0)),
        "mkdir" | "rmdir" => in_cgroups(arg(0)),
        name => name.starts_with("mknod"),
    }
}

/// Words such as `MS_RDONLY`, of either way to write flags.
fn flags(text: &str, prefix: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with(prefix)).map(str::to_string).collect()
}

/// Why the call is not what the step says; `None` if it is.
fn differs(step: &Step, call: &Call) -> Option<String> {
    let said = |number: usize| step.args.get(number).map_or("", String::as_str);
    let seen = |number: usize| call.args.get(number).map_or("", String::as_str);
    let name = if FORKS.contains(&step.call.as_str()) { "fork" } else { &step.call };
    let both =
        |what: &str, said: &str, seen: &str| (said != seen).then(|| format!("{what}: {said:?} said, {seen:?} seen"));
    if name != call.name {
        return both("call", name, &call.name);
    }
    match name {
        "mount" => {
            let (ours, theirs) = (flags(said(2), "MS_"), flags(seen(3), "MS_"));
            // What only the child knows is a variable in the plan.
            let source = if said(0).starts_with('$') { None } else { both("source", said(0), seen(0)) };
            let flags = (ours != theirs).then(|| format!("flags: {ours:?} said, {theirs:?} seen"));
            source.or(both("type", said(1), seen(2))).or(flags).or(both("data", said(3), seen(4)))
        }
        "umount2" => both("target", said(0), seen(0)).or(both("flags", said(1), seen(1))),
        "clone3" => {
            let (mut ours, mut theirs) = (flags(said(0), "CLONE_NEW"), flags(seen(0), "CLONE_NEW"));
            ours.extend(step.args.iter().flat_map(|arg| flags(arg, "CLONE_INTO")));
            theirs.extend(flags(seen(0), "CLONE_INTO"));
            (ours != theirs).then(|| format!("flags: {ours:?} said, {theirs:?} seen"))
        }
        "write" => {
            let path = path_of(seen(0));
            (!path.ends_with(said(0))).then(|| format!("file: {:?} said, {path:?} seen", said(0))).or(both(
                "value",
                said(1),
                seen(1),
            ))
        }
        "mknodat" => {
            let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(u64::MAX);
            let (major, minor) = seen(3).trim_start_matches("makedev(").trim_end_matches(')').split_once(", ").unwrap();
            both("name", said(0), seen(1)).or(both("device", said(1), &format!("{}:{}", number(major), number(minor))))
        }
        "capset" => {
            let bits =
                |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0).count_ones() as usize;
            let effective = seen(1).split(", permitted").next().unwrap_or_default();
            let held = flags(effective, "CAP_").len();
            both("capabilities", &bits(said(0)).to_string(), &held.to_string())
        }
        "unshare" | "setns" => {
            let seen = call.args.iter().flat_map(|arg| flags(arg, "CLONE_")).collect::<BTreeSet<_>>();
            let said = step.args.iter().flat_map(|arg| flags(arg, "CLONE_")).collect::<BTreeSet<_>>();
            (said != seen).then(|| format!("flags: {said:?} said, {seen:?} seen"))
        }
        "mkdir" | "rmdir" => both("folder", said(0), seen(0)),
        "sethostname" | "setdomainname" => both("name", said(0), seen(0)),
        _ => None,
    }
}

/// Both lists side by side: the first difference, or how many calls were compared.
fn compare(steps: &[Step], calls: &[Call]) -> Result<usize, String> {
    let steps: Vec<&Step> = steps.iter().filter(|step| promises(step)).collect();
    let calls: Vec<&Call> = calls.iter().filter(|call| matters(call)).collect();
    let shown = |call: &Call| format!("{}({}) = {}", call.name, call.args.join(", "), call.result);
    for (step, call) in steps.iter().zip(&calls) {
        if let Some(why) = differs(step, call) {
            return Err(format!(
                "the plan's step {} ({} {:?})\nis not what strace saw: {}\n{why}",
                step.name,
                step.call,
                step.args,
                shown(call)
            ));
        }
    }
    match (steps.get(calls.len()), calls.get(steps.len())) {
        (Some(step), _) => Err(format!("the plan's step {} was not seen by strace", step.name)),
        (_, Some(call)) => Err(format!("not in the plan: {}", shown(call))),
        _ => Ok(calls.len()),
    }
}

/// A start, told by the engine and by strace.
fn both_tell(engine: &Engine, words: &[&str]) -> (Vec<Step>, Vec<Call>) {
    let file = engine.folder().join("trace");
    let trace = [&ALWAYS[..], &FORKS, &SOMETIMES, &["execve"]].concat().join(",");
    let file_word = file.to_string_lossy().into_owned();
    let strace =
        ["strace", "-f", "-y", "-qq", "-s", "65536", "-o", &file_word, "-e", &format!("trace={}", known(&trace))];
    let words = [&["run", "--explain=json", "--rm"], words].concat();
    let done = engine.finish(engine.command_under(&strace, &words));
    assert_eq!(done.status, 0, "{words:?}: {}", done.stderr);
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let step = |value: serde_json::Value| {
        assert_eq!(value["result"], "ok", "{value}");
        Some(Step {
            name: value["step"].as_str()?.to_string(),
            call: value["call"].as_str()?.to_string(),
            args: value["args"].as_array()?.iter().map(|arg| arg.as_str().unwrap().to_string()).collect(),
        })
    };
    let steps: Vec<Step> = done.stderr.lines().filter_map(value).filter_map(step).collect();
    assert!(steps.len() > 5, "{words:?} has not told its steps:\n{}", done.stderr);
    (steps, calls(&fs::read_to_string(file).unwrap()))
}

/// A question mark before each name: an architecture that lacks a call (`fork` on arm64) is no error.
fn known(names: &str) -> String {
    names.split(',').map(|name| format!("?{name}")).collect::<Vec<_>>().join(",")
}

/// The engine, with its image made; `None` if strace is missing or may not trace.
fn traced_engine() -> Option<Engine> {
    let engine = Engine::open()?;
    match Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip(&format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr)));
            return None;
        }
        Err(error) => {
            skip(&format!("strace: {error}"));
            return None;
        }
    }
    assert_eq!(engine.run(["run", "--rm", "busybox", "true"]).status, 0);
    Some(engine)
}

#[test]
fn the_plan_is_what_strace_sees() {
    let Some(engine) = traced_engine() else { return };
    let guard = Guard::new(engine.root());
    let starts: &[&[&str]] = &[
        &["busybox", "true"],
        &["--read-only", "--tmpfs", "/scratch:size=1m", "-w", "/tmp", "-u", "nobody", "busybox", "true"],
        &["-t", "--hostname", "box", "--domainname", "lab", "--sysctl", "net.ipv4.ip_forward=1", "busybox", "true"],
        &["--init", "--ulimit", "nofile=100", "--shm-size", "1m", "busybox", "true"],
        &["-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "true"],
        &["--only", "namespaces", "true"],
    ];
    for words in starts {
        let (steps, calls) = both_tell(&engine, words);
        let compared = compare(&steps, &calls).unwrap_or_else(|why| panic!("run {words:?}:\n{why}"));
        assert!(compared >= 4, "run {words:?}: only {compared} calls were compared");
    }
    guard.check();
}

/// The comparison can fail: each step that is left out, doubled, moved or bent is noticed.
#[test]
fn a_plan_that_lies_is_caught() {
    let Some(engine) = traced_engine() else { return };
    let (steps, calls) = both_tell(&engine, &["--hostname", "box", "busybox", "true"]);
    compare(&steps, &calls).unwrap();
    let promised: Vec<usize> = (0..steps.len()).filter(|index| promises(&steps[*index])).collect();
    assert!(promised.len() > 20, "{promised:?}");
    for &index in &promised {
        let name = &steps[index].name;
        let mut less = steps.clone();
        let step = less.remove(index);
        assert!(compare(&less, &calls).is_err(), "nobody has missed {name}");
        let mut more = steps.clone();
        more.insert(index, step.clone());
        assert!(compare(&more, &calls).is_err(), "nobody has noticed the second {name}");
        let mut moved = less;
        moved.push(step.clone());
        let last = index == *promised.last().unwrap();
        assert!(last || compare(&moved, &calls).is_err(), "nobody has noticed that {name} comes last");
        if step.call == "mount" {
            for argument in 1..4 {
                let mut bent = steps.clone();
                bent[index].args[argument] += " MS_SYNCHRONOUS";
                assert!(compare(&bent, &calls).is_err(), "nobody has noticed argument {argument} of {name}");
            }
        }
    }
    let unseen = [&calls[..], &[call("setns(3, CLONE_NEWNET) = 0").unwrap()]].concat();
    assert!(compare(&steps, &unseen).unwrap_err().contains("not in the plan: setns"));
    let cgroup = kernel::hierarchies().into_iter().next().map(|tree| tree.at.display().to_string());
    let write = format!("write(3<{}/x/cgroup.procs>, \"1\", 1) = 1", cgroup.unwrap_or("/sys/fs/cgroup".to_string()));
    let unseen = [&calls[..], &[call(&write).unwrap()]].concat();
    assert!(compare(&steps, &unseen).unwrap_err().contains("not in the plan: write"));
}

#[test]
fn what_strace_writes_is_read() {
    let trace = "10 execve(\"/x\", [\"x\"], 0x7 /* 3 vars */) = 0\n\
        10 clone3({flags=CLONE_PIDFD|CLONE_NEWNS, stack=NULL} => {pidfd=[7]}, 88 <unfinished ...>\n\
        11 mount(NULL, \"/a, b\", \"tmpfs\", MS_NOSUID|MS_NODEV, \"size=1,mode=\\\"x\\\"\" <unfinished ...>\n\
        10 <... clone3 resumed>) = 11\n\
        11 <... mount resumed>) = 0\n\
        11 umount2(\"/x\", MNT_DETACH) = -1 EINVAL (Invalid argument)\n\
        11 write(3</sys/fs/cgroup/x>, \"5\\n\", 2) = 2\n\
        11 execve(\"/sbin/true\", [\"true\"], 0x5 /* 4 vars */) = -1 ENOENT (No such file or directory)\n\
        11 execve(\"/bin/true\", [\"true\"], 0x5 /* 4 vars */) = 0\n\
        11 mount(\"late\", \"/\", NULL, 0, NULL) = 0\n";
    let calls = calls(trace);
    let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["execve", "clone3", "mount", "write"]);
    assert_eq!(calls[2].args, ["", "/a, b", "tmpfs", "MS_NOSUID|MS_NODEV", "size=1,mode=\"x\""]);
    assert_eq!((path_of(&calls[3].args[0]), calls[3].args[1].as_str()), ("/sys/fs/cgroup/x", "5\n"));
}
