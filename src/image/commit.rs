//! New images out of what is here: `commit` a container's layer, `import` an archive or a folder, and the words with
//! which both may change the config (`-c 'CMD ["sh"]'`).

use super::changes::{Container, IMAGE_CONFIG, IMAGE_ID};
use super::digest::Hashing;
use super::layer::{settle, unpack};
use super::pack::{pack_delta, pack_layer, pack_tree};
use super::{Change, Config, Digest, Execution, History, Reference, Store, change, instruction};
use crate::tree::{Entry, Stack};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

/// What a new image is called, and what is said about it.
#[derive(Default)]
pub struct Words {
    pub name: Option<Reference>,
    pub author: Option<String>,
    pub message: Option<String>,
    /// Dockerfile instructions that change the config.
    pub changes: Vec<String>,
}

/// Now, as Go prints it (RFC 3339 with nanoseconds).
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Makes an image of `container`'s layer on top of its image: the new id. The caller has paused it.
pub fn commit(store: &Store, container: &Container, words: &Words) -> Result<Digest> {
    let parent = container.note(IMAGE_ID).context("the container does not say which image it was made of")?;
    let parent = store.get(parent).context("the image of the container")?;
    let mut config = parent.config.clone();
    if let Some(said) = container.note(IMAGE_CONFIG) {
        config.config = serde_json::from_str::<Execution>(said).context("the container's config is damaged")?;
    }
    // Before anything long is done: what was said may make no sense.
    instruction::apply(&mut config.config, &words.changes)?;
    let below = Stack::open(&container.lower())?;
    let mut change = Change::begin(store)?;
    let (path, file) = change.new_file("blob")?;
    let out = Hashing::new(BufWriter::with_capacity(1 << 20, file));
    let skip = |entry: &Entry<'_>| container.is_mount_point(entry, &below);
    let packed = match (container.tree(), container.upper()) {
        (Some(tree), _) => pack_delta(&Stack::open(&[tree])?, &below, &skip, out)?,
        (None, Some(upper)) => pack_layer(&Stack::open(&[upper])?, &skip, out)?,
        (None, None) => pack_delta(&Stack::open(&container.lower())?, &below, &skip, out)?,
    };
    let (digest, _, _) = packed.finish();
    let command = container.spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
    let history = History {
        created: Some(now()),
        author: words.author.clone(),
        created_by: Some(command.join(" ")),
        comment: words.message.clone(),
        ..History::default()
    };
    let mut lines = parent.manifest.layers().clone();
    lines.push(add(&mut change, &path, &digest, &mut config, history)?);
    finish(change, config, lines, words)
}

/// Makes an image of one archive, plain or packed: the new id.
pub fn import(store: &Store, input: impl Read + Send, words: &Words) -> Result<Digest> {
    let mut config = changed(words)?;
    let mut change = Change::begin(store)?;
    let (path, file) = change.new_file("blob")?;
    let tree = change.path("tree");
    let unpacked = unpack(input, Some(&file), &tree, None)?;
    anyhow::ensure!(unpacked.blob_size > 0, "the archive is empty");
    let line = unpacked.descriptor()?;
    config.add_layer(unpacked.diff_id.clone(), imported(words));
    let (blob, chain) = (unpacked.blob.clone(), unpacked.diff_id.clone());
    settle(&mut change, unpacked, &path, &[], chain)?;
    change.add_blob(blob, path);
    finish(change, config, vec![line], words)
}

/// The same of a folder.
pub fn import_folder(store: &Store, folder: &Path, words: &Words) -> Result<Digest> {
    let mut config = changed(words)?;
    let stack = Stack::open(&[folder.to_owned()])?;
    let mut change = Change::begin(store)?;
    let (path, file) = change.new_file("blob")?;
    let (digest, _, _) = pack_tree(&stack, &|_| false, Hashing::new(BufWriter::with_capacity(1 << 20, file)))?.finish();
    let line = add(&mut change, &path, &digest, &mut config, imported(words))?;
    finish(change, config, vec![line], words)
}

/// An empty config, but for what was said.
fn changed(words: &Words) -> Result<Config> {
    let mut config = Config::new();
    instruction::apply(&mut config.config, &words.changes)?;
    Ok(config)
}

fn imported(words: &Words) -> History {
    let comment = words.message.clone().unwrap_or_else(|| "Imported from -".to_string());
    History { created: Some(now()), comment: Some(comment), ..History::default() }
}

/// Everything that a container sees, as one archive.
pub fn export<W: std::io::Write>(container: &Container, out: W) -> Result<W> {
    let below = Stack::open(&container.lower())?;
    pack_tree(&container.stack()?, &|entry| container.is_mount_point(entry, &below), out)
}

/// Adds a layer that we have just packed, plain, on top of `config`'s: its line for the manifest.
fn add(
    change: &mut Change<'_>,
    blob: &Path,
    digest: &Digest,
    config: &mut Config,
    history: History,
) -> Result<oci_spec::image::Descriptor> {
    let below = Digest::chain(&config.rootfs.diff_ids);
    config.add_layer(digest.clone(), history);
    let chain = Digest::chain(&config.rootfs.diff_ids).pop().context("a layer was just added")?;
    let file = File::open(blob)?;
    let size = file.metadata()?.len();
    if change.tree(&chain).is_none() {
        let tree: PathBuf = change.path("tree");
        let unpacked = unpack(file, None, &tree, None)?;
        anyhow::ensure!(unpacked.diff_id == *digest, "the layer was changed while it was unpacked");
        settle(change, unpacked, blob, &below, chain)?;
    }
    change.add_blob(digest.clone(), blob.to_owned());
    change::descriptor(oci_spec::image::MediaType::ImageLayer, digest, size)
}

fn finish(
    mut change: Change<'_>,
    mut config: Config,
    lines: Vec<oci_spec::image::Descriptor>,
    words: &Words,
) -> Result<Digest> {
    config.author = words.author.clone().or(config.author);
    let (id, line) = change.add_image(&config, lines)?;
    change.commit(|index| {
        change::set_name(index, &line, words.name.as_ref());
        Ok(())
    })?;
    Ok(id)
}
