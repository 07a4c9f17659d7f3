//! An archive from a stranger into a folder that is in use (`cp - CONTAINER:DIR`). Names mean what they say: a file
//! called `.wh.x` is one, and not a whiteout as it is in a layer.
//!
//! Try it without us: `tar -C $DIR --numeric-owner -x < archive.tar`

use super::members::{Member, Members};
use super::{extract, place, sparse};
use crate::tree::Sink;
use anyhow::{Context, Result, bail};
use nix::sys::stat::{SFlag, makedev};
use std::io::Read;

/// Puts every member of `archive` into `sink`.
pub fn unpack(archive: impl Read, sink: &mut Sink) -> Result<()> {
    let mut members = Members::new(archive);
    let mut buffer = vec![0; 256 << 10];
    while let Some(member) = members.next()? {
        let shown = || format!("archive entry `{}`", extract::shorten(&member.path));
        take(&member, &mut members, &mut buffer, sink).with_context(shown)?;
    }
    Ok(())
}

fn take(member: &Member, content: &mut impl Read, buffer: &mut [u8], sink: &mut Sink) -> Result<()> {
    let path = place::split(&member.path)?.join(&b'/');
    if path.is_empty() {
        return Ok(()); // the folder itself, which is there
    }
    let attributes = extract::attributes(member)?;
    match member.kind {
        b'5' => sink.folder(&path, attributes),
        b'0' => {
            // A full disk says so by itself.
            let mut free = sparse::Free::endless();
            sink.file(&path, member.size, attributes, |file| sparse::fill(file, member, content, buffer, &mut free))
        }
        b'1' => {
            let first = place::split(&member.link).context("its link")?.join(&b'/');
            if first == path { Ok(()) } else { sink.hard_link(&path, &first) }
        }
        b'2' if member.link.is_empty() => bail!("a symbolic link to nothing"),
        b'2' => sink.symbolic_link(&path, &member.link, attributes),
        b'3' => sink.node(&path, SFlag::S_IFCHR, makedev(member.device.0, member.device.1), attributes),
        b'4' => sink.node(&path, SFlag::S_IFBLK, makedev(member.device.0, member.device.1), attributes),
        b'6' => sink.node(&path, SFlag::S_IFIFO, 0, attributes),
        kind => bail!("a member of the unknown type `{}`", kind.escape_ascii()),
    }
}
