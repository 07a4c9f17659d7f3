//! The freezer of a container that is known by its document, not by a process: for `commit`, which wants a still
//! picture of the files.

use super::freeze::Freezer;
use super::layout::{Layout, Version};
use std::path::Path;

/// The freezer of the cgroup that a container's `linux.cgroupsPath` names; `None` if nothing runs there.
pub fn freezer(cgroups_path: &Path) -> Option<Freezer> {
    let inside = cgroups_path.strip_prefix("/").unwrap_or(cgroups_path);
    if inside.as_os_str().is_empty() {
        return None;
    }
    let v1 = Layout::here().trees.iter().find(|tree| tree.carries("freezer")).map(|tree| tree.mount.join(inside));
    if let Some(path) = v1.filter(|path| path.join("freezer.state").exists()) {
        return Some(Freezer::V1(path));
    }
    let v2 = Layout::here().trees.iter().filter(|tree| tree.version == Version::V2).map(|tree| tree.mount.join(inside));
    v2.into_iter().find(|path| path.join("cgroup.freeze").exists()).map(Freezer::V2)
}
