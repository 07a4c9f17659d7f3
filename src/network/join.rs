//! `--network container:NAME`: no wire of its own, but the network namespace of another container, with its addresses,
//! ports and 127.0.0.1 (`man 2 setns`).
//!
//! Try it without us: `nsenter -t $PID -n ip addr`

use super::trouble::op;
use super::wish::Mode;
use crate::plan::{Dirs, Id, Op, Phase, Plan, Spec, boot_id, start_time};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::fs;
use std::sync::{Arc, OnceLock};

/// The first process of the container that `mode` names.
pub fn process(mode: &Mode, spec: &Spec) -> Result<u32> {
    let Mode::Container(name) = mode else { bail!("no container is named") };
    let id = find(&spec.dirs, name)?;
    first_process(&spec.dirs, &id).with_context(|| {
        format!("--network: cannot join the network of container `{}`: it is not running", name.escape_debug())
    })
}

/// The container that is called so, or whose id begins so.
pub fn find(dirs: &Dirs, name: &str) -> Result<Id> {
    let shown = name.escape_debug();
    if crate::plan::Name::parse(name).is_err() {
        bail!("--network: `container:{shown}` does not name a container");
    }
    let target = fs::read_link(dirs.root.join("names").join(name)).ok();
    if let Some(id) = target.and_then(|target| Id::parse(target.file_name()?.to_str()?)) {
        return Ok(id);
    }
    let entries = fs::read_dir(dirs.root.join("containers")).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| Id::parse(entry.file_name().to_str()?));
    match ids.filter(|id| id.as_str().starts_with(name)).collect::<Vec<_>>() {
        mut found if found.len() == 1 => Ok(found.remove(0)),
        found if found.is_empty() => bail!("--network: no such container: {shown}"),
        _ => bail!("--network: `{shown}` is the beginning of more than one container's id"),
    }
}

/// The first process of container `id`, if it runs: the state file names it, the kernel says whether it is still that
/// one. Its monitor may have been killed; the container lives on, and so do its addresses.
pub fn first_process(dirs: &Dirs, id: &Id) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct State {
        pid: u32,
        start_time: u64,
        boot_id: String,
    }
    let text = fs::read_to_string(dirs.running(id).join("state")).ok()?;
    let mut lines = text.lines();
    let state: State = serde_json::from_str(lines.next()?).ok()?;
    let lives = lines.next().is_none() && start_time(state.pid) == Some(state.start_time) && state.start_time != 0;
    (lives && state.boot_id == boot_id()).then_some(state.pid)
}

/// Opened on the host, where the path means something; joined by the child.
pub fn plan(spec: &Spec, mode: &Mode, plan: &mut Plan) -> Result<()> {
    let joined = spec.linux().namespaces().iter().flatten().find(|one| one.typ() == Kind::Network);
    if joined.is_none_or(|one| one.path().is_none()) {
        return Ok(());
    }
    // The spec's path is of the day when it was written; at every start the other container is looked up again.
    let path = std::path::PathBuf::from(format!("/proc/{}/ns/net", process(mode, spec)?));
    let slot: Arc<OnceLock<fs::File>> = Arc::default();
    let (kept, shown) = (Arc::clone(&slot), path.display().to_string());
    let opened = op("openat", [shown.clone()], format!("exec 9< {shown}"), move |_| {
        let _ = kept.set(fs::File::open(&path)?);
        Ok(())
    });
    plan.add(Phase::Host, "open", opened)
        .why("An open descriptor keeps that network namespace, whatever becomes of its container.");
    let op = Op::new("setns", [shown.as_str(), "CLONE_NEWNET"], "nsenter --net=/proc/self/fd/9 sh", move |_| {
        setns(slot.get().ok_or(Errno::EBADF)?, CloneFlags::CLONE_NEWNET)
    });
    plan.add(Phase::Enter, "join", op)
        .why("From here on the other container's cards, addresses and ports are ours too.")
        .look("readlink /proc/$PID/ns/net");
    Ok(())
}
