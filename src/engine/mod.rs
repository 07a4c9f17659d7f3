//! Runs a plan in the foreground: from the user's words to a spec and a plan, the launch, the wait, the undo. The
//! engine is the parent of the container's first process, and nothing else of ours runs.
//!
//! It is handed the list of rooms and knows none of them by name.

mod relay;
mod stdio;
mod terminal;
mod wait;

use crate::plan::{Dirs, Failpoint, Failure, Id, ImageConfig, Journal, Name, Op, Options, Phase, Plan, Room, Spec};
use crate::plan::{Launched, Undo, Watch, c_string, launch, leftovers};
use crate::sys;
use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use nix::errno::Errno;
use nix::sys::stat::Mode;
use std::fs::DirBuilder;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;

/// What a front asks for.
pub struct Request<'a> {
    pub rooms: &'a [&'a dyn Room],
    /// The flags of `run`.
    pub said: &'a ArgMatches,
    pub dirs: Dirs,
    pub name: Option<Name>,
    /// Image, command, arguments, as typed.
    pub words: Vec<String>,
    /// Only the plan is wanted; nothing is made, nothing is needed.
    pub dry: bool,
}

/// A container that is thought out and not begun.
pub struct Prepared {
    pub spec: Spec,
    pub plan: Plan,
}

/// A container that has ended.
pub struct Ended {
    /// As a shell counts it: the command's own, or 128 + the signal's number.
    pub status: u8,
    /// What else there is to say about its end.
    pub obituary: Option<String>,
}

/// From words to a plan. With `dry` it reads the machine and changes nothing.
pub fn prepare(request: Request<'_>) -> Result<Prepared> {
    let Request { rooms, said, dirs, name, words, dry } = request;
    if !dry {
        make_folders(&dirs)?;
        clean_up_after_the_dead(&dirs);
    }
    let (image, command) = image(rooms, &dirs, &words, dry)?;
    let mut spec = Spec::new(Id::random()?, dirs, image, command);
    spec.name = name;
    spec.caller = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    spec.window = stdio::window();
    for room in rooms {
        room.spec(said, &mut spec)?;
    }
    let mut plan = Plan::draw(rooms, &spec)?;
    claim(&spec, &mut plan)?;
    Ok(Prepared { spec, plan })
}

/// Makes, runs and removes a container.
pub fn run(request: Request<'_>, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<Ended> {
    let (rooms, said) = (request.rooms, request.said);
    if !nix::unistd::geteuid().is_root() {
        bail!("containers are made by root: try `sudo mydocker …` (what would be done: `mydocker run --dry-run …`)");
    }
    // Every mode that we give is meant, those of our own folders too: with the caller's umask /dev/null would not be
    // writable for all. The command gets 022 at the end.
    nix::sys::stat::umask(Mode::empty());
    if sys::closed_at_start(1) {
        bail!("stdout is closed: what the command writes would be lost (hint: > /dev/null)");
    }
    let prepared = prepare(request)?;
    let streams = stdio::arrange(said, prepared.spec.terminal())?;
    let journal = Journal::begin(&prepared.spec.dirs, &prepared.spec.id, &prepared.plan)?;
    let ended = attend(&prepared, streams, watch, failpoint.clone());
    let obituary = rooms.iter().filter_map(|room| room.obituary(&prepared.spec)).next();
    let undone = journal.finish(|step, _| {
        Failpoint::strike(failpoint.as_ref(), &format!("undo.{step}"));
    });
    let status = ended?;
    undone?;
    Ok(Ended { status, obituary })
}

/// Launches, then waits.
fn attend(
    prepared: &Prepared,
    streams: stdio::Streams,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<u8> {
    let stdio::Streams { stage, relays, terminal } = streams;
    let signals = sys::SignalFd::all().context("cannot read signals")?;
    let options = Options { watch, failpoint: failpoint.clone() };
    let launched: Result<Launched, Failure> = launch(&prepared.plan, stage, options);
    wait::until_the_end(launched?, signals, relays, terminal, failpoint.as_ref())
}

/// The image and the command that the words mean. If no room gives containers a root of their own, all words are the
/// command, and it runs in the host's.
fn image(rooms: &[&dyn Room], dirs: &Dirs, words: &[String], dry: bool) -> Result<(ImageConfig, Vec<String>)> {
    for room in rooms {
        if let Some((image, rest)) = room.image(dirs, words, dry)? {
            return Ok((image, words[words.len() - rest..].to_vec()));
        }
    }
    let cmd = vec!["sh".to_string()];
    Ok((ImageConfig { cmd, ..ImageConfig::default() }, words.to_vec()))
}

/// The folders that all containers share: 0711 at the top, 0700 for everything with contents.
fn make_folders(dirs: &Dirs) -> Result<()> {
    let folders = [
        (dirs.root.clone(), 0o711),
        (dirs.root.join("containers"), 0o700),
        (dirs.root.join("names"), 0o700),
        (dirs.run.clone(), 0o711),
        (dirs.run.join("journal"), 0o700),
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

/// What an engine that was killed has left is cleaned up by the next one. Its failure is not ours.
fn clean_up_after_the_dead(dirs: &Dirs) {
    for leftover in leftovers(dirs) {
        let id = leftover.id.clone();
        if let Err(error) = leftover.clean_up() {
            log::warn!("container {}, whose engine died: {error:#}", id.short());
        }
    }
}

/// The steps that belong to no room: the container's folder, its config, its name.
fn claim(spec: &Spec, plan: &mut Plan) -> Result<()> {
    let folder = spec.folder();
    plan.add(Phase::Claim, "folder", Op::mkdir(&folder, 0o700))
        .why("Everything of this container lies in here, named by its id, so it can be found and removed.")
        .look(format!("ls {}", folder.display()))
        .undo(Undo::RemoveTree { path: folder.clone() });
    let config = serde_json::to_vec_pretty(&spec.oci)?;
    plan.add(Phase::Claim, "config", Op::write_file(&folder.join("config.json"), config, 0o600))
        .why("What the container is, as an OCI runtime document; any OCI runtime could read it.")
        .look(format!("cat {}", folder.join("config.json").display()));
    let Some(name) = &spec.name else { return Ok(()) };
    let link = spec.dirs.root.join("names").join(name.as_str());
    let target = std::path::Path::new("../containers").join(spec.id.as_str());
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
        .undo(Undo::Unlink { path: link, target });
    Ok(())
}
