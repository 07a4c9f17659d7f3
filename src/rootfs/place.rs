//! A path inside the container's root: where something is mounted, and made first if it is not there. A link of the
//! image leads elsewhere in the image, as it will for the container itself, and never out of it; the places that are
//! the engine's own (/proc, /sys, /dev) may not lie behind one (CVE-2019-19921, 2021-30465, 2025-31133).
//!
//! Try it without us: `ln -s /run/x $ROOT/etc/resolv.conf; chroot $ROOT readlink -f /etc/resolv.conf`

use crate::plan::c_string;
use crate::sys::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

/// What no link of an image may lead to.
const ENGINES: [&str; 3] = ["/dev", "/proc", "/sys"];
/// As many as the kernel follows in one path.
const MOST_LINKS: u32 = 40;
const LONGEST: usize = libc::PATH_MAX as usize;
const LONGEST_NAME: usize = 255;

/// A path inside the container's root, laid out before the clone.
pub(super) struct Place {
    path: CString,
    parent: CString,
    name: CString,
    /// The kind of what is made where there is nothing; empty: nothing is made.
    create: SFlag,
    follow: bool,
}

impl Place {
    pub(super) fn new(path: &str, create: SFlag) -> Self {
        let follow = !ENGINES.iter().any(|own| Path::new(path).starts_with(own));
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
        let parent = if parent.is_empty() { "/" } else { parent };
        let [path, parent, name] = [path, parent, name].map(|text| c_string(text.as_bytes()));
        Self { path, parent, name, create, follow }
    }

    /// Opens the place, making it and its parents first where they are missing. ELOOP: a link stands where none may,
    /// or leads where none may lead. Runs in the child: nothing is allocated.
    pub(super) fn open(&self, root: &OwnedFd) -> Result<OwnedFd, Errno> {
        // Mostly there is no link, and one call does it.
        match open_plain(root, &self.path) {
            Err(Errno::ENOENT) if !self.create.is_empty() => match open_plain(root, &self.parent) {
                Ok(parent) => {
                    self.make(&parent, &self.name, true)?;
                    open_plain(root, &self.path)
                }
                Err(_) => self.walk(root),
            },
            Err(Errno::ELOOP) if self.follow => self.walk(root),
            other => other,
        }
    }

    fn walk(&self, root: &OwnedFd) -> Result<OwnedFd, Errno> {
        let (mut done, mut todo, mut target) = (Text::new(), Text::new(), [0u8; LONGEST]);
        todo.put_before(self.path.to_bytes())?;
        let mut here = open_plain(root, c"/")?;
        let mut links = 0;
        while let Some((name, last)) = todo.take_part()? {
            let name = name.as_c_str();
            match name.to_bytes() {
                b"." => continue,
                b".." => {
                    done.drop_part();
                    here = open_plain(root, done.as_c_str())?;
                    continue;
                }
                _ => {}
            }
            let found = match open_leaf(&here, name) {
                Err(Errno::ENOENT) if !self.create.is_empty() => {
                    self.make(&here, name, last)?;
                    open_leaf(&here, name)?
                }
                other => other?,
            };
            if SFlag::from_bits_truncate(nix::sys::stat::fstat(&found)?.st_mode & SFlag::S_IFMT.bits())
                != SFlag::S_IFLNK
            {
                done.add_part(name.to_bytes())?;
                here = found;
                continue;
            }
            links += 1;
            if !self.follow || links > MOST_LINKS {
                return Err(Errno::ELOOP);
            }
            let length = sys::read_link(&found, &mut target)?;
            if target.first() == Some(&b'/') {
                done = Text::new();
                here = open_plain(root, c"/")?;
            }
            todo.put_before(&target[..length])?;
        }
        let leads_to_ours = |own: &&str| {
            let (own, done) = (own.as_bytes(), done.bytes());
            done.starts_with(own) && matches!(done.get(own.len()), None | Some(b'/'))
        };
        if links > 0 && (done.bytes().is_empty() || ENGINES.iter().any(leads_to_ours)) {
            return Err(Errno::ELOOP);
        }
        Ok(here)
    }

    fn make(&self, dir: &OwnedFd, name: &CStr, last: bool) -> Result<(), Errno> {
        let made = match self.create {
            SFlag::S_IFREG if last => mknodat(dir, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0),
            _ => mkdirat(dir, name, Mode::from_bits_truncate(0o755)),
        };
        match made {
            Err(Errno::EEXIST) => Ok(()),
            other => other,
        }
    }
}

/// A path without any link in it.
fn open_plain(root: &OwnedFd, path: &CStr) -> Result<OwnedFd, Errno> {
    sys::openat2(root, path, OFlag::O_PATH, Mode::empty(), RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
}

/// What stands under one name: a link itself, not where it leads.
fn open_leaf(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    sys::openat2(dir, name, flags, Mode::empty(), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// A path on the stack, with its NUL.
struct Text {
    bytes: [u8; LONGEST],
    length: usize,
}

struct Part([u8; LONGEST_NAME + 1]);

impl Part {
    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c".")
    }
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; LONGEST], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// `/` when there is nothing.
    fn as_c_str(&self) -> &CStr {
        match self.length {
            0 => c"/",
            _ => CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"/"),
        }
    }

    fn add_part(&mut self, part: &[u8]) -> Result<(), Errno> {
        let end = self.length + 1 + part.len();
        let place = self.bytes.get_mut(self.length..end).filter(|_| end < LONGEST).ok_or(Errno::ENAMETOOLONG)?;
        place[0] = b'/';
        place[1..].copy_from_slice(part);
        self.length = end;
        Ok(())
    }

    fn drop_part(&mut self) {
        let end = self.bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.bytes[end..self.length].fill(0);
        self.length = end;
    }

    fn put_before(&mut self, path: &[u8]) -> Result<(), Errno> {
        let end = path.len() + 1 + self.length;
        if end >= LONGEST {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes.copy_within(..self.length, path.len() + 1);
        self.bytes[..path.len()].copy_from_slice(path);
        self.bytes[path.len()] = b'/';
        self.length = end;
        Ok(())
    }

    /// Takes the first part away, and tells whether it was the last.
    fn take_part(&mut self) -> Result<Option<(Part, bool)>, Errno> {
        let text = self.bytes();
        let Some(start) = text.iter().position(|byte| *byte != b'/') else { return Ok(None) };
        let end = text[start..].iter().position(|byte| *byte == b'/').map_or(text.len(), |slash| start + slash);
        let mut part = Part([0; LONGEST_NAME + 1]);
        part.0.get_mut(..end - start).filter(|_| end - start <= LONGEST_NAME).ok_or(Errno::ENAMETOOLONG)?;
        part.0[..end - start].copy_from_slice(&text[start..end]);
        let last = text[end..].iter().all(|byte| *byte == b'/');
        let length = self.length;
        self.bytes.copy_within(end..length, 0);
        self.bytes[length - end..length].fill(0);
        self.length = length - end;
        Ok(Some((part, last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn places_are_made_inside_whatever_links_say() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, inside) = (dir.path().join("outside"), dir.path().join("root"));
        for folder in ["outside", "root/proc", "root/dev", "root/etc"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let root = OwnedFd::from(std::fs::File::open(&inside).unwrap());
        Place::new("/a/b/c", SFlag::S_IFDIR).open(&root).unwrap();
        Place::new("/a/x/file", SFlag::S_IFREG).open(&root).unwrap();
        assert!(inside.join("a/b/c").is_dir() && inside.join("a/x/file").is_file());
        assert_eq!(Place::new("/nosuch", SFlag::empty()).open(&root).unwrap_err(), Errno::ENOENT);

        let link = |target: &str, name: &str| symlink(target, inside.join(name)).unwrap();
        link("/a", "absolute");
        link("../../../../../outside", "up");
        link(outside.to_str().unwrap(), "out");
        link("../run/made/later", "etc/dangling");
        for (place, kind) in
            [("/absolute/new", SFlag::S_IFDIR), ("/up/new", SFlag::S_IFDIR), ("/out/new", SFlag::S_IFREG)]
        {
            Place::new(place, kind).open(&root).unwrap();
        }
        Place::new("/etc/dangling", SFlag::S_IFREG).open(&root).unwrap();
        assert!(inside.join("a/new").is_dir() && inside.join("run/made/later").is_file());
        assert!(inside.join("outside/new").is_dir());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "a link led out");

        link("/proc/x", "to-proc");
        link("dev", "to-dev");
        link("/", "to-root");
        link("loop", "loop");
        link("/a", "dev/shm");
        for refused in ["/to-proc", "/to-dev/null", "/to-root", "/loop", "/dev/shm", "/dev/shm/x"] {
            assert_eq!(Place::new(refused, SFlag::S_IFDIR).open(&root).unwrap_err(), Errno::ELOOP, "{refused}");
        }
        let long = format!("/{}", "n".repeat(256));
        assert_eq!(Place::new(&long, SFlag::S_IFDIR).open(&root).unwrap_err(), Errno::ENAMETOOLONG);
    }
}
