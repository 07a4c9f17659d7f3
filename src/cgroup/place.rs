//! Where a container's cgroup lies in every tree: `/mydocker/<id>`, or below a parent of the user's choice.

use anyhow::{Result, bail};
use std::path::{Component, Path, PathBuf};

/// The parent of all containers whose user names no other. Made by the first of them, and stays.
pub const OURS: &str = "mydocker";

/// A path in a tree of cgroups, relative to the tree's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What leads to the container's cgroup, each with all that stands above it: `a`, `a/b`.
    pub parents: Vec<PathBuf>,
    /// The container's own cgroup.
    pub leaf: PathBuf,
}

impl Place {
    /// The place that the OCI document's `linux.cgroupsPath` names.
    pub fn parse(path: &Path) -> Result<Self> {
        let normal = |part: Component| matches!(part, Component::Normal(_) | Component::RootDir);
        let leaf = path.strip_prefix("/").unwrap_or(path).to_owned();
        if leaf.as_os_str().is_empty() || !path.components().all(normal) {
            bail!("linux.cgroupsPath: `{}` is not a path without `..`", path.display());
        }
        let mut parents: Vec<_> = leaf.ancestors().skip(1).map(Path::to_owned).collect();
        parents.pop(); // the root itself
        parents.reverse();
        Ok(Self { parents, leaf })
    }

    /// Whether it lies below our own parent, which nobody removes.
    pub fn is_ours(&self) -> bool {
        matches!(self.parents.as_slice(), [only] if only == Path::new(OURS))
    }
}

/// `--cgroup-parent`: a path from the root of every tree (as docker has it, a relative path begins there too).
///
/// systemd keeps the slice `a-b.slice` in `/a.slice/a-b.slice`; a bare name would make another folder of that name, so
/// it is refused.
pub fn parent(text: &str) -> Result<PathBuf> {
    let shown: String = text.escape_debug().take(80).collect();
    let inner = text.strip_prefix('/').unwrap_or(text);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if text == "/" {
        return Ok(PathBuf::from("/"));
    }
    if text.len() > 2048 {
        bail!("--cgroup-parent: `{shown}…` is longer than 2048 bytes");
    }
    let mut above = "";
    for part in inner.split('/') {
        if matches!(part, "" | "." | "..") || part.len() > 255 || part.chars().any(char::is_control) {
            bail!("--cgroup-parent: `{shown}` is not a path of plain names: no `..`, no `//`, at most 255 bytes each");
        }
        let home = slice_path(part);
        if home.len() > 1 && above != home[home.len() - 2] {
            let (inside, path) = (&home[home.len() - 2], home.join("/"));
            bail!("--cgroup-parent: `{shown}`: systemd keeps `{part}` inside `{inside}`; say `/{path}`");
        }
        above = part;
    }
    Ok(Path::new("/").join(inner))
}

/// Where systemd keeps a slice: `a-b.slice` is `a.slice`, `a-b.slice`. Empty for what is no slice.
fn slice_path(name: &str) -> Vec<String> {
    let Some(stem) = name.strip_suffix(".slice").filter(|stem| !stem.starts_with('-')) else { return vec![] };
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_plain_paths() {
        let cases = [
            ("/lab", "/lab"),
            ("lab", "/lab"),
            ("/lab/", "/lab"),
            ("lab/one", "/lab/one"),
            ("/", "/"),
            ("/system.slice", "/system.slice"),
            ("user.slice/user-1000.slice", "/user.slice/user-1000.slice"),
            ("a b", "/a b"),
            ("-.slice", "/-.slice"),
        ];
        for (text, path) in cases {
            assert_eq!(parent(text).unwrap(), Path::new(path), "{text}");
        }
        let long = "x".repeat(256);
        let longer = "x/".repeat(1100);
        for bad in
            ["..", "../x", "/a/../b", "/a/..", ".", "a/./b", "//", "//a", "a//b", "/a//", "a\nb", "a\0", &long, &longer]
        {
            assert!(parent(bad).unwrap_err().to_string().starts_with("--cgroup-parent: "), "{bad:?}");
        }
        let error = parent("user-1000.slice").unwrap_err().to_string();
        assert!(error.contains("`/user.slice/user-1000.slice`"), "{error}");
        assert!(parent("/a.slice/b-c.slice").is_err());
        assert!(parent("a-b-c.slice").unwrap_err().to_string().contains("`/a.slice/a-b.slice/a-b-c.slice`"));
    }

    #[test]
    fn places_have_parents() {
        let place = Place::parse(Path::new("/a/b/id")).unwrap();
        assert_eq!(place.parents, [Path::new("a"), Path::new("a/b")]);
        assert_eq!(place.leaf, Path::new("a/b/id"));
        assert!(!place.is_ours());
        assert!(Place::parse(Path::new("/mydocker/id")).unwrap().is_ours());
        assert!(Place::parse(Path::new("/id")).unwrap().parents.is_empty());
        for bad in ["/", "", "/../x", "/a/../b"] {
            assert!(Place::parse(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
