//! The files of an archive of images, found by name without unpacking it: a layer is read where it lies.

use super::layer::{Packing, inflate};
use super::members::Members;
use super::store::LARGEST_DOCUMENT;
use super::{Change, Digest};
use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::image::Descriptor;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// More files than any archive of images has.
const MOST_PARTS: usize = 100_000;

/// The files of an archive, by name.
pub enum Source {
    /// Parts of one plain archive: offset and size, and links between names.
    Archive {
        file: File,
        parts: HashMap<String, (u64, u64)>,
        links: HashMap<String, String>,
    },
    Folder(OwnedFd),
}

/// Finds the parts of a tar archive; a packed one is inflated into the change's folder first.
pub fn archive(change: &Change<'_>, file: File) -> Result<Source> {
    let mut start = [0u8; 6];
    let size = file.read_at(&mut start, 0)?;
    anyhow::ensure!(size > 0, "the archive is empty");
    let packing = Packing::of(&start[..size])?;
    let file = match packing {
        Packing::Plain => file,
        _ => {
            let (_, mut plain) = change.new_file("archive")?;
            super::sparse::keep(&mut inflate(packing, file)?, &mut plain).context("cannot inflate the archive")?;
            io::Seek::rewind(&mut plain)?;
            plain
        }
    };
    let (mut parts, mut links) = (HashMap::new(), HashMap::new());
    let mut members = Members::new(Counting { file: &file, at: 0 });
    while let Some(member) = members.next()? {
        let Ok(name) = String::from_utf8(member.path) else { continue };
        let name = name.trim_start_matches("./").to_string();
        match member.kind {
            b'0' if member.pieces.is_none() => {
                parts.insert(name, (members.inner_mut().at, member.size));
            }
            b'1' => drop(links.insert(name, String::from_utf8_lossy(&member.link).into_owned())),
            // Docker before 25 writes a layer that another image has as `../OTHER/layer.tar`.
            b'2' => {
                let target = String::from_utf8_lossy(&member.link).into_owned();
                let target = match target.strip_prefix("../") {
                    Some(rest) => rest.to_string(),
                    None => name.rsplit_once('/').map_or(target.clone(), |(dir, _)| format!("{dir}/{target}")),
                };
                links.insert(name, target);
            }
            _ => {}
        }
        anyhow::ensure!(parts.len() + links.len() <= MOST_PARTS, "the archive has more than {MOST_PARTS} files");
        members.pass_over(Counting::pass_over)?;
    }
    Ok(Source::Archive { file, parts, links })
}

/// A file that knows how far it was read.
struct Counting<'a> {
    file: &'a File,
    at: u64,
}

impl Counting<'_> {
    /// By a seek, not by reading; a file that ends before is truncated.
    fn pass_over(&mut self, data: u64, padding: u64) -> io::Result<()> {
        let end = self.at.checked_add(data).filter(|end| self.file.metadata().is_ok_and(|file| *end <= file.len()));
        let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"))?;
        self.at = end + padding;
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.at)).map(drop)
    }
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.file.read(buffer)?;
        self.at += size as u64;
        Ok(size)
    }
}

/// A stretch of a file.
pub struct Part {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let size = self.file.read_at(&mut buffer[..most], self.at)?;
        if size == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"));
        }
        self.at += size as u64;
        self.left -= size as u64;
        Ok(size)
    }
}

impl Source {
    pub fn open(&self, name: &str) -> Result<Part> {
        match self {
            Source::Archive { file, parts, links } => {
                let mut name = name.trim_start_matches("./");
                for _ in 0..8 {
                    if let Some((at, left)) = parts.get(name) {
                        return Ok(Part { file: file.try_clone()?, at: *at, left: *left });
                    }
                    match links.get(name) {
                        Some(target) => name = target,
                        None => break,
                    }
                }
                bail!("the archive has no `{}`", name.escape_debug())
            }
            Source::Folder(dir) => {
                let path = crate::plan::c_string(name.as_bytes());
                let resolve = crate::sys::RESOLVE_IN_ROOT | crate::sys::RESOLVE_NO_MAGICLINKS;
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
                let opened = crate::sys::openat2(dir, &path, flags, Mode::empty(), resolve);
                let file = File::from(opened.with_context(|| format!("the folder has no `{}`", name.escape_debug()))?);
                let data = file.metadata()?;
                anyhow::ensure!(data.is_file(), "`{}` is not a regular file", name.escape_debug());
                Ok(Part { file, at: 0, left: data.len() })
            }
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        let part = self.open(name)?;
        anyhow::ensure!(part.left <= LARGEST_DOCUMENT, "`{}` is {} bytes long", name.escape_debug(), part.left);
        let mut bytes = Vec::new();
        { part }.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub fn blob(&self, line: &Descriptor) -> Result<Vec<u8>> {
        let digest = Digest::parse(line.digest().as_ref())?;
        let bytes = self.document(&format!("blobs/sha256/{}", digest.hex()))?;
        anyhow::ensure!(bytes.len() as u64 == line.size(), "wrong size: `{digest}` has {} bytes", bytes.len());
        anyhow::ensure!(Digest::of(&bytes) == digest, "wrong digest: `{digest}` has other bytes");
        Ok(bytes)
    }
}
