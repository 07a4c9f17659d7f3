//! A change of the store. Everything new is made in a private folder, and only when all of it is there and right it is
//! moved to its place, under the lock, the index last: a crash or a full disk at any moment before leaves the store as
//! it was. The folder is locked by its maker, so what a dead maker has left can be told and removed.

use super::remove::{Lost, Swept, sweep};
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

/// In a change's folder: what is to be deleted if nothing names it when the change is over.
const LOST: &str = "lost";
const YOUNG: std::time::Duration = std::time::Duration::from_secs(60);

/// Blobs and layers on their way into the store.
pub struct Change<'a> {
    pub store: &'a Store,
    folder: PathBuf,
    _lock: File,
    next: AtomicU32,
    blobs: Vec<(Digest, PathBuf)>,
    layers: Vec<(Digest, PathBuf)>,
    doomed: Option<Lost>,
}

impl<'a> Change<'a> {
    pub fn begin(store: &'a Store) -> Result<Self> {
        bury_the_dead(store);
        let parent = store.root().join("tmp");
        let random = crate::sys::random::<8>()?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (new, folder) = (parent.join(format!("new-{name}")), parent.join(format!("change-{name}")));
        let make = || -> Result<File> {
            DirBuilder::new().mode(0o700).create(&new)?;
            let lock = File::open(&new)?;
            lock.try_lock().context("cannot lock it")?;
            // Under the other name it is locked from the first moment.
            fs::rename(&new, &folder)?;
            Ok(lock)
        };
        let lock = make()
            .inspect_err(|_| drop(fs::remove_dir(&new)))
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
        Ok(Self { store, folder, _lock: lock, next: AtomicU32::new(0), blobs: vec![], layers: vec![], doomed: None })
    }

    /// Says what is to be deleted when the index does not name it any more. It is noted before, so that whoever finds
    /// this change dead can do it.
    pub fn doom(&mut self, lost: Lost) -> Result<()> {
        fs::write(self.folder.join(LOST), lost.to_text()).context("cannot note what is to be deleted")?;
        self.doomed = Some(lost);
        Ok(())
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

    /// Moves everything to its place; `edit` changes the index. What it has deleted, if that was its business.
    pub fn commit(mut self, edit: impl FnOnce(&mut ImageIndex) -> Result<()>) -> Result<Swept> {
        // Outside of the lock, because it takes as long as the disk does.
        self.sync().context("cannot sync the image store")?;
        let lock = self.store.lock()?;
        self.move_in()?;
        let mut index = self.store.index()?;
        let before = index.manifests().clone();
        edit(&mut index)?;
        for line in index.manifests().iter().filter(|line| !before.contains(line)) {
            self.check(line)
                .with_context(|| format!("the image {} was removed meanwhile: try again", line.digest()))?;
        }
        self.store.write_index(&index)?;
        drop(lock);
        let swept = match self.doomed.take() {
            Some(lost) => sweep(self.store, &lost)?,
            None => Swept::default(),
        };
        let _ = fs::remove_file(self.folder.join(LOST));
        Ok(swept)
    }

    /// Whether all that the image is made of is there: what this change has not made itself, another may have removed.
    fn check(&self, line: &Descriptor) -> Result<()> {
        let image = self.store.read(line)?;
        for layer in image.manifest.layers() {
            let blob = self.store.blob(&Digest::parse(layer.digest().as_ref())?);
            anyhow::ensure!(blob.exists(), "`{}` is missing", blob.display());
        }
        Ok(())
    }

    fn move_in(&mut self) -> Result<()> {
        let (blobs, layers) = (std::mem::take(&mut self.blobs), std::mem::take(&mut self.layers));
        let store = self.store;
        let new = |place: &Path, digest: &Digest| (!place.exists()).then(|| digest.hex().to_string());
        let lost = Lost {
            blobs: blobs.iter().filter_map(|(digest, _)| new(&store.blob(digest), digest)).collect(),
            layers: layers.iter().filter_map(|(chain, _)| new(&store.layer(chain), chain)).collect(),
        };
        if self.doomed.is_none() && !(lost.blobs.is_empty() && lost.layers.is_empty()) {
            // Until the index names them, nobody else knows that they are there.
            fs::write(self.folder.join(LOST), lost.to_text()).context("cannot note what is new")?;
        }
        for (digest, path) in blobs {
            let place = store.blob(&digest);
            fs::rename(&path, &place).with_context(|| format!("cannot put the blob `{digest}` in its place"))?;
        }
        for (chain, folder) in layers {
            let place = store.layer(&chain);
            if !place.exists() {
                fs::rename(&folder, &place).with_context(|| format!("cannot put the layer `{chain}` in its place"))?;
            }
        }
        Ok(())
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
        bury(self.store, &self.folder);
    }
}

/// Removes the folder of a change that has ended, however it did, and what it has left elsewhere.
fn bury(store: &Store, folder: &Path) {
    if let Ok(text) = fs::read_to_string(folder.join(LOST))
        && let Err(error) = sweep(store, &Lost::parse(&text))
    {
        // The note stays, and the next change finds it.
        log::warn!("cannot remove what `{}` has left: {error:#}", folder.display());
        return;
    }
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("cannot remove `{}`: {error}", folder.display());
    }
}

/// Removes what makers that are dead have left: their folders are not locked any more.
fn bury_the_dead(store: &Store) {
    for entry in fs::read_dir(store.root().join("tmp")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = entry.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
        let dead = match name.split_once('-') {
            Some(("change", _)) => true,
            // Between its making and its lock there is a moment.
            Some(("new", _)) => age.is_some_and(|age| age > YOUNG),
            _ => false,
        };
        if dead
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(folder) = File::open(entry.path())
            && folder.try_lock().is_ok()
        {
            log::info!("removing `{}`, which a dead process has left", entry.path().display());
            bury(store, &entry.path());
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
