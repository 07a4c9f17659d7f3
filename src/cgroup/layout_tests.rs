//! The machines on which we want to run, as their `/proc` shows them.

use super::*;
use Version::{V1, V2};

fn tree(version: Version, mount: &str, own: &str, controllers: &[&str]) -> Tree {
    let controllers = controllers.iter().map(|word| word.to_string()).collect();
    Tree { version, mount: mount.into(), own: own.into(), controllers, read_only: false }
}

#[test]
fn hybrid_with_one_controller_per_mount() {
    let mountinfo = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    let cgroup = "9:name=systemd:/\n4:memory:/api/x:y\n2:cpuacct:/\n1:cpu:/\n0::/\n";
    let layout = Layout::parse(mountinfo, cgroup);
    let expected = [
        tree(V1, "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu", &["cpu"]),
        tree(V1, "/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpuacct", &["cpuacct"]),
        tree(V1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/api/x:y", &["memory"]),
        tree(V2, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified", &[]),
    ];
    assert_eq!(layout.trees, expected);
    assert_eq!(layout.home("memory").unwrap().mount, Path::new("/sys/fs/cgroup/memory"));
    assert_eq!(layout.home("pids"), None);
    assert_eq!(layout.used(&[("memory", "--memory")]).count(), 3, "the unified tree carries nothing that is needed");
}

#[test]
fn a_controller_of_a_hybrid_may_live_in_the_unified_tree() {
    let mountinfo = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    let mut layout = Layout::parse(mountinfo, "1:cpu:/\n0::/\n");
    layout.trees[1].controllers = vec!["memory".into(), "io".into()];
    assert_eq!(layout.home("memory").unwrap().version, V2);
    assert_eq!(layout.home("blkio").unwrap().version, V2);
    assert_eq!(layout.used(&[("memory", "--memory")]).count(), 2);
    assert_eq!(layout.used(&[("cpu", "--cpus")]).count(), 1);
}

#[test]
fn unified_under_systemd() {
    let mountinfo = "\
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
    let layout = Layout::parse(mountinfo, "0::/user.slice/user-1000.slice/session-1.scope\n");
    let own = "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope";
    assert_eq!(layout.trees, [tree(V2, "/sys/fs/cgroup", own, &[])]);
    assert_eq!(layout.used(&[]).count(), 1);
}

#[test]
fn version_1_with_shared_hierarchies() {
    let mountinfo = "\
25 22 0:21 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
26 25 0:22 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/x,name=systemd
28 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct
29 25 0:25 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:15 - cgroup cgroup rw,net_cls,net_prio
30 25 0:26 / /sys/fs/cgroup/cpuset rw,nosuid shared:16 - cgroup cgroup rw,cpuset,clone_children
31 22 0:26 / /dev/cpuset rw,nosuid shared:17 - cgroup cpuset rw,cpuset,noprefix,release_agent=/sbin/x
";
    let cgroup = "5:cpuset:/\n4:net_cls,net_prio:/\n3:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/s.scope\n";
    let expected = [
        tree(V1, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/user.slice", &["cpu", "cpuacct"]),
        tree(V1, "/sys/fs/cgroup/net_cls,net_prio", "/sys/fs/cgroup/net_cls,net_prio", &["net_cls", "net_prio"]),
        tree(V1, "/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/cpuset", &["cpuset"]),
    ];
    let layout = Layout::parse(mountinfo, cgroup);
    assert_eq!(layout.trees, expected);
    assert_eq!(layout.home("cpu").unwrap().label(), "cpu,cpuacct");
    assert_eq!(layout.used(&[]).count(), 3);
}

#[test]
fn inside_other_containers() {
    // Version 2 in a container with a cgroup namespace: read-only, and the root is not the kernel's.
    let mountinfo = "700 690 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n";
    let layout = Layout::parse(mountinfo, "0::/\n");
    assert!(layout.trees[0].read_only);
    assert_eq!((layout.home("memory"), layout.used(&[]).count()), (None, 0));
    // The host's tree seen from such a namespace.
    let mountinfo = "700 690 0:26 /../.. /host/cg\\040x rw - cgroup2 cgroup rw\n";
    assert_eq!(Layout::parse(mountinfo, "0::/\n").trees, [tree(V2, "/host/cg x", "/host/cg x", &[])]);
    // Version 1 without a namespace: the mount shows the container's own cgroup only.
    let mountinfo = "900 890 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let expected = tree(V1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/sub", &["memory"]);
    assert_eq!(Layout::parse(mountinfo, "4:memory:/docker/abc/sub\n").trees, [expected]);
}

#[test]
fn the_topmost_mount_and_the_usual_place_win() {
    let mountinfo = "\
30 25 0:26 / /var/lib/lxcfs/memory rw - cgroup cgroup rw,memory
31 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 31 0:26 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
33 25 0:26 / /mnt/memory rw - cgroup cgroup rw,memory
";
    let layout = Layout::parse(mountinfo, "4:memory:/\n");
    assert_eq!(layout.trees.len(), 1);
    assert_eq!(layout.trees[0].mount, Path::new("/sys/fs/cgroup/memory"));
    assert!(layout.trees[0].read_only);
}

#[test]
fn nothing_mounted_and_nonsense() {
    for (mountinfo, cgroup) in
        [("", ""), ("22 1 0:20 / /proc rw - proc proc rw\n", "4:memory:/\n"), ("x", "x:y"), (" - ", "::")]
    {
        assert_eq!(Layout::parse(mountinfo, cgroup).trees, [], "{mountinfo:?}");
    }
}
