//! Whom the kernel killed for want of memory: it counts them in the cgroup itself, so they must be read before it goes.

use super::layout::{Layout, Version};
use super::place::Place;
use super::size::human;
use crate::plan::Spec;
use std::fs;

/// One sentence about the out-of-memory kills in the container's cgroup, if there were any.
pub fn obituary(layout: &Layout, spec: &Spec) -> Option<String> {
    let tree = layout.home("memory")?;
    let place = Place::parse(spec.linux().cgroups_path().as_ref()?).ok()?;
    let file = match tree.version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    let killed = kills(&fs::read_to_string(tree.mount.join(place.leaf).join(file)).ok()?)?;
    let memory = spec.linux().resources().as_ref().and_then(|resources| *resources.memory());
    Some(sentence(killed, memory.and_then(|memory| memory.limit())))
}

/// The line `oom_kill N` of either file, if it is not 0.
fn kills(text: &str) -> Option<u64> {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim_ascii().parse().ok().filter(|count| *count > 0)
}

fn sentence(killed: u64, limit: Option<i64>) -> String {
    let (whom, limit) = (
        if killed == 1 { "1 process".to_string() } else { format!("{killed} processes") },
        match limit {
            Some(bytes) => format!("its memory limit is {} (--memory)", human(bytes)),
            None => "it has no memory limit of its own, so a parent or the whole machine ran out".to_string(),
        },
    );
    format!("OOM: the kernel's out-of-memory killer ended {whom} of this container; {limit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_by_either_generation() {
        let cases = [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", Some(1)),
            ("low 0\nhigh 0\nmax 42\noom 7\noom_kill 3\noom_group_kill 0\n", Some(3)),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", None),
            ("oom_kill_disable 0\nunder_oom 0\n", None), // before Linux 4.13
            ("", None),
        ];
        for (text, count) in cases {
            assert_eq!(kills(text), count, "{text:?}");
        }
        let expected = "OOM: the kernel's out-of-memory killer ended 1 process of this container; its memory limit is \
                        32 MiB (--memory)";
        assert_eq!(sentence(1, Some(32 << 20)), expected);
        assert!(sentence(2, None).contains("2 processes"));
    }
}
