//! The mounts of the spec, in its order, each on a place inside the container's root: an image whose `/proc` is a link
//! elsewhere is refused, not obeyed (CVE-2019-19921, 2021-30465).

use super::place::Place;
use crate::plan::{Op, Phase, Plan, Spec, c_string, mount_args, mount_words};
use crate::sys::{self, FdPath, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag};
use oci_spec::runtime::Mount;
use std::ffi::{CStr, CString};
use std::path::Path;

/// One mount of the spec.
fn entry(kind: &str, source: &str, destination: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination.into()).set_typ(Some(kind.into())).set_source(Some(source.into()));
    mount.set_options(Some(options.iter().map(|option| option.to_string()).collect()));
    mount
}

/// What docker mounts in every container, apart from /proc.
pub fn defaults(shm_size: &str) -> Result<Vec<Mount>> {
    let shm = size("--shm-size", shm_size)?;
    Ok(vec![
        entry("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        entry("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={shm}")]),
        entry("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        entry("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    ])
}

/// A file of the host, bound over one of the image's.
pub fn bind(source: &Path, destination: &str) -> Mount {
    entry("bind", &source.display().to_string(), destination, &["rbind", "rprivate"])
}

/// `DIR[:OPTIONS]` as docker's `--tmpfs`: noexec, nosuid, nodev unless told otherwise.
pub fn tmpfs(text: &str) -> Result<Mount> {
    let (dir, options) = text.split_once(':').unwrap_or((text, ""));
    let shown = text.escape_debug();
    let clean = Path::new(dir).components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !dir.starts_with('/') || !clean || dir.contains('\0') {
        bail!("--tmpfs: `{shown}`: the mount point must be an absolute path without `..`");
    }
    if dir.trim_matches('/').is_empty() {
        bail!("--tmpfs: `{shown}`: the destination cannot be `/`");
    }
    if Path::new(dir).starts_with("/proc") || Path::new(dir).starts_with("/sys") {
        bail!("--tmpfs: `{shown}`: /proc and /sys are the kernel's; nothing is mounted in them");
    }
    let mut list: Vec<&str> = vec!["noexec", "nosuid", "nodev"];
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "rw" | "ro" | "noexec" | "nosuid" | "nodev" | "exec" | "suid" | "dev" | "noatime" | "relatime"
            | "strictatime" => {
                let opposite = option.strip_prefix("no").map(str::to_string).unwrap_or(format!("no{option}"));
                list.retain(|other| *other != opposite && *other != option);
            }
            "size" if value.ends_with('%') => {}
            "size" => drop(size("--tmpfs", value)?),
            "mode" if !value.is_empty() && value.len() <= 4 && u32::from_str_radix(value, 8).is_ok() => {}
            "uid" | "gid" | "nr_inodes" | "nr_blocks"
                if value.trim_end_matches(['k', 'm', 'g']).parse::<u64>().is_ok() => {}
            _ => bail!("--tmpfs: invalid tmpfs option: `{}`", option.escape_debug()),
        }
        list.push(option);
    }
    let destination = format!("/{}", dir.trim_matches('/'));
    Ok(entry("tmpfs", "tmpfs", &destination, &list))
}

/// A number of bytes with one of the suffixes b, k, m, g (powers of 1024), more than nothing.
fn size(flag: &str, text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => 64,
    };
    let bytes = digits.parse::<u64>().ok().filter(|_| shift < 64).and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if (1..=i64::MAX as u64).contains(&bytes) => Ok(bytes),
        _ => bail!("{flag}: `{}` is not a size like 64m", text.escape_debug()),
    }
}

/// The flags of `mount(2)` and the file system's own options, from the words of `fstab`.
fn translate(mount: &Mount) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            // The defaults, and the propagation that the whole tree has anyway.
            "rw" | "exec" | "suid" | "dev" | "private" | "rprivate" => {}
            // Neither is a flag of the first call: see `binds`.
            "rro" | "slave" | "rslave" | "shared" | "rshared" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// One step per mount of the spec; what lies deeper comes later, so that nothing covers it (a volume at /etc does not
/// hide our /etc/hosts).
pub fn plan(spec: &Spec, plan: &mut Plan) {
    let mut mounts: Vec<&Mount> = spec.mounts().iter().collect();
    mounts.sort_by_key(|mount| mount.destination().components().count());
    for mount in mounts {
        let target = mount.destination().display().to_string();
        let kind = mount.typ().as_deref().unwrap_or("bind");
        let source = mount.source().as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let (mut flags, data) = translate(mount);
        // A tmpfs that is to be read-only must first receive what is mounted in it.
        let late = kind == "tmpfs" && flags.contains(MsFlags::MS_RDONLY) && has_mounts_inside(spec, mount);
        let bound = flags.contains(MsFlags::MS_BIND);
        if late {
            flags -= MsFlags::MS_RDONLY;
        }
        let kind = if bound { "" } else { kind };
        let file = bound && std::fs::metadata(&source).is_ok_and(|data| !data.is_dir());
        let create = if file || etc_file(&target) { SFlag::S_IFREG } else { SFlag::S_IFDIR };
        if bound && !Path::new(&source).starts_with(spec.folder()) {
            super::binds::plan(spec, mount, &source, flags, create, plan);
            continue;
        }
        plan.add(Phase::Mounts, format!("mount.{target}"), mount_in_root(&source, &target, kind, flags, &data, create))
            .why(why(&target, kind))
            .look(format!("grep ' {target} ' /proc/$PID/mountinfo"));
        link_parts(&target, kind, plan);
        let seals = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if late || bound && flags.intersects(seals) {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | translate(mount).0 & !MsFlags::MS_REC;
            let op = mount_in_root("", &target, "", flags, "", SFlag::empty());
            plan.add(Phase::Seal, format!("remount.{target}"), op)
                .why("A bind mount takes its flags only from a second call, and a full tmpfs is sealed last.")
                .look(format!("grep ' {target} ' /proc/$PID/mountinfo"));
        }
    }
}

/// A hierarchy of two controllers is called after both (`cpu,cpuacct`); programs look for it under each name.
fn link_parts(target: &str, kind: &str, plan: &mut Plan) {
    let Some((parent, name)) = target.rsplit_once('/').filter(|(_, name)| kind == "cgroup" && name.contains(','))
    else {
        return;
    };
    for part in name.split(',') {
        let (to, at) = (c_string(name.as_bytes()), c_string(part.as_bytes()));
        let folder = c_string(parent.as_bytes());
        let shell = format!("ln -s {name} $ROOT{parent}/{part}");
        let op = Op::new("symlinkat", [name, part], shell, move |stage| {
            let root = stage.root.as_ref().ok_or(Errno::EBADF)?;
            let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
            let dir = sys::openat2(root, &folder, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty(), resolve)?;
            nix::unistd::symlinkat(to.as_c_str(), dir, at.as_c_str())
        });
        plan.add(Phase::Mounts, format!("link.{parent}/{part}"), op)
            .why("A hierarchy of two controllers has one folder; programs look for it under each controller's name.");
    }
}

fn has_mounts_inside(spec: &Spec, mount: &Mount) -> bool {
    let inside = |other: &Mount| {
        other.destination() != mount.destination() && other.destination().starts_with(mount.destination())
    };
    spec.mounts().iter().any(inside)
}

/// The three files of ours that are written only when the plan is performed, so they cannot be asked what they are.
fn etc_file(target: &str) -> bool {
    super::etc::FILES.iter().any(|name| target.strip_prefix("/etc/") == Some(name))
}

fn why(target: &str, kind: &str) -> &'static str {
    match (target, kind) {
        ("/proc", _) => "`ps` and much else read it; a new one shows only the processes of this PID namespace.",
        ("/dev", _) => "An empty /dev of its own: the host's devices are not there unless they are made.",
        ("/dev/pts", _) => "Its own terminals: a new instance begins counting at 0 and shows none of the host's.",
        ("/dev/shm", _) => "POSIX shared memory is files in here; programs expect it.",
        ("/dev/mqueue", _) => "The message queues of its own IPC namespace.",
        ("/sys", _) => "Read-only, because most of it belongs to the one kernel that all containers share.",
        (_, "cgroup" | "cgroup2") => "Its own cgroups as the root of the tree, because of the cgroup namespace.",
        ("/etc/hosts" | "/etc/hostname" | "/etc/resolv.conf", _) => {
            "This file belongs to the container, not to the image."
        }
        (_, "tmpfs") => "Memory that behaves as a file system and is gone with the container.",
        _ => "The user asked for it.",
    }
}

/// In the detail of a failed mount: it was the target that could not be opened or made.
pub(super) const TARGET: u64 = 1;

/// `mount` on a path inside the container's root. A missing target is made, a file or a folder as `create` says; an
/// empty `create` makes nothing.
pub fn mount_in_root(source: &str, target: &str, kind: &str, flags: MsFlags, data: &str, create: SFlag) -> Op {
    let shell = mount_words(source, &format!("$ROOT{target}"), kind, flags, data);
    let args = mount_args(source, kind, flags, data);
    let inside = target.to_string();
    let place = Place::new(target, create);
    let strings = [source, kind, data].map(|text| c_string(text.as_bytes()));
    let op = Op::new("mount", args, shell, move |stage| {
        let root = stage.root.as_ref().ok_or(Errno::EBADF)?;
        let target = match place.open(root) {
            Ok(target) => target,
            Err(errno) => {
                stage.detail = TARGET;
                return Err(errno);
            }
        };
        let [source, kind, data] = &strings;
        mount(present(source), FdPath::new(&target).as_c_str(), present(kind), flags, present(data))
    });
    op.hint(move |errno, detail| hint(&inside, errno, detail))
}

pub(super) fn present(text: &CString) -> Option<&CStr> {
    (!text.is_empty()).then_some(text.as_c_str())
}

pub(super) fn hint(target: &str, errno: Errno, detail: u64) -> Option<String> {
    match (detail, errno) {
        (TARGET, Errno::ELOOP) => Some(format!(
            "the image's `{target}` is, or lies behind, a symbolic link that leads to the engine's own places; refused"
        )),
        (TARGET, Errno::ENOENT | Errno::EROFS) => {
            Some(format!("the image has no `{target}`, and its root cannot be written"))
        }
        (_, Errno::ENOTDIR) => {
            Some(format!("the image's `{target}`, or what leads to it, is not of the kind that is mounted there"))
        }
        (_, Errno::ENODEV) => Some("this kernel does not have that file system".to_string()),
        (_, Errno::EPERM) => Some("CAP_SYS_ADMIN is missing, or an outer container forbids it".to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_options_are_dockers() {
        let options = |text: &str| tmpfs(text).unwrap().options().clone().unwrap().join(",");
        assert_eq!(options("/run"), "noexec,nosuid,nodev");
        assert_eq!(options("/run:exec,size=1m,mode=1777"), "nosuid,nodev,exec,size=1m,mode=1777");
        assert_eq!(tmpfs("/run/").unwrap().destination(), Path::new("/run"));
        for bad in ["run", "/", "//", "/a/../b", "/run:nosuch", "/run:size=x", "/run:mode=9", "", "/run:size=-1"] {
            assert!(tmpfs(bad).unwrap_err().to_string().starts_with("--tmpfs: "), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("64m", 64 << 20), ("1", 1), ("2K", 2048), ("1gb", 1 << 30), ("5MiB", 5 << 20)] {
            assert_eq!(size("--shm-size", text).unwrap(), bytes);
        }
        for bad in ["", "0", "-1", "m", "1x", "1.5.", "99999999999999999999g", "9999999999g"] {
            assert!(size("--shm-size", bad).is_err(), "{bad}");
        }
    }
}
