//! A container's life as its tests speak of it.

use super::{Done, Engine, kernel};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An engine whose containers stay.
pub fn open() -> Option<Engine> {
    let mut engine = Engine::open()?;
    engine.keeps = true;
    Some(engine)
}

/// A command that ends at once on SIGTERM, with status 7.
pub const POLITE: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"];

pub trait Words {
    /// Runs it and wants status 0; what it printed, without the last line end.
    fn ok(&self, words: &[&str]) -> String;
    fn inspect(&self, name: &str, template: &str) -> String;
}

impl Words for Engine {
    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert_eq!(done.status, 0, "{words:?}: {}{}", done.stdout, done.stderr);
        done.stdout.trim_end().to_string()
    }

    #[track_caller]
    fn inspect(&self, name: &str, template: &str) -> String {
        self.ok(&["inspect", "-f", template, name])
    }
}

#[track_caller]
pub fn expect(done: &Done, status: i32, stderr: &str) {
    assert_eq!(done.status, status, "{}", done.stderr);
    assert!(done.stderr.contains(stderr), "{}", done.stderr);
    assert!(done.stderr.lines().filter(|line| !line.starts_with("hint:")).count() <= 1, "{}", done.stderr);
}

#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < crate::support::slow(Duration::from_secs(60)), "{what}");
        super::nap(Duration::from_millis(2));
    }
}

pub fn detached(engine: &Engine, flags: &[&str], command: &[&str]) -> String {
    let words: Vec<&str> = ["run", "-d"].iter().chain(flags).chain(&["busybox"]).chain(command).copied().collect();
    engine.ok(&words)
}

pub fn pid(engine: &Engine, name: &str) -> u32 {
    engine.inspect(name, "{{.State.Pid}}").parse().unwrap()
}

/// The process that watches over it: its parent.
pub fn monitor(pid: u32) -> u32 {
    kernel::status(pid, "PPid").unwrap().parse().unwrap()
}

pub fn folder(engine: &Engine, id: &str) -> PathBuf {
    engine.root().join("containers").join(id)
}
