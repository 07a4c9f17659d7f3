//! `load`: images out of an archive: `docker save`'s (`manifest.json`, with `<id>/layer.tar` before docker 25 and
//! `blobs/…` since; before 1.10 `repositories` alone), an OCI archive, or a folder that holds any of them.

use super::layer::{Unpacked, check, settle, unpack};
use super::parts::{Source, archive};
use super::store::{IMAGE_NAME, REF_NAME};
use super::{Change, Config, Digest, Image, Reference, Store, change};
use anyhow::{Context, Result, bail};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Is told what is done.
pub type Progress<'a> = dyn Fn(&str) + Sync + 'a;

/// What was loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    pub id: Digest,
    pub names: Vec<Reference>,
}

/// One line of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Loads every image of `path`.
pub fn load(store: &Store, path: &Path, progress: &Progress<'_>) -> Result<Vec<Loaded>> {
    let mut change = Change::begin(store)?;
    let shown = || format!("cannot open `{}`", path.display());
    let source = if path.is_dir() {
        Source::Folder(crate::tree::open_folder(path)?)
    } else {
        archive(&change, File::open(path).with_context(shown)?)?
    };
    from(&mut change, &source, progress).and_then(|images| finish(change, images))
}

/// The same from a stream, which is first put on disk.
pub fn load_stream(store: &Store, input: impl Read, progress: &Progress<'_>) -> Result<Vec<Loaded>> {
    let mut change = Change::begin(store)?;
    let (_, mut file) = change.new_file("archive")?;
    super::sparse::keep(&mut { input }, &mut file).context("cannot keep the archive")?;
    io::Seek::rewind(&mut file)?;
    let source = archive(&change, file)?;
    from(&mut change, &source, progress).and_then(|images| finish(change, images))
}

/// An image whose parts are in the change, and its line for the index.
pub struct Found {
    pub loaded: Loaded,
    pub line: Descriptor,
}

fn finish(change: Change<'_>, images: Vec<Found>) -> Result<Vec<Loaded>> {
    change.commit(|index| {
        for image in &images {
            if image.loaded.names.is_empty() {
                change::set_name(index, &image.line, None);
            }
            for name in &image.loaded.names {
                change::set_name(index, &image.line, Some(name));
            }
        }
        Ok(())
    })?;
    Ok(images.into_iter().map(|image| image.loaded).collect())
}

fn from(change: &mut Change<'_>, source: &Source, progress: &Progress<'_>) -> Result<Vec<Found>> {
    let known = change.store.list()?;
    if source.has("manifest.json") {
        let manifests: Vec<DockerManifest> =
            serde_json::from_slice(&source.document("manifest.json")?).context("`manifest.json` is not one")?;
        return manifests.into_iter().map(|one| docker(change, source, one, &known, progress)).collect();
    }
    if source.has("index.json") {
        let index: ImageIndex =
            serde_json::from_slice(&source.document("index.json")?).context("`index.json` is not one")?;
        let mut found: Vec<Found> = Vec::new();
        for line in index.manifests() {
            found.push(oci(change, source, line, &known, progress)?);
        }
        return Ok(found);
    }
    if source.has("repositories") {
        return super::legacy::load(change, source, &known, progress);
    }
    bail!("neither an archive of docker's nor an OCI one: there is no `manifest.json` and no `index.json` in it")
}

/// An image as `docker save` writes it; the manifest is ours to make.
fn docker(
    change: &mut Change<'_>,
    source: &Source,
    one: DockerManifest,
    known: &[Image],
    progress: &Progress<'_>,
) -> Result<Found> {
    let bytes = source.document(&one.config)?;
    let id = Digest::of(&bytes);
    // The config is named by its digest, in both of docker's layouts.
    let stem = one.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if let Ok(said) = Digest::parse(&format!("sha256:{stem}"))
        && said != id
    {
        bail!("wrong digest: the config `{}` has the digest {id}", one.config.escape_debug());
    }
    let config = Config::parse(&bytes)?;
    let names = one.repo_tags.unwrap_or_default().iter().map(|name| Reference::parse(name)).collect::<Result<_>>()?;
    let layers = one.layers.unwrap_or_default();
    let jobs = layers.into_iter().map(|path| Job { path, line: None }).collect();
    let lines = fill(change, source, &config, jobs, known, progress)?;
    let (id, line) = change.add_image_of(&bytes, lines)?;
    Ok(Found { loaded: Loaded { id, names }, line })
}

/// An image of an OCI layout; its manifest is kept as it is.
fn oci(
    change: &mut Change<'_>,
    source: &Source,
    line: &Descriptor,
    known: &[Image],
    progress: &Progress<'_>,
) -> Result<Found> {
    let mut line = line.clone();
    let annotations = line.annotations().clone().unwrap_or_default();
    let name = annotations.get(IMAGE_NAME).or_else(|| annotations.get(REF_NAME));
    let names = name.map(|name| Reference::parse(name)).transpose()?.into_iter().collect();
    let mut bytes = source.blob(&line)?;
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(&bytes) {
        let here = super::config::host_architecture();
        let fits = |line: &&Descriptor| {
            line.platform().as_ref().is_none_or(|platform| platform.architecture().to_string() == here)
        };
        line = index.manifests().iter().find(fits).with_context(|| format!("no variant for linux/{here}"))?.clone();
        bytes = source.blob(&line)?;
    }
    let manifest: ImageManifest = serde_json::from_slice(&bytes).context("the manifest is not one")?;
    let config_bytes = source.blob(manifest.config())?;
    let config = Config::parse(&config_bytes)?;
    let job = |line: &Descriptor| -> Result<Job> {
        let digest = Digest::parse(line.digest().as_ref())?;
        Ok(Job { path: format!("blobs/sha256/{}", digest.hex()), line: Some(line.clone()) })
    };
    let jobs = manifest.layers().iter().map(job).collect::<Result<_>>()?;
    fill(change, source, &config, jobs, known, progress)?;
    let id = change.add_document(&config_bytes)?;
    change.add_document(&bytes)?;
    line.set_annotations(None);
    Ok(Found { loaded: Loaded { id, names }, line })
}

/// A layer's file in the archive.
pub struct Job {
    pub path: String,
    /// What the manifest says of it, if there is one.
    pub line: Option<Descriptor>,
}

type Done = (Unpacked, PathBuf);

/// Unpacks the layers that the store does not have, several at once: their lines, lowest first.
pub fn fill(
    change: &mut Change<'_>,
    source: &Source,
    config: &Config,
    jobs: Vec<Job>,
    known: &[Image],
    progress: &Progress<'_>,
) -> Result<Vec<Descriptor>> {
    let diff_ids = &config.rootfs.diff_ids;
    anyhow::ensure!(
        jobs.len() == diff_ids.len(),
        "the config names {} layers, the manifest {}",
        diff_ids.len(),
        jobs.len()
    );
    let chain = Digest::chain(diff_ids);
    let here = |number: usize| change.tree(&chain[number]).is_some();
    let stored: Vec<Option<Descriptor>> = (0..jobs.len())
        .map(|number| here(number).then(|| stored(change.store, known, &diff_ids[number], &jobs[number])).flatten())
        .collect();
    let todo: Mutex<Vec<usize>> =
        Mutex::new((0..jobs.len()).filter(|number| stored[*number].is_none()).rev().collect());
    let done: Mutex<HashMap<usize, Done>> = Mutex::new(HashMap::new());
    let work = || -> Result<()> {
        loop {
            let next = todo.lock().ok().and_then(|mut todo| todo.pop());
            let Some(number) = next else { return Ok(()) };
            let one = (|| -> Result<Done> {
                let part = source.open(&jobs[number].path)?;
                let (path, file) = change.new_file("blob")?;
                let unpacked = unpack(part, Some(&file), &change.path("tree"), None)?;
                check(&unpacked, &diff_ids[number], jobs[number].line.as_ref())?;
                Ok((unpacked, path))
            })();
            let one = one.with_context(|| format!("layer {} of {}", number + 1, jobs.len())).inspect_err(|_| {
                // The others need not go on.
                if let Ok(mut todo) = todo.lock() {
                    todo.clear();
                }
            })?;
            progress(&format!("{}: Loading layer", diff_ids[number].short()));
            if let Ok(mut done) = done.lock() {
                done.insert(number, one);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, |count| count.get()).clamp(1, 8);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (1..workers.min(jobs.len().max(1))).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for thread in threads {
            result = result.and(thread.join().unwrap_or_else(|_| bail!("a worker has failed")));
        }
        result
    })?;
    let mut done = done.into_inner().unwrap_or_default();
    let mut lines = Vec::with_capacity(jobs.len());
    for (number, stored) in stored.into_iter().enumerate() {
        match (stored, done.remove(&number)) {
            (Some(line), _) => lines.push(line),
            (None, Some((unpacked, blob))) => {
                lines.push(jobs[number].line.clone().map_or_else(|| unpacked.descriptor(), Ok)?);
                let digest = unpacked.blob.clone();
                settle(change, unpacked, &blob, &chain[..number], chain[number].clone())?;
                change.add_blob(digest, blob);
            }
            (None, None) => bail!("layer {} was not unpacked", number + 1),
        }
    }
    Ok(lines)
}

/// The line of a layer that the store has already, whichever image brought it.
fn stored(store: &Store, known: &[Image], diff_id: &Digest, job: &Job) -> Option<Descriptor> {
    let has =
        |line: &Descriptor| Digest::parse(line.digest().as_ref()).is_ok_and(|digest| store.blob(&digest).exists());
    if let Some(line) = &job.line {
        return has(line).then(|| line.clone());
    }
    known.iter().find_map(|image| {
        let pairs = image.config.rootfs.diff_ids.iter().zip(image.manifest.layers());
        pairs.into_iter().find(|(one, line)| *one == diff_id && has(line)).map(|(_, line)| line.clone())
    })
}
