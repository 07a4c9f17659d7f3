//! What the user may say about resources, with docker's words and docker's meaning, and the part of the OCI document
//! that it becomes. Every refusal is one line that names the flag and the value.

use super::list::List;
use super::size;
use anyhow::{Result, bail};
use clap::{Arg, ArgAction, Command};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use std::ops::RangeInclusive;

/// The kernel's own period of the CPU bandwidth controller, in microseconds.
pub const PERIOD: u64 = 100_000;
/// Docker's least memory: with less, not even the start succeeds.
const LEAST_MEMORY: i64 = 6 << 20;
/// PID_MAX_LIMIT of a 64-bit kernel.
const MOST_PIDS: i64 = 4 << 20;

/// The flags. Numbers may begin with a minus, so that `-m -5` reaches us and is refused for what it is.
pub fn add(command: Command) -> Command {
    let value = |arg: Arg, name: &'static str| arg.value_name(name).allow_hyphen_values(true);
    let long = |name: &'static str| Arg::new(name).long(name);
    command.args([
        value(long("memory").short('m').visible_alias("mem"), "BYTES").help("Memory limit (100m, 1.5g)"),
        value(long("memory-swap"), "BYTES").help("Limit of memory plus swap; -1 for unlimited swap"),
        value(long("memory-reservation"), "BYTES").help("Memory that is taken back last when the machine runs short"),
        value(long("cpus"), "N").help("Number of CPUs, with a fraction (0.5)"),
        value(long("cpu-shares").short('c').visible_alias("cpushare"), "N")
            .help("Relative CPU weight (2-262144; 1024)"),
        value(long("cpu-period"), "MICROSECONDS").help("Period of the CPU bandwidth limit (1000-1000000)"),
        value(long("cpu-quota"), "MICROSECONDS").help("CPU time per period (at least 1000; -1 for unlimited)"),
        value(long("cpuset-cpus").visible_alias("cpuset"), "LIST").help("CPUs in which to run (0-3,7)"),
        value(long("cpuset-mems"), "LIST").help("Memory nodes from which to take memory (0-3,7)"),
        value(long("pids-limit"), "N").help("Number of processes and threads (-1 for unlimited)"),
        value(long("blkio-weight"), "N").help("Relative weight of disk access (10-1000)"),
        long("oom-kill-disable")
            .action(ArgAction::SetTrue)
            .help("Stop instead of killing when memory runs out (cgroup v1)"),
        value(long("cgroup-parent"), "PATH").help("Put the container's cgroup below this one"),
    ])
}

/// What was said: a flag's value, if it was given. `0` means "as if not said", as docker has it; so does an empty list.
pub type Said<'a> = &'a dyn Fn(&'static str) -> Option<&'a str>;

/// The resources of the OCI document; `cpus` is the number of CPUs that are online, and matters for `--cpus` only.
pub fn resources(said: Said, no_oom_kill: bool, cpus: u64) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    let memory = memory(said, no_oom_kill)?;
    resources.set_memory((memory != LinuxMemory::default()).then_some(memory));
    let cpu = cpu(said, cpus)?;
    resources.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    let pids = number(said, "pids-limit", -1..=MOST_PIDS, "a number of processes up to 4194304, or -1 for unlimited")?;
    if let Some(limit @ 1..) = pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = number(said, "blkio-weight", 10..=1000, "a weight between 10 and 1000")? {
        let mut io = LinuxBlockIo::default();
        io.set_weight(u16::try_from(weight).ok());
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}

fn memory(said: Said, no_oom_kill: bool) -> Result<LinuxMemory> {
    let limit = bytes(said, "memory")?;
    let reservation = bytes(said, "memory-reservation")?;
    let swap = match said("memory-swap") {
        Some("-1") => Some(-1),
        _ => bytes(said, "memory-swap")?,
    };
    let shown = |flag| said(flag).unwrap_or_default().escape_debug().to_string();
    for (flag, bytes) in [("memory", limit), ("memory-reservation", reservation)] {
        if bytes.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            bail!("--{flag}: `{}` is too little: the minimum memory limit allowed is 6MB", shown(flag));
        }
    }
    match (limit, swap) {
        (None, Some(0..)) => {
            bail!("--memory-swap: `{}` needs --memory too: it limits the sum of both", shown("memory-swap"))
        }
        (Some(limit), Some(swap @ 0..)) if swap < limit => {
            let (swap, limit) = (shown("memory-swap"), shown("memory"));
            bail!(
                "--memory-swap: `{swap}` is the sum of memory and swap, and so cannot be less than --memory `{limit}`"
            )
        }
        (Some(limit), _) if reservation.is_some_and(|reservation| reservation > limit) => {
            let (reservation, limit) = (shown("memory-reservation"), shown("memory"));
            bail!("--memory-reservation: `{reservation}` is more than --memory `{limit}`")
        }
        _ => {}
    }
    if no_oom_kill && limit.is_none() {
        log::warn!("--oom-kill-disable without --memory: the container can bring the whole machine to a halt");
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_reservation(reservation).set_swap(swap.filter(|_| limit.is_some()));
    memory.set_disable_oom_killer(no_oom_kill.then_some(true));
    Ok(memory)
}

fn cpu(said: Said, online: u64) -> Result<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let shares = number(said, "cpu-shares", 2..=262_144, "a weight between 2 and 262144")?;
    cpu.set_shares(shares.and_then(|shares| u64::try_from(shares).ok()));
    let period = number(said, "cpu-period", 1000..=1_000_000, "between 1000 and 1000000 microseconds")?;
    let quota = match said("cpu-quota") {
        Some("-1") => Some(-1),
        _ => number(said, "cpu-quota", 1000..=i64::MAX / 1000, "at least 1000 microseconds, or -1 for unlimited")?,
    };
    cpu.set_period(period.and_then(|period| u64::try_from(period).ok())).set_quota(quota);
    if let Some(text) = said("cpus") {
        for (flag, value) in [("cpu-period", period), ("cpu-quota", quota)] {
            if value.is_some() {
                bail!("--cpus: `{}` and --{flag} say the same thing twice; give one of them", text.escape_debug());
            }
        }
        cpu.set_period(Some(PERIOD)).set_quota(Some(cpus(text, online)?));
    }
    let list = |flag: &'static str| match said(flag).filter(|text| !text.is_empty()) {
        Some(text) if List::parse(text).is_none() => {
            bail!("--{flag}: `{}` is not a list like 0-3,7", shorten(text))
        }
        list => Ok(list.map(|text| text.trim_ascii_end().to_string())),
    };
    cpu.set_cpus(list("cpuset-cpus")?).set_mems(list("cpuset-mems")?);
    Ok(cpu)
}

/// `--cpus` as a quota of microseconds per [`PERIOD`]; a decimal number of at most nine places, as docker counts.
fn cpus(text: &str, online: u64) -> Result<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits(whole) && digits(part) && part.len() <= 9 && !(whole.is_empty() && part.is_empty());
    let billionths = number.then(|| {
        let whole = if whole.is_empty() { Some(0) } else { whole.parse::<u64>().ok() };
        whole?.checked_mul(1_000_000_000)?.checked_add(format!("{part:0<9}").parse().ok()?)
    });
    match billionths.flatten() {
        Some(n) if n >= 10_000_000 && n <= online * 1_000_000_000 => Ok((n / (1_000_000_000 / PERIOD)) as i64),
        _ => {
            let (text, s) = (shorten(text), if online == 1 { "" } else { "s" });
            let range = format!("range of CPUs is from 0.01 to {online}.00");
            bail!("--cpus: `{text}`: {range}, as there are only {online} CPU{s} available")
        }
    }
}

/// A flag's size; nothing for `0`.
fn bytes(said: Said, flag: &'static str) -> Result<Option<i64>> {
    let Some(text) = said(flag) else { return Ok(None) };
    match size::parse(text) {
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| *bytes != 0)),
        Err(wrong) => bail!("--{flag}: `{}` {wrong}", shorten(text)),
    }
}

/// A flag's whole number; nothing for `0`.
fn number(said: Said, flag: &'static str, range: RangeInclusive<i64>, shape: &str) -> Result<Option<i64>> {
    let Some(text) = said(flag) else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(0) => Ok(None),
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => bail!("--{flag}: `{}` is not {shape}", shorten(text)),
    }
}

/// At most 40 characters, escaped, for a message.
fn shorten(text: &str) -> String {
    let mut short: String = text.escape_debug().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
