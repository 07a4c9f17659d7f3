//! The devices that every program expects, made in the container's own /dev: a node is a number, and only these
//! numbers are there.

use crate::plan::{Op, Phase, Plan, Spec, Stage, c_string};
use crate::sys::{self, FdPath, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::unistd::symlinkat;
use std::os::fd::OwnedFd;

/// Name, major, minor (`Documentation/admin-guide/devices.txt` of the kernel).
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

pub fn plan(spec: &Spec, plan: &mut Plan) {
    for (name, major, minor) in NODES {
        let c_name = c_string(name.as_bytes());
        let shell = format!("mknod -m 666 $ROOT/dev/{name} c {major} {minor}");
        let op = Op::new("mknodat", [name.to_string(), format!("{major}:{minor}")], shell, move |stage| {
            let mode = Mode::from_bits_truncate(0o666);
            mknodat(open_dev(stage)?, c_name.as_c_str(), SFlag::S_IFCHR, mode, makedev(major, minor))
        });
        let op = op.hint(|errno, _| match errno {
            Errno::EPERM => Some("CAP_MKNOD is missing, or an outer container forbids devices".to_string()),
            _ => None,
        });
        plan.add(Phase::Devices, format!("node.{name}"), op)
            .why("A device node that programs expect; it reaches the kernel's driver, not the host's files.")
            .look("ls -l /proc/$PID/root/dev");
    }
    for (name, target) in LINKS {
        let (c_name, c_target) = (c_string(name.as_bytes()), c_string(target.as_bytes()));
        let op = Op::new("symlinkat", [target, name], format!("ln -s {target} $ROOT/dev/{name}"), move |stage| {
            symlinkat(c_target.as_c_str(), open_dev(stage)?, c_name.as_c_str())
        });
        plan.add(Phase::Devices, format!("link.{name}"), op).why("Scripts open it by this name.");
    }
    if spec.terminal() {
        console(plan);
    }
}

/// `/dev/console` is the container's terminal, as on a machine that has one.
fn console(plan: &mut Plan) {
    let args = ["$TERMINAL".to_string(), "".into(), format!("{:?}", MsFlags::MS_BIND), "".into()];
    let op = Op::new("mount", args, "touch $ROOT/dev/console && mount --bind $TERMINAL $ROOT/dev/console", |stage| {
        let mode = Mode::from_bits_truncate(0o600);
        let dev = open_dev(stage)?;
        mknodat(dev, c"console", SFlag::S_IFREG, mode, 0)?;
        let place = sys::openat2(dev, c"console", OFlag::O_PATH, Mode::empty(), RESOLVE_NO_SYMLINKS)?;
        let Some(terminal) = &stage.terminal else { return Err(Errno::EBADF) };
        let (from, to) = (FdPath::new(terminal), FdPath::new(&place));
        mount(Some(from.as_c_str()), to.as_c_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
    });
    plan.add(Phase::Devices, "console", op)
        .why("What writes to /dev/console is seen on the container's terminal.")
        .look("ls -l /proc/$PID/root/dev/console");
}

/// The container's /dev, opened by the first step that needs it.
fn open_dev(stage: &mut Stage) -> Result<&OwnedFd, Errno> {
    let Stage { root: Some(root), dev, .. } = stage else { return Err(Errno::EBADF) };
    if dev.is_none() {
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
        *dev = Some(sys::openat2(root, c"dev", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty(), resolve)?);
    }
    dev.as_ref().ok_or(Errno::EBADF)
}
