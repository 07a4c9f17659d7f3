//! Names for containers that nobody named: an adjective and an animal.

use crate::plan::{Dirs, Name};
use anyhow::Result;

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "bold", "brave", "brief", "bright", "brisk", "calm", "clean", "clear", "clever", "cool",
    "crisp", "dapper", "deep", "eager", "early", "even", "exact", "fair", "fast", "fine", "firm", "fleet", "fond",
    "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind",
    "late", "light", "lively", "loyal", "lucid", "mellow", "merry", "mild", "modest", "neat", "noble", "patient",
    "plain", "polite", "proud", "quick", "quiet", "rapid", "ready", "silent", "sleepy", "steady", "sunny", "tidy",
    "warm", "wise",
];

const ANIMALS: [&str; 64] = [
    "ant", "badger", "bat", "bear", "beaver", "bee", "bison", "boar", "camel", "carp", "cat", "cod", "crab", "crane",
    "crow", "deer", "dog", "dove", "duck", "eagle", "eel", "elk", "falcon", "finch", "fox", "frog", "goat", "goose",
    "gull", "hare", "hawk", "heron", "horse", "ibex", "jay", "koala", "lark", "lemur", "lion", "lynx", "marten",
    "mole", "moose", "moth", "mouse", "newt", "orca", "otter", "owl", "panda", "pike", "puffin", "quail", "rabbit",
    "raven", "robin", "seal", "shrew", "sloth", "stork", "swan", "tiger", "trout", "wolf",
];

/// A name that nobody has at this moment. Whoever claims it first keeps it.
pub fn free_name(dirs: &Dirs) -> Result<Name> {
    let taken = |name: &str| std::fs::symlink_metadata(dirs.root.join("names").join(name)).is_ok();
    for round in 0.. {
        let [one, two] = crate::sys::random::<2>()?;
        let mut name = format!("{}_{}", ADJECTIVES[one as usize % 64], ANIMALS[two as usize % 64]);
        if round >= 8 {
            let [number] = crate::sys::random::<1>()?;
            name.push_str(&format!("{}", u32::from(number) + 256 * (round / 8 - 1)));
        }
        if !taken(&name) {
            return Name::parse(&name);
        }
    }
    unreachable!("the numbers grow")
}
