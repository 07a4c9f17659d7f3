//! A check: one fact about a container, asked of the kernel, of any binary that can `run` one. Four answers: right,
//! *wrong* (what the kernel shows, what was expected), *not reached yet*, *this machine cannot*.

use crate::support::{Done, Engine, Guard, Running, kernel};
use std::cell::OnceCell;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt; // ch04
use std::path::Path;
use std::time::{Duration, Instant};

/// One fact.
pub struct Check {
    /// The chapter that makes it true.
    pub chapter: usize,
    pub name: &'static str,
    pub ask: fn(&Subject) -> Finding,
}

/// Why a check is not passed.
#[derive(Clone, Debug)]
pub enum Fault {
    /// What the kernel shows, and what was expected.
    Wrong(String),
    /// The binary does not know the words yet.
    NotReached(String),
    /// What is missing on this machine.
    Cannot(String),
}

pub type Finding<T = ()> = Result<T, Fault>;

/// `Wrong`, unless it holds.
pub fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Finding {
    if holds { Ok(()) } else { Err(Fault::Wrong(otherwise())) }
}

/// `Wrong`, unless the kernel shows what was expected.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, shown: T, expected: T) -> Finding {
    expect(shown == expected, || format!("{what}: the kernel shows {shown:?}, expected {expected:?}"))
}

pub fn wrong<T>(text: impl Into<String>) -> Finding<T> {
    Err(Fault::Wrong(text.into()))
}

/// A number that nobody can have guessed.
pub fn random(from: u64, to: u64) -> u64 {
    from + RandomState::new().hash_one(from) % (to - from)
}

/// A binary, and how it wants to be spoken to.
pub struct Subject {
    pub engine: Engine,
    /// Put behind `run`, before everything else.
    extra: Vec<&'static str>,
    dialect: OnceCell<Finding<Dialect>>,
}

/// What docker, the products and the students' programs say differently.
#[derive(Clone)]
struct Dialect {
    /// Keeps stdin open, and nothing of the container afterwards, where that must be said.
    flags: &'static [&'static str],
    /// The image's name, where it cannot be left out.
    image: Option<&'static str>,
}

impl Subject {
    pub fn new(binary: &Path, extra: &[&'static str]) -> Option<Self> {
        let engine = Engine::of_any(binary)?;
        Some(Self { engine, extra: extra.to_vec(), dialect: OnceCell::new() })
    }

    /// Asks one check, with the host guard around it if the binary is one that should pass.
    pub fn ask(&self, check: &Check, guarded: bool) -> Finding {
        // A program that runs nothing has reached none of them.
        self.dialect()?;
        // The network that containers join by default comes with the first of them, and stays.
        if guarded && check.chapter >= 9 {
            crate::support::lab::warm_by(|| self.idle(&["--network", "bridge"]).map(drop))?;
        }
        let before = guarded.then(|| kernel::mounts("thread-self"));
        let guard = guarded.then(|| Guard::new(self.engine.root()));
        let mut finding = (check.ask)(self);
        if uncover_proc() && finding.is_err() {
            finding = wrong(
                "a container's /proc covers the host's: what it mounts appears on the host, which can be asked nothing any more. \
                 Its mount table must be private before its first mount (MS_REC|MS_PRIVATE)",
            );
        }
        // From chapter 07 on a container stays when its command has ended, unless its user says `--rm`.
        for id in self.engine.run(["ps", "-aq"]).stdout.split_whitespace() {
            self.engine.run(["rm", "-f", id]);
        }
        // What a check has left behind is wrong, whatever else it has found.
        let Some(Err(changes)) = guard.map(Guard::verdict) else { return finding };
        // Not the next check's fault as well.
        Guard::end_what_is_left(self.engine.root());
        detach_what_is_new(&before.unwrap_or_default());
        match finding {
            Ok(()) => wrong(changes),
            Err(Fault::Wrong(text) | Fault::NotReached(text) | Fault::Cannot(text)) => {
                wrong(format!("{text}\n{changes}"))
            }
        }
    }

    /// Found out by trying: what is said to `cat` comes back.
    fn dialect(&self) -> Finding<Dialect> {
        self.dialect.get_or_init(|| self.find_dialect()).clone()
    }

    fn find_dialect(&self) -> Finding<Dialect> {
        let before = kernel::mounts("thread-self");
        let word = format!("word-{:x}", random(0, u64::MAX));
        // What is told is what becomes of the words that the page asks for; the others are dialects.
        let mut said = String::new();
        for flags in [&["-i", "--rm"][..], &["-i"], &["-ti"], &["-it"]] {
            for image in [None, Some("busybox")] {
                let dialect = Dialect { flags, image };
                let words = self.words(&dialect, &[], &["cat"]);
                // One that hangs is not asked again, in no other words and for no other check.
                let ask = || self.engine.run_with_input(words, format!("{word}\n").as_bytes());
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask))
                    .map_err(|panic| Fault::Wrong(super::panic_text(panic.as_ref())))?;
                uncover_proc();
                if done.stdout.contains(&word) {
                    return Ok(dialect);
                }
                let left = detach_what_is_new(&before);
                if flags == ["-i"] && image.is_none() {
                    said = outcome(&done) + &left;
                }
            }
        }
        Err(Fault::NotReached(format!("`run -i cat` is told a line and does not answer with it: {said}")))
    }

    fn words(&self, dialect: &Dialect, flags: &[&str], command: &[&str]) -> Vec<String> {
        let parts = [&["run"], dialect.flags, &self.extra[..], flags, dialect.image.as_slice(), command];
        parts.concat().into_iter().map(String::from).collect()
    }

    /// A container that runs `command` until its stdin is closed or it is dropped.
    pub fn start(&self, flags: &[&str], command: &[&str]) -> Finding<Running> {
        self.start_any_under(&[], &[flags], command)
    }

    /// The first of several ways to say the same that the binary knows.
    pub fn start_any(&self, ways: &[&[&str]], command: &[&str]) -> Finding<Running> {
        self.start_any_under(&[], ways, command)
    }

    /// The same, with the binary started by another program (`strace …`).
    pub fn start_any_under(&self, program: &[&str], ways: &[&[&str]], command: &[&str]) -> Finding<Running> {
        let dialect = self.dialect()?;
        let start = |flags: &&[&str]| {
            let words = self.words(&dialect, flags, command);
            let mut running = self.engine.try_start_under(program, words).map_err(refused)?;
            settle(&mut running, command);
            Ok(running)
        };
        first_known(ways.iter().map(start))
    }

    /// A container that does nothing, until it is dropped.
    pub fn idle(&self, flags: &[&str]) -> Finding<Running> {
        self.start(flags, &["cat"])
    }

    /// Runs a command to its end.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Finding<Done> {
        let dialect = self.dialect()?;
        let done = self.engine.run(self.words(&dialect, flags, command));
        if unknown_words(&done).is_some() { Err(refused(done)) } else { Ok(done) }
    }

    // ch02
    /// The first of several ways to say the same that the binary knows.
    pub fn run_any(&self, ways: &[&[&str]], command: &[&str]) -> Finding<Done> {
        first_known(ways.iter().map(|flags| self.run(flags, command)))
    }
}

// ch04
/// `Wrong`, if the command's files are the host's: a check that is going to spoil files asks this first.
pub fn needs_own_root(running: &Running) -> Finding {
    let identity = |path: &str| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let theirs = identity(&format!("/proc/{}/root/", running.pid));
    expect(theirs.is_some() && theirs != identity("/"), || "its files are the host's".to_string())
}

/// Whether a container has mounted its /proc over the host's; takes it away. In it there is none of the processes out
/// here, this one included, so every question to the kernel would get a wrong answer, whatever it is about.
fn uncover_proc() -> bool {
    let is_covered = || !Path::new("/proc/thread-self").exists();
    let was = is_covered();
    while is_covered() && nix::mount::umount2("/proc", nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    was
}

/// Takes the mounts away that this host did not have before, newest first, and tells how many they were. While they
/// stay they are shared: the next container's would appear on them too, and double them.
fn detach_what_is_new(before: &[kernel::Mount]) -> String {
    let mut known = before.to_vec();
    let is_new = |mount: &kernel::Mount| {
        let at = known.iter().position(|one| one == mount);
        at.map(|at| known.swap_remove(at)).is_none()
    };
    let new: Vec<_> = kernel::mounts("thread-self").into_iter().filter(is_new).collect();
    for mount in new.iter().rev() {
        let _ = nix::mount::umount2(mount.at.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
    match new.last() {
        Some(last) => format!("\nand it leaves mounts on the host, {} of them; the last is {}", new.len(), last.at),
        None => String::new(),
    }
}

/// How a run has ended, in a few words: an empty line first, as a panic of Rust has it, says nothing, nor does the
/// engine of a lab when it names the rooms that it lacks.
pub fn outcome(done: &Done) -> String {
    let counts = |line: &&str| !line.is_empty() && !line.starts_with("mydocker: warn: this is a demonstration");
    let lines: Vec<_> = done.stderr.lines().map(str::trim).filter(counts).collect();
    let said = match lines[..] {
        [] if done.stdout.is_empty() => "it prints nothing".to_string(),
        [] => format!("it prints {:?}", done.stdout.chars().take(80).collect::<String>()),
        [first, second, .., last] if lines.len() > 3 => format!("{first} / {second} … {last}"),
        _ => lines.join(" / "),
    };
    format!("{said} (status {})", done.status)
}

/// A program that is not ours may run helpers in the new namespaces before the command; their words are not the
/// command's. One that garbles the words is not waited for long.
fn settle(running: &mut Running, command: &[&str]) {
    let end = Instant::now() + crate::support::slow(Duration::from_secs(4));
    // A shell may have become the last word of its script by now.
    let became = command.last().and_then(|script| script.rsplit("exec ").next()).unwrap_or_default();
    let arrived = |words: &[String]| words == command || words.join(" ") == became;
    while !arrived(&kernel::words(running.pid)) && Instant::now() < end {
        // What was taken for the command was a helper on the host, and has ended.
        if !kernel::alive(running.pid) {
            running.look_again();
        }
        crate::support::nap(Duration::from_micros(500));
    }
}

/// `Wrong`, if it does not come to be in a few seconds, or the command ends before that.
pub fn wait_until(running: &Running, what: &str, holds: impl Fn() -> bool) -> Finding {
    let end = Instant::now() + crate::support::slow(Duration::from_secs(10));
    while !holds() {
        let lives = kernel::alive(running.pid) && Instant::now() < end;
        expect(lives || holds(), || format!("waited in vain for {what}"))?;
        crate::support::nap(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until a shell has become `cat`, which is the last that the checks' scripts do.
pub fn wait_for_cat(running: &Running) -> Finding {
    wait_until(running, "the shell to be done", || kernel::words(running.pid).first().is_some_and(|word| word == "cat"))
}

fn first_known<T>(results: impl Iterator<Item = Finding<T>>) -> Finding<T> {
    let mut last = Err(Fault::NotReached("no way to say it".to_string()));
    for result in results {
        last = result;
        if !matches!(last, Err(Fault::NotReached(_))) {
            break;
        }
    }
    last
}

/// The container never ran: for want of words, or for another reason.
fn refused(done: Done) -> Fault {
    match unknown_words(&done) {
        Some(line) => Fault::NotReached(line),
        None => Fault::Wrong(format!("the container did not run: {}", outcome(&done))),
    }
}

/// What command line parsers say about a flag that they do not know.
fn unknown_words(done: &Done) -> Option<String> {
    let known = [
        "unexpected argument",
        "unknown flag",
        "unknown shorthand",
        "unrecognized option",
        "not defined",
        "unknown option",
    ];
    let line = done.stderr.lines().find(|line| known.iter().any(|words| line.contains(words)))?;
    (done.status != 0).then(|| line.trim().to_string())
}

// ch02
/// The folder of the cgroup that limits the container's command by `controller`.
pub fn cgroup(running: &Running, controller: &str) -> Finding<std::path::PathBuf> {
    kernel::cgroup(running.pid, controller)
        .ok_or_else(|| Fault::Wrong(format!("the container's command is in no cgroup with `{controller}`")))
}

// ch02
/// Whether any hierarchy here has the controller; else the machine cannot.
pub fn needs_controller(controller: &str) -> Finding {
    match kernel::cgroup(std::process::id(), controller) {
        Some(_) => Ok(()),
        None => Err(Fault::Cannot(format!("no mounted cgroup hierarchy has the controller `{controller}`"))),
    }
}
