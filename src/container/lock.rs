//! One command at a time changes a container. The lock is the kernel's (`man 2 flock`): it goes with its holder,
//! however that ends. It is never held while a command of the user's runs or ends.

use super::Missing;
use crate::plan::{Dirs, Id};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// Held while this value lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Longer than any command holds one.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lock {
    /// Waits for the lock of container `id`, and says who holds it if that takes too long.
    pub fn take(dirs: &Dirs, id: &Id) -> Result<Self> {
        Self::within(dirs, id, PATIENCE)
    }

    /// The same without waiting.
    pub fn try_take(dirs: &Dirs, id: &Id) -> Result<Self> {
        Self::within(dirs, id, Duration::ZERO)
    }

    fn within(dirs: &Dirs, id: &Id, patience: Duration) -> Result<Self> {
        let path = dirs.container(id).join("lock");
        let missing = || Missing::None(id.short().to_string());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let opened = options.open(&path);
        if opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            bail!(missing());
        }
        let mut file = opened.with_context(|| format!("cannot open `{}`", path.display()))?;
        let (begun, mut pause) = (Instant::now(), Duration::from_millis(1));
        while let Err(error) = file.try_lock() {
            if let std::fs::TryLockError::Error(error) = error {
                bail!("cannot lock `{}`: {error}", path.display());
            }
            if begun.elapsed() >= patience {
                let mut holder = String::new();
                let _ = Read::by_ref(&mut file).take(200).read_to_string(&mut holder);
                bail!("container {} is held by process {}", id.short(), holder.trim().escape_debug());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        // Whoever held it may have removed the container.
        if file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            bail!(missing());
        }
        let words: Vec<_> = std::env::args().take(2).collect();
        let _ = file.set_len(0).and_then(|()| write!(file, "{} ({})", std::process::id(), words.join(" ")));
        Ok(Self { _file: file })
    }
}
