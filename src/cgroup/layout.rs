//! Which trees of cgroups this machine has. Version 1: many trees (*hierarchies*), each with one or a few controllers.
//! Version 2: one tree for all. Hybrid: both, and each controller in one of them only.
//!
//! Read from `/proc/self/mountinfo` and `/proc/self/cgroup` (`man 5 proc`, `man 7 cgroups`), with no right but to read.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The generation of a tree: it decides the files' names, the units and the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    /// What this generation calls a controller; version 2 has renamed one.
    pub fn word(self, controller: &'static str) -> &'static str {
        match (self, controller) {
            (Version::V2, "blkio") => "io",
            (_, same) => same,
        }
    }
}

/// One mounted tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub version: Version,
    /// Its root, as far as we can see it: in a container that is the container's own cgroup.
    pub mount: PathBuf,
    /// The cgroup of the engine itself.
    pub own: PathBuf,
    /// The controllers that it carries: on version 2 those which may be enabled below its root.
    pub controllers: Vec<String>,
    /// Mounted read-only, as in most containers.
    pub read_only: bool,
}

impl Tree {
    pub fn carries(&self, controller: &'static str) -> bool {
        let word = self.version.word(controller);
        self.controllers.iter().any(|carried| carried == word)
    }

    /// The folder's name: `memory`, `cpu,cpuacct`, `unified`.
    pub fn label(&self) -> String {
        match self.version {
            Version::V1 => self.controllers.join(","),
            Version::V2 => "unified".to_string(),
        }
    }

    /// Whether the kernel has `file` in the cgroups of this tree, asked of those that exist: of `near` (relative, the
    /// most telling first), of the engine's own, and of the ones at the top. `None`: no cgroup can tell, because the
    /// root, which lacks many files, is the only one.
    pub fn offers(&self, controller: &'static str, file: &str, near: &[PathBuf]) -> Option<bool> {
        if self.mount.join(file).exists() {
            return Some(true);
        }
        let word = self.version.word(controller);
        let tells = |dir: &Path| match self.version {
            _ if dir == self.mount && self.is_real_root() => false,
            Version::V1 => dir.is_dir(),
            Version::V2 => words(&dir.join("cgroup.controllers")).iter().any(|enabled| enabled == word),
        };
        let known = near.iter().map(|path| self.mount.join(path)).chain([self.own.clone(), self.mount.clone()]);
        if let Some(dir) = known.into_iter().find(|dir| tells(dir)) {
            return Some(dir.join(file).exists());
        }
        let top = fs::read_dir(&self.mount).into_iter().flatten().flatten();
        let top = top.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
        top.into_iter().find(|dir| tells(dir)).map(|dir| dir.join(file).exists())
    }

    /// Whether the root that we see is the kernel's own, and not a cgroup that was handed to us.
    pub fn is_real_root(&self) -> bool {
        match self.version {
            Version::V1 => self.mount.join("release_agent").exists(),
            Version::V2 => !self.mount.join("cgroup.type").exists(),
        }
    }
}

/// The words of a kernel's file.
pub fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_ascii_whitespace().map(str::to_string).collect()
}

/// All the trees, in the order of the mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub trees: Vec<Tree>,
}

impl Layout {
    /// This machine's; read once.
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Layout> = OnceLock::new();
        HERE.get_or_init(|| {
            let mut layout = Self::parse(&proc_file("/proc/self/mountinfo"), &proc_file("/proc/self/cgroup"));
            for tree in layout.trees.iter_mut().filter(|tree| tree.version == Version::V2) {
                tree.controllers = words(&tree.mount.join("cgroup.controllers"));
            }
            layout
        })
    }

    /// From the text of the two files. Which controllers the tree of version 2 has, only the tree itself tells.
    pub fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let members: Vec<(Vec<&str>, &str)> = cgroup.lines().filter_map(membership).collect();
        let mut trees: Vec<Tree> = Vec::new();
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            let Some(tree) = mount.tree(&members) else { continue };
            let same = |other: &&mut Tree| other.version == tree.version && other.controllers == tree.controllers;
            match trees.iter_mut().find(same) {
                None => trees.push(tree),
                // What is mounted over the same place hides it; what is mounted elsewhere is a copy for somebody else.
                Some(known) if known.mount == tree.mount || !usual(&known.mount) && usual(&tree.mount) => *known = tree,
                Some(_) => {}
            }
        }
        Self { trees }
    }

    /// The tree in which `controller` can be used.
    pub fn home(&self, controller: &'static str) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.carries(controller) && !tree.read_only)
    }

    /// The trees in which a container gets a cgroup: every hierarchy of version 1, as docker does it; the unified tree
    /// where it stands alone, or carries one of the `needed` controllers (each with the flag that needs it).
    pub fn used(&self, needed: &[(&'static str, &'static str)]) -> impl Iterator<Item = &Tree> {
        let v1 = |tree: &Tree| tree.version == Version::V1;
        let alone = !self.trees.iter().any(v1);
        let wanted =
            move |tree: &&Tree| v1(tree) || alone || needed.iter().any(|(controller, _)| tree.carries(controller));
        self.trees.iter().filter(|tree| !tree.read_only).filter(wanted).collect::<Vec<_>>().into_iter()
    }
}

/// A file of /proc, which says that it has no size: with room for all of it, it is read at one stroke.
fn proc_file(path: &str) -> String {
    let mut bytes = Vec::with_capacity(32 << 10);
    // What cannot be read counts as empty: then there are no cgroups.
    let _ = fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn usual(mount: &Path) -> bool {
    mount.starts_with("/sys/fs/cgroup")
}

/// `4:memory:/user` of `/proc/self/cgroup`: the controllers and the path; version 2 names no controllers.
fn membership(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    Some((fields.next()?.split(',').collect(), fields.next()?))
}

/// A line of `mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: PathBuf,
    options: &'a str,
    kind: &'a str,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point, options) = (left.next()?, left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, super_options) = (right.next()?, right.nth(1)?);
        Some(Self { root, point: unescape(point).into(), options, kind, super_options })
    }

    /// The tree that this mount shows; `None` for another file system, and for a hierarchy without controllers.
    fn tree(self, members: &[(Vec<&str>, &str)]) -> Option<Tree> {
        let words: Vec<&str> = self.super_options.split(',').collect();
        let (version, controllers) = match self.kind {
            "cgroup2" => (Version::V2, vec![""]),
            "cgroup" if !words.contains(&"noprefix") => {
                let known = |word: &&&str| members.iter().any(|(names, _)| names.contains(word)) && !word.contains('=');
                (Version::V1, words.iter().filter(known).copied().collect())
            }
            _ => return None,
        };
        let (_, own) =
            members.iter().find(|(names, _)| controllers.first().is_some_and(|first| names.contains(first)))?;
        let below = Path::new(own).strip_prefix(unescape(self.root)).unwrap_or(Path::new(""));
        let read_only = self.options.split(',').chain(words).any(|word| word == "ro");
        let controllers = controllers.into_iter().filter(|word| !word.is_empty()).map(str::to_string).collect();
        Some(Tree { version, own: self.point.join(below), mount: self.point, controllers, read_only })
    }
}

/// The kernel writes a space in a path as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
