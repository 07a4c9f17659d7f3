//! `save`: images as one archive. The blobs are copied as they are; around them stand the documents of an OCI layout
//! and docker's `manifest.json`, as docker writes it since version 25, so `docker load`, podman and skopeo all take it.

use super::pack::Packer;
use super::store::{IMAGE_NAME, REF_NAME};
use super::{Digest, Image, Reference, Store};
use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageIndex, MediaType};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use tar::EntryType;

/// Which documents stand around the blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Docker's, which is an OCI archive too.
    Docker,
    /// An OCI image layout and nothing else.
    Oci,
}

/// Writes `images`, each with the names it was asked for by, to `out`.
pub fn save<W: Write>(store: &Store, images: &[(Image, Vec<Reference>)], format: Format, out: W) -> Result<W> {
    let mut packer = Packer::new(out);
    let mut written = HashSet::new();
    packer.special("blobs/", "", EntryType::Directory)?;
    packer.special("blobs/sha256/", "", EntryType::Directory)?;
    for (image, _) in images {
        let documents = [image.manifest_digest.clone(), image.id.clone()];
        let layers = image.manifest.layers().iter().map(|line| Digest::parse(line.digest().as_ref()));
        for digest in layers.chain(documents.map(Ok)) {
            let digest = digest?;
            if written.insert(digest.clone()) {
                let path = store.blob(&digest);
                let file = File::open(&path).with_context(|| format!("the store has no blob `{digest}`"))?;
                let size = file.metadata()?.len();
                packer.file(&format!("blobs/sha256/{}", digest.hex()), &file, size)?;
            }
        }
    }
    // As a value, whose keys are in order: the same images make the same archive.
    packer.bytes("index.json", &serde_json::to_vec(&serde_json::to_value(index(images)?)?)?)?;
    if format == Format::Docker {
        packer.bytes("manifest.json", &serde_json::to_vec(&manifests(images)?)?)?;
        packer.bytes("repositories", &serde_json::to_vec(&repositories(images))?)?;
    }
    packer.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    packer.finish()
}

fn index(images: &[(Image, Vec<Reference>)]) -> Result<ImageIndex> {
    let mut lines: Vec<Descriptor> = Vec::new();
    for (image, names) in images {
        let size = serde_json::to_vec(&image.manifest)?.len() as u64;
        // An index of many machines is cut down to the manifest that is here.
        let mut plain = match image.descriptor.digest().as_ref() == image.manifest_digest.as_str() {
            true => image.descriptor.clone(),
            false => super::change::descriptor(MediaType::ImageManifest, &image.manifest_digest, size)?,
        };
        if names.is_empty() {
            plain.set_annotations(None);
            lines.push(plain);
            continue;
        }
        for name in names {
            let mut annotations = HashMap::new();
            annotations.insert(IMAGE_NAME.to_string(), name.full());
            annotations.insert(REF_NAME.to_string(), name.to_string());
            let mut line = plain.clone();
            line.set_annotations(Some(annotations));
            lines.push(line);
        }
    }
    let mut index = ImageIndex::default();
    index.set_schema_version(2).set_media_type(Some(MediaType::ImageIndex)).set_manifests(lines);
    Ok(index)
}

fn manifests(images: &[(Image, Vec<Reference>)]) -> Result<Vec<Value>> {
    let place = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let one = |(image, names): &(Image, Vec<Reference>)| -> Result<Value> {
        let layers = image.manifest.layers().iter().map(|line| Ok(place(&Digest::parse(line.digest().as_ref())?)));
        let names: Vec<_> = names.iter().map(Reference::to_string).collect();
        let names = if names.is_empty() { Value::Null } else { json!(names) };
        Ok(json!({ "Config": place(&image.id), "RepoTags": names, "Layers": layers.collect::<Result<Vec<_>>>()? }))
    };
    images.iter().map(one).collect()
}

/// Docker's oldest document: repository → tag → topmost layer.
fn repositories(images: &[(Image, Vec<Reference>)]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (image, names) in images {
        let top = image.chain().last().map_or_else(String::new, |chain| chain.hex().to_string());
        for name in names {
            let tag = name.tag().unwrap_or_default().to_string();
            all.entry(name.repository()).or_default().insert(tag, top.clone());
        }
    }
    all
}
