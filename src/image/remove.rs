//! Names given and taken, images removed, and what nothing names any more swept away.

use super::changes::{Container, IMAGE_ID};
use super::store::name_of;
use super::{Change, Digest, Image, Reference, Store, change};
use crate::plan::Undo;
use anyhow::{Context, Result, bail};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

/// A blob that nothing names may be on its way into the index (skopeo writes in place); after this long it is not.
const YOUNG: Duration = Duration::from_secs(3600);

/// What a removal did, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(Digest),
}

/// Gives an image one more name.
pub fn tag(store: &Store, image: &Image, name: &Reference) -> Result<()> {
    if name.digest().is_some() {
        bail!("refusing to create a tag with a digest reference: `{name}`");
    }
    let done = Change::begin(store)?.commit(|index| {
        change::set_name(index, &image.descriptor, Some(name));
        Ok(())
    });
    done.map(drop)
}

/// The images that containers stand on, and the first container of each.
pub fn in_use(store: &Store) -> HashMap<String, String> {
    let mut used = HashMap::new();
    for entry in fs::read_dir(store.root().join("containers")).into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().map(str::to_string) else { continue };
        if let Ok(container) = Container::find(store.root(), &id)
            && let Some(image) = container.note(IMAGE_ID)
        {
            used.entry(image.to_string()).or_insert_with(|| container.id.short().to_string());
        }
    }
    used
}

/// Removes one name of an image, or the image itself when it was named by its id or loses its last name.
pub fn remove(store: &Store, text: &str, force: bool) -> Result<Vec<Removed>> {
    let image = store.get(text)?;
    let by_name = Reference::parse(text).ok().filter(|name| image.names.contains(name));
    let all = store.list()?.into_iter().find(|other| other.descriptor.digest() == image.descriptor.digest());
    let names = all.map_or_else(|| image.names.clone(), |image| image.names);
    let user = in_use(store).remove(image.id.as_str());
    let (short, user) = (image.id.short(), user.as_deref());
    let gone: Vec<Reference> = match &by_name {
        Some(name) => vec![name.clone()],
        None => names.clone(),
    };
    let last = gone.len() == names.len();
    if by_name.is_none() && names.len() > 1 && !force {
        bail!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories");
    }
    if last && let Some(user) = user.filter(|_| !force) {
        let what =
            by_name.map_or_else(|| format!("delete {short}"), |name| format!("remove repository reference \"{name}\""));
        bail!("conflict: unable to {what} (must force) - container {user} is using its referenced image {short}");
    }
    let digest = image.descriptor.digest().clone();
    let keep = user.is_some() || !last;
    let mut change = Change::begin(store)?;
    if !keep {
        change.doom(Lost::of(std::slice::from_ref(&image)))?;
    }
    let swept = change.commit(|index| {
        let mut lines = index.manifests().clone();
        for line in lines.iter_mut().filter(|line| *line.digest() == digest) {
            if name_of(line).is_some_and(|name| gone.contains(&name)) {
                change::forget_name(line);
            }
        }
        // What a container stands on stays, without a name.
        lines.retain(|line| keep || *line.digest() != digest);
        index.set_manifests(change::tidy(lines));
        Ok(())
    })?;
    let mut told: Vec<Removed> = gone.iter().map(|name| Removed::Untagged(name.to_string())).collect();
    if !keep {
        told.push(Removed::Deleted(image.id.clone()));
        told.extend(swept.layers.into_iter().map(Removed::Deleted));
    }
    Ok(told)
}

/// Removes images that have no name (all that no container stands on, with `all`): what was done, and the bytes freed.
pub fn prune(store: &Store, all: bool, wanted: &dyn Fn(&Image) -> bool) -> Result<(Vec<Removed>, u64)> {
    let used = in_use(store);
    let unused = |image: &Image| (all || image.names.is_empty()) && !used.contains_key(image.id.as_str());
    let doomed: Vec<Image> = store.list()?.into_iter().filter(|image| unused(image) && wanted(image)).collect();
    let digests: HashSet<_> = doomed.iter().map(|image| image.descriptor.digest().to_string()).collect();
    let mut change = Change::begin(store)?;
    change.doom(Lost::of(&doomed))?;
    let swept = change.commit(|index| {
        let mut lines = index.manifests().clone();
        lines.retain(|line| !digests.contains(&line.digest().to_string()));
        index.set_manifests(lines);
        Ok(())
    })?;
    let mut told = Vec::new();
    for image in &doomed {
        told.extend(image.names.iter().map(|name| Removed::Untagged(name.to_string())));
        told.push(Removed::Deleted(image.id.clone()));
    }
    told.extend(swept.layers.into_iter().map(Removed::Deleted));
    Ok((told, swept.bytes))
}

/// What was deleted.
#[derive(Default)]
pub struct Swept {
    pub layers: Vec<Digest>,
    pub bytes: u64,
}

/// Blobs and layers that are to go if nothing names them, as hexadecimal digits.
#[derive(Default)]
pub struct Lost {
    pub blobs: HashSet<String>,
    pub layers: HashSet<String>,
}

impl Lost {
    /// Everything that these images are made of.
    pub fn of(images: &[Image]) -> Self {
        let layers = images.iter().flat_map(|image| image.chain()).map(|chain| chain.hex().to_string()).collect();
        Self { blobs: images.iter().flat_map(blobs).collect(), layers }
    }

    /// A line for each, as a file keeps them.
    pub fn to_text(&self) -> String {
        let line = |kind: &str, hex: &String| format!("{kind} {hex}\n");
        let blobs = self.blobs.iter().map(|hex| line("blob", hex));
        blobs.chain(self.layers.iter().map(|hex| line("layer", hex))).collect()
    }

    /// Of such a text; a line that was cut off is left out.
    pub fn parse(text: &str) -> Self {
        let mut lost = Self::default();
        for (kind, hex) in text.lines().filter_map(|line| line.split_once(' ')) {
            if Digest::parse(&format!("sha256:{hex}")).is_ok() {
                let list = if kind == "blob" { &mut lost.blobs } else { &mut lost.layers };
                list.insert(hex.to_string());
            }
        }
        lost
    }
}

/// Deletes what is `lost` and not named by anything that is left, and what nothing has named for a long time.
pub fn sweep(store: &Store, gone: &Lost) -> Result<Swept> {
    let _lock = store.lock()?;
    let mut named: HashSet<String> = HashSet::new();
    let index = store.index()?;
    for line in index.manifests() {
        let digest = Digest::parse(line.digest().as_ref())?;
        let document = store.document(&digest);
        named.insert(digest.hex().to_string());
        // An index of many machines: its manifests too, as far as they are here.
        if let Ok(inner) = document.and_then(|bytes| Ok(serde_json::from_slice::<oci_spec::image::ImageIndex>(&bytes)?))
        {
            named.extend(inner.manifests().iter().map(|line| line.digest().digest().to_string()));
        }
    }
    let images: Vec<Image> = index.manifests().iter().filter_map(|line| store.read(line).ok()).collect();
    if images.len() < index.manifests().len() {
        // What cannot be read may name anything: only what is surely gone is deleted.
        log::warn!("an image cannot be read; its blobs are kept");
    }
    let mut layers: HashSet<String> = HashSet::new();
    for image in &images {
        named.extend(blobs(image));
        layers.extend(image.chain().iter().map(|chain| chain.hex().to_string()));
    }
    let sure = images.len() == index.manifests().len();
    let mut swept = Swept::default();
    for entry in fs::read_dir(store.images().join("blobs/sha256"))?.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_string) else { continue };
        let old = || {
            entry.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok()).is_some_and(|age| age > YOUNG)
        };
        if !named.contains(&name) && (gone.blobs.contains(&name) || sure && old()) {
            swept.bytes += entry.metadata().map_or(0, |data| data.len());
            fs::remove_file(entry.path()).with_context(|| format!("cannot remove the blob `{name}`"))?;
        }
    }
    for entry in fs::read_dir(store.layers())?.flatten() {
        let Some(chain) = entry.file_name().to_str().and_then(|name| Digest::parse(&format!("sha256:{name}")).ok())
        else {
            continue;
        };
        let doomed = !layers.contains(chain.hex()) && (gone.layers.contains(chain.hex()) || sure);
        if doomed {
            swept.bytes += store.layer_size(&chain).unwrap_or(0);
            let grave = store.root().join("tmp").join(format!("change-{}", chain.hex()));
            fs::rename(entry.path(), &grave).with_context(|| format!("cannot remove the layer `{chain}`"))?;
            Undo::RemoveTree { path: grave }.perform()?;
            swept.layers.push(chain);
        }
    }
    Ok(swept)
}

/// The names of the blobs that an image is made of.
fn blobs(image: &Image) -> Vec<String> {
    let layers = image.manifest.layers().iter().map(|line| line.digest().digest().to_string());
    let documents = [image.id.hex(), image.manifest_digest.hex(), image.descriptor.digest().digest()];
    layers.chain(documents.map(str::to_string)).collect()
}
