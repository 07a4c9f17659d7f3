//! What the container sees of its cgroups: `/sys/fs/cgroup`, read-only. In a cgroup namespace a mount of a tree begins
//! at the container's own cgroup, so neither the host's nor another container's is in sight
//! (`man 7 cgroup_namespaces`).
//!
//! Try it without us: `unshare --cgroup --mount sh -c 'mount -t cgroup2 none /mnt; ls /mnt'`

use super::layout::{Tree, Version};
use oci_spec::runtime::Mount;

const PLACE: &str = "/sys/fs/cgroup";
const OPTIONS: [&str; 5] = ["nosuid", "noexec", "nodev", "relatime", "ro"];

/// The mounts, in order. Where there is more than one tree, or an old one, a small tmpfs holds a folder for each.
pub fn mounts(trees: &[&Tree]) -> Vec<Mount> {
    match trees {
        [] => vec![],
        [tree] if tree.version == Version::V2 => vec![mount(tree, PLACE.to_string())],
        trees => {
            let tmpfs = ["nosuid", "noexec", "nodev", "mode=755", "size=64k", "ro"].map(String::from);
            let folders = trees.iter().map(|tree| mount(tree, format!("{PLACE}/{}", folder(tree))));
            [entry("tmpfs", PLACE.to_string(), tmpfs.to_vec())].into_iter().chain(folders).collect()
        }
    }
}

/// The host's name for the tree's folder, where programs look for it.
fn folder(tree: &Tree) -> String {
    tree.mount.file_name().map_or_else(|| tree.label(), |name| name.to_string_lossy().into_owned())
}

fn mount(tree: &Tree, destination: String) -> Mount {
    let options = OPTIONS.map(String::from).into_iter();
    match tree.version {
        Version::V1 => entry("cgroup", destination, options.chain(tree.controllers.clone()).collect()),
        Version::V2 => entry("cgroup2", destination, options.collect()),
    }
}

fn entry(kind: &str, destination: String, options: Vec<String>) -> Mount {
    let source = if kind == "tmpfs" { kind } else { "cgroup" };
    let mut mount = Mount::default();
    mount.set_destination(destination.into()).set_typ(Some(kind.into())).set_source(Some(source.into()));
    mount.set_options(Some(options));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(trees: &[(Version, &str, &[&str])]) -> Vec<String> {
        let tree = |(version, mount, controllers): &(Version, &str, &[&str])| Tree {
            version: *version,
            mount: (*mount).into(),
            own: (*mount).into(),
            controllers: controllers.iter().map(|word| word.to_string()).collect(),
            read_only: false,
        };
        let trees: Vec<Tree> = trees.iter().map(tree).collect();
        let words = |mount: Mount| {
            let (kind, options) = (mount.typ().clone().unwrap(), mount.options().clone().unwrap().join(","));
            format!("{kind} {} {options}", mount.destination().display())
        };
        mounts(&trees.iter().collect::<Vec<_>>()).into_iter().map(words).collect()
    }

    #[test]
    fn each_layout_has_its_view() {
        use Version::{V1, V2};
        assert!(view(&[]).is_empty());
        let unified = view(&[(V2, "/sys/fs/cgroup", &["memory"])]);
        assert_eq!(unified, ["cgroup2 /sys/fs/cgroup nosuid,noexec,nodev,relatime,ro"]);
        let old = view(&[
            (V1, "/sys/fs/cgroup/memory", &["memory"]),
            (V1, "/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
        ]);
        assert_eq!(
            old,
            [
                "tmpfs /sys/fs/cgroup nosuid,noexec,nodev,mode=755,size=64k,ro",
                "cgroup /sys/fs/cgroup/memory nosuid,noexec,nodev,relatime,ro,memory",
                "cgroup /sys/fs/cgroup/cpu,cpuacct nosuid,noexec,nodev,relatime,ro,cpu,cpuacct",
            ]
        );
        let both = view(&[(V1, "/sys/fs/cgroup/cpu", &["cpu"]), (V2, "/sys/fs/cgroup/unified", &[])]);
        assert_eq!(both[2], "cgroup2 /sys/fs/cgroup/unified nosuid,noexec,nodev,relatime,ro");
    }
}
