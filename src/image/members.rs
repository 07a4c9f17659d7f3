//! The members of a tar archive, one after another, as they stream by. Headers are the `tar` crate's; what follows
//! them (pax records, GNU's long names, sparse maps) is read here, because a layer is hostile: the crate splits pax
//! records at every newline, so a binary attribute breaks it, and it reads a long name of any size into memory.
//!
//! Try it without us: `tar -tvf layer.tar`; `man 5 tar` (libarchive's) describes every field.

use super::pax::{Extended, Sparse};
use anyhow::{Context, Result, bail};
use std::ffi::CString;
use std::io::{self, Read};
use tar::Header;

const BLOCK: u64 = 512;
/// One set of pax records (as Go's archive/tar has it).
const MOST_PAX: u64 = 1 << 20;
const MOST_NAME: u64 = 64 << 10;
const MOST_PIECES: usize = 1 << 20;

/// One file of an archive, before its content.
#[derive(Debug, Default)]
pub struct Member {
    /// As the archive spells it.
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// The type flag: `0` file, `1` hard link, `2` symbolic link, `3` `4` devices, `5` folder, `6` FIFO.
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: (i64, i64),
    pub device: (u64, u64),
    pub xattrs: Vec<(CString, Vec<u8>)>,
    /// How long the file is.
    pub size: u64,
    /// Where its bytes belong, as (offset, length): the rest are holes. `None`: one piece.
    pub pieces: Option<Vec<(u64, u64)>>,
}

/// A reader of members.
pub struct Members<R> {
    inner: R,
    /// What is left of the current member's bytes, and of its last block.
    data: u64,
    padding: u64,
    seen: u64,
}

impl<R: Read> Members<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, data: 0, padding: 0, seen: 0 }
    }

    /// The next member; what was not read of the last one is passed over. `None` at the end of the archive.
    pub fn next(&mut self) -> Result<Option<Member>> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.seen += 1;
            let size = number(header.entry_size(), "size")?;
            match header.entry_type().as_byte() {
                b'x' => {
                    let records = self.read_whole(size, MOST_PAX, "pax header")?;
                    extended.read(&records)?;
                }
                // Global records: a comment, mostly; nothing that a layer may rely on.
                b'g' => self.set(size)?,
                b'L' => extended.path = Some(until_nul(self.read_whole(size, MOST_NAME, "long name")?)),
                b'K' => extended.link = Some(until_nul(self.read_whole(size, MOST_NAME, "long link")?)),
                _ => return self.member(&header, size, extended).map(Some),
            }
        }
    }

    /// How many headers there were, of any kind.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The source.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Lets `skip` pass over the bytes of the current member, where the source knows a faster way than reading.
    /// It is given their number, and that of the bytes that fill the last block, which may be missing.
    pub fn pass_over(&mut self, skip: impl FnOnce(&mut R, u64, u64) -> io::Result<()>) -> Result<()> {
        let (data, padding) = (std::mem::take(&mut self.data), std::mem::take(&mut self.padding));
        Ok(skip(&mut self.inner, data, padding)?)
    }

    fn set(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            bail!("a member claims {size} bytes");
        }
        self.data = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        Ok(())
    }

    fn skip(&mut self) -> Result<()> {
        let left = self.data + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(left), &mut io::sink())?;
        // Some writers leave out the filling of the last block.
        if skipped < self.data {
            bail!("the archive is truncated: {} bytes are missing", self.data - skipped);
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let mut filled = 0;
        while filled < BLOCK as usize {
            match self.inner.read(&mut header.as_mut_bytes()[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => bail!("the archive is truncated in a header"),
                Ok(size) => filled += size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum =
            bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) });
        if header.cksum().ok() != Some(sum.sum()) {
            bail!("not a tar archive, or a damaged one: the checksum of header {} is wrong", self.seen + 1);
        }
        Ok(Some(header))
    }

    fn read_whole(&mut self, size: u64, most: u64, what: &str) -> Result<Vec<u8>> {
        if size > most {
            bail!("a {what} of {size} bytes; at most {most} are read");
        }
        self.set(size)?;
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes).context("the archive is truncated")?;
        Ok(bytes)
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Member> {
        let stored = extended.size.unwrap_or(size);
        let mut kind = header.entry_type().as_byte();
        let device = match kind {
            b'3' | b'4' => {
                (u64::from(header.device_major()?.unwrap_or(0)), u64::from(header.device_minor()?.unwrap_or(0)))
            }
            _ => (0, 0),
        };
        let path = extended.sparse.name.clone().or(extended.path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let mut member = Member {
            link: extended.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            mode: number(header.mode(), "mode")? & 0o7777,
            uid: extended.uid.map_or_else(|| number(header.uid(), "uid"), Ok)?,
            gid: extended.gid.map_or_else(|| number(header.gid(), "gid"), Ok)?,
            mtime: extended.mtime.unwrap_or_else(|| (header.mtime().unwrap_or(0) as i64, 0)),
            xattrs: extended.xattrs,
            size: stored,
            kind: b'0',
            pieces: None,
            device,
            path,
        };
        // A link, a folder or a device has no bytes, whatever its header says, except in an archive of old, where a
        // folder is a file whose name ends in a slash.
        if matches!(kind, b'1'..=b'6') {
            member.size = 0;
            self.set(0)?;
        } else {
            self.set(stored)?;
        }
        match kind {
            b'S' => {
                self.old_gnu_sparse(header, &mut member)?;
                kind = b'0';
            }
            0 | b'0' | b'7' => {
                kind = if member.path.ends_with(b"/") { b'5' } else { b'0' };
                self.pax_sparse(extended.sparse, &mut member)?;
            }
            _ => {}
        }
        member.kind = kind;
        Ok(member)
    }

    /// `man 5 tar`, "GNU Tar Archives", sparse: four pieces in the header, 21 in each block after it.
    fn old_gnu_sparse(&mut self, header: &Header, member: &mut Member) -> Result<()> {
        let gnu = header.as_gnu().context("a sparse member without a GNU header")?;
        let mut pieces = Vec::new();
        let mut take = |list: &[tar::GnuSparseHeader]| -> Result<()> {
            for piece in list.iter().filter(|piece| !piece.is_empty()) {
                pieces.push((number(piece.offset(), "sparse offset")?, number(piece.length(), "sparse length")?));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.inner.read_exact(block.as_mut_bytes()).context("the archive is truncated in a sparse map")?;
            take(&block.sparse)?;
            more = block.is_extended();
            blocks += 1;
            if blocks > MOST_PIECES / 21 {
                bail!("a sparse file of more than {MOST_PIECES} pieces");
            }
        }
        let size = number(gnu.real_size(), "real size")?;
        self.accept_pieces(pieces, size, member)
    }

    fn pax_sparse(&mut self, sparse: Sparse, member: &mut Member) -> Result<()> {
        let Some(size) = sparse.size else { return Ok(()) };
        let numbers = if (sparse.major, sparse.minor) == (1, 0) { self.sparse_map()? } else { sparse.numbers };
        if numbers.len() % 2 != 0 {
            bail!("the sparse map of `{}` is incomplete", member.path.escape_ascii());
        }
        let pieces = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        self.accept_pieces(pieces, size, member)
    }

    /// Version 1.0: decimal numbers, a line each, in whole blocks before the data.
    fn sparse_map(&mut self) -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = None;
        let mut digits = String::new();
        loop {
            let mut block = [0u8; BLOCK as usize];
            self.read_exact(&mut block).context("the archive is truncated in a sparse map")?;
            for byte in block {
                match byte {
                    b'0'..=b'9' if digits.len() < 20 => digits.push(char::from(byte)),
                    b'\n' => {
                        let number: u64 = digits.parse().context("a sparse map holds something else than numbers")?;
                        digits.clear();
                        match wanted {
                            None if number as usize <= MOST_PIECES => wanted = Some(number as usize * 2),
                            None => bail!("a sparse file of {number} pieces"),
                            Some(_) => numbers.push(number),
                        }
                        if wanted == Some(numbers.len()) {
                            return Ok(numbers);
                        }
                    }
                    _ => bail!("a sparse map holds something else than numbers"),
                }
            }
        }
    }

    fn accept_pieces(&mut self, pieces: Vec<(u64, u64)>, size: u64, member: &mut Member) -> Result<()> {
        let mut end = 0u64;
        let mut total = 0u64;
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length).filter(|next| *next <= size && *offset >= end);
            let Some(next) = next else {
                bail!("the sparse map of `{}` overlaps, or leaves the file", member.path.escape_ascii());
            };
            end = next;
            total += length;
        }
        if total != self.data || size > i64::MAX as u64 {
            bail!("the sparse map of `{}` does not fit its data", member.path.escape_ascii());
        }
        member.size = size;
        member.pieces = Some(pieces);
        Ok(())
    }
}

/// The bytes that the current member has in the archive.
impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let size = self.inner.read(&mut buffer[..most])?;
        if size == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"));
        }
        self.data -= size as u64;
        Ok(size)
    }
}

fn number<T>(value: io::Result<T>, what: &str) -> Result<T> {
    value.with_context(|| format!("a member's {what} is not a number"))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}
