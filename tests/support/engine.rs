//! Drives a binary: the product, or any other that `MYDOCKER_BIN` names. A hang is a failure.

use super::host::{PrivateHost, skip};
use super::kernel;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One binary, with a data root of its own on a private host.
pub struct Engine {
    binary: PathBuf,
    root: PathBuf,
    /// How long a run may take.
    pub limit: Duration,
    /// Set for every command.
    pub variables: Vec<(String, String)>,
    /// `run` leaves a container at rest, as docker's does; else the driver adds `--rm`, so that the host guard has
    /// nothing to say about a test that is not about that.
    pub keeps: bool,
    host: PrivateHost,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Done {
    /// As a shell counts it: the exit status, or 128 + the number of the signal that ended the engine.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    /// The same bytes, unaltered.
    pub stdout_bytes: Vec<u8>,
    pub took: Duration,
}

impl Engine {
    /// The binary under test: `MYDOCKER_BIN`, or the product as cargo has built it. `None` (and why, on stderr) if
    /// this machine cannot run containers at all.
    pub fn open() -> Option<Self> {
        let named = std::env::var_os("MYDOCKER_BIN").map(PathBuf::from);
        let engine = Self::of(&named.unwrap_or_else(|| env!("CARGO_BIN_EXE_mydocker").into()))?;
        Some(Self { keeps: false, ..engine })
    }

    /// The same, and `run` leaves a container at rest, as docker's does.
    pub fn keeping() -> Option<Self> {
        Self::open().map(|engine| Self { keeps: true, ..engine })
    }

    /// Another binary, which may be one without walls, or a broken one: the machine's own files are read-only for it.
    pub fn of_any(binary: &Path) -> Option<Self> {
        let mut engine = Self::of(binary)?;
        engine.host.protect().inspect_err(|why| skip(&format!("no safe place to try programs in: {why}"))).ok()?;
        engine.variables.push(("TMPDIR".to_string(), engine.folder().display().to_string()));
        Some(engine)
    }

    /// Another binary.
    pub fn of(binary: &Path) -> Option<Self> {
        let host = PrivateHost::enter().inspect_err(|why| skip(why)).ok()?;
        let root = host.folder().join("root");
        Some(Self {
            binary: binary.to_owned(),
            root,
            limit: crate::support::slow(Duration::from_secs(20)),
            variables: Vec::new(),
            keeps: true,
            host,
        })
    }

    /// The tree of the default image, which has one layer.
    pub fn image_tree(&self) -> PathBuf {
        let layers = std::fs::read_dir(self.root().join("layers")).into_iter().flatten().flatten();
        let mut trees = layers.map(|layer| layer.path().join("diff")).filter(|tree| tree.join("bin/busybox").exists());
        trees.next().expect("the default image is made by the first run")
    }

    /// The program under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The data root; made by the engine on its first start.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder for the test's own files, removed at the end.
    pub fn folder(&self) -> &Path {
        self.host.folder()
    }

    /// `BINARY words`, with our data root in `MYDOCKER_ROOT`: a student's binary that has no `--root` is not confused
    /// by it.
    pub fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.command_under(&[], words)
    }

    /// `PROGRAM… BINARY words`.
    pub fn command_under(&self, program: &[&str], words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let line: Vec<&OsStr> = program.iter().map(OsStr::new).chain([self.binary.as_os_str()]).collect();
        let mut command = Command::new(line[0]);
        let mut words: Vec<OsString> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let said = words.iter().any(|word| word.as_encoded_bytes().starts_with(b"--rm"));
        if let (Some(at), false, false) = (words.iter().position(|word| word == "run"), self.keeps, said) {
            words.insert(at + 1, "--rm".into());
        }
        command.args(&line[1..]).args(words).stdin(Stdio::null()).env("MYDOCKER_ROOT", &self.root);
        // Tests of other things leave no network behind; those of the network say `--network`.
        command.env("MYDOCKER_NETWORK", "none");
        command.env_remove("RUST_LOG").env_remove("MYDOCKER_FAILPOINT").envs(self.variables.iter().cloned());
        command
    }

    /// Runs it to its end, with an empty stdin.
    pub fn run(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
        self.finish(self.command(words))
    }

    /// The same; it must succeed: its stdout.
    pub fn output(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let command = self.command(words);
        let shown = format!("{command:?}");
        let done = self.finish(command);
        assert!(done.status == 0, "{shown}: {} {}", done.status, done.stderr);
        done.stdout
    }

    /// A path in the test's own folder, which is the root's too.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The same as text, for words.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Runs it with `input` on stdin, through a pipe.
    pub fn run_with_input(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &[u8]) -> Done {
        let mut command = self.command(words);
        command.stdin(Stdio::piped());
        let mut running = self.spawn(command);
        let (mut stdin, input) = (running.stdin.take().unwrap(), input.to_owned());
        // It may end without having read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let done = running.wait();
        writer.join().unwrap();
        done
    }

    /// Runs a command that was altered (environment, stdin, working directory, …) to its end.
    pub fn finish(&self, command: Command) -> Done {
        self.spawn(command).wait()
    }

    /// Starts a command (of [`Engine::command`]) without waiting for anything; stdout and stderr are caught.
    pub fn spawn(&self, mut command: Command) -> Running {
        // A shell that starts the engine knows nothing of the tests' network either.
        if command.get_envs().all(|(name, _)| name != "MYDOCKER_NETWORK") {
            command.env("MYDOCKER_NETWORK", "none");
        }
        let shown = format!("{command:?}");
        let mut child = spawn(&mut command, &shown);
        let stdout = catch(child.stdout.take());
        let stderr = catch(child.stderr.take());
        let stdin = child.stdin.take();
        let (since, limit, binary) = (Instant::now(), self.limit, self.binary.canonicalize().ok());
        Running {
            child,
            stdin,
            stdout,
            stderr,
            since,
            waits: since,
            limit,
            pid: 0,
            candidate: None,
            binary,
            shown,
            ended: false,
        }
    }

    /// Starts it and waits until the container's command runs (it has been exec'ed); `Running::pid` is its pid on this
    /// host. stdin is a pipe in `Running::stdin`: `run -i … cat` runs until that is dropped.
    pub fn start(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
        let mut command = self.command(words);
        command.stdin(Stdio::piped());
        let mut running = self.spawn(command);
        running.wait_for_command();
        running
    }

    /// The same; `Err` if it ended before its command ran.
    pub fn try_start(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Running, Done> {
        self.try_start_under(&[], words)
    }

    /// The same, with the binary started by another program (`strace …`).
    pub fn try_start_under(
        &self,
        program: &[&str],
        words: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Running, Done> {
        let mut command = self.command_under(program, words);
        command.stdin(Stdio::piped());
        let mut running = self.spawn(command);
        if running.runs() { Ok(running) } else { Err(running.wait()) }
    }
}

fn spawn(command: &mut Command, shown: &str) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"))
}

type Caught = Option<JoinHandle<Vec<u8>>>;

fn catch(stream: Option<impl Read + Send + 'static>) -> Caught {
    let mut stream = stream?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    }))
}

/// A run that goes on. Dropping it kills the container's command and waits until the engine has cleaned up.
pub struct Running {
    child: Child,
    pub stdin: Option<ChildStdin>,
    stdout: Caught,
    stderr: Caught,
    since: Instant,
    /// Since when somebody waits for something; each wait has the whole limit.
    waits: Instant,
    limit: Duration,
    /// The container's command, as this host numbers it; 0 until `wait_for_command`.
    pub pid: u32,
    /// What may be the command or a helper of the engine's, and since when it is there.
    candidate: Option<(u32, Instant)>,
    binary: Option<PathBuf>,
    shown: String,
    ended: bool,
}

impl Running {
    /// The engine's own pid.
    pub fn engine(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the engine has a descendant that runs another program than the engine: the container's command.
    pub fn wait_for_command(&mut self) {
        if !self.runs() {
            let (stdout, stderr) = (self.caught(0), self.caught(1));
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            panic!("{} ended before its command ran:\n{}{}", self.shown, text(stdout), text(stderr));
        }
    }

    /// Waits until the command runs (true) or the engine has ended (false).
    fn runs(&mut self) -> bool {
        loop {
            if let Some(pid) = self.find_command() {
                self.pid = pid;
                return true;
            }
            // Asked without reaping it, so that `wait` gets its status.
            if !kernel::alive(self.child.id()) {
                return false;
            }
            self.check_time("its command to run");
            super::nap(Duration::from_micros(500));
        }
    }

    /// Looks for the command once more: what was taken for it was a helper that has ended.
    pub fn look_again(&mut self) {
        self.pid = self.find_command().unwrap_or(self.pid);
    }

    fn find_command(&mut self) -> Option<u32> {
        let engine = self.child.id();
        let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let ours = [program(engine), self.binary.clone()];
        let other = |pid: &u32| program(*pid).is_some_and(|exe| !ours.contains(&Some(exe)));
        let others: Vec<u32> = kernel::descendants(engine).into_iter().filter(other).collect();
        let apart = |pid: &&u32| kernel::namespace(**pid, "pid") != kernel::namespace(engine, "pid");
        if let Some(pid) = others.iter().find(apart) {
            return Some(*pid);
        }
        // One that makes nothing may have become the command itself.
        let words = kernel::words(engine);
        let became =
            !words.is_empty() && program(engine) != self.binary && !words.iter().any(|word| self.is_binary(word));
        // A helper of the engine's is gone in a moment; a command without a PID namespace of its own stays.
        let there = others.first().copied().or(became.then_some(engine));
        if self.candidate.map(|(pid, _)| pid) != there {
            self.candidate = there.map(|pid| (pid, Instant::now()));
        }
        let stays = |since: Instant| since.elapsed() > super::slow(Duration::from_millis(300));
        self.candidate.filter(|(_, since)| stays(*since)).map(|(pid, _)| pid)
    }

    fn is_binary(&self, word: &str) -> bool {
        let path = Path::new(word).canonicalize().ok();
        path.is_some() && path == self.binary
    }

    /// Waits for anything that can be asked.
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        self.waits = Instant::now();
        while !holds() {
            self.check_time(what);
            super::nap(Duration::from_millis(1));
        }
    }

    /// Sends a signal to the engine.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end; stdin is closed first. Fails when the time is over, or when something that was left behind
    /// still holds stdout or stderr.
    pub fn wait(mut self) -> Done {
        let status = self.wait_for_engine();
        let took = self.since.elapsed();
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let (stdout_bytes, stderr) = (self.caught(0), self.caught(1));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { status, stdout: text(&stdout_bytes), stderr: text(&stderr), stdout_bytes, took }
    }

    /// Kills the container's command and waits for the engine, which cleans up; [`Done::status`] is 137 then.
    pub fn stop(mut self) -> Done {
        self.kill_command();
        self.wait()
    }

    fn kill_command(&mut self) {
        if self.pid != 0 {
            kill(self.pid);
        }
    }

    fn wait_for_engine(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.waits = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = true;
                return status;
            }
            self.check_time("its end");
            super::nap(Duration::from_micros(500));
        }
    }

    fn caught(&mut self, stream: usize) -> Vec<u8> {
        let taken = if stream == 0 { self.stdout.take() } else { self.stderr.take() };
        let Some(thread) = taken else { return Vec::new() };
        while !thread.is_finished() {
            self.check_time("what holds its stdout or stderr");
            super::nap(Duration::from_micros(500));
        }
        thread.join().unwrap()
    }

    fn check_time(&mut self, what: &str) {
        if self.waits.elapsed() > self.limit {
            let family: Vec<_> = kernel::descendants(self.child.id()).into_iter().map(kernel::words).collect();
            self.kill_all();
            panic!("{}: waited {:?} for {what}; its processes: {family:?}", self.shown, self.limit);
        }
    }

    fn kill_all(&mut self) {
        if !self.ended {
            self.ended = true;
            let family = kernel::descendants(self.child.id());
            let _ = self.child.kill();
            family.into_iter().for_each(kill);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended && !std::thread::panicking() {
            self.kill_command();
            self.wait_for_engine();
        }
        self.kill_all();
    }
}

fn kill(pid: u32) {
    use nix::sys::signal::{Signal, kill};
    let _ = kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL);
}
