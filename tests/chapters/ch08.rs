//! Chapter 08: one more process joins a container that runs, and is in everything that the first one is in.

use super::ch07::{remove, sleeper, within};
use super::check::{Check, Fault, Finding, Subject, expect, same};
use crate::support::{Done, kernel};

pub const CHECKS: &[Check] = &[
    Check { chapter: 8, name: "exec joins every namespace", ask: namespaces },
    Check { chapter: 8, name: "exec joins the cgroups", ask: cgroups },
    Check { chapter: 8, name: "exec has the container's capabilities", ask: capabilities },
    Check { chapter: 8, name: "exec's exit status is the command's", ask: status },
];

fn say(subject: &Subject, words: &[&str]) -> Finding<Done> {
    let done = subject.engine.run(words);
    match done.status != 0 && ["unrecognized", "unknown", "unexpected"].iter().any(|word| done.stderr.contains(word)) {
        true => Err(Fault::NotReached(done.stderr.trim().to_string())),
        false => Ok(done),
    }
}

/// The first process and one that `exec -d` started, as the host numbers them.
fn both(subject: &Subject) -> Finding<(u32, u32)> {
    let (first, _) = sleeper(subject, "ch08")?;
    let seconds = super::check::random(100_000, 999_999).to_string();
    let done = say(subject, &["exec", "-d", "ch08", "sleep", &seconds]);
    let done = match done {
        Err(fault) => {
            remove(subject, "ch08")?;
            return Err(fault);
        }
        Ok(done) => done,
    };
    expect(done.status == 0, || done.stderr.clone())?;
    let second = within(|| kernel::processes().into_iter().find(|pid| kernel::words(*pid) == ["sleep", &seconds]));
    second.map(|second| (first, second)).ok_or_else(|| Fault::Wrong("exec -d started nothing".to_string()))
}

fn namespaces(subject: &Subject) -> Finding {
    let (first, second) = both(subject)?;
    let mut result = Ok(());
    for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup", "user"] {
        let shown = kernel::namespace(second, kind);
        result = result.and(same(kind, shown, kernel::namespace(first, kind)));
    }
    remove(subject, "ch08")?;
    result?;
    expect(!kernel::alive(second), || "what exec started outlived the container".to_string())
}

fn cgroups(subject: &Subject) -> Finding {
    let (first, second) = both(subject)?;
    let list = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let (one, two) = (list(first), list(second));
    remove(subject, "ch08")?;
    same("/proc/PID/cgroup", two, one)
}

fn capabilities(subject: &Subject) -> Finding {
    let (first, second) = both(subject)?;
    let mut result = Ok(());
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
        result = result.and(same(field, kernel::status(second, field), kernel::status(first, field)));
    }
    remove(subject, "ch08")?;
    result
}

fn status(subject: &Subject) -> Finding {
    sleeper(subject, "ch08")?;
    let done = say(subject, &["exec", "ch08", "sh", "-c", "exit 42"]);
    remove(subject, "ch08")?;
    same("exit status", done?.status, 42)
}
