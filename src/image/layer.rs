//! One layer on its way from an archive into the store: read, inflated, hashed and unpacked at the same time, in one
//! pass. Nothing of it is believed before its digest is right.

use super::digest::Hashing;
use super::extract::{Extracted, extract};
use super::{Change, Digest, Store};
use crate::sys::{self, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use crate::tree::{Attributes, Stack, open_folder};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::image::{Descriptor, MediaType};
use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first bytes (`man 5 magic`), never by a name.
    pub fn of(start: &[u8]) -> Result<Self> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Packing::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => bail!("the archive is packed with xz: unpack it first (xz -dc)"),
            [b'B', b'Z', b'h', ..] => bail!("the archive is packed with bzip2: unpack it first (bzip2 -dc)"),
            _ => Ok(Packing::Plain),
        }
    }

    pub fn media_type(self) -> MediaType {
        match self {
            Packing::Plain => MediaType::ImageLayer,
            Packing::Gzip => MediaType::ImageLayerGzip,
            Packing::Zstd => MediaType::ImageLayerZstd,
        }
    }
}

/// What `input` begins with, and `input` again from its beginning.
pub fn sniff(mut input: impl Read) -> io::Result<(Vec<u8>, impl Read)> {
    let mut start = Vec::new();
    (&mut input).take(6).read_to_end(&mut start)?;
    Ok((start.clone(), io::Cursor::new(start).chain(input)))
}

/// Inflates `input`. Members of gzip and frames of zstd may follow each other.
pub fn inflate<'a>(packing: Packing, input: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    Ok(match packing {
        Packing::Plain => Box::new(input),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, input))),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
    })
}

/// A layer that lies unpacked in a private folder.
pub struct Unpacked {
    pub packing: Packing,
    /// Of the bytes as they came.
    pub blob: Digest,
    pub blob_size: u64,
    /// Of the archive, inflated.
    pub diff_id: Digest,
    pub tree: PathBuf,
    pub extracted: Extracted,
}

impl Unpacked {
    pub fn descriptor(&self) -> Result<Descriptor> {
        super::change::descriptor(self.packing.media_type(), &self.blob, self.blob_size)
    }
}

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 8;

/// Reads all of `input`, copies it to `blob` as it is, and unpacks it into the new folder `tree`. One thread reads,
/// hashes and inflates; the other writes the files.
pub fn unpack(input: impl Read + Send, blob: Option<&File>, tree: &Path, lower: Option<&Stack>) -> Result<Unpacked> {
    DirBuilder::new().mode(0o700).create(tree).with_context(|| format!("cannot make `{}`", tree.display()))?;
    let folder = open_folder(tree)?;
    let fixed = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0), xattrs: vec![] };
    fixed.apply(&folder, c".", libc::S_IFDIR, None)?;
    let (send, receive) = sync_channel::<Chunk>(CHUNKS);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(input, blob, send));
        let mut archive = Chunks { receive, chunk: Vec::new(), at: 0, inflated: Hashing::new(io::sink()) };
        let extracted = extract(&mut archive, &folder, lower);
        let extracted = match extracted {
            // What follows the end of the archive belongs to its digest too.
            Ok(extracted) => io::copy(&mut archive, &mut io::sink()).map(|_| extracted).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        let Chunks { receive, inflated, .. } = archive;
        drop(receive); // a reader that still sends must not wait for us
        let (diff_id, _, _) = inflated.finish();
        let read = reader.join().unwrap_or_else(|_| bail!("the reader of the layer has failed"));
        // A damaged stream is the reason of whatever it was unpacked to.
        let (packing, blob, blob_size, plain) = match (read, &extracted) {
            (Err(error), _) if !error.is::<Abandoned>() => return Err(error),
            (read, Ok(_)) => read?,
            (_, Err(_)) => return Err(extracted.err().unwrap_or_else(|| anyhow::anyhow!("the layer is damaged"))),
        };
        let diff_id = plain.unwrap_or(diff_id);
        let extracted = extracted?;
        Ok(Unpacked { packing, blob, blob_size, diff_id, tree: tree.to_owned(), extracted })
    })
}

/// The other side has stopped listening; its error is the one to tell.
#[derive(Debug, thiserror::Error)]
#[error("abandoned")]
struct Abandoned;

/// How it was packed, the blob's digest and size, and the archive's digest if that is the same.
type WhatCame = (Packing, Digest, u64, Option<Digest>);

/// The reading side: what came, as it came; and the digest of the archive, if that is the same.
fn read_all(input: impl Read, blob: Option<&File>, send: SyncSender<Chunk>) -> Result<WhatCame> {
    let mut tee = Tee { input: Hashing::new(input), blob };
    let (start, mut source) = sniff(&mut tee)?;
    let packing = Packing::of(&start)?;
    {
        let mut plain = inflate(packing, &mut source)?;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut plain).take(CHUNK as u64).read_to_end(&mut chunk).map_err(damaged(packing))?;
            if chunk.is_empty() {
                break;
            }
            send.send(Chunk { bytes: chunk, inflated: packing != Packing::Plain }).map_err(|_| Abandoned)?;
        }
    }
    io::copy(&mut source, &mut io::sink())?;
    drop(source);
    let (digest, size, _) = tee.input.finish();
    let plain = (packing == Packing::Plain).then(|| digest.clone());
    Ok((packing, digest, size, plain))
}

fn damaged(packing: Packing) -> impl FnOnce(io::Error) -> anyhow::Error {
    move |error| match (packing, error.raw_os_error()) {
        (Packing::Plain, _) | (_, Some(_)) => error.into(),
        (Packing::Gzip, None) => anyhow::anyhow!("the gzip stream is damaged or truncated: {error}"),
        (Packing::Zstd, None) => anyhow::anyhow!("the zstd stream is damaged or truncated: {error}"),
    }
}

struct Tee<'a, R> {
    input: Hashing<R>,
    blob: Option<&'a File>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.input.read(buffer)?;
        if let Some(mut blob) = self.blob {
            blob.write_all(&buffer[..size])?;
        }
        Ok(size)
    }
}

/// The writing side's view of what the reader sends.
struct Chunks {
    receive: Receiver<Chunk>,
    chunk: Vec<u8>,
    at: usize,
    /// Of what was inflated; a plain archive's digest is its blob's, and that is the reader's to find.
    inflated: Hashing<io::Sink>,
}

struct Chunk {
    bytes: Vec<u8>,
    inflated: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receive.recv() {
                Ok(chunk) => {
                    if chunk.inflated {
                        self.inflated.write_all(&chunk.bytes)?;
                    }
                    (self.chunk, self.at) = (chunk.bytes, 0);
                }
                Err(_) => return Ok(0),
            }
        }
        let size = buffer.len().min(self.chunk.len() - self.at);
        buffer[..size].copy_from_slice(&self.chunk[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

/// Adds an unpacked layer to a change, on top of the layers `below` (chain ids, lowest first). What the layer itself
/// did not say is taken from these: the attributes of folders, and where links lead.
pub fn settle(
    change: &mut Change<'_>,
    mut layer: Unpacked,
    blob: &Path,
    below: &[Digest],
    chain: Digest,
) -> Result<()> {
    if !below.is_empty() && (layer.extracted.needs_lower || !layer.extracted.implicit.is_empty()) {
        let trees: Vec<PathBuf> = below.iter().filter_map(|chain| change.tree(chain)).collect();
        let lower = Stack::open(&trees)?;
        let again = layer.extracted.needs_lower || !as_below(&layer, &lower)?;
        if again {
            let tree = change.path("tree");
            let file = File::open(blob).with_context(|| format!("cannot read `{}`", blob.display()))?;
            layer = unpack(file, None, &tree, Some(&lower))?;
        }
    } else if layer.extracted.needs_lower {
        bail!("the layer has a hard link to a file that does not exist");
    }
    if let Some(top) = below.last().filter(|_| !layer.extracted.root).and_then(|top| change.tree(top)) {
        like(&layer.tree, &top).context("the layer's root")?;
    }
    change.add_layer(chain, &layer.tree, layer.extracted.bytes)
}

/// Gives the folders that no entry of the layer describes what they have below: owner, mode, times, attributes. `false`:
/// one of them is a link there, so what is in it belongs elsewhere.
fn as_below(layer: &Unpacked, lower: &Stack) -> Result<bool> {
    let tree = open_folder(&layer.tree)?;
    let mut all_folders = true;
    lower.each(&layer.extracted.implicit, &mut |path, view, name, child| {
        match crate::tree::kind(&child.stat) {
            libc::S_IFDIR => {}
            libc::S_IFLNK => {
                all_folders = false;
                return Ok(());
            }
            _ => return Ok(()),
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
        let path = CString::new(path)?;
        // What has been replaced by something else since has nothing to take over.
        let ours = match sys::openat2(&tree, &path, flags, Mode::empty(), RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            other => other?,
        };
        let theirs = sys::openat2(view.holder(child), name, flags, Mode::empty(), RESOLVE_NO_SYMLINKS)?;
        let attributes = Attributes::of(&theirs, &child.stat)?;
        attributes.apply(&ours, c".", libc::S_IFDIR, None)?;
        Ok(attributes.apply_times(&ours, c".")?)
    })?;
    Ok(all_folders)
}

/// Gives the folder `tree` the attributes of the folder `other`.
fn like(tree: &Path, other: &Path) -> Result<()> {
    let (tree, other) = (open_folder(tree)?, open_folder(other)?);
    let attributes = Attributes::of(&other, &nix::sys::stat::fstat(&other)?)?;
    attributes.apply(&tree, c".", libc::S_IFDIR, None)?;
    Ok(attributes.apply_times(&tree, c".")?)
}

/// Unpacks the layers of an image of the store that nobody has needed yet (skopeo wrote it in place, or its trees were
/// lost): the trees, lowest first.
pub fn ensure(store: &Store, image: &super::Image) -> Result<Vec<PathBuf>> {
    let chain = image.chain();
    let trees: Vec<PathBuf> = chain.iter().map(|chain| store.tree(chain)).collect();
    if trees.iter().all(|tree| tree.exists()) {
        return Ok(trees);
    }
    log::info!("unpacking image {}", image.id.short());
    let mut change = Change::begin(store)?;
    for (number, (diff_id, layer)) in image.config.rootfs.diff_ids.iter().zip(image.manifest.layers()).enumerate() {
        if trees[number].exists() {
            continue;
        }
        let blob = store.blob(&Digest::parse(layer.digest().as_ref())?);
        let file = File::open(&blob).with_context(|| format!("cannot read the layer `{}`", blob.display()))?;
        let tree = change.path("tree");
        let unpacked = unpack(file, None, &tree, None).with_context(|| format!("layer {}", number + 1))?;
        check(&unpacked, diff_id, Some(layer))?;
        settle(&mut change, unpacked, &blob, &chain[..number], chain[number].clone())?;
    }
    change.commit(|_| Ok(()))?;
    Ok(trees)
}

/// Whether a layer is what the config and the manifest say.
pub fn check(layer: &Unpacked, diff_id: &Digest, line: Option<&Descriptor>) -> Result<()> {
    if let Some(line) = line {
        if line.digest().as_ref() != layer.blob.as_str() {
            bail!("wrong digest: the manifest says {}, its bytes {}", line.digest(), layer.blob);
        }
        if line.size() != layer.blob_size {
            bail!("wrong size: the manifest says {}, there are {} bytes", line.size(), layer.blob_size);
        }
    }
    if layer.diff_id != *diff_id {
        bail!("wrong diff id: the config says {diff_id}, its bytes {}", layer.diff_id);
    }
    Ok(())
}
