//! Starts a container that is at rest: its record and its OCI document become a spec again, and the rooms draw the plan.

use super::{Prepared, as_root, create, detach, recover};
use crate::container::{Lock, Record, Status, read_config, status};
use crate::plan::{Dirs, Failpoint, Id, Plan, Room, Watch, has_owner};
use anyhow::{Result, bail};

/// A container at rest as a plan, without what was done when it was created.
pub fn load(rooms: &[&dyn Room], mut record: Record) -> Result<Prepared> {
    read_config(&mut record)?;
    let mut spec = record.spec;
    spec.detached = true;
    let plan = {
        let chosen = chosen(rooms, &spec.life.as_ref().map(|life| life.rooms.clone()).unwrap_or_default());
        let mut plan = Plan::draw(&chosen, &spec)?.without_claim();
        create::running(&spec, &mut plan);
        plan
    };
    Ok(Prepared { spec, plan })
}

/// The rooms that made it; a demonstration with fewer of them stays one.
pub(super) fn chosen<'a>(rooms: &[&'a dyn Room], names: &[String]) -> Vec<&'a dyn Room> {
    rooms.iter().filter(|room| names.is_empty() || names.iter().any(|name| name == room.name())).copied().collect()
}

/// Starts container `id` with a monitor. One that runs is left as it is.
pub fn start(
    rooms: &[&dyn Room],
    dirs: &Dirs,
    id: &Id,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<()> {
    as_root()?;
    super::make_folders(dirs)?;
    recover(dirs, id)?;
    let lock = Lock::take(dirs, id)?;
    let record = Record::read(dirs, id)?;
    match status(&record) {
        Status::Paused(_) => bail!("cannot start a paused container, try unpause instead"),
        Status::Running(_) | Status::Restarting => return Ok(()),
        _ if has_owner(dirs, id) => bail!("container {} is being started or stopped by somebody else", id.short()),
        _ => {}
    }
    let record = Record::update(dirs, id, |record| {
        record.rest.stopped = false;
        record.rest.error = String::new();
        record.rest.restart_count = 0;
    })?;
    detach(rooms, load(rooms, record)?, Some(lock), watch, failpoint)
}
