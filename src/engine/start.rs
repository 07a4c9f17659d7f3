//! Starts a container that is at rest: its record and its OCI document become a spec again, and the rooms draw the plan.

use super::attach::{self, Attach, Caller};
use super::attended;
use super::stop::settled;
use super::{Prepared, as_root, create, detach};
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
    let Some(lock) = ready(dirs, id)? else { return Ok(()) };
    detach(rooms, load(rooms, afresh(dirs, id)?)?, Some(lock), None, watch, failpoint).map(drop)
}

/// The same, attached from its first byte on: its exit status, or `None` if the caller detached.
pub fn start_attached(
    rooms: &[&dyn Room],
    dirs: &Dirs,
    id: &Id,
    wanted: &Attach,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<Option<u8>> {
    let Some(lock) = ready(dirs, id)? else { return attach::attach(dirs, id, wanted) };
    let prepared = load(rooms, afresh(dirs, id)?)?;
    let caller = Caller::new(wanted.owns)?;
    let started = detach(rooms, prepared, Some(lock), Some(caller), watch, failpoint)?;
    let ended = attended::stay(&started, wanted, None)?;
    Ok(ended.map(|ended| ended.status))
}

/// The lock of a container that can be started; `None`: it runs.
fn ready(dirs: &Dirs, id: &Id) -> Result<Option<Lock>> {
    as_root()?;
    super::make_folders(dirs)?;
    settled(dirs, id)?;
    let lock = Lock::take(dirs, id)?;
    match status(&Record::read(dirs, id)?) {
        Status::Paused(_) => bail!("cannot start a paused container, try unpause instead"),
        Status::Running(_) | Status::Restarting => Ok(None),
        _ if has_owner(dirs, id) => bail!("container {} is being started or stopped by somebody else", id.short()),
        _ => Ok(Some(lock)),
    }
}

/// A new life: what is remembered of the last one's end does not count for this.
fn afresh(dirs: &Dirs, id: &Id) -> Result<Record> {
    Record::update(dirs, id, |record| {
        record.rest.stopped = false;
        record.rest.error = String::new();
        record.rest.restart_count = 0;
        record.rest.begun = true;
    })
}
