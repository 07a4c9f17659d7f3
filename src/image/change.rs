//! A change of the store. Everything new is made in a private folder, and only when all of it is there and right it is
//! moved to its place, under the lock, the index last: a crash or a full disk at any moment before leaves the store as
//! it was. The folder is locked by its maker, so what a dead maker has left can be told and removed.

use super::store::{IMAGE_NAME, REF_NAME, name_of};
use super::{Config, Digest, Reference, Store};
use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndex, ImageManifestBuilder, MediaType};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Blobs and layers on their way into the store.
pub struct Change<'a> {
    pub store: &'a Store,
    folder: PathBuf,
    _lock: File,
    next: AtomicU32,
    blobs: Vec<(Digest, PathBuf)>,
    layers: Vec<(Digest, PathBuf)>,
}

impl<'a> Change<'a> {
    pub fn begin(store: &'a Store) -> Result<Self> {
        let parent = store.root().join("tmp");
        sweep(&parent);
        let random = crate::sys::random::<8>()?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = parent.join(format!("change-{name}"));
        let make = || -> Result<File> {
            DirBuilder::new().mode(0o700).create(&folder)?;
            let lock = File::open(&folder)?;
            lock.try_lock().context("cannot lock it")?;
            Ok(lock)
        };
        let lock = make().with_context(|| format!("cannot make `{}`", folder.display()))?;
        Ok(Self { store, folder, _lock: lock, next: AtomicU32::new(0), blobs: vec![], layers: vec![] })
    }

    /// A path in the private folder that nothing has yet.
    pub fn path(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{what}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn new_file(&self, what: &str) -> Result<(PathBuf, File)> {
        let path = self.path(what);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        Ok((path.clone(), file.with_context(|| format!("cannot write `{}`", path.display()))?))
    }

    /// A document as a blob.
    pub fn add_document(&mut self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.store.blob(&digest).exists() {
            let (path, mut file) = self.new_file("document")?;
            file.write_all(bytes).context("cannot write a document")?;
            self.blobs.push((digest.clone(), path));
        }
        Ok(digest)
    }

    /// A file in the private folder that is to become a blob.
    pub fn add_blob(&mut self, digest: Digest, path: PathBuf) {
        self.blobs.push((digest, path));
    }

    /// A tree in the private folder that is to become the layer `chain`; `size` as [`Store::layer_size`] tells it.
    pub fn add_layer(&mut self, chain: Digest, tree: &Path, size: u64) -> Result<()> {
        let folder = self.path("layer");
        DirBuilder::new().mode(0o700).create(&folder)?;
        fs::rename(tree, folder.join("diff"))?;
        fs::write(folder.join("size"), size.to_string())?;
        self.layers.push((chain, folder));
        Ok(())
    }

    /// Where the layer `chain` is found now: in its place, or still here.
    pub fn tree(&self, chain: &Digest) -> Option<PathBuf> {
        let here = self.layers.iter().find(|(one, _)| one == chain).map(|(_, folder)| folder.join("diff"));
        here.or_else(|| Some(self.store.tree(chain)).filter(|tree| tree.exists()))
    }

    /// Writes config and manifest of an image whose layers are in the store or here: its line for the index.
    pub fn add_image(&mut self, config: &Config, layers: Vec<Descriptor>) -> Result<(Digest, Descriptor)> {
        let bytes = serde_json::to_vec(config)?;
        self.add_image_of(&bytes, layers)
    }

    /// The same with the config's own bytes.
    pub fn add_image_of(&mut self, config: &[u8], layers: Vec<Descriptor>) -> Result<(Digest, Descriptor)> {
        let id = self.add_document(config)?;
        let config = descriptor(MediaType::ImageConfig, &id, config.len() as u64)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers)
            .build()?;
        let manifest = serde_json::to_vec(&manifest)?;
        let digest = self.add_document(&manifest)?;
        Ok((id, descriptor(MediaType::ImageManifest, &digest, manifest.len() as u64)?))
    }

    /// Moves everything to its place; `edit` changes the index.
    pub fn commit(mut self, edit: impl FnOnce(&mut ImageIndex) -> Result<()>) -> Result<()> {
        // Outside of the lock, because it takes as long as the disk does.
        self.sync().context("cannot sync the image store")?;
        let _lock = self.store.lock()?;
        for (digest, path) in std::mem::take(&mut self.blobs) {
            let place = self.store.blob(&digest);
            fs::rename(&path, &place).with_context(|| format!("cannot put the blob `{digest}` in its place"))?;
        }
        for (chain, folder) in std::mem::take(&mut self.layers) {
            let place = self.store.layer(&chain);
            if !place.exists() {
                fs::rename(&folder, &place).with_context(|| format!("cannot put the layer `{chain}` in its place"))?;
            }
        }
        let mut index = self.store.index()?;
        edit(&mut index)?;
        self.store.write_index(&index)
    }
}

impl Change<'_> {
    /// What is new is safe on the disk before anything names it. One `syncfs` for all, which waits for everything that
    /// anybody has written to this file system; for a few files each one alone is faster.
    fn sync(&self) -> Result<()> {
        let mut few: Vec<PathBuf> = self.blobs.iter().map(|(_, path)| path.clone()).collect();
        for (_, folder) in &self.layers {
            files(folder, &mut few);
        }
        if few.len() > FEW {
            return Ok(nix::unistd::syncfs(&self._lock)?);
        }
        for path in few {
            File::open(path)?.sync_data()?;
        }
        Ok(())
    }
}

/// So many files are synced one by one.
const FEW: usize = 24;

/// The regular files below `folder` that have bytes, until there are more than [`FEW`] in the list.
fn files(folder: &Path, list: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if list.len() > FEW {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), list),
            Ok(kind) if kind.is_file() && entry.metadata().is_ok_and(|data| data.len() > 0) => list.push(entry.path()),
            _ => {}
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::warn!("cannot remove `{}`: {error}", self.folder.display());
        }
    }
}

/// Removes what makers that are dead have left.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with("change-"));
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // Whoever holds the lock lives; a folder that was made this very moment is not locked yet.
        let young = entry.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
        if young.is_none_or(|age| age.as_millis() < 500) {
            continue;
        }
        if let Ok(folder) = File::open(entry.path())
            && folder.try_lock().is_ok()
        {
            log::info!("removing `{}`, which a dead process has left", entry.path().display());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A line that names a blob.
pub fn descriptor(kind: MediaType, digest: &Digest, size: u64) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = digest.as_str().parse()?;
    Ok(DescriptorBuilder::default().media_type(kind).digest(digest).size(size).build()?)
}

/// Gives the image of `line` the name `name`. An image that had it keeps its line, without a name.
pub fn set_name(index: &mut ImageIndex, line: &Descriptor, name: Option<&Reference>) {
    let mut lines = index.manifests().clone();
    if let Some(name) = name {
        for other in lines.iter_mut().filter(|line| name_of(line).as_ref() == Some(name)) {
            forget_name(other);
        }
    }
    let mut line = line.clone();
    if let Some(name) = name {
        let mut annotations = HashMap::new();
        annotations.insert(REF_NAME.to_string(), name.to_string());
        line.set_annotations(Some(annotations));
    }
    lines.push(line);
    index.set_manifests(tidy(lines));
}

pub fn forget_name(line: &mut Descriptor) {
    let mut annotations = line.annotations().clone().unwrap_or_default();
    annotations.remove(REF_NAME);
    annotations.remove(IMAGE_NAME);
    line.set_annotations(Some(annotations).filter(|annotations| !annotations.is_empty()));
}

/// A nameless line is needed only for an image that has no name at all, and once.
pub fn tidy(lines: Vec<Descriptor>) -> Vec<Descriptor> {
    let named = |line: &Descriptor| name_of(line).is_some();
    let mut kept: Vec<Descriptor> = Vec::new();
    for line in lines.iter().filter(|line| named(line)).chain(lines.iter().filter(|line| !named(line))) {
        let same =
            |other: &Descriptor| other.digest() == line.digest() && (!named(line) || name_of(other) == name_of(line));
        if !kept.iter().any(same) {
            kept.push(line.clone());
        }
    }
    kept
}
