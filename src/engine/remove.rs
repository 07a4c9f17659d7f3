//! Removes containers: the undo list of their making, as their record keeps it, under a journal of its own.

use super::start::load;
use super::stop::{Timeout, end, settled};
use super::{make_folders, recover};
use crate::container::{Event, Lock, Missing, Record, Status, status, tell};
use crate::plan::{Dirs, Entry, Failpoint, Id, Journal, Room, Undo, When, discard_torn, undo_list};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;

/// Takes container `id` away, with its unnamed volumes if `volumes`; one that runs only if `force`.
pub fn remove(
    rooms: &[&dyn Room],
    dirs: &Dirs,
    id: &Id,
    force: bool,
    volumes: bool,
    failpoint: Option<&Failpoint>,
) -> Result<()> {
    make_folders(dirs)?;
    // What a torn journal said is drawn again.
    let torn = force && discard_torn(dirs, id);
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
        Ok(record) if torn => [record.undo.clone(), drawn_again(rooms, record)].concat(),
        Ok(record) => record.undo,
        Err(_) if force => by_id(dirs, id),
        Err(error) => return Err(error),
    };
    let due = |entry: &Entry| {
        entry.when == When::Removal || torn && entry.when == When::End || volumes && entry.when == When::Volumes
    };
    let entries: Vec<Entry> = entries.into_iter().filter(due).collect();
    let undone = match Journal::begin(dirs, id, entries.clone(), true) {
        Ok(journal) => journal.finish(When::ALL, |entry| Failpoint::strike(failpoint, &format!("undo.{}", entry.step))),
        // What it would say stands in the record, too, which goes last: a second `rm` would go on.
        Err(error) if is_full(&error) => without_journal(&entries),
        Err(error) => Err(error),
    };
    drop(lock);
    if let (Ok(record), Ok(())) = (&record, &undone) {
        tell(dirs, &[Event::of(&record.spec, "destroy")]);
    }
    undone
}

/// The undo list that a start of this container would have.
fn drawn_again(rooms: &[&dyn Room], record: Record) -> Vec<Entry> {
    match load(rooms, record) {
        Ok(prepared) => undo_list(&prepared.plan),
        Err(error) => {
            log::warn!("what its last start has left cannot be known (hint: mydocker doctor --repair): {error:#}");
            vec![]
        }
    }
}

fn is_full(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Errno>(), Some(Errno::ENOSPC | Errno::EDQUOT))
}

fn without_journal(entries: &[Entry]) -> Result<()> {
    for entry in entries.iter().rev() {
        entry.undo.perform().with_context(|| format!("could not clean up: {}", entry.undo.shell()))?;
    }
    Ok(())
}

/// What belongs to a container whose record cannot be read: everything that bears its id.
fn by_id(dirs: &Dirs, id: &Id) -> Vec<Entry> {
    let entry = |step: &str, undo| Entry { step: step.to_string(), when: When::Removal, undo };
    let mut entries = vec![
        entry("engine.folder", Undo::RemoveTree { path: dirs.container(id) }),
        entry("engine.running", Undo::RemoveTree { path: dirs.running(id) }),
    ];
    for link in std::fs::read_dir(dirs.root.join("names")).into_iter().flatten().flatten() {
        if std::fs::read_link(link.path()).is_ok_and(|target| target == id.link_target()) {
            entries.push(entry("engine.name", Undo::Unlink { path: link.path(), target: id.link_target() }));
        }
    }
    entries
}
