//! The chapters' checks, on every chapter's program and on the product: what a chapter promises holds from there on,
//! and did not hold before.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "chapters/ch01.rs"]
mod ch01;
#[path = "chapters/ch02.rs"]
mod ch02;
#[path = "chapters/ch03.rs"]
mod ch03;
#[path = "chapters/ch04.rs"]
mod ch04;
#[path = "chapters/ch05.rs"]
mod ch05;
#[path = "chapters/ch06.rs"]
mod ch06;
#[path = "chapters/ch07.rs"]
mod ch07;
#[path = "chapters/ch08.rs"]
mod ch08;
#[path = "chapters/ch09.rs"]
mod ch09;
#[path = "chapters/check.rs"]
mod check;
#[path = "chapters/labs.rs"]
mod labs;
#[path = "chapters/projects/mod.rs"]
mod projects;
#[path = "chapters/sabotage.rs"]
mod sabotage;

use check::{Check, Fault, Finding, Subject};
use std::io::Write;
use std::path::{Path, PathBuf};
use support::{examples, skip};

const CHAPTERS: [(usize, &[Check]); 9] = [
    (1, ch01::CHECKS),
    (2, ch02::CHECKS),
    (3, ch03::CHECKS),
    (4, ch04::CHECKS),
    (5, ch05::CHECKS),
    (6, ch06::CHECKS),
    (7, ch07::CHECKS),
    (8, ch08::CHECKS),
    (9, ch09::CHECKS),
];

/// Checks that the chapter before passes too, and why that is no defect of the check.
const HELD_BEFORE: [(&str, &str); 3] = [
    ("exit status", "a process without any wall has one too, and no chapter may lose it"),
    ("words arrive as they were typed", "the same: the process is there before its walls"),
    ("no descriptor of the host", "the same: nothing may leak from the first program on"),
];

fn checks() -> impl Iterator<Item = &'static Check> {
    CHAPTERS.into_iter().flat_map(|(_, checks)| checks)
}

/// The product, or the binary that `MYDOCKER_BIN` names, up to the chapter that `MYDOCKER_CHAPTER` says.
#[test]
fn the_binary() {
    let named = std::env::var_os("MYDOCKER_BIN").map(PathBuf::from);
    let binary = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_mydocker").into());
    let last = std::env::var("MYDOCKER_CHAPTER").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    // Opened first: the machine's own files are read-only for who asks.
    let report_to = std::env::var_os("MYDOCKER_FINDINGS").map(|path| std::fs::File::create(path).unwrap());
    let extra: &[&'static str] = match std::env::var("MYDOCKER_ONLY_ROOMS").as_deref() {
        Ok("namespaces") => &["--only", "namespaces"],
        Ok("namespaces,cgroup") => &["--only", "namespaces,cgroup"],
        _ => &[],
    };
    let Some(mut subject) = Subject::new(&binary, extra) else { return };
    // What `scripts/chapters lab check` asks of a sabotaged program.
    subject.engine.variables.extend(std::env::var("MYDOCKER_LAB").map(|lab| ("MYDOCKER_LAB".to_string(), lab)));
    let only = std::env::var("MYDOCKER_CHECK").ok();
    let wanted = |check: &&Check| check.chapter <= last && only.as_deref().is_none_or(|only| only == check.name);
    // A binary that hangs, or garbles what it is asked, has not passed; the others are asked all the same.
    let ask = |check| {
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| subject.ask(check, true)));
        (check, asked.unwrap_or_else(|panic| check::wrong(panic_text(panic.as_ref()))))
    };
    let findings: Vec<_> = checks().filter(wanted).map(ask).collect();
    if let Some(mut file) = report_to {
        let line = |(check, finding): &(&Check, Finding)| report(check.chapter, check.name, finding);
        file.write_all(findings.iter().map(line).collect::<String>().as_bytes()).unwrap();
    }
    let faults = findings.iter().filter(|(_, finding)| is_fault(finding)).count();
    if faults > 0 {
        say(&findings.iter().map(|(check, finding)| sentence(check, finding)).collect::<String>());
    }
    assert_eq!(faults, 0, "checks failed; see above");
    for (check, finding) in &findings {
        if let Err(Fault::Cannot(why)) = finding {
            skip(&format!("chapter {:02}, {}: {why}", check.chapter, check.name));
        }
    }
}

/// What `scripts/chapters project check` asks of a folder: `MYDOCKER_PROJECT` and `MYDOCKER_PROJECT_FOLDER` name it.
#[test]
fn the_project() {
    let (Ok(project), Some(folder)) = (std::env::var("MYDOCKER_PROJECT"), std::env::var_os("MYDOCKER_PROJECT_FOLDER"))
    else {
        return; // the solutions have tests of their own
    };
    let named = std::env::var_os("MYDOCKER_BIN").map(PathBuf::from);
    let binary = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_mydocker").into());
    let mut report_to = std::fs::File::create(std::env::var_os("MYDOCKER_FINDINGS").unwrap()).unwrap();
    for (name, finding) in projects::ask(&project, &binary, Path::new(&folder)).unwrap_or_default() {
        report_to.write_all(report(9, name, &finding).as_bytes()).unwrap();
    }
}

/// Checks 1 to N pass on chapter N's program, those of N fail on that of N-1, and all pass on the product.
#[test]
fn the_matrix() {
    let product = Path::new(env!("CARGO_BIN_EXE_mydocker"));
    let examples = examples(product);
    // Before chapter 01 there is a process without walls.
    let mut programs = vec![("ch00".to_string(), examples.join("ch01"), &["--without", "namespaces"][..])];
    let mut reached = vec![0];
    for (chapter, _) in CHAPTERS {
        reached.push(chapter);
        programs.push((format!("ch{chapter:02}"), examples.join(format!("ch{chapter:02}")), &[]));
    }
    programs.push(("product".to_string(), product.to_owned(), &[]));
    reached.push(usize::MAX);
    let reached = &reached;
    let ask = |(number, (_, binary, extra)): (usize, &(String, PathBuf, &[&'static str]))| {
        let subject = Subject::new(binary, extra)?;
        Some(checks().map(|check| subject.ask(check, check.chapter <= reached[number])).collect::<Vec<_>>())
    };
    // Each in a thread, for each has a host of its own.
    let columns: Vec<Vec<Finding>> = std::thread::scope(|scope| {
        let threads: Vec<_> = programs.iter().enumerate().map(|program| scope.spawn(move || ask(program))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    if columns.len() < programs.len() {
        return skip("this machine cannot run containers");
    }
    let mut text = format!("\n{:<48}", "");
    programs.iter().for_each(|(name, ..)| text.push_str(&format!(" {name:<8}")));
    let mut defects = String::new();
    for (row, check) in checks().enumerate() {
        text.push_str(&format!("\n{:02} {:<45}", check.chapter, check.name));
        for (number, column) in columns.iter().enumerate() {
            text.push_str(&format!(" {:<8}", mark(&column[row])));
            let held = HELD_BEFORE.iter().any(|(name, _)| *name == check.name);
            if reached[number] >= check.chapter && is_fault(&column[row]) {
                defects.push_str(&format!("{}: {}", programs[number].0, sentence(check, &column[row])));
            }
            if reached[number] < check.chapter && reached[number + 1] >= check.chapter && column[row].is_ok() && !held {
                defects
                    .push_str(&format!("{}: {} passes already: it proves nothing\n", programs[number].0, check.name));
            }
        }
    }
    say(&format!("{text}\n\n+ holds, x wrong, . not reached yet, - this machine cannot\n"));
    assert!(defects.is_empty(), "\n{defects}");
}

/// Whoever fails a check is sent to a step of the chapter's exercise that is there, in either language.
#[test]
fn every_check_of_an_exercise_has_its_step() {
    let steps: std::collections::BTreeMap<String, usize> =
        serde_json::from_str(include_str!("chapters/steps.json")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exercises = [("README.md", "**Write it yourself.**"), ("README.zh-CN.md", "**自己写一遍。**")];
    for entry in std::fs::read_dir(root.join("chapters")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let chapter = name.split('-').next().and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        for (page, begin) in exercises.iter().filter(|_| chapter > 0) {
            let page = std::fs::read_to_string(entry.path().join(page)).unwrap();
            let exercise = page.split(begin).nth(1).unwrap().split("\n## ").next().unwrap();
            for check in checks().filter(|check| check.chapter == chapter) {
                let step = steps.get(check.name).unwrap_or_else(|| panic!("{} has no step", check.name));
                assert!(exercise.contains(&format!("\n{step}. ")), "{name}: no step {step} for {}", check.name);
            }
        }
    }
}

/// The positive control of the climb: out of a chroot it leads to the host.
#[test]
fn a_chroot_can_be_climbed_out_of() {
    let Some(engine) = support::Engine::open() else { return };
    let (jail, canary) = (engine.folder().join("jail"), engine.folder().join("canary"));
    std::fs::create_dir_all(jail.join("below")).unwrap();
    std::fs::write(&canary, "alive").unwrap();
    assert_eq!(ch03::climb(&jail.to_string_lossy(), &canary), Ok(true));
}

/// Checks tell containers to spoil their files; a program that has no walls, or a broken one, must not spoil ours.
#[test]
fn no_program_can_spoil_the_machine() {
    let ch01 = examples(Path::new(env!("CARGO_BIN_EXE_mydocker"))).join("ch01");
    let Some(subject) = Subject::new(&ch01, &["--without", "namespaces"]) else { return };
    let name = format!("mydocker-test-{:x}", check::random(0, u64::MAX));
    let folders =
        ["", "/etc", "/usr/bin", "/bin", "/root", "/home", "/var/lib", "/dev", "/tmp", env!("CARGO_MANIFEST_DIR")];
    for folder in folders {
        let path = format!("{folder}/{name}");
        let done = subject.engine.run(["run", "sh", "-c", &format!("echo x > {path}")]);
        let made = std::fs::remove_file(&path).is_ok();
        assert!(!made && done.stderr.contains("ead-only"), "{path}: {done:?}");
    }
    let own = subject.engine.folder().to_path_buf();
    assert!(own.exists());
    drop(subject);
    assert!(!own.exists(), "{}: left behind", own.display());
}

fn is_fault(finding: &Finding) -> bool {
    matches!(finding, Err(Fault::Wrong(_) | Fault::NotReached(_)))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

/// One line of JSON, as `scripts/chapters check` reads it.
fn report(chapter: usize, name: &str, finding: &Finding) -> String {
    let (verdict, text) = match finding {
        Ok(()) => ("ok", ""),
        Err(Fault::Wrong(text)) => ("wrong", text.as_str()),
        Err(Fault::NotReached(text)) => ("not-reached", text.as_str()),
        Err(Fault::Cannot(text)) => ("cannot", text.as_str()),
    };
    let line = serde_json::json!({ "chapter": chapter, "name": name, "verdict": verdict, "text": text });
    format!("{line}\n")
}

fn mark(finding: &Finding) -> &'static str {
    match finding {
        Ok(()) => "+",
        Err(Fault::Wrong(_)) => "x",
        Err(Fault::NotReached(_)) => ".",
        Err(Fault::Cannot(_)) => "-",
    }
}

fn sentence(check: &Check, finding: &Finding) -> String {
    let (word, text) = match finding {
        Ok(()) => ("ok", ""),
        Err(Fault::Wrong(text)) => ("WRONG", text.as_str()),
        Err(Fault::NotReached(text)) => ("not reached yet", text.as_str()),
        Err(Fault::Cannot(text)) => ("this machine cannot", text.as_str()),
    };
    let text = if text.is_empty() { String::new() } else { format!("\n    {text}") };
    format!("chapter {:02}, {}: {word}{text}\n", check.chapter, check.name)
}

/// Past the harness, which shows only what failed.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
