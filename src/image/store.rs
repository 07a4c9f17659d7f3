//! The store: an OCI image layout (`oci-layout`, `index.json`, `blobs/sha256/…`), which skopeo and umoci read and
//! write in place, and beside it the layers' trees, unpacked, which containers share.
//!
//! Try it without us: `skopeo inspect oci:/var/lib/mydocker/images:busybox:latest`

use super::{Config, Digest, Reference};
use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How an index says what a manifest is called.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same as containerd and docker write it, with the repository.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// JSON of ours and of others is read up to this size.
pub const LARGEST_DOCUMENT: u64 = 16 << 20;
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The images under one data root.
pub struct Store {
    root: PathBuf,
}

/// An image that is there.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its config: what docker calls the image's id.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    pub manifest: ImageManifest,
    pub config: Config,
    /// All that it is called.
    pub names: Vec<Reference>,
    /// Its line in the index, without a name.
    pub descriptor: Descriptor,
}

impl Store {
    /// The store under `root`, made if it is not there.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self { root: root.to_owned() };
        if !store.index_path().exists() {
            store.make().with_context(|| format!("cannot make the image store `{}`", store.images().display()))?;
        }
        Ok(store)
    }

    fn make(&self) -> Result<()> {
        let folder = |path: PathBuf, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
        folder(self.root.clone(), 0o711)?;
        for path in [self.images().join("blobs/sha256"), self.layers(), self.root.join("tmp")] {
            folder(path, 0o700)?;
        }
        let _lock = self.lock()?;
        self.write(&self.images().join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !self.index_path().exists() {
            let mut index = ImageIndex::default();
            index.set_schema_version(2).set_media_type(Some(MediaType::ImageIndex)).set_manifests(vec![]);
            self.write_index(&index)?;
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn index_path(&self) -> PathBuf {
        self.images().join("index.json")
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.images().join("blobs/sha256").join(digest.hex())
    }

    /// The folder of the layer with this chain id.
    pub fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers().join(chain.hex())
    }

    /// Its tree.
    pub fn tree(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("diff")
    }

    /// The bytes of all files in the layer's tree, noted when it was unpacked.
    pub fn layer_size(&self, chain: &Digest) -> Option<u64> {
        fs::read_to_string(self.layer(chain).join("size")).ok()?.trim().parse().ok()
    }

    /// A document of the store, with its digest checked.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let bytes = read_bounded(&path)?;
        if Digest::of(&bytes) != *digest {
            bail!("the blob `{}` is damaged: its digest is another", path.display());
        }
        Ok(bytes)
    }

    pub fn index(&self) -> Result<ImageIndex> {
        let path = self.index_path();
        serde_json::from_slice(&read_bounded(&path)?).with_context(|| format!("`{}` is damaged", path.display()))
    }

    pub fn write_index(&self, index: &ImageIndex) -> Result<()> {
        self.write(&self.index_path(), &serde_json::to_vec_pretty(index)?)
    }

    /// Whole or not at all, and safe before it gets its name.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = path.with_extension("new");
        let written = (|| {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            std::io::Write::write_all(&mut file, bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// For whoever changes the index, the blobs or the layers; held for moments only.
    pub fn lock(&self) -> Result<File> {
        let path = self.root.join("tmp/.lock");
        let options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options.with_context(|| format!("cannot open `{}`", path.display()))?;
        let start = Instant::now();
        while file.try_lock().is_err() {
            if start.elapsed() > LOCK_PATIENCE {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                bail!("the image store is locked by process {}: waited {} s", owner.trim(), LOCK_PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = file.set_len(0);
        let _ = std::io::Write::write_all(&mut file, std::process::id().to_string().as_bytes());
        Ok(file)
    }

    /// Every image once, with all its names. What cannot be read is told and passed over.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images: Vec<Image> = Vec::new();
        for line in self.index()?.manifests() {
            let name = name_of(line);
            match images.iter_mut().find(|image| image.descriptor.digest() == line.digest()) {
                Some(image) => image.names.extend(name),
                None => match self.read(line) {
                    Ok(image) => images.push(image),
                    Err(error) => log::warn!("image {}: {error:#}; passed over", line.digest()),
                },
            }
        }
        for image in &mut images {
            image.names.sort();
            image.names.dedup();
        }
        Ok(images)
    }

    /// The image of one line of the index.
    pub fn read(&self, line: &Descriptor) -> Result<Image> {
        let mut plain = line.clone();
        plain.set_annotations(None);
        let manifest_digest = self.choose(line)?;
        let manifest = self.document(&manifest_digest)?;
        let manifest: ImageManifest = serde_json::from_slice(&manifest).context("its manifest is not one")?;
        let id = Digest::parse(manifest.config().digest().as_ref())?;
        let config = Config::parse(&self.document(&id)?)?;
        if config.rootfs.diff_ids.len() != manifest.layers().len() {
            bail!("its config names {} layers, its manifest {}", config.rootfs.diff_ids.len(), manifest.layers().len());
        }
        let names = name_of(line).into_iter().collect();
        Ok(Image { id, manifest_digest, manifest, config, names, descriptor: plain })
    }

    /// The manifest itself, or out of an index of many machines the one for this machine.
    fn choose(&self, line: &Descriptor) -> Result<Digest> {
        let digest = Digest::parse(line.digest().as_ref())?;
        let index = matches!(line.media_type(), MediaType::ImageIndex)
            || line.media_type().to_string() == "application/vnd.docker.distribution.manifest.list.v2+json";
        if !index {
            return Ok(digest);
        }
        let index: ImageIndex = serde_json::from_slice(&self.document(&digest)?).context("its index is not one")?;
        let here = super::config::host_architecture();
        let fits = |line: &&Descriptor| {
            line.platform().as_ref().is_none_or(|platform| {
                platform.architecture().to_string() == here && platform.os().to_string() == "linux"
            })
        };
        match index.manifests().iter().find(fits) {
            Some(line) => Digest::parse(line.digest().as_ref()),
            None => bail!("it has no variant for linux/{here}"),
        }
    }

    /// The image that `text` names: a reference, an id, or the beginning of one. `Ok(None)`: there is none.
    pub fn find(&self, text: &str) -> Result<Option<Image>> {
        let wanted = Reference::parse(text);
        let index = self.index()?;
        if let Ok(wanted) = &wanted {
            let called = |line: &&Descriptor| name_of(line).is_some_and(|name| name == *wanted);
            if let Some(line) = index.manifests().iter().find(called) {
                return self.read(line).map(Some);
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let by_id = !digits.is_empty() && digits.len() <= 64 && digits.bytes().all(hex);
        let digest = wanted.as_ref().ok().and_then(|wanted| wanted.digest().cloned());
        if !by_id && digest.is_none() {
            return match wanted {
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let fits = |image: &Image| match &digest {
            Some(digest) => {
                let same = wanted
                    .as_ref()
                    .is_ok_and(|wanted| image.names.iter().any(|name| name.repository() == wanted.repository()));
                same && (image.manifest_digest == *digest || image.id == *digest)
            }
            None => image.id.hex().starts_with(digits),
        };
        let mut found: Vec<Image> = self.list()?.into_iter().filter(fits).collect();
        found.dedup_by(|a, b| a.id == b.id);
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => {
                let ids: Vec<_> = found.iter().map(|image| image.id.short()).collect();
                bail!("the image id `{text}` is ambiguous: {}", ids.join(", "))
            }
        }
    }

    /// The same; that there is none is an error in docker's words.
    pub fn get(&self, text: &str) -> Result<Image> {
        let with_tag = Reference::parse(text).map_or_else(|_| text.to_string(), |reference| reference.to_string());
        self.find(text)?.with_context(|| format!("No such image: {with_tag}"))
    }
}

impl Image {
    /// The chain ids of its layers, lowest first.
    pub fn chain(&self) -> Vec<Digest> {
        Digest::chain(&self.config.rootfs.diff_ids)
    }

    /// The bytes of all its layers: what they hold unpacked, or, of a layer that nobody has needed yet, its blob.
    pub fn size(&self, store: &Store) -> u64 {
        let blobs = self.manifest.layers().iter().map(|layer| layer.size());
        self.chain().iter().zip(blobs).map(|(chain, blob)| store.layer_size(chain).unwrap_or(blob)).sum()
    }
}

/// What a line of an index is called, if it is a name that we know how to read.
pub fn name_of(line: &Descriptor) -> Option<Reference> {
    let annotations = line.annotations().as_ref()?;
    let name = annotations.get(REF_NAME)?;
    Reference::parse(name).ok()
}

/// A document of at most [`LARGEST_DOCUMENT`] bytes.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut bytes = Vec::with_capacity(4096);
    file.take(LARGEST_DOCUMENT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_DOCUMENT {
        bail!("`{}` is larger than {} MiB", path.display(), LARGEST_DOCUMENT >> 20);
    }
    Ok(bytes)
}
