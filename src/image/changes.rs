//! What a container has changed: the files of its own layer, held against the layers below (`docker diff`).

use crate::plan::Id;
use crate::tree::{Entry, Stack, Turn, is_folder, is_whiteout};
use anyhow::{Context, Result, bail};
use oci_spec::runtime as oci;
use std::fs;
use std::path::{Path, PathBuf};

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Changed,
    Added,
    Deleted,
}

impl Kind {
    pub fn letter(self) -> char {
        match self {
            Kind::Changed => 'C',
            Kind::Added => 'A',
            Kind::Deleted => 'D',
        }
    }
}

/// The files of a container, found by its folder: what it stands on, and its own layer.
pub struct Container {
    pub id: Id,
    pub folder: PathBuf,
    pub spec: oci::Spec,
}

/// In the OCI document's annotations: what the container was made of.
pub const IMAGE_ID: &str = "mydocker.image.id";
pub const IMAGE_CONFIG: &str = "mydocker.image.config";
pub const LAYERS: &str = "mydocker.image.layers";

impl Container {
    /// The container that `text` names: a name, an id, or the beginning of one.
    pub fn find(root: &Path, text: &str) -> Result<Self> {
        let missing = || format!("No such container: {}", text.escape_debug());
        let containers = root.join("containers");
        let plain = !text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..";
        anyhow::ensure!(plain, missing());
        if let Ok(target) = fs::read_link(root.join("names").join(text)) {
            let id = target.file_name().and_then(|name| name.to_str()).and_then(Id::parse);
            return Self::open(&containers, id.with_context(missing)?);
        }
        let names = fs::read_dir(&containers).into_iter().flatten().flatten();
        let ids = names.filter_map(|entry| Id::parse(entry.file_name().to_str()?));
        let mut ids: Vec<Id> = ids.filter(|id| id.as_str().starts_with(text)).collect();
        match ids.len() {
            0 => bail!(missing()),
            1 => Self::open(&containers, ids.remove(0)),
            _ => {
                let list: Vec<_> = ids.iter().map(Id::short).collect();
                bail!("the container id `{text}` is ambiguous: {}", list.join(", "))
            }
        }
    }

    fn open(containers: &Path, id: Id) -> Result<Self> {
        let folder = containers.join(id.as_str());
        let path = folder.join("config.json");
        let text = fs::read(&path).with_context(|| format!("No such container: {}", id.short()))?;
        let spec = serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", path.display()))?;
        Ok(Self { id, folder, spec })
    }

    /// What its document notes under `key`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.spec.annotations().as_ref()?.get(key).map(String::as_str)
    }

    /// The trees that it stands on, lowest first.
    pub fn lower(&self) -> Vec<PathBuf> {
        let list = self.note(LAYERS).unwrap_or_default();
        list.lines().map(PathBuf::from).collect()
    }

    /// Its own layer; one that was never started has none yet.
    pub fn upper(&self) -> Option<PathBuf> {
        Some(self.folder.join("upper")).filter(|upper| upper.is_dir())
    }

    /// Its own copy of everything, which the driver vfs makes.
    pub fn tree(&self) -> Option<PathBuf> {
        Some(self.folder.join("tree")).filter(|tree| tree.is_dir())
    }

    /// Everything that it sees, but for its mounts.
    pub fn stack(&self) -> Result<Stack> {
        if let Some(tree) = self.tree() {
            return Stack::open(&[tree]);
        }
        let mut trees = self.lower();
        trees.extend(self.upper());
        Stack::open(&trees)
    }

    /// Whether `entry` is only there because something is mounted on it, and the image has nothing of the kind: the
    /// engine made it, not the container.
    pub fn is_mount_point(&self, entry: &Entry<'_>, below: &Stack) -> bool {
        const OURS: [&str; 7] =
            ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv"];
        let at = |path: &str| path.trim_start_matches('/').as_bytes() == entry.path;
        let empty = is_folder(&entry.stat) || entry.stat.st_size == 0;
        empty && OURS.iter().any(|path| at(path)) && below.at(entry.path).ok().flatten().is_none()
    }

    /// Every path that differs from the image, in order.
    pub fn changes(&self) -> Result<Vec<(Kind, Vec<u8>)>> {
        let below = Stack::open(&self.lower())?;
        let mut all = Vec::new();
        if let Some(tree) = self.tree() {
            let skip = |entry: &Entry<'_>| self.is_mount_point(entry, &below);
            super::delta::compare(&Stack::open(&[tree])?, &below, &skip, &mut |kind, path, _| {
                if !path.is_empty() {
                    all.push((kind, [b"/", path].concat()));
                }
                Ok(())
            })?;
            all.sort_by(|a, b| a.1.cmp(&b.1));
            return Ok(all);
        }
        let Some(upper) = self.upper() else { return Ok(all) };
        let upper = Stack::open(&[upper])?;
        upper.walk_top(&mut |entry| {
            if entry.path.is_empty() {
                return Ok(Turn::Enter);
            }
            if self.is_mount_point(entry, &below) {
                return Ok(Turn::Pass);
            }
            let old = below.at(entry.path)?;
            let kind = match (&old, is_whiteout(&entry.stat)) {
                (Some(_), true) => Kind::Deleted,
                (None, true) => return Ok(Turn::Pass),
                (Some(_), false) => Kind::Changed,
                (None, false) => Kind::Added,
            };
            all.push((kind, [b"/", entry.path].concat()));
            if entry.opaque
                && let Some((view, name, child)) = old
                && is_folder(&child.stat)
            {
                let (old, new) = (view.enter(&name, &child)?, entry.open_path()?);
                for name in old.names(false)?.keys() {
                    let kept = nix::sys::stat::fstatat(&new, name.as_c_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
                    if kept.is_err() {
                        all.push((Kind::Deleted, [b"/", entry.path, b"/", name.to_bytes()].concat()));
                    }
                }
            }
            Ok(Turn::Enter)
        })?;
        all.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(all)
    }
}
