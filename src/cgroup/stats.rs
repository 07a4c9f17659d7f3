//! What a container has used, as the kernel counts it: the cgroup of its first process in each tree.

use std::fs;
use std::path::PathBuf;

/// Bytes, nanoseconds, processes; `None` where this kernel does not count.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// CPU time used so far.
    pub cpu: Option<u64>,
    /// Without the files that could be dropped at once, as docker shows it.
    pub memory: Option<u64>,
    pub memory_limit: Option<u64>,
    pub pids: Option<u64>,
    pub read: Option<u64>,
    pub written: Option<u64>,
}

impl Stats {
    /// The counts of process `pid`'s cgroups.
    pub fn of(pid: i32) -> Self {
        let v1 = |controller: &str, file: &str| super::freeze::file_of(pid, Some(controller), file);
        let v2 = |file: &str| super::freeze::file_of(pid, None, file);
        let number = |path: Option<PathBuf>| fs::read_to_string(path?).ok()?.trim().parse::<u64>().ok();
        let field = |path: Option<PathBuf>, name: &str| {
            let text = fs::read_to_string(path?).ok()?;
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        let used = number(v1("memory", "memory.usage_in_bytes")).or_else(|| number(v2("memory.current")));
        let cache = field(v1("memory", "memory.stat"), "total_inactive_file ");
        let cache = cache.or_else(|| field(v2("memory.stat"), "inactive_file ")).unwrap_or(0);
        let limit = number(v1("memory", "memory.limit_in_bytes")).or_else(|| number(v2("memory.max")));
        let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
            Some(line.trim().parse::<u64>().ok()? << 10)
        });
        let (read, written) = io(v1("blkio", "blkio.throttle.io_service_bytes"), v2("io.stat"));
        Self {
            cpu: number(v1("cpuacct", "cpuacct.usage"))
                .or_else(|| field(v2("cpu.stat"), "usage_usec ").map(|micros| micros * 1000)),
            memory: used.map(|used| used.saturating_sub(cache)),
            memory_limit: limit.into_iter().chain(total).min(),
            pids: number(v1("pids", "pids.current")).or_else(|| number(v2("pids.current"))),
            read,
            written,
        }
    }
}

/// Bytes read and written: `8:0 Read 4096` a line in v1, `8:0 rbytes=4096 wbytes=0 …` in v2.
fn io(v1: Option<PathBuf>, v2: Option<PathBuf>) -> (Option<u64>, Option<u64>) {
    let text = v1.and_then(|path| fs::read_to_string(path).ok());
    if let Some(text) = text {
        let sum = |word: &str| {
            let count = |line: &str| {
                let mut fields = line.split(' ').skip(1);
                if fields.next()? == word { fields.next()?.parse::<u64>().ok() } else { None }
            };
            text.lines().filter_map(count).sum::<u64>()
        };
        return (Some(sum("Read")), Some(sum("Write")));
    }
    let Some(text) = v2.and_then(|path| fs::read_to_string(path).ok()) else { return (None, None) };
    let sum =
        |word: &str| text.split_whitespace().filter_map(|field| field.strip_prefix(word)?.parse::<u64>().ok()).sum();
    (Some(sum("rbytes=")), Some(sum("wbytes=")))
}
