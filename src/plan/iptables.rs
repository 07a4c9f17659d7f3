//! One call of `iptables-restore` per change: all lines of it are in force at the same moment, or none is (`man 8
//! iptables-restore`). The system's own program, because it alone knows which of the two flavours this machine uses.
//!
//! Try it without us: `printf '*filter\n:DEMO - [0:0]\nCOMMIT\n' | iptables-restore --noflush --wait 20`

use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

/// Which of the two sets of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn program(self, verb: &str) -> String {
        format!("{}{verb}", if self == Family::V6 { "ip6tables-" } else { "iptables-" })
    }
}

/// The first line of a text that is about the other tables.
pub const FOR_IPV6: &str = "# ip6tables\n";

/// How long we wait for another program's lock on the tables, in seconds. A test need not wait that long (debug builds
/// only).
pub fn firewall_patience() -> u64 {
    const PATIENCE: u64 = 20;
    let shorter = std::env::var("MYDOCKER_FIREWALL_PATIENCE").ok().filter(|_| cfg!(debug_assertions));
    shorter.and_then(|text| text.parse().ok()).unwrap_or(PATIENCE)
}

/// Adds to the tables what `text` says; leaves alone what it does not name. The error is one line, the program's own.
pub fn iptables_restore(family: Family, text: &str) -> io::Result<()> {
    let mut child = start_restore(family)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on stderr.
        let _ = stdin.write_all(text.as_bytes());
    }
    end_restore(family, text, child)
}

/// The same for a text that only takes out. It is done when this returns, but the program may still be ending: whoever has
/// taken out rules of nftables waits for that until no processor can hold one of them any more (RCU), and we need not.
/// What it leaves is reaped by the next one, or by init.
fn take_out(family: Family, text: &str) -> io::Result<()> {
    static ENDING: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    let mut child = start_restore(family)?;
    let done = child.stdin.take().is_some_and(|stdin| read_to_the_end(stdin, text).is_ok_and(|done| done));
    match ENDING.lock() {
        Ok(mut ending) if done => {
            ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            ending.push(child);
            Ok(())
        }
        _ => end_restore(family, text, child),
    }
}

fn start_restore(family: Family) -> io::Result<Child> {
    let name = family.program("restore");
    let mut command = program(&name)?;
    command
        .args(["--noflush", "--wait", &firewall_patience().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    spawn(&mut command).map_err(|error| not_there(&name, &error))
}

fn end_restore(family: Family, text: &str, child: Child) -> io::Result<()> {
    let (name, patience) = (family.program("restore"), firewall_patience());
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("xtables lock") {
        return Err(io::Error::other(format!(
            "another program has held the lock of the firewall's tables for {patience} seconds (`fuser /run/xtables.lock` \
             names it)"
        )));
    }
    // `line 7 failed` is about our own text: show that line.
    let number =
        said.split("line").nth(1).and_then(|rest| rest.trim_matches([' ', ':']).split(' ').next()?.parse().ok());
    let line = number.and_then(|number: usize| text.lines().nth(number.wrapping_sub(1))).unwrap_or_default();
    let reason = said.lines().find(|line| !line.is_empty()).unwrap_or("no reason given");
    Err(io::Error::other(format!("{name}: {} {line}", reason.trim()).trim_end().to_string()))
}

/// Hands a program `text` line by line: whether it has read, and so done, all of it. `false`, or an error: it has ended, and
/// its status says how. The pipe holds one page, and has room again when that was read (`man 7 pipe`, F_SETPIPE_SZ): a
/// last line, a comment, is read only after the one before it, `COMMIT`, was done.
fn read_to_the_end(mut stdin: ChildStdin, text: &str) -> io::Result<bool> {
    let page = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(1))?;
    for part in text.as_bytes().chunks(page as usize).chain([&b"#\n"[..]]) {
        stdin.write_all(part)?;
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        // POLLERR: nobody is there to read.
        if fds[0].revents() != Some(PollFlags::POLLOUT) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every rule there is, one `-A …` per line, under the name of its table.
pub fn iptables_save(family: Family) -> io::Result<Vec<(String, String)>> {
    let name = family.program("save");
    let mut command = program(&name)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = spawn(&mut command).map_err(|error| not_there(&name, &error))?;
    let output = child.wait_with_output()?;
    let mut table = String::new();
    let mut rules = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        } else if line.starts_with("-A ") || line.starts_with(':') {
            rules.push((table.clone(), line.to_string()));
        }
    }
    Ok(rules)
}

/// Starts it with SIGALRM let through: by that it ends its wait for the lock, and the engine, which passes on all
/// signals, has them blocked.
fn spawn(command: &mut Command) -> io::Result<Child> {
    use nix::sys::signal::{SigSet, Signal};
    let alarm = SigSet::from(Signal::SIGALRM);
    let blocked = SigSet::thread_get_mask().is_ok_and(|mask| mask.contains(Signal::SIGALRM));
    alarm.thread_unblock()?;
    let child = command.spawn();
    if blocked {
        alarm.thread_block()?;
    }
    child
}

/// Whether the program is there that writes rules.
pub fn has_iptables(family: Family) -> io::Result<()> {
    program(&family.program("restore")).map(drop)
}

/// What the program that writes rules says of itself: `iptables-restore v1.8.9 (nf_tables)`.
pub fn iptables_version() -> io::Result<String> {
    let name = Family::V4.program("restore");
    let output = program(&name)?.arg("--version").output().map_err(|error| not_there(&name, &error))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_string();
    if version.is_empty() { Err(not_there(&name, &io::Error::other("no version"))) } else { Ok(version) }
}

/// Whether the kernel's table has rules in which all of `needles` stand, in either flavour; asked of the kernel itself,
/// because to start a program takes milliseconds.
pub fn table_has(family: Family, table: &str, needles: &[&[u8]]) -> bool {
    let has =
        |rules: Result<Vec<u8>, Errno>| rules.is_ok_and(|rules| needles.iter().all(|needle| contains(&rules, needle)));
    // Only asking would make the table, if it were not there.
    let ipv6 = family == Family::V6;
    let names = if ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
    let legacy = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
    let is_legacy = legacy.lines().any(|name| name == table);
    is_legacy && has(sys::legacy_table(table, ipv6)) || has(sys::nft_table(table, ipv6))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let first = needle.first().copied().unwrap_or_default();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Takes out rules: `text` is made of `*table`, `-D …` and `COMMIT` lines. What is not there any more is passed over.
pub fn remove_rules(text: &str) -> io::Result<()> {
    let family = if text.starts_with(FOR_IPV6) { Family::V6 } else { Family::V4 };
    if !stands_there(family, text) {
        return Ok(());
    }
    let Err(first) = take_out(family, text) else { return Ok(()) };
    let there = iptables_save(family).map_err(|_| first)?;
    let mut table = "";
    let mut left = String::new();
    for line in text.lines() {
        table = line.strip_prefix('*').unwrap_or(table);
        let rule = line.strip_prefix("-D ").map(words);
        let is_there = |rule: &Vec<String>| {
            there.iter().any(|(name, line)| name == table && line.strip_prefix("-A ").map(words).as_ref() == Some(rule))
        };
        if rule.as_ref().is_none_or(is_there) {
            left.push_str(line);
            left.push('\n');
        }
    }
    if left.contains("-D ") { take_out(family, &left) } else { Ok(()) }
}

/// Whether any of the rules that `text` takes out can be in the kernel, judged by their comments.
fn stands_there(family: Family, text: &str) -> bool {
    let mut table = "";
    text.lines().any(|line| {
        table = line.strip_prefix('*').unwrap_or(table);
        let comment = line.split(' ').skip_while(|word| *word != "--comment").nth(1);
        line.starts_with("-D ") && comment.is_none_or(|comment| table_has(family, table, &[comment.as_bytes()]))
    })
}

/// The words of a rule, without what the two flavours write differently: quotes, and `/32` or `/128`.
fn words(rule: &str) -> Vec<String> {
    let mut words: Vec<String> =
        rule.split_whitespace().map(|word| word.trim_matches('"')).map(|word| bare(word).to_string()).collect();
    // `-p tcp --dport` is saved as `-p tcp -m tcp --dport`, and options in the order of their modules.
    words.sort();
    words.retain(|word| !matches!(word.as_str(), "-m" | "tcp" | "udp" | "sctp"));
    words
}

/// One address, without the prefix that says so.
fn bare(word: &str) -> &str {
    word.strip_suffix("/32").or_else(|| word.strip_suffix("/128")).unwrap_or(word)
}

/// Where the administrator's programs lie, before what the caller's PATH says.
fn program(name: &str) -> io::Result<Command> {
    let fixed = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        fixed.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.map(Command::new).ok_or_else(|| not_there(name, &io::Error::from(io::ErrorKind::NotFound)))
}

fn not_there(name: &str, error: &io::Error) -> io::Error {
    let error = match error.kind() {
        io::ErrorKind::NotFound => "not found".to_string(),
        _ => error.to_string(),
    };
    io::Error::other(format!("`{name}` cannot be run ({error}): install iptables, or say --network none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_has_done_the_last_line_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{}COMMIT\n", "a line of many\n".repeat(2000));
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(dir.path()).stdin(Stdio::piped());
            let mut child = command.spawn().unwrap();
            (child.stdin.take().unwrap(), child)
        };
        // It needs its time for the last line, and would not end by itself.
        let (stdin, mut child) =
            start("while read line; do [ \"$line\" = COMMIT ] && sleep 0.2 && >done; done; exec sleep 1000");
        assert!(read_to_the_end(stdin, &text).unwrap());
        assert!(dir.path().join("done").exists(), "it had not done what it was told");
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // One that ends in the middle has not.
        for script in ["read line", "while read line; do [ \"$line\" = COMMIT ] && exit; done"] {
            let (stdin, mut child) = start(script);
            assert!(!read_to_the_end(stdin, &text).is_ok_and(|done| done), "{script}");
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_rule_is_the_same_however_it_was_saved() {
        let ours =
            "X -d 10.0.0.1 -p tcp -m tcp --dport 80 -m comment --comment mydocker:a -j DNAT --to-destination 1.2.3.4:8";
        let legacy = "X -d 10.0.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment \"mydocker:a\" -j DNAT --to-destination 1.2.3.4:8";
        assert_eq!(words(ours), words(legacy));
        assert_ne!(words(ours), words(&ours.replace("80", "81")));
    }
}
