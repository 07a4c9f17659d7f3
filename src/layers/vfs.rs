//! No union at all: every container gets a copy of the whole tree. Slow and large, but it works on every file system
//! and inside other containers; where the file system can share blocks (`man 2 ioctl_ficlone`), it costs little.
//!
//! Try it without us: `cp -a --reflink=auto $IMAGE $ROOT`

use super::Driver;
use crate::plan::{Op, Phase, Plan, Spec, quote};
use crate::tree::{Stack, copy_tree, open_folder};
use anyhow::Result;
use nix::errno::Errno;
use nix::mount::MsFlags;
use std::path::Path;

pub struct Vfs;

impl Driver for Vfs {
    fn name(&self) -> &'static str {
        "vfs"
    }

    fn missing(&self, _data: &Path) -> Option<String> {
        None
    }

    fn plan(&self, spec: &Spec, root: &Path, plan: &mut Plan) -> Result<()> {
        let tree = spec.folder().join("tree");
        let shown = tree.display().to_string();
        plan.add(Phase::Host, "mkdir.tree", Op::mkdir(&tree, 0o755))
            .why("The container's own copy of everything.")
            .look(format!("du -sh {shown}"));
        let (layers, to) = (spec.image.layers.clone(), tree.clone());
        let copies: Vec<String> = layers
            .iter()
            .map(|layer| format!("cp -a --reflink=auto {}/. {}", layer.display(), quote(&shown)))
            .collect();
        let op = Op::new("copy_file_range", [shown.clone()], copies.join(" && "), move |_| {
            let copy = || -> Result<bool> { copy_tree(&Stack::open(&layers)?, b"/", &open_folder(&to)?) };
            // Whatever an earlier start has put there is the container's.
            if std::fs::read_dir(&to).is_ok_and(|mut entries| entries.next().is_some()) {
                return Ok(());
            }
            copy().map(drop).map_err(|error| {
                log::warn!("cannot copy the image: {error:#}");
                Errno::EIO
            })
        });
        plan.add(Phase::Host, "copy", op).why("Without a union file system, what can be changed must be copied first.");
        let target = root.display().to_string();
        plan.add(Phase::Root, "bind", Op::mount(&shown, &target, "", MsFlags::MS_BIND, ""))
            .why("pivot_root wants a mount point; a folder bound onto another place becomes one.")
            .look("grep ' / ' /proc/$PID/mountinfo");
        Ok(())
    }
}
