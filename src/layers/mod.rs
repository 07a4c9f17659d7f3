//! A writable layer of one's own over read-only ones that many containers share: what is changed is first copied up,
//! what is deleted is covered by a whiteout. Three ways to it: overlay, which every kernel has had since 2014; aufs,
//! with which docker began; and vfs, plain copies, for where no union works.
//!
//! Inside, the container sees one tree and cannot tell which layer a file is from; `grep ' / ' /proc/self/mountinfo`
//! names the file system.
//!
//! Try it without us: `mount -t overlay -o lowerdir=$IMAGE,upperdir=$UPPER,workdir=$WORK overlay $ROOT`

mod aufs;
mod overlay;
mod vfs;

use crate::plan::{Dirs, Fact, Op, Phase, Plan, Room, Spec, quote};
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The room.
pub struct Layers;

/// One way to put layers together.
pub trait Driver: Sync {
    fn name(&self) -> &'static str;
    /// Why it cannot work under `data`, the folder where the layers lie.
    fn missing(&self, data: &Path) -> Option<String>;
    /// The steps that make the tree at `root`.
    fn plan(&self, spec: &Spec, root: &Path, plan: &mut Plan) -> Result<()>;
}

/// All of them, the one to be preferred first.
pub const DRIVERS: [&dyn Driver; 3] = [&overlay::Overlay, &aufs::Aufs, &vfs::Vfs];

/// In the OCI document's annotations: who made the container's tree.
pub const DRIVER: &str = "mydocker.storage-driver";
const VARIABLE: &str = "MYDOCKER_STORAGE_DRIVER";

impl Room for Layers {
    fn name(&self) -> &'static str {
        "layers"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        let help = "overlay, aufs or vfs (or MYDOCKER_STORAGE_DRIVER) [default: the first that works]";
        command.arg(Arg::new("storage-driver").long("storage-driver").value_name("DRIVER").help(help))
    }

    fn doctor(&self, dirs: &Dirs) -> Vec<Fact> {
        let module = "this kernel has no overlay file system, built in or as a module";
        let (overlay, aufs) = (kernel_has("overlay"), kernel_has("aufs"));
        let aufs = if aufs { "here" } else { "not here, as in every kernel that is not Ubuntu's of old" };
        // The nearest folder that exists already: ours may still have to be made.
        let folder = dirs.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = nix::sys::statfs::statfs(folder).map(|stat| stat.filesystem_type());
        let on_overlay = kind == Ok(nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
        let found = if on_overlay { "itself on an overlay" } else { "on a file system that can hold an upper layer" };
        vec![
            Fact::need("overlay", if overlay { "here" } else { "not here" }, overlay, module),
            Fact::met("aufs", aufs),
            Fact::need("data root", found, !on_overlay, "overlay on overlay is refused: give --root elsewhere"),
            Fact::met("storage driver", automatic(folder).name()),
        ]
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        spec.writable_layer = spec.rootfs().is_some();
        if !spec.writable_layer {
            return Ok(());
        }
        let variable = spec.caller.iter().find(|(name, value)| name == VARIABLE && !value.is_empty());
        let wanted = match (said.get_one::<String>("storage-driver"), variable) {
            (Some(name), _) => Some(("--storage-driver", name.as_str())),
            (None, Some((_, name))) => Some((VARIABLE, name.as_str())),
            (None, None) => None,
        };
        let driver = match wanted {
            Some((who, name)) => choose(who, name, &spec.dirs.root)?,
            None => automatic(&spec.dirs.root),
        };
        let notes = spec.oci.annotations_mut().get_or_insert_default();
        notes.insert(DRIVER.to_string(), driver.name().to_string());
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        let Some(root) = spec.rootfs() else { return Ok(()) };
        let noted = spec.oci.annotations().as_ref().and_then(|notes| notes.get(DRIVER));
        let driver = DRIVERS.iter().find(|driver| noted.is_some_and(|name| name == driver.name()));
        driver.unwrap_or(&DRIVERS[0]).plan(spec, root, plan)
    }

    fn view(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        self.plan(spec, plan)
    }
}

/// The folder in which all that the container writes lands. It is the container's `/`, and looks like the image's.
fn make_upper(spec: &Spec, plan: &mut Plan, why: &'static str) -> PathBuf {
    let upper = spec.folder().join("upper");
    let image = spec.image.layers.last().and_then(|tree| std::fs::metadata(tree).ok());
    let mode = image.as_ref().map_or(0o755, |image| image.mode() & 0o7777);
    let look = format!("find {}", upper.display());
    plan.add(Phase::Host, "mkdir.upper", Op::mkdir(&upper, mode)).why(why).look(look);
    if let Some((uid, gid)) = image.map(|image| (image.uid(), image.gid())).filter(|owner| *owner != (0, 0)) {
        let shown = upper.display().to_string();
        let (shell, path) = (format!("chown {uid}:{gid} {}", quote(&shown)), upper.clone());
        let op = Op::new("chown", [shown, format!("{uid}:{gid}")], shell, move |_| {
            nix::unistd::chown(&path, Some(uid.into()), Some(gid.into()))
        });
        plan.add(Phase::Host, "chown.upper", op).why("Whoever owns the image's root owns the container's.");
    }
    upper
}

/// The driver that somebody wants by name.
fn choose(who: &str, name: &str, data: &Path) -> Result<&'static dyn Driver> {
    // Docker's name for its second try at overlay.
    let name = if name == "overlay2" { "overlay" } else { name };
    let Some(driver) = DRIVERS.iter().find(|driver| driver.name() == name) else {
        bail!("{who}: no driver `{}`: there are overlay, aufs and vfs", name.escape_debug());
    };
    match driver.missing(data) {
        Some(why) => bail!("{who}: {name}: {why}"),
        None => Ok(*driver),
    }
}

/// The first that works here.
pub fn automatic(data: &Path) -> &'static dyn Driver {
    let works = DRIVERS.iter().find(|driver| driver.missing(data).is_none());
    *works.unwrap_or(&DRIVERS[0])
}

/// Whether the kernel has a file system, or has it as a module that the first mount loads (`/proc/filesystems` lists
/// only what is loaded).
fn kernel_has(name: &str) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if read("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some(name)) {
        return true;
    }
    let Ok(names) = nix::sys::utsname::uname() else { return false };
    let modules = read(&format!("/lib/modules/{}/modules.dep", names.release().to_string_lossy()));
    modules.lines().any(|line| line.contains(&format!("/{name}.ko")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_chosen_by_name() {
        let here = Path::new("/");
        assert_eq!(choose("x", "vfs", here).map(|driver| driver.name()).ok(), Some("vfs"));
        let error = choose("--storage-driver", "zfs", here).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("--storage-driver: no driver `zfs`"), "{error}");
        if !kernel_has("aufs") {
            let error = choose("x", "aufs", here).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("never"), "{error}");
        }
    }
}
