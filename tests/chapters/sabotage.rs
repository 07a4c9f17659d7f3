//! The checks' own test: they pass on a student's program in another language, and of each fault that is put into it
//! the check that is for it must tell. (The same faults are labs.)

use super::check::{Check, Fault, Finding, Subject};
use super::{checks, is_fault, sentence};
use crate::support::skip;
use std::path::Path;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chapters/mydocker.sh");

/// The fault, and the checks that must notice it.
const FAULTS: &[(&str, &[&str])] = &[
    ("no private propagation", &["the host does not see its mounts"]),
    ("no new /proc", &["/proc shows only its own processes"]),
    ("host name ignored", &["a host name of its own"]),
    ("words joined by spaces", &["words arrive as they were typed"]),
    ("status always 0", &["exit status"]),
    ("a leaked folder", &["no descriptor of the host"]),
    ("no limit", &["memory limit", "processor quota", "limit of processes", "out of memory ends with 137"]),
    ("one cgroup for all", &["a cgroup for each container"]),
    ("cgroup joined after exec", &["in force before the first instruction"]),
    ("cgroup left behind", &["its cgroups are gone afterwards"]),
    ("chroot only", &["no climbing out as of a chroot", "no mount of the host is left"]),
];

fn student(sabotage: &str) -> Option<Subject> {
    if std::process::Command::new("bash").args(["-c", "command -v unshare awk"]).output().is_err() {
        skip("the student's program needs bash, unshare and awk");
        return None;
    }
    let mut subject = Subject::new(Path::new(PROGRAM), &[])?;
    subject.engine.variables.push(("SABOTAGE".to_string(), sabotage.to_string()));
    Some(subject)
}

#[test]
fn a_students_program_passes_its_chapters() {
    let Some(subject) = student("") else { return };
    let ask = |check: &'static Check| (check, subject.ask(check, true));
    let findings: Vec<(&Check, Finding)> = checks().filter(|check| check.chapter <= 2).map(ask).collect();
    let faults = findings.iter().filter(|(_, finding)| is_fault(finding));
    let text: String = faults.map(|(check, finding)| sentence(check, finding)).collect();
    assert!(text.is_empty(), "\n{text}");
    // What comes later is not there, and the checks say so.
    for check in checks().filter(|check| check.chapter > 2) {
        assert!(is_fault(&subject.ask(check, false)), "{} passes on a program without chapter 03", check.name);
    }
}

#[test]
fn each_fault_is_noticed_by_its_check() {
    let ask = |fault: &str, names: &[&str]| {
        let mut missed = String::new();
        let Some(subject) = student(fault) else { return missed };
        for name in names {
            let check = checks().find(|check| check.name == *name).unwrap();
            match subject.ask(check, false) {
                Err(Fault::Wrong(_)) => {}
                Err(Fault::Cannot(why)) => skip(&format!("{fault}: {why}")),
                other => missed.push_str(&format!("{fault}: {name} says {other:?}\n")),
            }
        }
        missed
    };
    // Each in a thread, for the host that a thread has entered is read-only for the next.
    let missed: String = FAULTS
        .iter()
        .map(|(fault, names)| std::thread::scope(|scope| scope.spawn(|| ask(fault, names)).join().unwrap()))
        .collect();
    clean_up();
    assert!(missed.is_empty(), "\n{missed}");
}

const LIAR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chapters/liar.sh");

/// What a program without any wall can have all the same, as the first column of the matrix shows.
const TRUE_WITHOUT_WALLS: [&str; 3] = ["exit status", "words arrive as they were typed", "no descriptor of the host"];

/// A script that only prints the right words scores nothing: every check is about a kernel object.
#[test]
fn printed_lies_score_nothing() {
    let all: Vec<&'static Check> = checks().collect();
    let ask = |some: &[&'static Check]| {
        let Some(subject) = Subject::new(Path::new(LIAR), &[]) else { return vec![] };
        some.iter().filter(|check| !is_fault(&subject.ask(check, false))).map(|check| check.name).collect::<Vec<_>>()
    };
    // Some wait for what never comes: side by side, each in a host of its own.
    let passed: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = all.chunks(5).map(|some| scope.spawn(move || ask(some))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let passed: Vec<_> = passed.iter().filter(|name| !TRUE_WITHOUT_WALLS.contains(name)).collect();
    assert!(passed.is_empty(), "passed by printing: {passed:?}");
}

/// What the sabotaged programs have left in the cgroup trees, by the names that they use.
fn clean_up() {
    for tree in crate::support::kernel::hierarchies() {
        for entry in std::fs::read_dir(tree.at).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("sh-") || name == "mydocker-sh-shared" {
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
}
