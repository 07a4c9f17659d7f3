//! The projects after chapter 09: a folder with a program `up` that makes containers, judged by what a neighbour on the
//! network is answered and by what the kernel shows. The neighbour, the host and the cable between them are the check's
//! own; nothing of it is the machine's.

mod counter;
mod solutions;
mod web;

use super::check::{Fault, Finding, wrong};
use crate::support::lab::{HOST, LOCALHOST, Lab};
use crate::support::{Done, Engine, kernel, slow};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// One thing that must hold; they are asked in their order, each on what the one before has left.
pub struct Demand {
    pub name: &'static str,
    ask: fn(&Site) -> Finding,
}

/// The project's folder on a host of its own, with a neighbour.
pub struct Site {
    lab: Lab,
    port: u16,
    /// What was put there to be found again: a page's text, a number.
    mark: RefCell<String>,
    number: Cell<u64>,
}

/// The demands of a project, by its name.
pub fn demands(project: &str) -> &'static [Demand] {
    match project {
        "web" => web::DEMANDS,
        "counter" => counter::DEMANDS,
        _ => panic!("there is no project `{project}`"),
    }
}

/// Asks one after the other, up to the first that does not hold.
pub fn ask(project: &str, binary: &Path, folder: &Path) -> Option<Vec<(&'static str, Finding)>> {
    let site = match Site::open(binary, folder) {
        Ok(site) => site?,
        Err(fault) => return Some(vec![("the machine", Err(fault))]),
    };
    let mut holds = true;
    let one = |demand: &Demand| {
        if !holds {
            return (demand.name, Err(Fault::NotReached("asked when everything above holds".to_string())));
        }
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (demand.ask)(&site)));
        let finding = asked.unwrap_or_else(|panic| wrong(super::panic_text(panic.as_ref())));
        holds = finding.is_ok();
        (demand.name, finding)
    };
    Some(demands(project).iter().map(one).collect())
}

impl Site {
    fn open(binary: &Path, folder: &Path) -> Finding<Option<Self>> {
        for word in ["iptables-restore", "ip", "nsenter", "unshare"] {
            if Command::new(word).arg("--version").output().is_err() {
                return Err(Fault::Cannot(format!("`{word}` is not installed")));
            }
        }
        let Some(mut engine) = Engine::of_any(binary) else { return Ok(None) };
        engine.limit = slow(Duration::from_secs(120));
        let Some(lab) = Lab::around(engine) else { return Ok(None) };
        let port = super::check::random(20_000, 30_000) as u16;
        let site = Self { lab, port, mark: RefCell::default(), number: Cell::default() };
        let failed = |error| Fault::Cannot(format!("{}: {error}", folder.display()));
        site.furnish(binary, folder).map_err(failed)?;
        Ok(Some(site))
    }

    /// Copies the folder to where it may be written to; a large image is only pointed at.
    fn furnish(&self, binary: &Path, folder: &Path) -> std::io::Result<()> {
        let (bin, own) = (self.lab.engine.path("bin"), self.lab.engine.path("project"));
        std::fs::create_dir(&bin)?;
        std::fs::create_dir(&own)?;
        std::os::unix::fs::symlink(binary.canonicalize()?, bin.join("mydocker"))?;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let (Some(name), true) = (path.file_name(), path.is_file()) else { continue };
            if path.extension().is_some_and(|end| end == "tar") {
                std::os::unix::fs::symlink(path.canonicalize()?, own.join(name))?;
            } else {
                std::fs::copy(&path, own.join(name))?;
            }
        }
        Ok(())
    }

    /// `./up`, with `PORT` and `mydocker` as promised.
    fn up(&self) -> Finding {
        let engine = &self.lab.engine;
        let path = format!("{}:{}", engine.text("bin"), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("./up");
        command.current_dir(engine.path("project")).env("PATH", path).env("PORT", self.port.to_string());
        command.env("MYDOCKER_ROOT", engine.root()).env("MYDOCKER_NETWORK", "bridge").env_remove("RUST_LOG");
        command.stdin(std::process::Stdio::null()).envs(engine.variables.iter().cloned());
        let done = engine.finish(command);
        if done.status == 0 { Ok(()) } else { Err(refused(&done)) }
    }

    fn mydocker(&self, words: &[&str]) -> Finding<Done> {
        let done = self.lab.engine.run(words);
        if done.status == 0 { Ok(done) } else { Err(refused(&done)) }
    }

    /// What the server says to the neighbour, at the host's address; `None`: nobody answers with a page.
    fn neighbour(&self) -> Option<String> {
        let port = self.port;
        let ask = move || page(HOST, port);
        kernel::inside(self.lab.lan.id(), "net", ask).ok()?
    }

    /// What it says to the host itself.
    fn host(&self) -> Option<String> {
        page(LOCALHOST, self.port)
    }

    /// Asks the neighbour until it is answered as wished, or patience is over: the last answer.
    fn until(&self, wished: impl Fn(&Option<String>) -> bool) -> Option<String> {
        let end = Instant::now() + slow(Duration::from_secs(8));
        loop {
            let answer = self.neighbour();
            if wished(&answer) || Instant::now() > end {
                return answer;
            }
            crate::support::nap(Duration::from_millis(20));
        }
    }

    /// Removes containers; the server must be gone with them.
    fn remove(&self, names: &[&str]) -> Finding {
        self.mydocker(&[&["rm", "-f"], names].concat())?;
        let answer = self.until(Option::is_none);
        super::check::expect(answer.is_none(), || {
            format!("{} removed, and port {} answers all the same: {answer:?}", names.join(" and "), self.port)
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for id in self.lab.engine.run(["ps", "-aq"]).stdout.split_whitespace() {
            self.lab.engine.run(["rm", "-f", id]);
        }
    }
}

/// Of a program that has not done what it was told.
fn refused(done: &Done) -> Fault {
    let last = done.stderr.trim().lines().rfind(|line| !line.starts_with("hint: ")).unwrap_or_default();
    let words = ["unrecognized subcommand", "not written yet", "unexpected argument", "unknown command"];
    match words.iter().any(|word| done.stderr.contains(word)) {
        true => Fault::NotReached(last.to_string()),
        false => Fault::Wrong(format!("status {}: {last}", done.status)),
    }
}

/// The body of `GET /`; of an answer that is none, what the server calls it.
fn page(ip: Ipv4Addr, port: u16) -> Option<String> {
    let patience = slow(Duration::from_secs(2));
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip.into(), port), patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {ip}\r\n\r\n").as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (status, reason) = head.lines().next()?.split_once(' ')?.1.split_once(' ')?;
    Some(if status == "200" { body.trim().to_string() } else { format!("({reason})") })
}

/// Processes in other network namespaces than ours: those of containers, also of others on this machine.
fn strangers() -> impl Iterator<Item = u32> {
    let ours = own("mnt");
    let other = move |pid: &u32| kernel::namespace(*pid, "mnt").is_some_and(|theirs| Some(theirs) != ours);
    kernel::processes().into_iter().filter(other)
}

/// The calling thread's own namespace: the private host's, which is not the process's.
fn own(kind: &str) -> Option<String> {
    std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).ok().map(|link| link.display().to_string())
}
