//! What is done on the host for no container, or to one that runs: a plan of its own, under a journal of its own. If a
//! step fails, or we are killed, the steps before it are taken back; when all are done the journal goes, and with it the
//! way back.

use super::{as_root, make_folders, recover, recover_all};
use crate::container::{Lock, Record, read_config, status};
use crate::plan::{Dirs, Entry, Failpoint, Id, Journal, Options, Plan, Spec, Watch, When, perform_host, undo_list};
use anyhow::Result;

/// Performs `plan`, and then `settle`; wholly or not at all.
pub fn operate(
    dirs: &Dirs,
    plan: &Plan,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
    settle: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if plan.steps().is_empty() {
        return settle();
    }
    let journal = Journal::begin(dirs, &Id::random()?, undo_list(plan), true)?;
    let done = perform_host(plan, Options { watch, failpoint: failpoint.clone() });
    match done.map_err(anyhow::Error::from).and_then(|()| settle()) {
        Ok(()) => journal.finish(&[], |_| {}),
        Err(error) => {
            let undone = journal.finish(When::ALL, |entry| {
                Failpoint::strike(failpoint.as_ref(), &format!("undo.{}", entry.step));
            });
            if let Err(undone) = undone {
                log::warn!("{undone:#}");
            }
            Err(error)
        }
    }
}

/// The folders that a journal needs, and an end to what killed engines have left.
pub fn make_ready(dirs: &Dirs) -> Result<()> {
    as_root()?;
    make_folders(dirs)?;
    recover_all(dirs);
    Ok(())
}

/// Performs the undo list of something that is no container. If we are killed, the next command goes on with it.
pub fn take_away(dirs: &Dirs, entries: Vec<Entry>, failpoint: Option<&Failpoint>) -> Result<()> {
    let journal = Journal::begin(dirs, &Id::random()?, entries, true)?;
    journal.finish(When::ALL, |entry| Failpoint::strike(failpoint, &format!("undo.{}", entry.step)))
}

/// Container `id` and the plan that `draw` makes to change it; `draw` may change its spec, and is told whether it runs.
/// With `perform` that is done, and kept in its record.
pub fn alter(
    dirs: &Dirs,
    id: &Id,
    perform: Option<(&mut dyn Watch, Option<Failpoint>)>,
    draw: impl FnOnce(&mut Spec, bool) -> Result<Plan>,
) -> Result<Plan> {
    recover(dirs, id)?;
    let _lock = Lock::take(dirs, id)?;
    let mut record = Record::read(dirs, id)?;
    read_config(&mut record)?;
    let runs = status(&record).running().is_some();
    let mut spec = record.spec;
    let plan = draw(&mut spec, runs)?;
    if let Some((watch, failpoint)) = perform {
        operate(dirs, &plan, watch, failpoint, || {
            Record::update(dirs, id, |record| record.spec.own = spec.own.clone()).map(drop)
        })?;
    }
    Ok(plan)
}
