//! Chapter 07: a container outlives the command that made it. Whether it runs is asked of the kernel.

use super::check::{Check, Fault, Finding, Subject, expect, random, same};
use crate::support::{Done, kernel};
use std::fs;
use std::time::{Duration, Instant};

pub const CHECKS: &[Check] = &[
    Check { chapter: 7, name: "run -d returns and the command runs on", ask: detached },
    Check { chapter: 7, name: "what it wrote can be read when it is over", ask: logs },
    Check { chapter: 7, name: "stop ends every process of it", ask: stop },
    Check { chapter: 7, name: "a name has one owner", ask: names },
    Check { chapter: 7, name: "a stranger with its old pid lives", ask: stranger },
];

/// The words of the command under test; a program that does not know them has not reached this chapter.
fn say(subject: &Subject, words: &[&str]) -> Finding<Done> {
    let done = subject.engine.run(words);
    let unknown = ["unrecognized", "unexpected", "unknown", "no such command", "usage"];
    let text = done.stderr.to_lowercase();
    match done.status != 0 && unknown.iter().any(|word| text.contains(word)) {
        true => Err(Fault::NotReached(done.stderr.trim().to_string())),
        false => Ok(done),
    }
}

/// A container that runs `sleep` with a number by which the host finds it.
pub fn sleeper(subject: &Subject, name: &str) -> Finding<(u32, String)> {
    let seconds = random(100_000, 999_999).to_string();
    let done = say(subject, &["run", "-d", "--name", name, "busybox", "sleep", &seconds])?;
    expect(done.status == 0, || format!("run -d: {}", done.stderr))?;
    let sleeps = |pid: &u32| kernel::words(*pid) == ["sleep", &seconds];
    let found = within(|| kernel::processes().into_iter().find(sleeps));
    found.map(|pid| (pid, seconds)).ok_or_else(|| Fault::Wrong("no process runs the command".to_string()))
}

pub fn within<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        match look() {
            None if begun.elapsed() < crate::support::slow(Duration::from_secs(5)) => {
                crate::support::nap(Duration::from_millis(5))
            }
            found => return found,
        }
    }
}

pub fn remove(subject: &Subject, name: &str) -> Finding {
    let done = say(subject, &["rm", "-f", name])?;
    expect(done.status == 0, || format!("rm -f: {}", done.stderr))
}

fn detached(subject: &Subject) -> Finding {
    let (pid, _) = sleeper(subject, "ch07")?;
    let parent = kernel::status(pid, "PPid").and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    expect(parent != std::process::id(), || "the caller is still its parent".to_string())?;
    let listed = say(subject, &["ps"])?;
    expect(listed.stdout.contains("ch07"), || format!("ps does not list it: {}", listed.stdout))?;
    remove(subject, "ch07")?;
    expect(!kernel::alive(pid), || format!("process {pid} outlived rm -f"))
}

fn logs(subject: &Subject) -> Finding {
    // What only a shell that runs can know.
    let (one, two) = (random(1000, 9999), random(1000, 9999));
    let script = format!("echo out$(({one} * {two})); echo err$(({one} + {two})) >&2");
    let (out, err) = (format!("out{}", one * two), format!("err{}", one + two));
    let done = say(subject, &["run", "-d", "--name", "ch07", "busybox", "sh", "-c", &script])?;
    expect(done.status == 0, || done.stderr.clone())?;
    let read = within(|| {
        let done = subject.engine.run(["logs", "ch07"]);
        (done.stdout.contains(&out) && done.stderr.contains(&err)).then_some(())
    });
    remove(subject, "ch07")?;
    expect(read.is_some(), || "logs does not give back both streams".to_string())
}

fn stop(subject: &Subject) -> Finding {
    let (pid, _) = sleeper(subject, "ch07")?;
    let done = say(subject, &["stop", "-t", "1", "ch07"])?;
    expect(done.status == 0 && !kernel::alive(pid), || format!("process {pid} outlived stop: {}", done.stderr))?;
    let listed = say(subject, &["ps", "-a"])?;
    expect(listed.stdout.contains("Exited (137)"), || format!("ps -a does not say how it ended: {}", listed.stdout))?;
    remove(subject, "ch07")
}

fn names(subject: &Subject) -> Finding {
    let (pid, _) = sleeper(subject, "ch07")?;
    let second = say(subject, &["run", "-d", "--name", "ch07", "busybox", "true"])?;
    expect(second.status != 0, || "two containers have one name".to_string())?;
    expect(kernel::alive(pid), || "the first lost its life to the second".to_string())?;
    remove(subject, "ch07")
}

/// Wherever the engine keeps the pid, we put a stranger's in its place.
fn stranger(subject: &Subject) -> Finding {
    let (pid, _) = sleeper(subject, "ch07")?;
    // The kernel counts the beginning of a process in ticks of 10 ms: one of the same tick would not be a stranger.
    std::thread::sleep(Duration::from_millis(20));
    let mut stranger =
        std::process::Command::new("sleep").arg("100").spawn().map_err(|error| Fault::Cannot(error.to_string()))?;
    let changed = replace(subject.engine.root(), &pid.to_string(), &stranger.id().to_string());
    let _ = subject.engine.run(["stop", "-t", "1", "ch07"]);
    let lives = kernel::alive(stranger.id());
    let _ = (stranger.kill(), stranger.wait());
    let _ = replace(subject.engine.root(), &stranger.id().to_string(), &pid.to_string());
    remove(subject, "ch07")?;
    same("files that name the process", changed > 0, true)?;
    expect(lives, || "stop killed a process that only has the container's old number".to_string())
}

/// In every file of the engine's that holds the number `old`, by itself, it becomes `new`: how many.
fn replace(folder: &std::path::Path, old: &str, new: &str) -> usize {
    let mut changed = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != "layers" && name != "upper" && name != "images"
        {
            changed += replace(&path, old, new);
        } else if let Ok(text) = fs::read_to_string(&path)
            && let Some(text) = replaced(&text, old, new)
        {
            let _ = fs::write(&path, text);
            changed += 1;
        }
    }
    changed
}

/// `None`: it is not in there.
fn replaced(text: &str, old: &str, new: &str) -> Option<String> {
    let is_alone = |at: usize| {
        let alone = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_alphanumeric());
        alone(text[..at].chars().next_back()) && alone(text[at + old.len()..].chars().next())
    };
    let (mut made, mut rest) = (String::new(), 0);
    for (at, _) in text.match_indices(old).filter(|(at, _)| is_alone(*at)) {
        made += &text[rest..at];
        made += new;
        rest = at + old.len();
    }
    (rest > 0).then(|| made + &text[rest..])
}
