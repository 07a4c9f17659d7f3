//! The monitor: one small process per detached container, its parent. It keeps the log, reaps, sees an out-of-memory
//! kill, applies the restart policy, takes back what is due, and writes down how it ended. There is no daemon; if a
//! monitor is killed, its container lives on, and the next command finds it.
//!
//! `run -d` forks it before the launch and waits for one line from it; so it returns in the time of a start and leaves
//! nothing of the caller's open.

use super::attach::Caller;
use super::recover::{bury, goes_with_its_engine, last_words, tell_end};
use super::report::{Registrar, Told, attachments, name_taken, words};
use super::start::{chosen, load};
use super::stop::was_stopped;
use super::wait::ENDS_US;
use super::{Prepared, watch::Attended};
use crate::container::{Event, Lock, LogWriter, Record, Running, read_config, tell};
use crate::plan::{Dirs, Failpoint, Id, Journal, LogConfig, Room, Spec, Step, Watch, When, undo_list};
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{ForkResult, Pid};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Docker's: the wait before a restart doubles from the first to the second, and begins anew after so long a life.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONG_LIFE: Duration = Duration::from_secs(10);

/// A container that a monitor stays with.
pub struct Detached {
    pub spec: Spec,
    /// The monitor: our child.
    pub monitor: Pid,
    /// The wire to it, of a caller who has one.
    pub wire: Option<OwnedFd>,
}

/// Starts a container with a monitor, and returns when its command runs or could not be run.
pub fn detach(
    rooms: &[&dyn Room],
    prepared: Prepared,
    lock: Option<Lock>,
    caller: Option<Caller>,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> Result<Detached> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let engine = Pid::this();
    match sys::fork().context("cannot fork the monitor")? {
        ForkResult::Child => {
            drop(read);
            if watch.paced() {
                goes_with(engine);
            }
            let caller = caller.map(|caller| (caller.wire, caller.owns));
            become_monitor(rooms, prepared, lock, caller, File::from(write), watch, failpoint)
        }
        ForkResult::Parent { child } => {
            drop(write);
            let wire = caller.map(|caller| caller.his);
            if watch.paced() {
                pass_on_orders(child, &read)?;
            }
            let mut line = String::new();
            let _ = BufReader::new(File::from(read)).read_line(&mut line);
            match serde_json::from_str::<Option<Told>>(&line) {
                Ok(None) => Ok(Detached { spec: prepared.spec, monitor: child, wire }),
                Ok(Some(told)) => {
                    let _ = nix::sys::wait::waitpid(child, None);
                    Err(told.into())
                }
                Err(_) => bail!("the monitor of container {} was killed", prepared.spec.id.short()),
            }
        }
    }
}

/// In the monitor, as long as somebody watches each step: it is asked to end when the engine that forked it has gone.
fn goes_with(engine: Pid) {
    // What has come before the monitor reads its signals waits for that.
    let _ = SigSet::from(Signal::SIGTERM).thread_block();
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    if Pid::parent() != engine {
        let _ = raise(Signal::SIGTERM); // it has gone already
    }
}

/// In the engine meanwhile: what is typed at the caller's terminal (Ctrl-C) is for the monitor, which the terminal does
/// not know; the caller is told when all is undone.
fn pass_on_orders(monitor: Pid, report: &OwnedFd) -> Result<()> {
    let signals = SignalFd::all().context("cannot read signals")?;
    loop {
        let mut fds = [report.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE);
        if fds[0].any().unwrap_or(true) {
            return Ok(());
        }
        if std::iter::from_fn(|| signals.read()).any(|signal| ENDS_US.contains(&signal)) {
            let _ = sys::kill(monitor, libc::SIGTERM);
        }
    }
}

fn become_monitor(
    rooms: &[&dyn Room],
    prepared: Prepared,
    lock: Option<Lock>,
    caller: Option<(OwnedFd, bool)>,
    mut report: File,
    watch: &mut dyn Watch,
    failpoint: Option<Failpoint>,
) -> ! {
    let paced = watch.paced();
    let begun = Monitor::begin(rooms, prepared, lock.is_some(), caller, watch, failpoint);
    if paced {
        let _ = nix::sys::prctl::set_pdeathsig(None);
    }
    drop(lock);
    let told = begun.as_ref().err().map(|error| {
        let (line, status) = words(error);
        Told { line, status, name_taken: name_taken(error) }
    });
    // From here on nothing of the caller's is held.
    let null = File::options().read(true).write(true).open("/dev/null");
    for number in 0..3 {
        if let Ok(null) = &null {
            let _ = sys::dup_to(null, number);
        }
    }
    drop(null);
    let line = serde_json::to_string(&told).unwrap_or_default() + "\n";
    let _ = report.write_all(line.as_bytes());
    drop(report);
    if let Ok((monitor, attended)) = begun {
        sys::trim_memory();
        monitor.live(attended);
    }
    sys::exit_now(0)
}

/// Nobody looks on.
struct Unwatched;

impl Watch for Unwatched {
    fn before(&mut self, _step: &Step) -> bool {
        true
    }
}

struct Monitor<'a> {
    rooms: &'a [&'a dyn Room],
    dirs: Dirs,
    id: Id,
    journal: Journal,
    signals: SignalFd,
    log: LogWriter,
    failpoint: Option<Failpoint>,
}

impl<'a> Monitor<'a> {
    /// The first launch, told to whoever looks on.
    fn begin(
        rooms: &'a [&'a dyn Room],
        prepared: Prepared,
        locked: bool,
        caller: Option<(OwnedFd, bool)>,
        watch: &mut dyn Watch,
        failpoint: Option<Failpoint>,
    ) -> Result<(Self, Attended)> {
        // A session of its own: what is typed at the caller's terminal does not reach us.
        let _ = nix::unistd::setsid();
        let _ = nix::unistd::chdir("/");
        let _ = nix::sys::prctl::set_name(c"mydocker-monitor");
        sys::close_inherited();
        let spec = &prepared.spec;
        let signals = SignalFd::all().context("cannot read signals")?;
        let journal = Journal::begin(&spec.dirs, &spec.id, undo_list(&prepared.plan), goes_with_its_engine(spec))?;
        let log_config = spec.life.as_ref().map_or_else(LogConfig::default, |life| life.log.clone());
        let mut registrar = Registrar { watch, spec };
        match Attended::launch(&prepared, caller, &mut registrar, failpoint.clone()) {
            Ok(attended) => {
                let created = (!locked).then(|| Event::of(spec, "create"));
                let comes = attachments(&chosen(rooms, &spec_rooms(spec)), spec, true);
                let start = Event::of(spec, "start");
                tell(&spec.dirs, &created.into_iter().chain(comes).chain([start]).collect::<Vec<_>>());
                let log = LogWriter::open(&spec.folder(), &log_config);
                let (dirs, id) = (spec.dirs.clone(), spec.id.clone());
                Ok((Self { rooms, dirs, id, journal, signals, log, failpoint }, attended))
            }
            Err(error) => {
                let error = Err(error);
                let moments = bury(spec, &journal, &error, false, locked);
                let undone = journal.finish(moments, |entry| {
                    Failpoint::strike(failpoint.as_ref(), &format!("undo.{}", entry.step));
                });
                if let Err(undone) = undone {
                    log::warn!("{undone:#}");
                }
                Err(error.err().unwrap_or_else(|| anyhow::anyhow!("the launch failed")))
            }
        }
    }

    /// Until the container has ended for good.
    fn live(mut self, attended: Attended) {
        let mut pause = FIRST_PAUSE;
        let mut attended = Some(attended);
        let mut ended = Ok(0);
        loop {
            if let Some(attended) = attended.take() {
                let begun = Instant::now();
                let last = || obituary(self.rooms, &record(&self.dirs, &self.id)?);
                ended =
                    attended.until_the_end(self.rooms, &self.signals, &mut self.log, last).map(|status| status as u8);
                if begun.elapsed() >= LONG_LIFE {
                    pause = FIRST_PAUSE;
                }
            }
            if !self.end(&ended) || !self.wait(pause) {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match self.again() {
                Ok(next) => attended = Some(next),
                Err(error) => ended = Err(error),
            }
            sys::trim_memory();
        }
        let _ = self.journal.finish(&[], |_| {});
    }

    /// Writes down the end and takes back what is due; whether it is to start again.
    fn end(&mut self, ended: &Result<u8>) -> bool {
        if let Ok(status) = ended {
            let _ = Running::ended(&self.dirs, &self.id, i32::from(*status));
        }
        let record = record(&self.dirs, &self.id);
        let oom_killed = record.as_ref().is_some_and(|record| obituary(self.rooms, record).is_some());
        let moments = if self.journal.all() { When::ALL } else { &[When::End] };
        let again = !self.journal.all() && self.write_down(ended, oom_killed).unwrap_or(false);
        let failpoint = self.failpoint.clone();
        let _ = self.journal.undo(moments, |entry| {
            Failpoint::strike(failpoint.as_ref(), &format!("undo.{}", entry.step));
        });
        if let Some(record) = record {
            let left = attachments(&chosen(self.rooms, &record.life().rooms), &record.spec, false);
            tell_end(&record.spec, ended, oom_killed, left, self.journal.all());
        }
        again
    }

    fn write_down(&self, ended: &Result<u8>, oom_killed: bool) -> Result<bool> {
        let _lock = Lock::take(&self.dirs, &self.id)?;
        let mut again = false;
        Record::update(&self.dirs, &self.id, |record| {
            last_words(record, ended, oom_killed);
            let status = ended.as_ref().map_or(125, |status| *status);
            again = !was_stopped(record) && record.life().restart.wants(status, record.rest.restart_count);
            record.rest.restart_count += u32::from(again);
            record.rest.begun = again;
        })?;
        Ok(again)
    }

    /// Waits before the next start; whether it is still wanted. SIGTERM (from `stop`) ends the wait.
    fn wait(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
            let told = std::iter::from_fn(|| self.signals.read()).any(|signal| signal == libc::SIGTERM);
            let over = left.is_zero();
            if told || over {
                let wanted = Record::read(&self.dirs, &self.id).is_ok_and(|record| !was_stopped(&record));
                if over || !wanted {
                    return wanted;
                }
            }
        }
    }

    fn again(&mut self) -> Result<Attended> {
        let lock = Lock::take(&self.dirs, &self.id)?;
        let record = Record::read(&self.dirs, &self.id)?;
        let prepared = load(self.rooms, record)?;
        self.journal.renew(undo_list(&prepared.plan))?;
        let mut watch = Unwatched;
        let mut registrar = Registrar { watch: &mut watch, spec: &prepared.spec };
        let attended = Attended::launch(&prepared, None, &mut registrar, None);
        if attended.is_ok() {
            let mut events = attachments(&chosen(self.rooms, &spec_rooms(&prepared.spec)), &prepared.spec, true);
            events.push(Event::of(&prepared.spec, "start"));
            tell(&self.dirs, &events);
        }
        drop(lock);
        attended
    }
}

fn record(dirs: &Dirs, id: &Id) -> Option<Record> {
    let mut record = Record::read(dirs, id).ok()?;
    read_config(&mut record).ok()?;
    Some(record)
}

fn spec_rooms(spec: &Spec) -> Vec<String> {
    spec.life.as_ref().map(|life| life.rooms.clone()).unwrap_or_default()
}

fn obituary(rooms: &[&dyn Room], record: &Record) -> Option<String> {
    chosen(rooms, &record.life().rooms).iter().find_map(|room| room.obituary(&record.spec))
}
