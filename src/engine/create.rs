//! What is done once, when a container is created: a folder, a name, a record. `run` does it before the rest, `create`
//! does nothing else.

use super::report::name_taken; // ch07
use super::{Prepared, Request, as_root, prepare, recover}; // ch07
use crate::container::{Event, Rest, free_name, tell}; // ch07
use crate::plan::{Dirs, Name, Op, Phase, Plan, Spec, Undo, When, c_string};
use crate::plan::{Entry, Failpoint, Id, Journal, Options, Room, Watch, perform_host, undo_list}; // ch07
use anyhow::{Context, Result, bail};
use jiff::Timestamp; // ch07
use nix::errno::Errno;
use serde_json::json; // ch07
use std::fs::DirBuilder;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;

/// The folders that all containers share: 0711 at the top, 0700 for everything with contents.
pub fn make_folders(dirs: &Dirs) -> Result<()> {
    let (names, journal) = (dirs.root.join("names"), dirs.run.join("journal"));
    if names.is_dir() && journal.is_dir() {
        return Ok(()); // the last of each tree
    }
    let folders = [
        (dirs.root.clone(), 0o711),
        (dirs.root.join("containers"), 0o700),
        (names, 0o700),
        (dirs.run.clone(), 0o711),
        (journal, 0o700),
    ];
    for (path, mode) in folders {
        let made = DirBuilder::new().recursive(true).mode(mode).create(&path);
        if made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists) {
            bail!("cannot make `{}`: it is there and not a folder", path.display());
        }
        made.with_context(|| format!("cannot make `{}`", path.display()))?;
    }
    Ok(())
}

// ch07
/// Makes a container and does not start it.
pub fn create(request: Request<'_>, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<Id> {
    as_root()?;
    let Prepared { spec, plan } = prepare(request)?;
    let plan = plan.only_claim();
    let journal = Journal::begin(&spec.dirs, &spec.id, undo_list(&plan), false)?;
    let made = perform_host(&plan, Options { watch, failpoint: failpoint.clone() });
    let moments: &[When] = if recover::committed(&spec) { &[When::End] } else { When::ALL };
    let undone = journal.finish(moments, |entry| {
        Failpoint::strike(failpoint.as_ref(), &format!("undo.{}", entry.step));
    });
    made?;
    undone?;
    tell(&spec.dirs, &[Event::of(&spec, "create")]);
    Ok(spec.id)
}

// ch07
/// Does it again when the name that we had found was taken meanwhile: of fifty who start at once, some find the same.
pub fn until_named<T>(found_by_us: bool, mut make: impl FnMut() -> Result<T>) -> Result<T> {
    const TRIES: usize = 16;
    for _ in 1..TRIES {
        match make() {
            Err(error) if found_by_us && name_taken(&error) => {}
            other => return other,
        }
    }
    make()
}

// ch07
/// What a container that lives on has beside what the rooms said: a name, and the list of its rooms.
pub(super) fn settle(spec: &mut Spec, rooms: &[&dyn Room]) -> Result<()> {
    let Some(life) = &mut spec.life else { return Ok(()) };
    life.rooms = rooms.iter().map(|room| room.name().to_string()).collect();
    if spec.name.is_none() {
        spec.name = Some(free_name(&spec.dirs)?);
    }
    Ok(())
}

/// The steps that belong to no room: the container's folder, its config, its name.
pub(super) fn claim(spec: &Spec, plan: &mut Plan) -> Result<()> {
    let folder = spec.folder();
    running(spec, plan);
    plan.add(Phase::Claim, "folder", Op::mkdir(&folder, 0o700))
        .why("Everything of this container lies in here, named by its id, so it can be found and removed.")
        .look(format!("ls {}", folder.display()))
        .undo_when(When::Removal, Undo::RemoveTree { path: folder.clone() });
    let config = serde_json::to_vec_pretty(&spec.oci)?;
    plan.add(Phase::Claim, "config", Op::write_file(&folder.join("config.json"), config, 0o600))
        .why("What the container is, as an OCI runtime document; any OCI runtime could read it.")
        .look(format!("cat {}", folder.join("config.json").display()));
    if let Some(name) = &spec.name {
        claim_name(spec, name, plan);
    }
    Ok(())
}

fn claim_name(spec: &Spec, name: &Name, plan: &mut Plan) {
    let link = spec.dirs.root.join("names").join(name.as_str());
    let target = spec.id.link_target();
    let (c_link, c_target) = (c_string(link.as_os_str().as_bytes()), c_string(target.as_os_str().as_bytes()));
    let shell = format!("ln -s {} {}", target.display(), link.display());
    let op = Op::new("symlinkat", [target.display().to_string(), link.display().to_string()], shell, move |_| {
        nix::unistd::symlinkat(c_target.as_c_str(), nix::fcntl::AT_FDCWD, c_link.as_c_str())
    });
    let (taken, at) = (name.as_str().to_string(), link.clone());
    let op = op.hint(move |errno, _| {
        let owner = std::fs::read_link(&at).ok()?.file_name()?.to_str()?.get(..12)?.to_string();
        (errno == Errno::EEXIST).then(|| format!("the container name `{taken}` is in use by container {owner}"))
    });
    plan.add(Phase::Claim, "name", op)
        .why("A link can be made only once: of two who want the name at the same moment, one is refused.")
        .look(format!("ls -l {}", link.display()))
        .undo_when(When::Removal, Undo::Unlink { path: link, target });
}

// ch07
/// The last of the claims: whoever finds the record finds the rest.
pub(super) fn record(spec: &Spec, starts: bool, plan: &mut Plan) -> Result<()> {
    if spec.life.is_none() {
        return Ok(());
    }
    let folder = spec.folder();
    let undo: Vec<Entry> = undo_list(plan).into_iter().filter(|entry| entry.when != When::End).collect();
    let record = json!({
        "created": Timestamp::now(), "spec": spec, "args": spec.process().args(), "undo": undo,
        "rest": Rest { begun: starts, ..Rest::default() },
    });
    let path = folder.join("container.json");
    let text = serde_json::to_vec_pretty(&record)?;
    plan.add(Phase::Claim, "record", Op::write_whole(&path, text, 0o600))
        .why("From here on the container is there, whatever becomes of us: what was asked, and what `rm` takes away.")
        .look(format!("cat {}", path.display()));
    Ok(())
}

// ch07
/// `--cidfile`: a new file, so that of two scripts that share it one is refused.
pub(super) fn cidfile(spec: &Spec, path: &std::path::Path, plan: &mut Plan) {
    let (path, shown, id) = (path.to_owned(), path.display().to_string(), spec.id.clone());
    let op = Op::new("openat", [shown.clone(), "O_EXCL".into()], format!("echo $ID > {shown}"), move |_| {
        use std::io::Write;
        let file = std::fs::File::options().write(true).create_new(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(id.as_str().as_bytes()));
        written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    });
    let op = op.hint(move |errno, _| match errno {
        Errno::EEXIST => Some(format!("--cidfile: `{shown}` exists: another container has it, or remove it")),
        errno => Some(format!("--cidfile: cannot write `{shown}`: {}", errno.desc())),
    });
    plan.add(Phase::Claim, "cidfile", op).why("--cidfile: a script finds the container by it.");
}

/// The folder of what is only true while it runs; made anew by each start.
pub(super) fn running(spec: &Spec, plan: &mut Plan) {
    let running = spec.dirs.running(&spec.id);
    plan.add_first(Phase::Host, "running", Op::mkdir(&running, 0o700))
        .why("What is only true while it runs: which process it is, and where its root is mounted.")
        .look(format!("ls {}", running.display()))
        .undo(Undo::RemoveTree { path: running });
}
