//! As whom: `--user` becomes numbers before anything starts, from the image's `passwd` and `group`.
//!
//! All digits is an id and never a name (CVE-2016-3697); ids end at 2³¹−1 (`-u 4294967296` is root elsewhere). The two
//! files are read as regular files of bounded size without following a link, layer by layer, top first.

use crate::plan::{Op, Phase, Plan, Spec};
use crate::sys;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid};
use oci_spec::runtime as oci;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

const LARGEST_FILE: u64 = 4 << 20;
const LARGEST_ID: u32 = i32::MAX as u32;

/// Numbers, and the home folder that goes with them.
#[derive(Debug, PartialEq, Eq)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

impl Who {
    pub fn to_oci(&self) -> oci::User {
        let mut user = oci::User::default();
        user.set_uid(self.uid).set_gid(self.gid).set_additional_gids(Some(self.groups.clone()));
        user
    }
}

/// Finds `text` (`USER`, `USER:GROUP`, each a name or a number; empty is root) in the trees of `layers`, lowest first;
/// without layers, in the host's own files.
pub fn find(text: &str, layers: &[PathBuf]) -> Result<Who> {
    let host = [PathBuf::from("/")];
    let layers = if layers.is_empty() { &host } else { layers };
    // A tree that is not there, or may not be read, is a dry run by an ordinary user: the numbers are all there is.
    let passwd = read(layers, c"etc/passwd")?;
    let group = read(layers, c"etc/group")?;
    resolve(text, &passwd, &group)
}

fn resolve(text: &str, passwd: &str, group: &str) -> Result<Who> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user)?;
    let entry = passwd.lines().filter_map(Account::parse).find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    if number.is_none() && entry.is_none() {
        bail!("--user: unable to find user `{}`: no matching entries in the image's /etc/passwd", user.escape_debug());
    }
    let uid = number.or(entry.as_ref().map(|entry| entry.uid)).unwrap_or(0);
    let mut who = Who { uid, gid: 0, groups: vec![], home: "/".to_string() };
    if let Some(entry) = &entry {
        who.gid = entry.gid;
        who.home = entry.home.to_string();
    }
    let mut groups = group.lines().filter_map(Group::parse);
    match wanted_group {
        Some(name) => {
            let number = id(name)?.or_else(|| groups.find(|group| group.name == name).map(|group| group.gid));
            who.gid = number.with_context(|| {
                let name = name.escape_debug();
                format!("--user: unable to find group `{name}`: no matching entries in the image's /etc/group")
            })?;
        }
        // The groups that list the user by name, as `initgroups` would set them.
        None => {
            if let Some(entry) = entry {
                let member = |group: &Group| group.members.split(',').any(|member| member == entry.name);
                who.groups = groups.filter(member).map(|group| group.gid).collect();
            }
        }
    }
    Ok(who)
}

/// The number that `text` is; `None` for a name; an error for a number that is no id.
fn id(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= LARGEST_ID && !text.starts_with('+') => Ok(Some(id)),
        _ => bail!("--user: `{}` is out of range: uids and gids are in the range 0-{LARGEST_ID}", text.escape_debug()),
    }
}

/// A line of `man 5 passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
        Some(Self { name, uid, gid, home }).filter(|account| account.uid <= LARGEST_ID && account.gid <= LARGEST_ID)
    }
}

/// A line of `man 5 group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        Some(Self { name, gid, members: fields.next().unwrap_or_default() }).filter(|group| group.gid <= LARGEST_ID)
    }
}

/// The text of `path` in the topmost of `layers` that has it; empty if none has, or none can be read.
fn read(layers: &[PathBuf], path: &std::ffi::CStr) -> Result<String> {
    let shown = path.to_string_lossy();
    for layer in layers.iter().rev() {
        let root = match open(layer, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(root) => root,
            Err(_) => continue,
        };
        let resolve = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match sys::openat2(&root, path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(Errno::EACCES) => continue,
            // ch04
            // A layer may delete the file, or the folder, or hide all that is below it in the folder.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO) if hides(&root, path) => return Ok(String::new()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            Err(Errno::ELOOP) => bail!("the image's `/{shown}` is, or lies behind, a symbolic link; refused"),
            // A device without a driver, a socket: something, but not a file.
            Err(errno) => bail!("the image's `/{shown}` cannot be read: {}", errno.desc()),
        };
        let stat = fstat(&file)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            bail!("the image's `/{shown}` is not a regular file");
        }
        let mut bytes = Vec::new();
        File::from(file).take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST_FILE {
            bail!("the image's `/{shown}` is larger than {} MiB", LARGEST_FILE >> 20);
        }
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(String::new())
}

// ch04
/// Whether the layer at `root`, which does not have `path`, says that there is none below either: a whiteout in its
/// place or in its folder's (a device 0:0, which answers ENXIO), or an opaque folder.
fn hides(root: &std::os::fd::OwnedFd, path: &std::ffi::CStr) -> bool {
    let look = |path: &std::ffi::CStr| {
        let resolve = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS;
        sys::openat2(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty(), resolve)
    };
    let whiteout = |path| look(path).is_ok_and(|it| fstat(&it).is_ok_and(|stat| crate::tree::is_whiteout(&stat)));
    whiteout(path) || whiteout(c"etc") || look(c"etc").is_ok_and(crate::tree::is_opaque)
}

/// Groups, group, user; in this order, because after the last one there is no right to do the others.
pub fn plan(spec: &Spec, plan: &mut Plan) {
    let user = spec.process().user();
    let (uid, gid) = (user.uid(), user.gid());
    let mut groups: Vec<Gid> = vec![gid.into()];
    groups.extend(user.additional_gids().iter().flatten().map(|gid| Gid::from(*gid)));
    groups.dedup();
    let list = groups.iter().map(Gid::to_string).collect::<Vec<_>>().join(",");
    let op = Op::new("setgroups", [list.clone()], format!("setpriv --groups {list} sh"), move |_| {
        nix::unistd::setgroups(&groups)
    });
    plan.add(Phase::User, "groups", op)
        .why("The caller's supplementary groups must not follow the command into the container.")
        .look("grep Groups /proc/$PID/status");
    let op = Op::new("setresgid", [gid.to_string()], format!("setpriv --regid {gid} sh"), move |_| {
        let gid = Gid::from(gid);
        nix::unistd::setresgid(gid, gid, gid)
    });
    plan.add(Phase::User, "group", op).why("Real, effective and saved, so that there is no way back.");
    let op = Op::new("setresuid", [uid.to_string()], format!("setpriv --reuid {uid} sh"), move |_| {
        let uid = Uid::from(uid);
        nix::unistd::setresuid(uid, uid, uid)
    });
    plan.add(Phase::User, "user", op)
        .why("The last of the three: another user than root may not change its groups any more.")
        .look("grep -E 'Uid|Gid' /proc/$PID/status");
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/false\n42:x:7:7::/odd:\nbad line\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nweb:x:33:\nmedia:x:44:web\n";

    #[test]
    fn users_become_numbers() {
        let who = |uid, gid, groups: &[u32], home: &str| Who { uid, gid, groups: groups.into(), home: home.into() };
        let cases = [
            ("", who(0, 0, &[10], "/root")),
            ("root", who(0, 0, &[10], "/root")),
            ("web", who(33, 33, &[10, 44], "/srv")),
            ("33", who(33, 33, &[10, 44], "/srv")),
            ("web:media", who(33, 44, &[], "/srv")),
            ("1000", who(1000, 0, &[], "/")),
            ("1000:1000", who(1000, 1000, &[], "/")),
            (":44", who(0, 44, &[], "/root")),
            // All digits is an id, though an account of that name exists.
            ("42", who(42, 0, &[], "/")),
            ("2147483647", who(2147483647, 0, &[], "/")),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, PASSWD, GROUP).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_user_is_named() {
        for text in ["nosuch", "4294967296", "-1", "2147483648", "+1", "web:nosuch", "web:-1", "web:4294967296", "a b"]
        {
            let error = resolve(text, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.starts_with("--user: "), "{text}: {error}");
        }
    }

    #[test]
    fn files_of_the_image_are_regular() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().to_path_buf();
        std::fs::create_dir(layer.join("etc")).unwrap();
        let passwd = layer.join("etc/passwd");
        assert_eq!(find("", std::slice::from_ref(&layer)).unwrap().home, "/");
        symlink("/etc/passwd", &passwd).unwrap();
        assert!(find("", std::slice::from_ref(&layer)).unwrap_err().to_string().contains("symbolic link"));
        std::fs::remove_file(&passwd).unwrap();
        nix::unistd::mkfifo(&passwd, Mode::S_IRUSR).unwrap();
        assert!(find("", std::slice::from_ref(&layer)).unwrap_err().to_string().contains("not a regular file"));
    }
}
