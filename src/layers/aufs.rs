//! Aufs, with which docker began in 2013: a union of *branches*, each writable or not. Its whiteouts are files called
//! `.wh.NAME`, which is why layers in archives look so to this day; an opaque folder holds a `.wh..wh..opq`.
//!
//! Try it without us, on a kernel that has it: `mount -t aufs -o br:$UPPER=rw:$IMAGE=ro+wh none $ROOT`

use super::{Driver, kernel_has};
use crate::plan::{Op, Phase, Plan, Spec};
use crate::tree::{Stack, Turn, at, is_folder, is_whiteout};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::MsFlags;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub struct Aufs;

impl Driver for Aufs {
    fn name(&self) -> &'static str {
        "aufs"
    }

    fn missing(&self, _data: &Path) -> Option<String> {
        (!kernel_has("aufs")).then(|| {
            "this kernel does not have it: aufs was never accepted into Linux, and lived in the kernels of Ubuntu and \
             Debian. Overlay was accepted in 2014 and took its place; docker removed its aufs driver in 2023"
                .to_string()
        })
    }

    fn plan(&self, spec: &Spec, root: &Path, plan: &mut Plan) -> Result<()> {
        let why = "The one writable branch: all that the container writes lands in here.";
        let upper = super::make_upper(spec, plan, why);
        let mut branches = Vec::new();
        for (number, layer) in spec.image.layers.iter().enumerate() {
            let branch = layer.with_file_name("aufs");
            let (from, to) = (layer.clone(), branch.clone());
            let shell = format!("cp -al {} {}   # whiteouts as .wh.NAME", from.display(), to.display());
            let op = Op::new("linkat", [to.display().to_string()], shell, move |_| {
                translate(&from, &to).map_err(|error| {
                    log::warn!("{error:#}");
                    Errno::EIO
                })
            });
            plan.add(Phase::Host, format!("branch.{number}"), op)
                .why("The layer's tree in aufs's dialect: the same files, other marks for what is deleted.");
            branches.push(branch);
        }
        let options = options(&upper, &branches);
        let target = root.display().to_string();
        plan.add(Phase::Root, "aufs", Op::mount("none", &target, "aufs", MsFlags::empty(), &options))
            .why("One tree out of many branches: the container's own first, then the image's, the topmost first.")
            .look("grep aufs /proc/$PID/mountinfo; ls /sys/fs/aufs");
        Ok(())
    }
}

/// The order is the order of the search: the writable branch, then the layers from the top down. `ro+wh` obeys the
/// whiteouts of a read-only branch; without it they would only be odd files. `xino` is where aufs keeps inode numbers,
/// which must not lie on a branch; `dio` lets programs use O_DIRECT.
fn options(upper: &Path, branches: &[PathBuf]) -> String {
    let mut text = format!("br:{}=rw", upper.display());
    for branch in branches.iter().rev() {
        text += &format!(":{}=ro+wh", branch.display());
    }
    text + ",dio,xino=/dev/shm/aufs.xino"
}

/// A copy of a layer's tree whose files are hard links and whose whiteouts are aufs's; made once.
fn translate(layer: &Path, branch: &Path) -> Result<()> {
    if branch.exists() {
        return Ok(());
    }
    let making = branch.with_extension("new");
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    fs::create_dir(&making).with_context(|| format!("cannot make `{}`", making.display()))?;
    let to = crate::tree::open_folder(&making)?;
    let stack = Stack::open(&[layer.to_owned()])?;
    let mut folders = Vec::new();
    stack.walk_top(&mut |entry| {
        let path = making.join(std::ffi::OsStr::from_bytes(entry.path));
        let name = std::ffi::OsStr::from_bytes(entry.name.to_bytes());
        if is_folder(&entry.stat) {
            if !entry.path.is_empty() {
                fs::create_dir(&path)?;
            }
            let attributes = crate::tree::Attributes::of(entry.open_path()?, &entry.stat)?;
            folders.push((if entry.path.is_empty() { b".".to_vec() } else { entry.path.to_vec() }, attributes));
            if entry.opaque {
                fs::write(path.join(".wh..wh..opq"), "")?;
            }
        } else if is_whiteout(&entry.stat) {
            let mut marked = std::ffi::OsString::from(".wh.");
            marked.push(name);
            fs::write(path.with_file_name(marked), "")?;
        } else {
            let target = crate::plan::c_string(entry.path);
            let flags = nix::fcntl::AtFlags::empty();
            nix::unistd::linkat(entry.dir, entry.name, &to, target.as_c_str(), flags).map_err(at(entry.path))?;
        }
        Ok(Turn::Enter)
    })?;
    for (path, attributes) in folders.iter().rev() {
        let name = crate::plan::c_string(path);
        attributes.apply(&to, &name, libc::S_IFDIR, None).map_err(at(path))?;
        attributes.apply_times(&to, &name).map_err(at(path))?;
    }
    fs::rename(&making, branch).with_context(|| format!("cannot make `{}`", branch.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_string_is_dockers() {
        let branches = ["/l/lowest".into(), "/l/topmost".into()];
        assert_eq!(
            options(Path::new("/c/upper"), &branches),
            "br:/c/upper=rw:/l/topmost=ro+wh:/l/lowest=ro+wh,dio,xino=/dev/shm/aufs.xino"
        );
    }

    #[test]
    fn whiteouts_change_their_dialect() {
        if !nix::unistd::geteuid().is_root() {
            return; // whiteouts are made by root
        }
        use nix::sys::stat::{Mode, SFlag, mknod};
        let dir = tempfile::tempdir().unwrap();
        let (layer, branch) = (dir.path().join("diff"), dir.path().join("aufs"));
        fs::create_dir_all(layer.join("etc/opaque")).unwrap();
        fs::write(layer.join("etc/file"), "x").unwrap();
        mknod(&layer.join("etc/gone"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        let folder = crate::tree::open_folder(&layer.join("etc/opaque")).unwrap();
        crate::sys::set_xattr(&folder, crate::tree::OPAQUE, b"y").unwrap();
        translate(&layer, &branch).unwrap();
        translate(&layer, &branch).unwrap();
        assert!(branch.join("etc/.wh.gone").is_file() && !branch.join("etc/gone").exists());
        assert!(branch.join("etc/opaque/.wh..wh..opq").is_file());
        assert_eq!(fs::read_to_string(branch.join("etc/file")).unwrap(), "x");
    }
}
