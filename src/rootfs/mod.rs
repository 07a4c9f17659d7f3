//! A `/` of its own. The container's root is mounted beside the host's, furnished with /proc, /sys and /dev, and then
//! `pivot_root` swaps the two and the host's is let go: unlike after `chroot`, there is no way back to it
//! (`man 2 pivot_root`).
//!
//! Try it without us: `unshare --mount sh -c 'mount --bind $IMAGE $IMAGE; cd $IMAGE; pivot_root . .; umount -l .; ls /'`

mod binds;
mod busybox;
mod dev;
mod etc;
mod mounts;
mod place;
mod seal;

pub use busybox::{has_command, make_default};

use crate::plan::{Dirs, Fact, ImageConfig, Op, Phase, Plan, Room, Spec};
use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::Root;
use std::path::Path;

/// The room.
pub struct Rootfs;

impl Room for Rootfs {
    fn name(&self) -> &'static str {
        "rootfs"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        command.args([
            Arg::new("read-only")
                .long("read-only")
                .action(ArgAction::SetTrue)
                .help("Mount the container's root read-only"),
            Arg::new("shm-size").long("shm-size").value_name("BYTES").help("Size of /dev/shm (64m)"),
            Arg::new("tmpfs")
                .long("tmpfs")
                .value_name("DIR[:OPTIONS]")
                .action(ArgAction::Append)
                .help("Mount a tmpfs in the container"),
        ])
    }

    fn doctor(&self, dirs: &Dirs) -> Vec<Fact> {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let has = |name: &str| known.lines().any(|line| line.split_whitespace().last() == Some(name));
        let mut facts: Vec<Fact> = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"]
            .into_iter()
            .map(|name| {
                let found = if has(name) { name.to_string() } else { format!("no {name}") };
                Fact::need("file system", found, has(name), format!("this kernel has no {name}"))
            })
            .collect();
        let openat2 = crate::sys::openat2(nix::fcntl::AT_FDCWD, c"/", OFlag::O_PATH, Mode::empty(), 0);
        let found = if openat2.is_ok() { "works" } else { "missing" };
        facts.push(Fact::need("openat2", found, openat2.is_ok(), "paths in an image are resolved by it: Linux 5.6"));
        facts.push(busybox::doctor(dirs));
        facts
    }

    fn image(&self, dirs: &Dirs, words: &[String], dry: bool) -> Result<Option<(ImageConfig, usize)>> {
        busybox::find(dirs, words, dry).map(Some)
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let mut root = Root::default();
        root.set_path(spec.dirs.running(&spec.id).join("rootfs"))
            .set_readonly(said.get_flag("read-only").then_some(true));
        spec.oci.set_root(Some(root));
        let shm = said.get_one::<String>("shm-size").map(String::as_str).unwrap_or("64m");
        // The room of the namespaces has said /proc; what stands in a list before it is mounted before it.
        let others = std::mem::take(spec.mounts_mut());
        let (proc, rest): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|mount| mount.destination() == Path::new("/proc"));
        let folder = spec.folder();
        let list = spec.mounts_mut();
        list.extend(proc);
        list.extend(mounts::defaults(shm)?);
        list.extend(rest);
        list.extend(etc::mounts(&folder));
        for text in said.get_many::<String>("tmpfs").into_iter().flatten() {
            let tmpfs = mounts::tmpfs(text)?;
            if spec.mounts().iter().any(|mount| mount.destination() == tmpfs.destination()) {
                bail!("--tmpfs: duplicate mount point: `{}`", tmpfs.destination().display());
            }
            spec.mounts_mut().push(tmpfs);
        }
        seal::spec(spec);
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        let Some(root) = spec.rootfs() else { return Ok(()) };
        plan.add(Phase::Host, "mkdir", Op::mkdir(root, 0o755)).why(
            "A mount needs a place; this one stays empty on the host, for the mount is only in the child's world.",
        );
        etc::plan(spec, plan);
        if !spec.writable_layer {
            bind_image(spec, root, plan);
        }
        plan.add(Phase::Mounts, "open", open_root(root))
            .why("Opened once; every path in it is resolved from this descriptor, so no link in the image leads out.");
        mounts::plan(spec, plan);
        dev::plan(spec, plan);
        seal::plan(spec, plan);
        pivot(spec, plan);
        Ok(())
    }

    fn view(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        spec.rootfs().into_iter().for_each(|root| view(spec, root, plan));
        Ok(())
    }
}

/// The root, opened, and the binds in it; `--read-only` holds for those who put files into it, too.
fn view(spec: &Spec, root: &Path, plan: &mut Plan) {
    plan.add(Phase::Host, "mkdir", Op::mkdir(root, 0o755)).why("A mount needs a place, and `rm` removes it.");
    if !spec.folder().join("resolv.conf").exists() {
        etc::plan(spec, plan); // it has never been started
    }
    if !spec.writable_layer {
        bind_image(spec, root, plan);
    }
    plan.add(Phase::Mounts, "open", open_root(root)).why("Every path in it is resolved from this descriptor.");
    mounts::plan(spec, plan);
    if spec.oci.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false)) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let op = Op::mount("", &root.display().to_string(), "", flags, "");
        plan.add(Phase::Bound, "read-only", op).why("--read-only: the root itself; volumes keep their own rule.");
    }
}

/// Without a layer of its own the container looks at the image's tree itself, which is every other container's too:
/// read-only, so that none of them spoils it.
fn bind_image(spec: &Spec, root: &Path, plan: &mut Plan) {
    let tree = spec.image.layers.last().map(|layer| layer.display().to_string()).unwrap_or_default();
    let root = root.display().to_string();
    plan.add(Phase::Root, "bind", Op::mount(&tree, &root, "", MsFlags::MS_BIND | MsFlags::MS_REC, ""))
        .why("pivot_root wants a mount point; a folder bound onto another place becomes one.")
        .look("grep rootfs /proc/$PID/mountinfo");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    plan.add(Phase::Root, "bind-read-only", Op::mount("", &root, "", flags, ""))
        .why("It is the image itself, and every other container's; a layer to write in comes in a later chapter.");
}

/// Opens the mounted root.
fn open_root(root: &Path) -> Op {
    let path = root.to_owned();
    let shown = root.display().to_string();
    Op::new("openat", [shown.clone(), "O_PATH".into()], format!("ROOT={shown}"), move |stage| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        stage.root = Some(nix::fcntl::open(&path, flags, Mode::empty())?);
        Ok(())
    })
}

/// The swap, and the letting go.
fn pivot(spec: &Spec, plan: &mut Plan) {
    let op = Op::new("pivot_root", [".", "."], "cd $ROOT && pivot_root . .", |stage| {
        let Some(root) = &stage.root else { return Err(Errno::EBADF) };
        nix::unistd::fchdir(root)?;
        nix::unistd::pivot_root(".", ".")
    });
    let op = op.hint(|errno, _| match errno {
        Errno::EINVAL => Some(why_pivot_fails()),
        Errno::EBUSY => Some("the new root is on the same mount as the old one".to_string()),
        _ => None,
    });
    plan.add(Phase::Pivot, "pivot", op)
        .why("The container's root becomes `/`. After a chroot the old one would still be there to climb back to.")
        .look("ls /proc/$PID/root");
    let op = Op::new("umount2", [".", "MNT_DETACH"], "umount -l . && cd /", |_| {
        // The old root lies on top of the new one at the same place; `.` is still the old one.
        umount2(".", MntFlags::MNT_DETACH)?;
        nix::unistd::chdir("/")
    });
    plan.add(Phase::Pivot, "let-go", op)
        .why("With the last mount of the host gone, there is no path from in here to any of its files.")
        .look("cat /proc/$PID/mountinfo");
    if spec.oci.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false)) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let args = ["".to_string(), "".into(), format!("{flags:?}"), "".into()];
        let op = Op::new("mount", args, "mount -o remount,bind,ro /", move |_| {
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        });
        plan.add(Phase::Bound, "read-only", op)
            .why("--read-only: the root itself; what is mounted in it keeps its own rule.")
            .look("grep ' / / ' /proc/$PID/mountinfo");
    }
}

/// EINVAL has three documented reasons; asked of this machine, one is left.
fn why_pivot_fails() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let fields = |line: &str| -> Vec<String> { line.split(' ').map(str::to_string).collect() };
    let root = mounts.lines().map(fields).rfind(|fields| fields.get(4).is_some_and(|at| at == "/"));
    match root {
        Some(fields) if fields.iter().any(|field| field == "rootfs") => {
            "this machine's / is the initial ramfs, which cannot be pivoted away from".to_string()
        }
        Some(fields) if fields.iter().any(|field| field.starts_with("shared:")) => {
            "/ is shared here: was the step `namespaces.private` left out?".to_string()
        }
        _ => "the new root is not a mount point, or lies outside of the current root".to_string(),
    }
}
