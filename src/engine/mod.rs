//! Runs a plan in the foreground: from the user's words to a spec and a plan, the launch, the wait, the undo. The
//! engine is the parent of the container's first process, and nothing else of ours runs.
//!
//! It is handed the list of rooms and knows none of them by name.

mod attach;
mod attended;
mod boot;
mod change;
mod copy;
mod create;
mod exec;
mod files;
mod health;
mod keys;
mod monitor;
mod operate;
mod recover;
mod relay;
mod remove;
mod report;
mod start;
mod stdio;
mod stop;
mod terminal;
mod wait;
mod watch;

pub use attach::{Attach, attach};
pub use change::{pause, rename, unpause, update};
pub use copy::{Copier, Copying};
pub use create::{create, make_folders, until_named};
pub use exec::{Exec, exec, out_of_reach, prepare_exec};
pub use keys::detach_keys;
pub use monitor::detach;
pub use operate::{alter, make_ready, operate, take_away};
pub use recover::{recover, recover_all, settle, take_over};
pub use remove::remove;
pub use report::{Told, words};
pub use start::{load, start, start_attached};
pub use stop::{Timeout, kill, stop, wait};

use crate::container::{Event, LogWriter, tell}; // ch07
use crate::plan::LogDriver; // ch07
use crate::plan::{Dirs, Failpoint, Failure, Id, ImageConfig, Journal, Name, Options, Plan, Room, Spec};
// before ch07: use crate::plan::When;
use crate::plan::{Launched, Watch, launch, undo_list};
use crate::sys;
use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use std::cell::RefCell; // ch07
use std::io::IsTerminal; // ch07
use std::rc::Rc; // ch07
use wait::Outcome;

/// What a front asks for.
pub struct Request<'a> {
    pub rooms: &'a [&'a dyn Room],
    /// The flags of `run`.
    pub said: &'a ArgMatches,
    pub dirs: Dirs,
    pub name: Option<Name>,
    /// Image, command, arguments, as typed.
    pub words: Vec<String>,
    /// A monitor stays with it, and the caller goes on (`-d`).
    pub detached: bool, // ch07
    /// How the caller sits at it, if that is at a terminal which he may leave.
    pub attach: Option<Attach>, // ch07
    /// It is started now; otherwise it is only made (`create`).
    pub starts: bool, // ch07
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
    let (detached, starts) = (request.detached, request.starts); // ch07
    let Request { rooms, said, dirs, name, words, dry, .. } = request;
    if !dry {
        make_folders(&dirs)?;
        // ch07
        if let Some(id) = name.as_ref().and_then(|name| crate::container::find(&dirs, name.as_str()).ok()) {
            // Whoever has the name may be dead.
            recover(&dirs, &id)?;
        }
        recover::recover_some(&dirs, ENOUGH); // ch07
    }
    let (image, command) = image(rooms, &dirs, &words, dry)?;
    let mut spec = Spec::new(Id::random()?, dirs, image, command);
    spec.name = name;
    spec.caller = caller();
    spec.window = stdio::window();
    spec.detached = detached; // ch07
    for room in rooms {
        room.spec(said, &mut spec)?;
    }
    create::settle(&mut spec, rooms)?; // ch07
    let mut plan = Plan::draw(rooms, &spec)?;
    create::claim(&spec, &mut plan)?;
    create::record(&spec, starts, &mut plan)?; // ch07
    // ch07
    if let Ok(Some(path)) = said.try_get_one::<String>("cidfile") {
        // A monitor has left the caller's working directory by the time it writes.
        let path = std::path::absolute(path).with_context(|| format!("--cidfile: `{path}`"))?;
        create::cidfile(&spec, &path, &mut plan);
    }
    Ok(Prepared { spec, plan })
}

/// So many dead engines a start looks for; with less that run, all.
const ENOUGH: usize = 32; // ch07

/// The caller's environment; what is not UTF-8 no flag can name.
fn caller() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

// ch07
/// Makes a container and leaves it to a monitor: its id, when its command runs.
pub fn run_detached(request: Request<'_>, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<Id> {
    as_root()?;
    if sys::closed_at_start(1) {
        bail!("stdout is closed: the container's id would be lost (hint: > /dev/null)");
    }
    let rooms = request.rooms;
    let prepared = prepare(request)?;
    let id = prepared.spec.id.clone();
    detach(rooms, prepared, None, None, watch, failpoint)?;
    Ok(id)
}

/// Makes, runs and removes a container; one that its caller has left (detach keys) has ended well, for him.
pub fn run(request: Request<'_>, watch: &mut dyn Watch, failpoint: Option<Failpoint>) -> Result<Ended> {
    let (rooms, said) = (request.rooms, request.said);
    as_root()?;
    if sys::closed_at_start(1) {
        bail!("stdout is closed: what the command writes would be lost (hint: > /dev/null)");
    }
    let sits = || std::io::stdin().is_terminal() && std::io::stdout().is_terminal(); // ch07
    // ch07
    if let Some(wanted) = request.attach.clone().filter(|_| sits()) {
        let ended = attended::run(request, &wanted, watch, failpoint)?;
        return Ok(ended.unwrap_or(Ended { status: 0, obituary: None }));
    }
    let prepared = prepare(request)?;
    let spec = &prepared.spec;
    let log = kept_log(spec); // ch07
    let streams = stdio::arrange(
        said,
        spec.terminal(),
        log.clone(), // ch07
    )?;
    let goes = recover::goes_with_its_engine(spec); // ch07, before: let goes = true;
    let journal = Journal::begin(&spec.dirs, &spec.id, undo_list(&prepared.plan), goes)?;
    let watch = &mut report::Registrar { watch, spec }; // ch07
    let ended = attend(
        rooms, // ch07
        &prepared,
        streams,
        watch,
        failpoint.clone(),
    );
    log.iter().for_each(|log| log.borrow_mut().finish()); // ch07
    let obituary = rooms.iter().filter_map(|room| room.obituary(spec)).next();
    let journal_all = journal.all(); // ch07
    let moments = recover::bury(spec, &journal, &ended, obituary.is_some(), false); // ch07, before: let moments = When::ALL;
    let undone = journal.finish(moments, |entry| {
        Failpoint::strike(failpoint.as_ref(), &format!("undo.{}", entry.step));
    });
    let left = report::attachments(rooms, spec, false); // ch07
    recover::tell_end(spec, &ended, obituary.is_some(), left, journal_all); // ch07
    if let Err(error) = undone {
        // The command's own end is what the caller waits for; what is left stands in the journal, for the next one.
        log::warn!("{error:#}");
    }
    let status = ended?;
    // The process ends here, and its memory with it.
    std::mem::forget(prepared);
    Ok(Ended { status, obituary })
}

// ch07
/// The log of a container that stays when it has ended. Its folder is made later, and by then its file is opened.
fn kept_log(spec: &Spec) -> Option<relay::SharedLog> {
    let life = spec.life.as_ref().filter(|life| !life.auto_remove && life.log.driver != LogDriver::None)?;
    Some(Rc::new(RefCell::new(LogWriter::later(&spec.folder(), &life.log))))
}

/// Containers are made by root, for now. Every mode that we give is meant: with the caller's umask /dev/null would not
/// be writable for all.
pub fn as_root() -> Result<()> {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    if !nix::unistd::geteuid().is_root() {
        bail!("containers are made by root: try `sudo mydocker …` (what would be done: `mydocker run --dry-run …`)");
    }
    Ok(())
}

/// Launches, then waits.
fn attend(
    rooms: &[&dyn Room], // ch07
    prepared: &Prepared,
    streams: stdio::Streams,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<u8> {
    let stdio::Streams { stage, relays, terminal } = streams;
    let signals = sys::SignalFd::all().context("cannot read signals")?;
    let options = Options { watch, failpoint: failpoint.clone() };
    let launched: Result<Launched, Failure> = launch(&prepared.plan, stage, options);
    let launched = launched?;
    let spec = &prepared.spec; // ch07
    let mut events = vec![Event::of(spec, "create")]; // ch07
    events.extend(report::attachments(rooms, spec, true)); // ch07
    events.push(Event::of(spec, "start")); // ch07
    tell(&spec.dirs, &events); // ch07
    let pulse = health::Pulse::of(spec).map(|pulse| (pulse, rooms)); // ch07
    let outcome = wait::until_the_end(
        launched,
        signals,
        relays,
        terminal,
        pulse, // ch07
        failpoint.as_ref(),
    )?;
    match outcome {
        Outcome::Ended(status) => Ok(status),
        Outcome::Left(_) => bail!("its caller has left it, and nobody else is there"), // ch07
    }
}

/// The image and the command that the words mean. If no room gives containers a root of their own, all words are the
/// command, and it runs in the host's.
fn image(rooms: &[&dyn Room], dirs: &Dirs, words: &[String], dry: bool) -> Result<(ImageConfig, Vec<String>)> {
    // The later a room opens, the more images it knows.
    for room in rooms.iter().rev() {
        if let Some((image, rest)) = room.image(dirs, words, dry)? {
            return Ok((image, words[words.len() - rest..].to_vec()));
        }
    }
    let cmd = vec!["sh".to_string()];
    Ok((ImageConfig { cmd, ..ImageConfig::default() }, words.to_vec()))
}
