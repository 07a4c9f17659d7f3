//! What `mydocker doctor` says of cgroups: each tree with its controllers, who may make cgroups in it, and, where root
//! has handed a part of the tree to a user's session (*delegation*), which controllers came with it.
//!
//! In a session of systemd a user owns one cgroup and what he makes below it; the controllers that systemd did not
//! enable there are not in its `cgroup.controllers`, and nobody but root can bring them in
//! (`Documentation/admin-guide/cgroup-v2.rst`, "Delegation Containment").
//!
//! Try it without us: `systemd-run --user --scope -p Delegate=yes sh -c 'cat /sys/fs/cgroup/$(cut -d: -f3
//! /proc/self/cgroup)/cgroup.controllers'`

use super::layout::{Layout, Tree, Version, words};
use super::v2::WANTED;
use crate::plan::Fact;
use nix::unistd::{AccessFlags, access};
use std::path::Path;

/// A line for each tree, and one for what was delegated to a user who is not root.
pub fn facts(layout: &Layout) -> Vec<Fact> {
    if layout.trees.is_empty() {
        let why = "limits need one: mount -t cgroup2 cgroup2 /sys/fs/cgroup";
        return vec![Fact::need("cgroup trees", "none mounted", false, why)];
    }
    layout.trees.iter().flat_map(tree_facts).collect()
}

fn tree_facts(tree: &Tree) -> Vec<Fact> {
    let what = match tree.version {
        Version::V1 => "hierarchy (v1)",
        Version::V2 => "tree (v2)",
    };
    let mut found = format!("{}: {}", tree.mount.display(), list(&tree.controllers));
    if tree.read_only {
        found.push_str(", read-only, as in a container: no limits");
        return vec![Fact::met(what, found)];
    }
    if !tree.is_real_root() {
        found.push_str(&lacking(tree.version, &tree.controllers).unwrap_or_default());
    }
    if writable(&tree.mount) {
        return vec![Fact::met(what, found)];
    }
    let why = "it belongs to root, who alone makes cgroups at its top";
    let mut facts = vec![Fact::need(what, found, false, why)];
    if tree.version == Version::V2 {
        facts.push(delegated(&tree.own));
    }
    facts
}

/// What the engine's own cgroup was given, if it is the caller's to fill.
fn delegated(own: &Path) -> Fact {
    let what = "delegated to you";
    if !writable(&own.join("cgroup.procs")) || !writable(own) {
        return Fact::met(what, "nothing (systemd-run --user --scope -p Delegate=yes … asks for a part)");
    }
    let here = words(&own.join("cgroup.controllers"));
    let rest = lacking(Version::V2, &here).unwrap_or_default();
    Fact::met(what, format!("{}: {}{rest}", own.display(), list(&here)))
}

/// The controllers that a container would like and that are not there, as a remark.
fn lacking(version: Version, there: &[String]) -> Option<String> {
    let absent = WANTED.into_iter().filter(|word| there.iter().all(|other| other != word)).collect::<Vec<_>>();
    (version == Version::V2 && !absent.is_empty())
        .then(|| format!("; not delegated: {} (limits that need them are refused)", absent.join(" ")))
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "no controllers".to_string() } else { words.join(" ") }
}

fn writable(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(version: Version, mount: &Path, own: &Path, controllers: &[&str]) -> Tree {
        let controllers = controllers.iter().map(|word| word.to_string()).collect();
        Tree { version, mount: mount.into(), own: own.into(), controllers, read_only: false }
    }

    #[test]
    fn what_was_not_handed_over_is_named() {
        let part = tempfile::tempdir().unwrap();
        std::fs::write(part.path().join("cgroup.type"), "domain\n").unwrap(); // a root has no such file
        let handed_over = tree(Version::V2, part.path(), part.path(), &["memory", "pids"]);
        let facts = tree_facts(&handed_over);
        assert!(facts[0].missing.is_none(), "{facts:?}");
        assert!(facts[0].found.contains("memory pids; not delegated: cpuset cpu io ("), "{facts:?}");
    }

    #[test]
    fn without_a_tree_there_are_no_limits() {
        assert!(facts(&Layout::default())[0].missing.is_some());
    }
}
