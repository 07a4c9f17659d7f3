//! Changes a container that is there: frozen and thawed, renamed, given other limits.

use super::{as_root, recover};
use crate::cgroup::Freezer;
use crate::container::{Event, Lock, PAUSED, Record, Running, Status, read_config, status, tell};
use crate::plan::{Dirs, Failpoint, Id, Name, Options, Plan, Restart, Room, Undo, Watch, perform_host};
use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use std::fs;

/// Stops every process of a container where it stands.
pub fn pause(dirs: &Dirs, id: &Id) -> Result<()> {
    let _lock = locked(dirs, id)?;
    let record = Record::read(dirs, id)?;
    match status(&record) {
        Status::Running(running) => {
            let mark = dirs.running(id).join(PAUSED);
            fs::write(&mark, "").with_context(|| format!("cannot write `{}`", mark.display()))?;
            freezer(&running, id)?.freeze().with_context(|| format!("cannot pause container {}", id.short()))?;
            tell(dirs, &[Event::of(&record.spec, "pause")]);
            Ok(())
        }
        Status::Paused(_) => bail!("container {} is already paused", id.short()),
        _ => bail!("container {} is not running", id.short()),
    }
}

/// Lets them go on.
pub fn unpause(dirs: &Dirs, id: &Id) -> Result<()> {
    let _lock = locked(dirs, id)?;
    let record = Record::read(dirs, id)?;
    match status(&record) {
        Status::Paused(running) => {
            freezer(&running, id)?.thaw().with_context(|| format!("cannot unpause container {}", id.short()))?;
            tell(dirs, &[Event::of(&record.spec, "unpause")]);
            Ok(())
        }
        _ => bail!("container {} is not paused", id.short()),
    }
}

fn locked(dirs: &Dirs, id: &Id) -> Result<Lock> {
    as_root()?;
    recover(dirs, id)?;
    Lock::take(dirs, id)
}

fn freezer(running: &Running, id: &Id) -> Result<Freezer> {
    Freezer::of(running.pid).with_context(|| {
        format!("container {} has no cgroup of its own that could be frozen (hint: mydocker doctor)", id.short())
    })
}

/// Gives a container another name. The new one is claimed first, so that at every moment it has one.
pub fn rename(dirs: &Dirs, id: &Id, name: &Name) -> Result<()> {
    let _lock = locked(dirs, id)?;
    let record = Record::read(dirs, id)?;
    let names = dirs.root.join("names");
    let (target, new) = (id.link_target(), names.join(name.as_str()));
    if record.spec.name.as_ref() == Some(name) {
        bail!("renaming a container with the same name as its current name: {}", name.as_str());
    }
    match std::os::unix::fs::symlink(&target, &new) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let owner =
                fs::read_link(&new).ok().and_then(|link| Some(link.file_name()?.to_str()?.get(..12)?.to_string()));
            let owner = owner.unwrap_or_default();
            bail!("the container name `{}` is in use by container {owner}", name.as_str());
        }
        other => other.with_context(|| format!("cannot make `{}`", new.display()))?,
    }
    let old = record.spec.name.map(|name| names.join(name.as_str()));
    let written = Record::update(dirs, id, |record| {
        record.spec.name = Some(name.clone());
        for entry in &mut record.undo {
            if let Undo::Unlink { path, .. } = &mut entry.undo
                && Some(&*path) == old.as_ref()
            {
                *path = new.clone();
            }
        }
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    let renamed = written?;
    let before = old.as_ref().and_then(|old| Some(format!("/{}", old.file_name()?.to_str()?))).unwrap_or_default();
    tell(dirs, &[Event::of(&renamed.spec, "rename").with("oldName", before)]);
    match old {
        Some(old) => Undo::Unlink { path: old, target }.perform().context("cannot remove the old name"),
        None => Ok(()),
    }
}

/// Other limits, at once if it runs and at its next start; another restart policy.
pub fn update(
    rooms: &[&dyn Room],
    said: &ArgMatches,
    restart: Option<Restart>,
    dirs: &Dirs,
    id: &Id,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<()> {
    let _lock = locked(dirs, id)?;
    let mut record = Record::read(dirs, id)?;
    if restart.is_some_and(|restart| restart != Restart::No) && record.life().auto_remove {
        bail!("restart policy cannot be updated because AutoRemove is enabled for the container");
    }
    read_config(&mut record)?;
    let running = status(&record).running().is_some();
    let mut spec = record.spec;
    let plan = Plan::draw_update(rooms, said, &mut spec)?;
    if running {
        perform_host(&plan, Options { watch, failpoint })?;
    }
    let config = spec.folder().join("config.json");
    let new = config.with_extension("new");
    let text = serde_json::to_vec_pretty(&spec.oci)?;
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &config));
    written.with_context(|| format!("cannot write `{}`", config.display()))?;
    if let Some(restart) = restart {
        Record::update(dirs, id, |record| {
            if let Some(life) = &mut record.spec.life {
                life.restart = restart;
            }
        })?;
    }
    tell(dirs, &[Event::of(&spec, "update")]);
    Ok(())
}
