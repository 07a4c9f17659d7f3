//! The content of one file, out of an archive: pieces where the map says, and holes where there are only zeros.

use super::members::Member;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Zeros are left out as holes in pieces of this size; a file system's block, mostly.
const GRAIN: usize = 4096;
/// A run of fewer zeros is written: many small holes make a file slow to read.
const SMALLEST_HOLE: usize = 64 << 10;

/// What stays free on the disk, whatever an archive holds.
const RESERVE: u64 = 32 << 20;
/// So much is written before the disk is asked again: others write to it, too.
const ALLOWANCE: u64 = 16 << 20;

/// How much may still be written to the disk where `file` lies.
pub struct Free<'a> {
    place: Option<BorrowedFd<'a>>,
    left: u64,
}

impl<'a> Free<'a> {
    pub fn of(place: &'a impl AsFd) -> Self {
        Self { place: Some(place.as_fd()), left: 0 }
    }

    // ch08
    /// Until the disk itself says that it is full.
    pub fn endless() -> Self {
        Self { place: None, left: 0 }
    }

    /// Takes so many bytes of it.
    pub fn spend(&mut self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        let Some(place) = self.place else { return Ok(()) };
        if bytes > self.left {
            let stat = nix::sys::statvfs::fstatvfs(place).context("cannot ask for the free space")?;
            let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
            self.left = free.saturating_sub(RESERVE).min(ALLOWANCE.max(bytes));
            anyhow::ensure!(bytes <= self.left, "no space left on device: the archive is larger than what is free");
        }
        self.left -= bytes;
        Ok(())
    }
}

/// Copies an inflated stream to `file`, and stops while there is still some room left.
pub fn keep(input: &mut impl Read, file: &mut File) -> Result<()> {
    let place = file.try_clone()?;
    let mut free = Free::of(&place);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let size = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        free.spend(size)?;
        file.write_all(&buffer[..size])?;
    }
}

/// Writes `member`'s bytes into the new, empty `file`.
pub fn fill(
    file: &mut File,
    member: &Member,
    content: &mut impl Read,
    buffer: &mut [u8],
    free: &mut Free<'_>,
) -> Result<()> {
    match &member.pieces {
        None if member.size <= buffer.len() as u64 / 4 => {
            // The many small files of every distribution: one read, one write.
            let part = &mut buffer[..member.size as usize];
            content.read_exact(part)?;
            free.spend(part.len())?;
            file.write_all(part)?;
        }
        None => piece(file, 0, member.size, content, buffer, free)?,
        Some(pieces) => {
            for (offset, length) in pieces {
                piece(file, *offset, *length, content, buffer, free)?;
            }
            file.set_len(member.size)?;
        }
    }
    Ok(())
}

fn piece(
    file: &mut File,
    offset: u64,
    length: u64,
    content: &mut impl Read,
    buffer: &mut [u8],
    free: &mut Free<'_>,
) -> Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut left = length;
    let mut hole = false;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let size = fill_buffer(content, &mut buffer[..want])?;
        left -= size as u64;
        hole = write_around_holes(file, &buffer[..size], free)?;
    }
    if hole {
        // A hole at the end is only a length.
        file.set_len(offset + length)?;
    }
    Ok(())
}

fn fill_buffer(content: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => bail!("the archive is truncated"),
            Ok(size) => filled += size,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// Writes `bytes` at the file's position, seeking over long runs of zeros: whether it ended in one.
fn write_around_holes(file: &mut File, bytes: &[u8], free: &mut Free<'_>) -> Result<bool> {
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        let run = zeros(&bytes[at..]);
        if run >= SMALLEST_HOLE {
            write(file, &bytes[start..at], free)?;
            file.seek(SeekFrom::Current(run as i64))?;
            at += run;
            start = at;
        } else {
            at += run.max(GRAIN).min(bytes.len() - at);
        }
    }
    write(file, &bytes[start..], free)?;
    Ok(start == bytes.len() && !bytes.is_empty())
}

/// How many bytes of whole grains at the beginning are zero.
fn zeros(bytes: &[u8]) -> usize {
    let zero = |grain: &&[u8]| grain.len() == GRAIN && grain[0] == 0 && grain.iter().all(|byte| *byte == 0);
    bytes.chunks(GRAIN).take_while(zero).count() * GRAIN
}

fn write(file: &mut File, bytes: &[u8], free: &mut Free<'_>) -> Result<()> {
    free.spend(bytes.len())?;
    Ok(file.write_all(bytes)?)
}
