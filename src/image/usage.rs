//! How much disk the images take. A layer that several images share is there once, as its archive (a blob) and, when a
//! container has needed it, as its unpacked tree.
//!
//! Try it without us: `du -sh /var/lib/mydocker/images /var/lib/mydocker/layers`

use super::{Image, Store};
use std::collections::{BTreeMap, HashSet};

/// What one image takes, in bytes of its layers' trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub size: u64,
    /// Of the layers that other images have, too.
    pub shared: u64,
}

/// What all images take.
#[derive(Debug, Default)]
pub struct Usage {
    /// Trees and blobs, each once.
    pub total: u64,
    /// Of the images that containers stand on.
    pub used: u64,
    /// One for each image, in their order.
    pub shares: Vec<Share>,
}

/// Adds up `images`; `used` are the ids of those that containers stand on.
pub fn usage(store: &Store, images: &[Image], used: &HashSet<String>) -> Usage {
    // By digest: size, how many images have it, whether a container stands on one of them.
    let mut parts: BTreeMap<String, (u64, u32, bool)> = BTreeMap::new();
    let mut once = HashSet::new();
    let images_once: Vec<&Image> = images.iter().filter(|image| once.insert(image.id.as_str())).collect();
    for image in images_once {
        let in_use = used.contains(image.id.as_str());
        for (name, size) in parts_of(store, image) {
            let part = parts.entry(name).or_insert((size, 0, false));
            part.1 += 1;
            part.2 |= in_use;
        }
    }
    let share = |image: &Image| {
        let mut share = Share::default();
        for chain in image.chain() {
            let size = store.layer_size(&chain).unwrap_or(0);
            share.size += size;
            let several = parts.get(&format!("layer {chain}")).is_some_and(|part| part.1 > 1);
            share.shared += if several { size } else { 0 };
        }
        share
    };
    Usage {
        total: parts.values().map(|part| part.0).sum(),
        used: parts.values().filter(|part| part.2).map(|part| part.0).sum(),
        shares: images.iter().map(share).collect(),
    }
}

/// Everything on disk that an image is made of, and its size.
fn parts_of(store: &Store, image: &Image) -> HashSet<(String, u64)> {
    let chain = image.chain();
    let trees = chain.iter().map(|chain| (format!("layer {chain}"), store.layer_size(chain).unwrap_or(0)));
    let blobs = image.manifest.layers().iter().map(|line| (format!("blob {}", line.digest()), line.size()));
    let config = image.manifest.config();
    let documents = [config, &image.descriptor].map(|line| (format!("blob {}", line.digest()), line.size()));
    trees.chain(blobs).chain(documents).collect()
}
