//! A writable layer of one's own over read-only ones that many containers share. Overlay looks through `upperdir` onto
//! the `lowerdir`s; what is changed is first copied up, what is deleted is covered by a whiteout
//! (`Documentation/filesystems/overlayfs.rst` of the kernel).
//!
//! Try it without us: `mount -t overlay -o lowerdir=$IMAGE,upperdir=$UPPER,workdir=$WORK overlay $ROOT`

use crate::plan::{Dirs, Fact, Op, Phase, Plan, Room, Spec, c_string, mount_args, mount_words};
use anyhow::Result;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::path::Path;

/// The room.
pub struct Layers;

impl Room for Layers {
    fn name(&self) -> &'static str {
        "layers"
    }

    fn doctor(&self, dirs: &Dirs) -> Vec<Fact> {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        // A module that is not loaded yet is not in that list; the first mount loads it.
        let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
        let modules = format!("/lib/modules/{}/modules.dep", release.unwrap_or_default());
        let modules = std::fs::read_to_string(modules).unwrap_or_default();
        let has = |name: &str| {
            known.lines().any(|line| line.split_whitespace().last() == Some(name))
                || modules.lines().any(|line| line.contains(&format!("/{name}.ko")))
        };
        let module = "this kernel has no overlay file system, built in or as a module";
        let aufs = if has("aufs") { "here" } else { "not here, as in every kernel that is not Ubuntu's of old" };
        // The nearest folder that exists already: ours may still have to be made.
        let folder = dirs.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = nix::sys::statfs::statfs(folder).map(|stat| stat.filesystem_type());
        let on_overlay = kind == Ok(nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
        let found = if on_overlay { "itself on an overlay" } else { "on a file system that can hold an upper layer" };
        vec![
            Fact::need("overlay", if has("overlay") { "here" } else { "not here" }, has("overlay"), module),
            Fact::met("aufs", aufs),
            Fact::need("data root", found, !on_overlay, "overlay on overlay is refused: give --root elsewhere"),
        ]
    }

    fn spec(&self, _said: &clap::ArgMatches, spec: &mut Spec) -> Result<()> {
        spec.writable_layer = spec.rootfs().is_some();
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        let Some(root) = spec.rootfs() else { return Ok(()) };
        let (upper, work) = (spec.folder().join("upper"), spec.folder().join("work"));
        plan.add(Phase::Host, "mkdir.upper", Op::mkdir(&upper, 0o755))
            .why("All that the container writes lands in here, and nothing else does.")
            .look(format!("find {}", upper.display()));
        plan.add(Phase::Host, "mkdir.work", Op::mkdir(&work, 0o700))
            .why("Overlay prepares a copy in here, so that it appears above in one move.");
        plan.add(Phase::Root, "overlay", overlay(spec, &upper, &work, root))
            .why("One tree out of two: the image's below, read-only; the container's own above.")
            .look("grep overlay /proc/$PID/mountinfo");
        Ok(())
    }
}

fn overlay(spec: &Spec, upper: &Path, work: &Path, root: &Path) -> Op {
    // The option's list has the topmost layer first.
    let lower: Vec<_> = spec.image.layers.iter().rev().map(|layer| escape(layer)).collect();
    let data = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), escape(upper), escape(work));
    let target = root.display().to_string();
    let shell = mount_words("overlay", &target, "overlay", MsFlags::empty(), &data);
    let args = mount_args("overlay", "overlay", MsFlags::empty(), &data);
    let (target, data) = (c_string(target.as_bytes()), c_string(data.as_bytes()));
    let layers = spec.image.layers.clone();
    let upper = upper.to_owned();
    Op::new("mount", args, shell, move |_| {
        mount(Some(c"overlay"), target.as_c_str(), Some(c"overlay"), MsFlags::empty(), Some(data.as_c_str()))
    })
    .hint(move |errno, _| Some(why_not(errno, &layers, &upper)))
}

/// `:` divides layers, `,` divides options, `\` escapes both.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for c in path.display().to_string().chars() {
        if matches!(c, '\\' | ':' | ',') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Which of overlay's documented refusals this is, on this machine.
fn why_not(errno: Errno, layers: &[std::path::PathBuf], upper: &Path) -> String {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let on_overlay = nix::sys::statfs::statfs(upper)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
    match errno {
        Errno::ENODEV if !known.contains("overlay") => {
            "this kernel has no overlay file system: modprobe overlay".to_string()
        }
        Errno::EINVAL if on_overlay => {
            format!(
                "`{}` is itself on an overlay, which cannot be an upperdir: give --root on another file system",
                upper.display()
            )
        }
        Errno::ENOENT => match layers.iter().find(|layer| !layer.exists()) {
            Some(layer) => format!("the image's layer `{}` is missing", layer.display()),
            None => format!("`{}` is missing", upper.display()),
        },
        Errno::EPERM => "CAP_SYS_ADMIN is missing".to_string(),
        Errno::EROFS => format!("`{}` is on a read-only file system", upper.display()),
        _ => format!("the kernel's own words: dmesg | grep overlayfs ({})", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_option_string() {
        assert_eq!(escape(Path::new(r"/a:b,c\d")), r"/a\:b\,c\\d");
    }
}
