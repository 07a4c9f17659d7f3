//! The host guard: what a container must not change, read before and after. Any difference fails the test.
//!
//! Mounts, links, addresses, routes and firewall rules are those of the test's private host, where nobody else works.
//! Cgroups and processes are the machine's, and others use them too; there only what is provably this test's counts: a
//! cgroup by the id of a container of this root (or by the name of the test's folder), a process by the mount of that
//! folder in its table, which every process that the test has started, or that was started in turn, has.

use super::kernel;
use inotify::{EventMask, Inotify, WatchMask};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// So many lines of each kind are told.
const SHOWN: usize = 12;

/// What is looked at → what is there, one line each.
type Snapshot = BTreeMap<&'static str, BTreeSet<String>>;

/// Takes a snapshot when it is made and compares when it is checked, at the latest when it is dropped.
pub struct Guard {
    root: PathBuf,
    /// The name of the test's folder, which is random.
    token: String,
    before: Snapshot,
    /// Tells every container that is ever made below this root.
    births: Inotify,
    ids: BTreeSet<String>,
    /// What is still going away when the engine ends may take so long.
    pub patience: Duration,
    checked: bool,
}

impl Guard {
    /// Watches the host, for engines that use `root`, a folder in that of the test ([`super::Engine::root`]).
    pub fn new(root: &Path) -> Self {
        let token = token(root);
        for (path, mode) in [(root.to_owned(), 0o711), (root.join("containers"), 0o700)] {
            fs::DirBuilder::new().recursive(true).mode(mode).create(path).unwrap();
        }
        let births = Inotify::init().unwrap();
        births.watches().add(root.join("containers"), WatchMask::CREATE | WatchMask::MOVED_TO).unwrap();
        let mut guard = Self {
            root: root.to_owned(),
            token,
            before: Snapshot::new(),
            births,
            ids: BTreeSet::new(),
            patience: crate::support::slow(Duration::from_secs(5)),
            checked: false,
        };
        guard.before = guard.snapshot();
        guard
    }

    /// The ids of all containers that were ever made below this root since the guard stands.
    pub fn ids(&mut self) -> &BTreeSet<String> {
        let mut buffer = [0; 4096];
        loop {
            match self.births.read_events(&mut buffer) {
                Ok(events) => {
                    for event in events {
                        assert!(!event.mask.contains(EventMask::Q_OVERFLOW), "too many containers to count");
                        self.ids.extend(event.name.map(|name| name.to_string_lossy().into_owned()));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return &self.ids,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }

    /// Every difference as it is now, one line each; empty: the host is as it was.
    pub fn changes(&mut self) -> Vec<String> {
        let after = self.snapshot();
        let mut lines = Vec::new();
        for (what, after) in &after {
            let before = &self.before[what];
            let more = after.difference(before).map(|line| format!("{what}: + {line}"));
            let fewer = before.difference(after).map(|line| format!("{what}: - {line}"));
            let all: Vec<_> = more.chain(fewer).collect();
            lines.extend(all.iter().take(SHOWN).cloned());
            // Shared mounts double with every container of an engine that forgets to make them private.
            lines.extend((all.len() > SHOWN).then(|| format!("{what}: … and {} more", all.len() - SHOWN)));
        }
        lines
    }

    /// Panics with what has changed, if it does not go away by itself in a moment.
    pub fn check(self) {
        self.verdict().unwrap_or_else(|changes| panic!("{changes}"));
    }

    /// What has changed and does not go away by itself in a moment, as an error.
    pub fn verdict(mut self) -> Result<(), String> {
        self.compare()
    }

    /// Ends what an engine has left running that uses `root`, or ran in a container of its own there.
    pub fn end_what_is_left(root: &Path) {
        for pid in marked(&token(root)) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn compare(&mut self) -> Result<(), String> {
        self.checked = true;
        let end = Instant::now() + self.patience;
        loop {
            let changes = self.changes();
            if changes.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("the host is not as it was:\n  {}", changes.join("\n  ")));
            }
            super::nap(Duration::from_millis(5));
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        self.ids();
        BTreeMap::from([
            ("mounts", mounts()),
            ("links and addresses", json(&["-j", "address"])),
            (
                "routes",
                &json(&["-j", "route", "show", "table", "all"]) | &json(&["-j", "-6", "route", "show", "table", "all"]),
            ),
            ("firewall", firewall()),
            ("kernel parameters", parameters()),
            ("cgroups", self.cgroups()),
            ("processes", self.processes()),
            ("state", self.state()),
        ])
    }

    /// Folders in any hierarchy that bear one of our names, wherever they stand. `/mydocker` itself is not one: the
    /// first container makes it, and it stays.
    fn cgroups(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<PathBuf> = kernel::hierarchies().into_iter().map(|tree| tree.at).collect();
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
                let ours = name.contains(&self.token) || self.ids.iter().any(|id| name.contains(id.as_str()));
                if ours || found.contains(&folder.display().to_string()) {
                    found.insert(path.display().to_string());
                }
                open.push(path);
            }
        }
        found
    }

    /// Living processes that bear our mark, other than the test itself.
    fn processes(&self) -> BTreeSet<String> {
        let shown = |pid: u32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let parent = kernel::status(pid, "PPid").unwrap_or_default();
            format!("{pid} (parent {parent}) {} {:?}", comm.trim(), kernel::words(pid))
        };
        marked(&self.token).into_iter().map(shown).collect()
    }

    /// The state folders, and the images: no container may change a file of one.
    fn state(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for folder in ["containers", "names", "run"] {
            walk(&self.root.join(folder), &mut |path, _| {
                // What all containers share appears with the first one.
                let shared = ["run/journal", "run/boot", "run/events"].iter().any(|own| path.ends_with(own));
                if !shared {
                    found.insert(path.display().to_string());
                }
            });
        }
        for folder in ["layers", "images"] {
            // What a crash leaves half done hides behind a dot.
            for entry in fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(b".") && name != ".lock" {
                    found.insert(entry.path().display().to_string());
                }
            }
            walk(&self.root.join(folder), &mut |path, meta| {
                // A layer or a blob may be new; what was there must be as it was, and nothing may be added to a layer.
                // The index tells what there is, and a folder's time changes with new neighbours.
                let aside = meta.is_dir() || path.ends_with(".lock") || path.ends_with("images/index.json");
                if !(aside || self.is_new(path)) {
                    let time = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
                    found.insert(format!(
                        "{} inode {} mode {:o} size {} time {time}",
                        path.display(),
                        meta.ino(),
                        meta.mode(),
                        meta.len()
                    ));
                }
            });
        }
        found
    }

    /// Whether nothing of the layer (a folder below `layers`), or of the file of `images`, was there before.
    fn is_new(&self, path: &Path) -> bool {
        let inner = path.strip_prefix(&self.root).unwrap_or(path);
        let depth = if inner.starts_with("layers") { 2 } else { usize::MAX };
        let whole = self.root.join(inner.components().take(depth).collect::<PathBuf>()).display().to_string();
        let of_it = |line: &String| line.strip_prefix(&whole).is_some_and(|rest| rest.starts_with(['/', ' ']));
        self.before.get("state").is_some_and(|known| !known.iter().any(of_it))
    }
}

/// The name of the test's folder, which is random.
fn token(root: &Path) -> String {
    let token = root.ancestors().filter_map(|path| path.file_name()?.to_str()).find(|name| name.len() > 16);
    token.unwrap_or_else(|| panic!("no random name in {}", root.display())).to_string()
}

/// Living processes with that name in their mount table, other than the test itself.
fn marked(token: &str) -> Vec<u32> {
    let bears = |mount: &kernel::Mount| {
        [&mount.root, &mount.at, &mount.source].iter().any(|text| text.contains(token))
            || mount.super_options.iter().any(|option| option.contains(token))
    };
    let ours = |pid: &u32| *pid != std::process::id() && kernel::mounts(pid).iter().any(bears);
    kernel::processes().into_iter().filter(ours).collect()
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.checked && !thread::panicking() {
            self.compare().unwrap_or_else(|changes| panic!("{changes}"));
        }
    }
}

/// Each with its propagation; but for what systemd mounts for whoever logs in, and takes away some time after.
fn mounts() -> BTreeSet<String> {
    let shown = |mount: kernel::Mount| {
        let propagation = if mount.propagation.is_empty() { "private".into() } else { mount.propagation.join(" ") };
        format!(
            "{} ({} {} {}) {} {propagation}",
            mount.at,
            mount.kind,
            mount.source,
            mount.root,
            mount.options.join(",")
        )
    };
    let of_a_login = |mount: &kernel::Mount| mount.at.starts_with("/run/user/");
    numbered(kernel::mounts("thread-self").into_iter().filter(|mount| !of_a_login(mount)).map(shown))
}

/// The same line twice is two things.
fn numbered(lines: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut set = BTreeSet::new();
    for line in lines {
        let count = counts.entry(line.clone()).and_modify(|count| *count += 1).or_insert(1);
        set.insert(if *count > 1 { format!("{line} #{count}") } else { line });
    }
    set
}

/// What `ip` lists, one object a line; without `ip`, what `/proc/net` has.
fn json(words: &[&str]) -> BTreeSet<String> {
    match Command::new("ip").args(words).output() {
        Ok(output) => {
            let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
            numbered(list.into_iter().map(|object| object.to_string()))
        }
        Err(_) => ["dev", "if_inet6", "fib_trie", "route"]
            .iter()
            .filter_map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok())
            .flat_map(|text| text.lines().map(|line| line.split_whitespace().take(1).collect()).collect::<Vec<_>>())
            .collect(),
    }
}

/// Tables, chains and rules, without their counters. A table appears with its first rule and stays when that is gone: one
/// in which nothing is said is none.
fn firewall() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for program in ["iptables-save", "ip6tables-save"] {
        // Not installed: then no engine can have used it either.
        let Ok(output) = Command::new(program).output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let plain = |line: &str| line.split(" [").next().unwrap_or(line).to_string();
        for table in text.split_inclusive("COMMIT\n") {
            let lines = || table.lines().map(plain).filter(|line| !line.starts_with('#') && line != "COMMIT");
            let name = lines().next().unwrap_or_default();
            let says_nothing =
                |line: &str| line.starts_with('*') || (line.starts_with(':') && line.ends_with(" ACCEPT"));
            if !lines().all(|line| says_nothing(&line)) {
                found.extend(lines().skip(1).map(|line| format!("{program}: {name}: {line}")));
            }
        }
    }
    found
}

/// Parameters that an engine is known to touch; those of the network are the private host's.
fn parameters() -> BTreeSet<String> {
    let names = [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/ip_unprivileged_port_start",
        "net/ipv4/ping_group_range",
        "kernel/hostname",
        "kernel/domainname",
        "kernel/core_pattern",
        "kernel/shmmax",
        "fs/mqueue/msg_max",
    ];
    let value = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    names.iter().map(|name| format!("{name} = {}", value(name).trim())).collect()
}

/// Every path below `folder`, with what `lstat` says; follows no link.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        visit(&path, &meta);
        if meta.is_dir() {
            walk(&path, visit);
        }
    }
}
