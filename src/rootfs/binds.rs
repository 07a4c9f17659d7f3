//! Bind mounts that the user asked for. What `mount(2)` does in one call for a file system takes several for a bind: the
//! bind itself, then its propagation, then read-only, which must reach the mounts below it too, or `-v /:/host:ro` would
//! leave all of them writable.
//!
//! Try it without us: `mount --rbind /srv /mnt; findmnt -nlRo TARGET /mnt | xargs -n 1 mount -o remount,bind,ro`

use super::mounts::{TARGET, hint, mount_in_root, present};
use super::place::Place;
use crate::plan::{Op, Phase, Plan, Spec, c_string, mount_args, mount_words, quote};
use crate::sys::{self, FdPath, MOUNT_ATTR_RDONLY};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::SFlag;
use oci_spec::runtime::Mount;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The steps of one mount; `create` is the kind of target that is made where there is none.
pub fn plan(spec: &Spec, one: &Mount, source: &str, flags: MsFlags, create: SFlag, plan: &mut Plan) {
    let target = one.destination().display().to_string();
    let said = |word: &str| one.options().iter().flatten().any(|option| option == word);
    let look = format!("grep ' {target} ' /proc/$PID/mountinfo");
    let (slave, shared) = (said("slave") || said("rslave"), said("shared") || said("rshared"));
    if slave || shared {
        let recursive = flags.contains(MsFlags::MS_REC);
        let cell = Arc::new(OnceLock::new());
        plan.add(Phase::Host, format!("tree.{target}"), clone_tree(source, recursive, cell.clone()))
            .why("Taken on the host's side, where it is not private yet, so that it stays a peer of the original.");
        plan.add(Phase::Mounts, format!("mount.{target}"), attach(&target, create, cell, slave))
            .why("What the host mounts below it later appears in the container too (`man 7 mount_namespaces`).")
            .look(look.clone());
    } else {
        plan.add(Phase::Mounts, format!("mount.{target}"), bind(source, &target, flags, create))
            .why("The user asked for it: the same files at another place, nothing copied.")
            .look(look.clone());
    }
    if said("rro") {
        // What is mounted inside of it needs its place before it can be written no more.
        for inner in inside(spec, one) {
            let path = inner.destination().display().to_string();
            let source = inner.source().as_deref().unwrap_or(Path::new(""));
            let file = std::fs::metadata(source).is_ok_and(|data| !data.is_dir());
            let kind = if file { SFlag::S_IFREG } else { SFlag::S_IFDIR };
            plan.add(Phase::Mounts, format!("place.{path}"), place(&path, kind))
                .why("Another mount goes in here, and after the next step nothing can be made any more.");
        }
        plan.add(Phase::Mounts, format!("read-only.{target}"), read_only(&target))
            .why("Recursive: the mounts below it would otherwise stay writable.")
            .look(look);
    }
    let seals = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if flags.intersects(seals) {
        let flags = MsFlags::MS_REMOUNT | flags & !MsFlags::MS_REC;
        plan.add(Phase::Seal, format!("remount.{target}"), mount_in_root("", &target, "", flags, "", SFlag::empty()))
            .why("A bind mount takes its flags only from a second call.");
    }
}

fn inside<'a>(spec: &'a Spec, one: &'a Mount) -> impl Iterator<Item = &'a Mount> {
    let outer = one.destination();
    spec.mounts().iter().filter(move |inner| inner.destination() != outer && inner.destination().starts_with(outer))
}

fn bind(source: &str, target: &str, flags: MsFlags, create: SFlag) -> Op {
    let flags = flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
    let shell = mount_words(source, &format!("$ROOT{target}"), "", flags, "");
    let args = mount_args(source, "", flags, "");
    let (place, from) = (Place::new(target, create), c_string(source.as_bytes()));
    let op = Op::new("mount", args, shell, move |stage| {
        let root = stage.root.as_ref().ok_or(Errno::EBADF)?;
        let place = place.open(root).inspect_err(|_| stage.detail = TARGET)?;
        mount(present(&from), FdPath::new(&place).as_c_str(), None::<&str>, flags, None::<&str>)
    });
    explained(op, source, target)
}

fn explained(op: Op, source: &str, target: &str) -> Op {
    let (source, target) = (source.to_string(), target.to_string());
    op.hint(move |errno, detail| match (detail, errno) {
        (0, Errno::ENOENT) => Some(format!("bind source path does not exist: {source}")),
        (_, Errno::ENOTDIR) => {
            Some(format!("`{source}` and the container's `{target}` are not of the same kind: a file and a folder"))
        }
        _ => hint(&target, errno, detail),
    })
}

fn place(target: &str, kind: SFlag) -> Op {
    let place = Place::new(target, kind);
    let word = if kind == SFlag::S_IFDIR { "mkdir -p" } else { "touch" };
    Op::new("mkdirat", [target], format!("{word} $ROOT{}", quote(target)), move |stage| {
        place.open(stage.root.as_ref().ok_or(Errno::EBADF)?).map(drop)
    })
}

fn read_only(target: &str) -> Op {
    let place = Place::new(target, SFlag::empty());
    // Not `ro=recursive`: mount(8) of util-linux 2.38 takes it, says nothing, and leaves all of them writable.
    let shell = format!("findmnt -nlRo TARGET $ROOT{} | xargs -d '\\n' -n 1 mount -o remount,bind,ro", quote(target));
    Op::new("mount_setattr", [target, "AT_RECURSIVE", "MOUNT_ATTR_RDONLY"], shell, move |stage| {
        let opened = place.open(stage.root.as_ref().ok_or(Errno::EBADF)?)?;
        match sys::mount_setattr_recursive(&opened, MOUNT_ATTR_RDONLY) {
            // Before Linux 5.12 only the mount itself can be sealed, as docker did it then.
            Err(Errno::ENOSYS) => {
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
                mount(None::<&str>, FdPath::new(&opened).as_c_str(), None::<&str>, flags, None::<&str>)
            }
            other => other,
        }
    })
}

type Cell = Arc<OnceLock<OwnedFd>>;

fn clone_tree(source: &str, recursive: bool, cell: Cell) -> Op {
    let path = c_string(source.as_bytes());
    let op = Op::new(
        "open_tree",
        [source, "OPEN_TREE_CLONE"],
        format!("# take {} with its peers", quote(source)),
        move |_| {
            let tree = sys::open_tree_clone(&path, recursive)?;
            let _ = cell.set(tree); // a plan is performed once
            Ok(())
        },
    );
    explained(op, source, source)
}

fn attach(target: &str, create: SFlag, cell: Cell, slave: bool) -> Op {
    let place = Place::new(target, create);
    let flags = MsFlags::MS_REC | if slave { MsFlags::MS_SLAVE } else { MsFlags::MS_SHARED };
    let word = if slave { "rslave" } else { "rshared" };
    let shell = format!("mount --rbind --make-{word} … $ROOT{}", quote(target));
    Op::new("move_mount", [target, word], shell, move |stage| {
        let place = place.open(stage.root.as_ref().ok_or(Errno::EBADF)?).inspect_err(|_| stage.detail = TARGET)?;
        let tree = cell.get().ok_or(Errno::EBADF)?;
        sys::move_mount(tree, &place)?;
        // The descriptor is the mount's root, which now has a place.
        mount(None::<&str>, FdPath::new(tree).as_c_str(), None::<&str>, flags, None::<&str>)
    })
}
