//! Overlay looks through `upperdir` onto the `lowerdir`s, the topmost first
//! (`Documentation/filesystems/overlayfs.rst` of the kernel).
//!
//! Try it without us: `mount -t overlay -o lowerdir=$IMAGE,upperdir=$UPPER,workdir=$WORK overlay $ROOT`

use super::{Driver, kernel_has};
use crate::plan::{Op, Phase, Plan, Spec, c_string, mount_args, mount_words};
use crate::sys;
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub struct Overlay;

/// `mount(2)` copies its options from one page.
const LONGEST_OPTIONS: usize = 4095;

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn missing(&self, data: &Path) -> Option<String> {
        let on_overlay = nix::sys::statfs::statfs(data)
            .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC);
        if on_overlay {
            return Some(format!("`{}` is itself on an overlay, which cannot be an upperdir", data.display()));
        }
        // A module that is not loaded yet is loaded by the mount itself.
        let module = || Path::new("/lib/modules").exists();
        (!kernel_has("overlay") && !module()).then(|| "this kernel has no overlay file system".to_string())
    }

    fn plan(&self, spec: &Spec, root: &Path, plan: &mut Plan) -> Result<()> {
        let upper =
            super::make_upper(spec, plan, "All that the container writes lands in here, and nothing else does.");
        let work = spec.folder().join("work");
        plan.add(Phase::Host, "mkdir.work", Op::mkdir(&work, 0o700))
            .why("Overlay prepares a copy in here, so that it appears above in one move.");
        let rest = format!(",upperdir={},workdir={}{}", escape(&upper), escape(&work), features());
        let lower: Vec<_> = spec.image.layers.iter().rev().map(|layer| escape(layer)).collect();
        let data = format!("lowerdir={}{rest}", lower.join(":"));
        let op = match data.len() <= LONGEST_OPTIONS {
            true => overlay(spec, &upper, root, data),
            false => by_number(spec, &upper, root, &rest),
        };
        plan.add(Phase::Root, "overlay", op)
            .why("One tree out of two: the image's below, read-only; the container's own above.")
            .look("grep overlay /proc/$PID/mountinfo");
        Ok(())
    }
}

/// What the kernel may have been told to do by default and we must not have: a renamed folder as a redirect, a changed
/// owner as a mere note, which a `commit` of the upper layer would lose, and a hostile layer could forge.
fn features() -> &'static str {
    static FEATURES: OnceLock<String> = OnceLock::new();
    FEATURES.get_or_init(|| {
        let known = |name: &str| Path::new("/sys/module/overlay/parameters").join(name).exists();
        let wanted =
            [("redirect_dir", ",redirect_dir=nofollow"), ("metacopy", ",metacopy=off"), ("index", ",index=off")];
        wanted.into_iter().filter(|(name, _)| known(name)).map(|(_, option)| option).collect()
    })
}

/// Above every descriptor that the engine has open.
const FIRST_NUMBER: i32 = 256;

/// The names of so many layers do not fit into the one page of `mount(2)`, so the child opens them (in its own mount
/// namespace: overlay refuses a folder of another) and gives their numbers, as names relative to `/proc/self/fd`.
fn by_number(spec: &Spec, upper: &Path, root: &Path, rest: &str) -> Op {
    crate::tree::raise_open_files();
    let layers: Vec<(CString, i32)> = spec
        .image
        .layers
        .iter()
        .rev()
        .map(|layer| c_string(layer.as_os_str().as_bytes()))
        .zip(FIRST_NUMBER..)
        .collect();
    let numbers: Vec<String> = layers.iter().map(|(_, number)| number.to_string()).collect();
    let data = format!("lowerdir={}{rest}", numbers.join(":"));
    let target = root.display().to_string();
    let shell = format!(
        "(cd /proc/self/fd; {})   # the layers opened as {FIRST_NUMBER} and up",
        mount_words("overlay", &target, "overlay", MsFlags::empty(), &data)
    );
    let args = mount_args("overlay", "overlay", MsFlags::empty(), &data);
    let (target, data) = (c_string(target.as_bytes()), c_string(data.as_bytes()));
    let (trees, upper) = (spec.image.layers.clone(), upper.to_owned());
    Op::new("mount", args, shell, move |_| {
        for (layer, number) in &layers {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            sys::dup_to(nix::fcntl::open(layer.as_c_str(), flags, Mode::empty())?, *number)?;
        }
        nix::unistd::chdir(c"/proc/self/fd")?;
        let none = MsFlags::empty();
        let done = mount(Some(c"overlay"), target.as_c_str(), Some(c"overlay"), none, Some(data.as_c_str()));
        nix::unistd::chdir(c"/")?;
        for (_, number) in &layers {
            sys::close(*number);
        }
        done
    })
    .hint(move |errno, _| Some(why_not(errno, &trees, &upper)))
}

fn overlay(spec: &Spec, upper: &Path, root: &Path, data: String) -> Op {
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
fn why_not(errno: Errno, layers: &[PathBuf], upper: &Path) -> String {
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
