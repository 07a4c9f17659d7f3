//! The faults of the break-it labs, each of which the check that is for it must notice: the suite's own mutation test.

use super::check::{Check, Fault, Finding, Subject};
use super::{checks, is_fault};
use crate::support::{Guard, build, kernel, skip};
use serde_json::Value;
use std::path::Path;

const LABS: &str = include_str!("labs.json");

/// The sabotaged program, in the shape of the fault's chapter.
fn sabotaged(program: &Path, lab: &Value) -> Option<Subject> {
    let extra: &[&str] = match lab["only"].as_str() {
        Some("namespaces") => &["--only", "namespaces"],
        Some("namespaces,cgroup") => &["--only", "namespaces,cgroup"],
        _ => &[],
    };
    let mut subject = Subject::new(program, extra)?;
    subject.engine.variables.push(("MYDOCKER_LAB".to_string(), lab["code"].as_str()?.to_string()));
    Some(subject)
}

/// Asks the fault's own check, and removes what such a program leaves among the cgroups.
fn ask(program: &Path, lab: &Value, check: &'static Check) -> Option<Finding> {
    let subject = sabotaged(program, lab)?;
    // What it tells before the fault is there: the network that stays.
    let mut guard = Guard::new(subject.engine.root());
    let finding = subject.ask(check, false);
    for tree in kernel::hierarchies() {
        for id in guard.ids().iter().cloned().chain(["lab-shared".to_string()]) {
            let _ = std::fs::remove_dir(tree.at.join("mydocker").join(id));
        }
    }
    // It is expected to find something.
    std::mem::forget(guard);
    Some(finding)
}

/// A fault that spoils something else than it says is noticed as well: a container that does not run has no address
/// either. So the finding is the fault's own; where a check can fail in several ways, `shows` has words of the right one.
fn is_it(lab: &Value, finding: &str) -> bool {
    match lab["shows"].as_str() {
        Some(words) => finding.contains(words),
        None => !finding.starts_with("the container did not run"),
    }
}

/// A class reads one language or the other: each lab has a name, a symptom and three hints in both.
#[test]
fn each_lab_is_there_in_both_languages() {
    let labs: Vec<Value> = serde_json::from_str(LABS).unwrap();
    for lab in &labs {
        let chinese = |text: &str| text.chars().any(|letter| letter >= '\u{3000}');
        for (words, zh) in [(lab, false), (&lab["zh"], true)] {
            let hints = words["hints"].as_array().unwrap_or_else(|| panic!("{}: no hints, zh: {zh}", lab["code"]));
            assert_eq!(hints.len(), 3, "{}", lab["code"]);
            for text in hints.iter().chain([&words["name"], &words["symptom"]]).map(|text| text.as_str().unwrap()) {
                // A command alone is the same in both.
                let command = zh && lab["hints"].as_array().unwrap().iter().any(|hint| hint == text);
                assert!(!text.is_empty() && (chinese(text) == zh || command), "{}: {text}", lab["code"]);
            }
        }
    }
}

#[test]
fn each_lab_fault_is_noticed_by_its_check() {
    let Some(program) = build(Path::new(env!("CARGO_BIN_EXE_mydocker")), "labs") else {
        return skip("the program of the labs is not built, and there is no cargo");
    };
    let labs: Vec<Value> = serde_json::from_str(LABS).unwrap();
    assert!(labs.len() >= 20);
    let only = std::env::var("MYDOCKER_LAB").ok();
    let wanted = |lab: &&Value| only.is_none() || lab["code"].as_str() == only.as_deref();
    let labs: Vec<&Value> = labs.iter().filter(wanted).collect();
    let judge = |lab: &Value| {
        let (code, name) = (lab["code"].as_str().unwrap(), lab["check"].as_str().unwrap());
        let check = checks().find(|check| check.name == name).unwrap_or_else(|| panic!("{code}: no check {name}"));
        match ask(&program, lab, check) {
            Some(Err(Fault::Wrong(text))) if is_it(lab, &text) => String::new(),
            Some(Err(Fault::Cannot(why))) => {
                skip(&format!("{code}: {why}"));
                String::new()
            }
            other => format!("{code}, {}: {name} says {other:?}\n", lab["name"]),
        }
    };
    // Each in a host of its own; two at a time.
    let missed: String = std::thread::scope(|scope| {
        let (even, odd): (Vec<_>, Vec<_>) = labs.iter().enumerate().partition(|(number, _)| number % 2 == 0);
        let half = |half: Vec<(usize, &&Value)>| {
            // A private host belongs to a thread.
            half.into_iter()
                .map(|(_, lab)| std::thread::scope(|one| one.spawn(|| judge(lab)).join().unwrap()))
                .collect::<String>()
        };
        let other = scope.spawn(move || half(odd));
        half(even) + &other.join().unwrap()
    });
    assert!(missed.is_empty(), "\n{missed}");
}

/// The program itself is sound: with no fault switched on, a check of each chapter passes.
#[test]
fn the_labs_program_without_a_fault_is_sound() {
    let Some(program) = build(Path::new(env!("CARGO_BIN_EXE_mydocker")), "labs") else {
        return skip("the program of the labs is not built, and there is no cargo");
    };
    let mut subject = Subject::new(&program, &[]).unwrap();
    subject.engine.variables.push(("MYDOCKER_LAB".to_string(), String::new()));
    for chapter in [1, 2, 3, 4, 5, 7, 8] {
        let check = checks().find(|check| check.chapter == chapter).unwrap();
        let finding = subject.ask(check, true);
        assert!(!is_fault(&finding), "{}: {finding:?}", check.name);
    }
}
