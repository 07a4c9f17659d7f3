//! The first command after a boot. A power cut takes the processes, the cgroups and `/run` with the journals in it; what
//! lies on disk stays, and says of a container that was running no more than that it is there.

use super::recover::UNSEEN;
use crate::container::Record;
use crate::plan::{Dirs, Id, Undo, boot_id, has_owner};
use anyhow::Result;
use jiff::Timestamp;
use std::fs;
use std::path::Path;

/// Settles what the last boot left, if nobody has since this one: what was never finished, and what was to go with its
/// end, is removed; what is to stay has ended. Says nothing twice: `run/boot` names the boot that was settled.
pub fn settle_after_boot(dirs: &Dirs) {
    let (mark, boot) = (dirs.run.join("boot"), boot_id());
    if fs::read_to_string(&mark).is_ok_and(|settled| settled == boot) {
        return;
    }
    let ids = fs::read_dir(dirs.root.join("containers")).into_iter().flatten();
    for id in ids.filter_map(|entry| Id::parse(entry.ok()?.file_name().to_str()?)) {
        // Another command of this boot may be making it right now.
        if has_owner(dirs, &id) {
            continue;
        }
        if let Err(error) = settle(dirs, &id) {
            log::warn!("container {}, which a reboot has ended: {error:#}", id.short());
        }
    }
    free_names(dirs);
    if let Err(error) = fs::write(&mark, boot) {
        log::warn!("cannot write `{}`: {error}", mark.display());
    }
}

fn settle(dirs: &Dirs, id: &Id) -> Result<()> {
    let folder = dirs.container(id);
    // A record is written last, so without one (or with one that the power cut has emptied) there never was a container.
    let committed = fs::metadata(folder.join("container.json")).is_ok_and(|file| file.len() > 0);
    if !committed || Record::read(dirs, id)?.life().auto_remove {
        return Ok(Undo::RemoveTree { path: folder }.perform()?);
    }
    Record::update(dirs, id, |record| {
        if std::mem::take(&mut record.rest.begun) {
            record.rest.finished_at = Some(Timestamp::now());
            record.rest.exit_code = UNSEEN;
        }
    })?;
    Ok(())
}

/// Names whose container is gone.
fn free_names(dirs: &Dirs) {
    let names = dirs.root.join("names");
    for name in fs::read_dir(&names).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(name.path()) else { continue };
        let id = target.file_name().and_then(|id| Id::parse(id.to_str()?));
        let gone = |id: &Id| !Path::new(&dirs.container(id)).exists() && !has_owner(dirs, id);
        if id.as_ref().is_some_and(gone)
            && let Err(error) = (Undo::Unlink { path: name.path(), target }).perform()
        {
            log::warn!("cannot free the name `{}`: {error}", name.file_name().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_was_never_finished_goes_once_a_boot() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(home.path()));
        let make = || {
            let id = Id::random().unwrap();
            fs::create_dir_all(dirs.container(&id).join("upper")).unwrap();
            let _ = fs::remove_file(dirs.root.join("names/web"));
            symlink(Path::new("../containers").join(id.as_str()), dirs.root.join("names/web")).unwrap();
            id
        };
        fs::create_dir_all(dirs.root.join("names")).unwrap();
        fs::create_dir_all(&dirs.run).unwrap();
        let torn = make();
        fs::write(dirs.container(&torn).join("container.json"), "").unwrap();
        settle_after_boot(&dirs);
        assert!(!dirs.container(&torn).exists());
        assert!(fs::symlink_metadata(dirs.root.join("names/web")).is_err());
        // The same boot again: whoever has no journal may just have lost it, and is left alone.
        let later = make();
        settle_after_boot(&dirs);
        assert!(dirs.container(&later).exists());
        fs::write(dirs.run.join("boot"), "another boot").unwrap();
        settle_after_boot(&dirs);
        assert!(!dirs.container(&later).exists());
    }
}
