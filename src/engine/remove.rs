//! Removes containers: the undo list of their making, as their record keeps it, under a journal of its own.

use super::stop::{Timeout, end, settled};
use super::{make_folders, recover};
use crate::container::{Event, Lock, Missing, Record, Status, link_target, status, tell};
use crate::plan::{Dirs, Entry, Failpoint, Id, Journal, Undo, When};
use anyhow::{Result, bail};

/// Takes container `id` away, with its unnamed volumes if `volumes`; one that runs only if `force`.
pub fn remove(dirs: &Dirs, id: &Id, force: bool, volumes: bool, failpoint: Option<&Failpoint>) -> Result<()> {
    make_folders(dirs)?;
    recover(dirs, id)?;
    if !dirs.container(id).exists() {
        // It was half removed already.
        return Ok(());
    }
    let record = match settled(dirs, id) {
        // `--rm`: its engine has just removed it.
        Err(error) if error.is::<Missing>() && !dirs.container(id).exists() => return Ok(()),
        other => other,
    };
    if let Ok(record) = &record {
        let why = match status(record) {
            Status::Running(_) => "container is running: stop the container before removing or force remove",
            Status::Paused(_) => "container is paused and must be unpaused first",
            Status::Restarting => "container is restarting: stop the container before removing or force remove",
            _ => "",
        };
        if !why.is_empty() {
            if !force {
                bail!("cannot remove container \"{}\": {why}", record.name());
            }
            end(dirs, id, Timeout { seconds: Some(0), signal: Some(libc::SIGKILL) })?;
            if !dirs.container(id).exists() {
                // `--rm`: its monitor has removed it.
                return Ok(());
            }
        }
    }
    let lock = Lock::take(dirs, id)?;
    let entries = match Record::read(dirs, id) {
        Ok(record) => record.undo,
        Err(_) if force => by_id(dirs, id),
        Err(error) => return Err(error),
    };
    let due = |entry: &Entry| entry.when == When::Removal || volumes && entry.when == When::Volumes;
    let entries: Vec<Entry> = entries.into_iter().filter(due).collect();
    let journal = Journal::begin(dirs, id, entries, true)?;
    let undone = journal.finish(When::ALL, |entry| Failpoint::strike(failpoint, &format!("undo.{}", entry.step)));
    drop(lock);
    if let (Ok(record), Ok(())) = (&record, &undone) {
        tell(dirs, &[Event::of(&record.spec, "destroy")]);
    }
    undone
}

/// What belongs to a container whose record cannot be read: everything that bears its id.
fn by_id(dirs: &Dirs, id: &Id) -> Vec<Entry> {
    let entry = |step: &str, undo| Entry { step: step.to_string(), when: When::Removal, undo };
    let mut entries = vec![
        entry("engine.folder", Undo::RemoveTree { path: dirs.container(id) }),
        entry("engine.running", Undo::RemoveTree { path: dirs.running(id) }),
    ];
    for link in std::fs::read_dir(dirs.root.join("names")).into_iter().flatten().flatten() {
        if std::fs::read_link(link.path()).is_ok_and(|target| target == link_target(id)) {
            entries.push(entry("engine.name", Undo::Unlink { path: link.path(), target: link_target(id) }));
        }
    }
    entries
}
