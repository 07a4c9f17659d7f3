//! Masked and read-only paths: /proc and /sys are views of the one kernel that all containers share, and namespaces do
//! not cover everything in them.

use super::mounts::mount_in_root;
use crate::plan::{Phase, Plan, Spec};
use nix::mount::MsFlags;
use nix::sys::stat::SFlag;
use std::path::Path;

/// Docker's list: what tells of the host, or lets a container hurt it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Writes the lists into the spec.
pub fn spec(spec: &mut Spec) {
    let list = |paths: &[&str]| Some(paths.iter().map(|path| path.to_string()).collect());
    spec.linux_mut().set_masked_paths(list(&MASKED)).set_readonly_paths(list(&READ_ONLY));
}

/// Covers what this kernel has of them. Both file systems show the kernel, not the image, so what the host sees in its
/// own is what the container would see.
pub fn plan(spec: &Spec, plan: &mut Plan) {
    let Some(root) = spec.rootfs() else { return };
    let shown = root.display().to_string();
    let mounted = |path: &str| spec.mounts().iter().any(|mount| Path::new(path).starts_with(mount.destination()));
    let linux = spec.linux();
    for path in linux.masked_paths().iter().flatten().filter(|path| mounted(path)) {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        let (empty, bind) = (SFlag::empty(), MsFlags::MS_BIND);
        let mut op = if metadata.is_dir() {
            mount_in_root("tmpfs", path, "tmpfs", MsFlags::MS_RDONLY, "size=0k,nr_inodes=2", empty)
        } else {
            mount_in_root(&root.join("dev/null").display().to_string(), path, "", bind, "", empty)
        };
        op.shell = op.shell.replace(&shown, "$ROOT");
        plan.add(Phase::Seal, format!("mask.{path}"), op)
            .why("No namespace covers it: it would show, or change, the host.")
            .look(format!("ls -l /proc/$PID/root{path}"));
    }
    for path in linux.readonly_paths().iter().flatten().filter(|path| mounted(path)) {
        if !Path::new(path).exists() {
            continue;
        }
        let source = root.join(path.trim_start_matches('/')).display().to_string();
        let mut op = mount_in_root(&source, path, "", MsFlags::MS_BIND | MsFlags::MS_REC, "", SFlag::empty());
        op.shell = op.shell.replace(&shown, "$ROOT");
        plan.add(Phase::Seal, format!("bind.{path}"), op)
            .why("Bound onto itself it becomes a mount of its own, and a mount can be read-only.");
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        let flags = flags | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        plan.add(Phase::Seal, format!("read-only.{path}"), mount_in_root("", path, "", flags, "", SFlag::empty()))
            .why("Readable, so that programs find their settings; not writable, because it is the host's kernel.")
            .look(format!("grep ' {path} ' /proc/$PID/mountinfo"));
    }
}
