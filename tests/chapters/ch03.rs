//! Chapter 03: the container's command has a `/` of its own, furnished as docker furnishes it, with no way back to the
//! host's, and its root holds docker's fourteen capabilities.

use super::check::{Check, Fault, Finding, Subject, expect, random, same, wrong};
use crate::support::kernel::{self, Mount};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::unistd::{chdir, chroot, fchdir};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

pub const CHECKS: &[Check] = &[
    Check { chapter: 3, name: "a root of its own", ask: own_root },
    Check { chapter: 3, name: "the host's files are not there", ask: canary },
    Check { chapter: 3, name: "no climbing out as of a chroot", ask: escape },
    Check { chapter: 3, name: "no mount of the host is left", ask: old_root_is_gone },
    Check { chapter: 3, name: "/proc /sys /dev are mounted as docker's", ask: furniture },
    Check { chapter: 3, name: "/dev has docker's devices and no others", ask: devices },
    Check { chapter: 3, name: "masked and read-only paths", ask: sealed },
    Check { chapter: 3, name: "fourteen capabilities", ask: capabilities },
];

fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn own_root(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let (theirs, ours) = (identity(&format!("/proc/{}/root/", running.pid)), identity("/"));
    expect(theirs.is_some() && theirs != ours, || {
        format!("device and inode of its root: {theirs:?}; the host's: {ours:?}")
    })
}

/// A file on the host, of a random name.
fn make_canary(subject: &Subject) -> std::path::PathBuf {
    let path = subject.engine.folder().join(format!("canary-{:x}", random(0, u64::MAX)));
    fs::write(&path, "alive").unwrap();
    path
}

fn canary(subject: &Subject) -> Finding {
    let path = make_canary(subject);
    let running = subject.idle(&[])?;
    let inside = format!("/proc/{}/root{}", running.pid, path.display());
    expect(!Path::new(&inside).exists(), || format!("{} of the host can be read in the container", path.display()))
}

/// The classic way out (`man 2 chroot`): be somewhere, move the root below that place, and climb. What decides is
/// whether the container's root is the top of its mount tree, or a folder in the host's.
fn escape(subject: &Subject) -> Finding {
    let path = make_canary(subject);
    let running = subject.idle(&[])?;
    match climb(&format!("/proc/{}/root", running.pid), &path) {
        Ok(reached) => expect(!reached, || format!("a process in there can climb to {} of the host", path.display()))?,
        Err(errno) => return wrong(format!("its root cannot be entered: {errno}")),
    }
    // What a chroot only hides is at the root of the mount namespace.
    match kernel::inside(running.pid, "mnt", || path.exists()) {
        Ok(reached) => expect(!reached, || format!("its mount namespace still holds {}", path.display())),
        Err(errno) => wrong(format!("its mount namespace cannot be joined: {errno}")),
    }
}

/// In a thread with that root: whether `canary` is in reach after the climb.
pub fn climb(root: &str, canary: &Path) -> Result<bool, Errno> {
    let root = fs::File::open(root).map_err(|_| Errno::ENOENT)?;
    kernel::apart(|| {
        fchdir(&root)?;
        chroot(".")?;
        let below = fs::read_dir("/").map_err(|_| Errno::EIO)?.flatten();
        let below =
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "proc");
        let Some(below) = below.map(|entry| entry.path()).next() else { return Err(Errno::ENOTDIR) };
        chroot(&below)?;
        for _ in 0..64 {
            chdir("..")?;
        }
        chroot(".")?;
        Ok(canary.exists())
    })
}

fn old_root_is_gone(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let table = kernel::whole_mounts(running.pid);
    let table = table.map_err(|errno| Fault::Wrong(format!("its mount namespace cannot be joined: {errno}")))?;
    let tops = table.iter().filter(|mount| mount.at == "/").count();
    same("mounts at /", tops, 1)?;
    // The test's folder is a mount of the host; a copy of the host's table has it.
    let folder = subject.engine.folder().to_string_lossy().into_owned();
    let left: Vec<_> = table.iter().filter(|mount| mount.at.contains(&folder)).map(|mount| &mount.at).collect();
    expect(left.is_empty(), || format!("mounts of the host that are still there: {left:?}"))
}

fn furniture(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let table = kernel::mounts(running.pid);
    let wanted: [(&str, &str, &[&str]); 6] = [
        ("/proc", "proc", &["nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        ("/dev", "tmpfs", &["nosuid"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
    ];
    for (at, kind, options) in wanted {
        let Some(mount) = table.iter().find(|mount| mount.at == at) else {
            return wrong(format!("nothing is mounted at {at}"));
        };
        same(&format!("the file system at {at}"), mount.kind.as_str(), kind)?;
        for option in options {
            expect(mount.options.iter().any(|own| own == option), || {
                format!("{at} lacks {option}: {:?}", mount.options)
            })?;
        }
        expect(mount.propagation.is_empty(), || format!("{at} is not private: {:?}", mount.propagation))?;
    }
    let shared: Vec<_> = table.iter().filter(|mount| mount.propagation.iter().any(|word| word == "shared")).collect();
    expect(shared.is_empty(), || format!("still shared with the host: {shared:?}"))
}

fn devices(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let mut nodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{}/root/dev", running.pid)).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.file_type().is_char_device() || meta.file_type().is_block_device() {
            let kind = if meta.file_type().is_block_device() { 'b' } else { 'c' };
            let (device, mode) = (meta.rdev(), meta.mode() & 0o777);
            nodes.insert(format!(
                "{} {kind} {}:{} {mode:o}",
                entry.file_name().display(),
                major(device),
                minor(device)
            ));
        }
    }
    let wanted = [
        "null c 1:3 666",
        "zero c 1:5 666",
        "full c 1:7 666",
        "random c 1:8 666",
        "urandom c 1:9 666",
        "tty c 5:0 666",
    ];
    same("/dev", nodes, wanted.map(String::from).into())?;
    let ptmx = fs::metadata(format!("/proc/{}/root/dev/pts/ptmx", running.pid));
    expect(ptmx.is_ok_and(|meta| (major(meta.rdev()), minor(meta.rdev())) == (5, 2)), || {
        "/dev/pts/ptmx is not 5:2".to_string()
    })
}

fn sealed(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let root = |path: &str| format!("/proc/{}/root{path}", running.pid);
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"] {
        if !Path::new(path).exists() {
            continue;
        }
        let Ok(file) = nix::fcntl::open(root(path).as_str(), nix::fcntl::OFlag::O_PATH, Mode::empty()) else {
            return wrong(format!("{path} is not there at all"));
        };
        let stat = fstat(&file).map_err(|errno| Fault::Wrong(format!("{path}: {errno}")))?;
        let null = stat.st_mode & libc::S_IFMT == SFlag::S_IFCHR.bits()
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
        expect(null, || format!("{path} is not covered by /dev/null"))?;
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        if Path::new(path).is_dir() {
            let content = fs::read_dir(root(path)).map(Iterator::count).unwrap_or(0);
            same(&format!("entries in {path}"), content, 0)?;
        }
    }
    let table = kernel::mounts(running.pid);
    for path in ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"] {
        if Path::new(path).exists() {
            let read_only = |mount: &&Mount| mount.at == path && mount.options.iter().any(|option| option == "ro");
            expect(table.iter().any(|mount| read_only(&mount)), || format!("{path} is not read-only"))?;
        }
    }
    Ok(())
}

fn capabilities(subject: &Subject) -> Finding {
    let running = subject.idle(&[])?;
    let ours =
        |field| u64::from_str_radix(&kernel::status(std::process::id(), field).unwrap_or_default(), 16).unwrap_or(0);
    let fourteen = 0xa80425fb;
    if ours("CapBnd") & fourteen != fourteen {
        return Err(Fault::Cannot(format!("this machine itself has no more than {:x}", ours("CapBnd"))));
    }
    for (field, wanted) in
        [("CapBnd", fourteen), ("CapPrm", fourteen), ("CapEff", fourteen), ("CapInh", 0), ("CapAmb", 0)]
    {
        same(field, kernel::status(running.pid, field).unwrap_or_default(), format!("{wanted:016x}"))?;
    }
    Ok(())
}
