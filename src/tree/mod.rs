//! Trees of files as layers keep them: several trees seen as one, walked, compared and copied, always by descriptor and
//! never through a link. Overlay does the same in the kernel; here it is done where no mount is wanted: for archives,
//! `diff`, the copy that fills a new volume, and the driver without a union file system.
//!
//! On disk a deleted name is a character device 0:0 (a *whiteout*), and a folder that hides what lies below it bears
//! `trusted.overlay.opaque=y` (`Documentation/filesystems/overlayfs.rst`).
//!
//! Try it without us: `mknod gone c 0 0; setfattr -n trusted.overlay.opaque -v y folder`.

mod attributes;
mod copy;
mod sink;
mod stack;

pub use attributes::{Attributes, OPAQUE, is_opaque, make_opaque, make_whiteout, private_xattr};
pub use copy::{copy_data, copy_tree};
pub use sink::{Landing, Sink};
pub use stack::{Child, Entry, Stack, Turn, View, is_whiteout, open_folder};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

/// The longest path that the kernel takes (`PATH_MAX`), with its NUL.
pub const LONGEST_PATH: usize = 4096;
/// The longest name of one file (`NAME_MAX`).
pub const LONGEST_NAME: usize = 255;

/// What kind of file, as `S_IFMT` of its mode.
pub fn kind(stat: &FileStat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

pub fn is_folder(stat: &FileStat) -> bool {
    kind(stat) == libc::S_IFDIR
}

/// Walking many layers at once holds a descriptor for each, and the usual soft limit is 1024.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 20), hard);
    }
}

/// An error with the path it is about; names need not be UTF-8.
pub fn at(path: &[u8]) -> impl FnOnce(Errno) -> anyhow::Error + '_ {
    move |errno| anyhow::anyhow!("`/{}`: {}", path.escape_ascii(), errno.desc())
}
