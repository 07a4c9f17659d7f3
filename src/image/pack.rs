//! A tree becomes an archive: POSIX pax, with what the old header cannot hold (long names, nanoseconds, attributes,
//! large numbers) in records before it, as docker, skopeo, GNU and BSD tar read it.
//!
//! Try it without us: `tar --format=pax --xattrs --numeric-owner -C $UPPER -cf layer.tar .`

use crate::tree::{Attributes, Child, Entry, Stack, Turn, View, at, is_whiteout, kind};
use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};
use nix::unistd::{Whence, lseek};
use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Smaller holes are written as the zeros that they read as (every reader understands those, and the extractor makes
/// holes of them again); larger ones as a sparse member.
const LARGE_HOLES: u64 = 64 << 20;
/// What the eleven and seven octal digits of the old header hold.
const LARGEST_SIZE: u64 = 0o77777777777;
const LARGEST_ID: u32 = 0o7777777;

/// Writes an archive.
pub struct Packer<W> {
    out: W,
    /// Where an inode with several names was written first.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// What goes into one header.
struct Head<'a> {
    path: &'a [u8],
    link: &'a [u8],
    kind: EntryType,
    size: u64,
    device: (u32, u32),
}

/// The topmost layer of `stack` as an archive of its own: deleted names as `.wh.NAME`, opaque folders with a
/// `.wh..wh..opq` in them (OCI image spec, "Representing Changes"). What `skip` says is left out, with all in it.
pub fn pack_layer<W: Write>(stack: &Stack, skip: &dyn Fn(&Entry<'_>) -> bool, out: W) -> Result<W> {
    let mut packer = Packer::new(out);
    stack.walk_top(&mut |entry| {
        let root = entry.path.is_empty();
        if !root && skip(entry) {
            return Ok(Turn::Pass);
        }
        if is_whiteout(&entry.stat) {
            packer.whiteout(entry.path)?;
            return Ok(Turn::Enter);
        }
        packer.entry(entry)?;
        if entry.opaque {
            let slash: &[u8] = if root { b"" } else { b"/" };
            packer.mark(&[entry.path, slash, b".wh..wh..opq"].concat())?;
        }
        Ok(Turn::Enter)
    })?;
    packer.finish()
}

/// What is different in `new`, as such an archive.
pub fn pack_delta<W: Write>(new: &Stack, old: &Stack, skip: &dyn Fn(&Entry<'_>) -> bool, out: W) -> Result<W> {
    let mut packer = Packer::new(out);
    super::delta::compare(new, old, skip, &mut |_, path, entry| match entry {
        Some(entry) => packer.entry(entry),
        None => packer.whiteout(path),
    })?;
    packer.finish()
}

/// Everything that `stack` shows, as one archive.
pub fn pack_tree<W: Write>(stack: &Stack, skip: &dyn Fn(&Entry<'_>) -> bool, out: W) -> Result<W> {
    let mut packer = Packer::new(out);
    stack.walk(&mut |entry| {
        if skip(entry) {
            return Ok(Turn::Pass);
        }
        packer.entry(entry)?;
        Ok(Turn::Enter)
    })?;
    packer.finish()
}

/// What stands in `view` as `name`, with all that is in it, under the name `called`. What `skip` says goes in empty.
pub fn pack_named<W: Write>(
    (view, name, child): (&View, &CStr, &Child),
    called: &[u8],
    skip: &dyn Fn(&Entry<'_>) -> bool,
    out: W,
) -> Result<W> {
    let mut packer = Packer::new(out);
    view.walk_named(name, child, called, &mut |entry| {
        packer.entry(entry)?;
        Ok(if skip(entry) { Turn::Pass } else { Turn::Enter })
    })?;
    packer.finish()
}

impl<W: Write> Packer<W> {
    pub fn new(out: W) -> Self {
        Self { out, links: HashMap::new(), buffer: vec![0; 1 << 20] }
    }

    /// The two empty blocks at the end.
    pub fn finish(mut self) -> Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// A file of ours, of which only name and bytes matter.
    pub fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.plain(path, bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// The same with the bytes of an open file; the kernel copies them.
    pub fn file(&mut self, path: &str, file: &File, size: u64) -> Result<()> {
        self.plain(path, size)?;
        let mut from = Read::take(file, size);
        let copied = std::io::copy(&mut from, &mut self.out)?;
        anyhow::ensure!(copied == size, "`{path}` is shorter than it was");
        self.pad(size)
    }

    /// A folder, a link.
    pub fn special(&mut self, path: &str, link: &str, kind: EntryType) -> Result<()> {
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o777 };
        let head = Head { path: path.as_bytes(), link: link.as_bytes(), kind, size: 0, device: (0, 0) };
        self.head(&head, &Attributes { mode, ..nobody() }, &[])
    }

    fn plain(&mut self, path: &str, size: u64) -> Result<()> {
        let head = Head { path: path.as_bytes(), link: b"", kind: EntryType::Regular, size, device: (0, 0) };
        self.head(&head, &nobody(), &[])
    }

    /// `a/NAME` is deleted: `a/.wh.NAME`.
    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        self.mark(&[&path[..name], b".wh.", &path[name..]].concat())
    }

    /// An empty file that means something by its name.
    fn mark(&mut self, path: &[u8]) -> Result<()> {
        let head = Head { path, link: b"", kind: EntryType::Regular, size: 0, device: (0, 0) };
        self.head(&head, &Attributes { mode: 0, ..nobody() }, &[])
    }

    /// One entry of a walk.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let kind = kind(&entry.stat);
        if entry.name.to_bytes().starts_with(b".wh.") {
            log::warn!("`/{}` would be read as a whiteout; left out", entry.path.escape_ascii());
            return Ok(());
        }
        let opened = match entry.open_path() {
            Ok(opened) => opened,
            Err(nix::errno::Errno::ENOENT) => return Ok(()), // gone since it was listed
            Err(errno) => return Err(at(entry.path)(errno)),
        };
        let attributes = Attributes::of(&opened, &entry.stat).map_err(at(entry.path))?;
        if kind != libc::S_IFDIR && entry.stat.st_nlink > 1 {
            let inode = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = self.links.get(&inode).cloned() {
                let head = Head { path: entry.path, link: &first, kind: EntryType::Link, size: 0, device: (0, 0) };
                return self.head(&head, &Attributes { xattrs: vec![], ..attributes }, &[]);
            }
            self.links.insert(inode, entry.path.to_vec());
        }
        let mut head = Head { path: entry.path, link: b"", kind: EntryType::Regular, size: 0, device: (0, 0) };
        let (target, path);
        match kind {
            libc::S_IFREG => return self.regular(entry, &attributes),
            libc::S_IFDIR => {
                path = if entry.path.is_empty() { b"./".to_vec() } else { [entry.path, b"/"].concat() };
                (head.path, head.kind) = (&path, EntryType::Directory);
            }
            libc::S_IFLNK => {
                target = entry.read_link().map_err(at(entry.path))?;
                (head.link, head.kind) = (&target, EntryType::Symlink);
            }
            libc::S_IFCHR | libc::S_IFBLK => {
                let device = entry.stat.st_rdev;
                head.kind = if kind == libc::S_IFCHR { EntryType::Char } else { EntryType::Block };
                head.device = (major(device) as u32, minor(device) as u32);
            }
            libc::S_IFIFO => head.kind = EntryType::Fifo,
            _ => {
                log::warn!("`/{}` is a socket, which no archive can hold; left out", entry.path.escape_ascii());
                return Ok(());
            }
        }
        self.head(&head, &attributes, &[])
    }

    fn regular(&mut self, entry: &Entry<'_>, attributes: &Attributes) -> Result<()> {
        let file = match entry.open() {
            Ok(file) => file,
            Err(nix::errno::Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(at(entry.path)(errno)),
        };
        let size = entry.stat.st_size as u64;
        let allocated = entry.stat.st_blocks as u64 * 512;
        let shown = || format!("`/{}`", entry.path.escape_ascii());
        if size.saturating_sub(allocated) >= LARGE_HOLES {
            return self.sparse(entry.path, &file, size, attributes).with_context(shown);
        }
        let head = Head { path: entry.path, link: b"", kind: EntryType::Regular, size, device: (0, 0) };
        self.head(&head, attributes, &[])?;
        self.content(&file, size).with_context(shown)?;
        self.pad(size)
    }

    /// Exactly `size` bytes, whatever becomes of the file meanwhile.
    fn content(&mut self, mut file: &File, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = file.read(&mut self.buffer[..want])?;
            let got = match got {
                0 => {
                    log::warn!("a file became shorter while it was read; filled with zeros");
                    self.buffer[..want].fill(0);
                    want
                }
                got => got,
            };
            self.out.write_all(&self.buffer[..got])?;
            left -= got as u64;
        }
        Ok(())
    }

    /// GNU's format 1.0: the map as decimal lines before the data.
    fn sparse(&mut self, path: &[u8], file: &File, size: u64, attributes: &Attributes) -> Result<()> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut end = 0i64;
        while let Ok(start) = lseek(file, end, Whence::SeekData) {
            end = lseek(file, start, Whence::SeekHole)?.min(size as i64);
            if start >= end {
                break;
            }
            pieces.push((start as u64, (end - start) as u64));
        }
        pieces.push((size, 0));
        let mut map = format!("{}\n", pieces.len());
        pieces.iter().for_each(|(offset, length)| map.push_str(&format!("{offset}\n{length}\n")));
        map.extend(std::iter::repeat_n('\0', (BLOCK - map.len() % BLOCK) % BLOCK));
        let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
        let numbers = [("GNU.sparse.major", "1".to_string()), ("GNU.sparse.minor", "0".into())];
        let mut records: Vec<(&str, Vec<u8>)> =
            numbers.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();
        records.push(("GNU.sparse.name", path.to_vec()));
        records.push(("GNU.sparse.realsize", size.to_string().into_bytes()));
        let head = Head { path: b"GNUSparseFile.0", link: b"", kind: EntryType::Regular, size: stored, device: (0, 0) };
        self.head(&head, attributes, &records)?;
        self.out.write_all(map.as_bytes())?;
        for (offset, length) in pieces {
            lseek(file, offset as i64, Whence::SeekSet)?;
            self.content(file, length)?;
        }
        self.pad(stored)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let rest = (BLOCK - size as usize % BLOCK) % BLOCK;
        Ok(self.out.write_all(&[0; BLOCK][..rest])?)
    }

    /// The header, after a pax header for what does not fit into it.
    fn head(&mut self, head: &Head<'_>, attributes: &Attributes, more: &[(&str, Vec<u8>)]) -> Result<()> {
        let mut records: Vec<u8> = Vec::new();
        for (key, value) in more {
            record(&mut records, key.as_bytes(), value);
        }
        let mut header = Header::new_ustar();
        put(&mut records, b"path", head.path, &mut header.as_old_mut().name);
        put(&mut records, b"linkpath", head.link, &mut header.as_old_mut().linkname);
        if head.size > LARGEST_SIZE {
            record(&mut records, b"size", head.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", attributes.uid), ("gid", attributes.gid)] {
            if id > LARGEST_ID {
                record(&mut records, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        let (seconds, nanoseconds) = attributes.mtime;
        if nanoseconds != 0 || seconds < 0 || seconds as u64 > LARGEST_SIZE {
            record(&mut records, b"mtime", time(seconds, nanoseconds).as_bytes());
        }
        for (name, value) in &attributes.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", name.to_bytes()].concat(), value);
        }
        if !records.is_empty() {
            let mut pax = Header::new_ustar();
            pax.as_old_mut().name[..11].copy_from_slice(b"PaxHeaders/");
            pax.set_entry_type(EntryType::XHeader);
            pax.set_size(records.len() as u64);
            pax.set_mode(0o644);
            pax.set_uid(0);
            pax.set_gid(0);
            pax.set_mtime(0);
            pax.set_cksum();
            self.out.write_all(pax.as_bytes())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        header.set_entry_type(head.kind);
        header.set_mode(attributes.mode);
        header.set_size(head.size.min(LARGEST_SIZE));
        header.set_uid(u64::from(attributes.uid.min(LARGEST_ID)));
        header.set_gid(u64::from(attributes.gid.min(LARGEST_ID)));
        header.set_mtime(seconds.clamp(0, LARGEST_SIZE as i64) as u64);
        if matches!(head.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(head.device.0)?;
            header.set_device_minor(head.device.1)?;
        }
        header.set_cksum();
        Ok(self.out.write_all(header.as_bytes())?)
    }
}

fn nobody() -> Attributes {
    Attributes { uid: 0, gid: 0, mode: 0o644, mtime: (0, 0), xattrs: vec![] }
}

/// A name goes into its field if it fits and is plain, and into a record if not.
fn put(records: &mut Vec<u8>, key: &[u8], name: &[u8], field: &mut [u8; 100]) {
    let size = name.len().min(field.len());
    if name.len() > field.len() || !name.is_ascii() {
        record(records, key, name);
    }
    field[..size].copy_from_slice(&name[..size]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with nine digits behind the point; a time before 1970 counts backwards.
fn time(seconds: i64, nanoseconds: i64) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        (-1, _) => format!("-0.{:09}", 1_000_000_000 - nanoseconds),
        _ => format!("{}.{:09}", seconds + 1, 1_000_000_000 - nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for length in [1, 5, 90, 91, 92, 93, 94, 95, 96, 985, 986, 987, 9990] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'x'; length]);
            let digits = records.iter().position(|byte| *byte == b' ').unwrap();
            let said: usize = std::str::from_utf8(&records[..digits]).unwrap().parse().unwrap();
            assert_eq!(said, records.len());
        }
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(5, 7), "5.000000007");
        assert_eq!(time(-1, 500_000_000), "-0.500000000");
        assert_eq!(time(-2, 500_000_000), "-1.500000000");
    }
}
