//! Project 2: a page with a counter, which a second container keeps: a real Redis, asked in its own language.

use super::{Demand, HOST, Site, own, strangers};
use crate::check::{Finding, expect, random, same, wrong};
use crate::support::{kernel, slow};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

pub const DEMANDS: &[Demand] = &[
    Demand { name: "it comes up", ask: Site::up },
    Demand { name: "the neighbour is counted", ask: counted },
    Demand { name: "the number is Redis's", ask: kept_by_redis },
    Demand { name: "two containers", ask: two },
    Demand { name: "nobody outside reaches Redis", ask: closed },
    Demand { name: "Redis's folder is a volume", ask: volume },
    Demand { name: "the number outlives both containers", ask: outlives },
    Demand { name: "the two find each other by name", ask: by_name },
];

/// The last number on the page.
fn number(page: &str) -> Option<u64> {
    page.split(|letter: char| !letter.is_ascii_digit()).rfind(|word| !word.is_empty())?.parse().ok()
}

/// The first answer is waited for: two programs have to start.
fn first(site: &Site) -> Finding<u64> {
    let answer = site.until(|answer| answer.as_deref().and_then(number).is_some());
    let Some(count) = answer.as_deref().and_then(number) else {
        let of_host = site.host().and_then(|page| number(&page));
        return wrong(match (of_host, answer) {
            (Some(_), _) => format!("published for the host alone: nobody answers a neighbour at {HOST}:{}", site.port),
            (None, Some(page)) => format!("there is no number on the page: {page:?}"),
            (None, None) => format!("nobody answers with a page at port {}", site.port),
        });
    };
    site.number.set(count);
    Ok(count)
}

fn next(site: &Site, why: &str) -> Finding {
    let expected = site.number.get() + 1;
    let count = site.neighbour().as_deref().and_then(number);
    site.number.set(count.unwrap_or_default());
    same(why, count, Some(expected))
}

fn counted(site: &Site) -> Finding {
    first(site)?;
    (0..random(3, 9)).try_for_each(|_| next(site, "the number, one visit later"))
}

/// Redis, as the kernel shows it: its words, and its own network namespace.
fn redis(site: &Site) -> Option<u32> {
    let ours = own("net");
    let is = |pid: &u32| kernel::words(*pid).first().is_some_and(|word| word.contains("redis-server"));
    let apart = |pid: &u32| kernel::namespace(*pid, "net") != ours;
    strangers().filter(|pid| is(pid) && apart(pid)).find(|pid| key(*pid, site.number.get()).is_some())
}

/// Asks it in its own network namespace, and waits for one answer: a line, or a list of texts.
fn say(pid: u32, words: &[&str]) -> Option<Vec<String>> {
    let ask = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 6379)).ok()?;
        stream.set_read_timeout(Some(slow(Duration::from_secs(2)))).ok()?;
        let text: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        (&stream).write_all(format!("*{}\r\n{text}", words.len()).as_bytes()).ok()?;
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let (kind, rest) = (line.chars().next()?, line[1..].trim().to_string());
        let mut one = |size: usize| {
            let mut bytes = vec![0; size + 2];
            reader.read_exact(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..size]).into_owned())
        };
        match kind {
            '$' => one(rest.parse().ok()?).map(|text| vec![text]),
            '*' => (0..rest.parse().ok()?).map(|_| list_item(&mut reader)).collect(),
            _ => Some(vec![rest]),
        }
    };
    kernel::inside(pid, "net", ask).ok()?
}

fn list_item(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut bytes = vec![0; line.strip_prefix('$')?.trim().parse::<usize>().ok()? + 2];
    reader.read_exact(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned())
}

/// The key that holds this number.
fn key(pid: u32, number: u64) -> Option<String> {
    let holds = |key: &String| say(pid, &["GET", key]).is_some_and(|value| value == [number.to_string()]);
    say(pid, &["KEYS", "*"])?.into_iter().find(holds)
}

/// A random number put into Redis is what the next visitor is told, plus one.
fn kept_by_redis(site: &Site) -> Finding {
    let Some(pid) = redis(site) else {
        let count = site.number.get();
        let runs = strangers().any(|pid| kernel::words(pid).first().is_some_and(|word| word.contains("redis-server")));
        return wrong(match runs {
            true => format!("no key of Redis holds {count}: who else keeps the number?"),
            false => format!("no container runs redis-server: who keeps the {count}?"),
        });
    };
    let key = key(pid, site.number.get()).unwrap_or_default();
    site.number.set(random(1_000_000, 2_000_000));
    say(pid, &["SET", &key, &site.number.get().to_string()]);
    next(site, &format!("the number, after `SET {key} {}` in Redis", site.number.get()))
}

fn found(site: &Site) -> Finding<u32> {
    redis(site).map_or_else(|| wrong("no Redis keeps the number"), Ok)
}

/// Nobody but Redis listens in its network namespace, and nothing else runs beside it.
fn two(site: &Site) -> Finding {
    let pid = found(site)?;
    let ours = kernel::namespace(pid, "net");
    let other = |other: &u32| kernel::namespace(*other, "net") == ours && kernel::words(*other) != kernel::words(pid);
    let programs: Vec<String> = strangers().filter(other).map(|pid| kernel::words(pid).join(" ")).collect();
    let web = programs.iter().find(|words| !words.contains("init") && !words.contains("redis"));
    expect(web.is_none(), || format!("in Redis's network namespace runs `{}` too", web.cloned().unwrap_or_default()))
}

/// Its port leads nowhere from outside, and a container of another network does not reach it.
fn closed(site: &Site) -> Finding {
    let pid = found(site)?;
    let open = || TcpStream::connect_timeout(&(HOST, 6379).into(), slow(Duration::from_millis(500))).is_ok();
    let reached = kernel::inside(site.lab.lan.id(), "net", open).unwrap_or(false);
    expect(!reached, || format!("the neighbour reaches Redis at {HOST}:6379: its port is published"))?;
    let address = address(pid);
    let script = format!("printf 'PING\\r\\n' | nc -w 2 {address} 6379");
    let done = site.lab.engine.run(["run", "--rm", "--network", "bridge", "busybox", "sh", "-c", &script]);
    expect(!done.stdout.contains("PONG"), || {
        format!("a container of the default network reaches Redis at {address}: it is on no network of its own")
    })
}

fn address(pid: u32) -> String {
    let words = ["-t", &pid.to_string(), "-n", "ip", "-4", "-o", "addr", "show", "scope", "global"];
    let output = std::process::Command::new("nsenter").args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let cidr = text.split_whitespace().skip_while(|word| *word != "inet").nth(1).unwrap_or_default();
    cidr.split('/').next().unwrap_or_default().to_string()
}

fn volume(site: &Site) -> Finding {
    let pid = found(site)?;
    let folder = say(pid, &["CONFIG", "GET", "dir"]).and_then(|answer| answer.get(1).cloned()).unwrap_or_default();
    let table = kernel::mounts(pid);
    let mount = table.iter().rfind(|mount| std::path::Path::new(&folder).starts_with(&mount.at));
    expect(mount.is_some_and(|mount| mount.at != "/"), || {
        format!("Redis writes to {folder}, which is no mount of its container: the files go with the container")
    })
}

/// Both are removed as by a power cut, and made again.
fn outlives(site: &Site) -> Finding {
    site.remove(&["web", "redis"])?;
    site.up()?;
    let expected = site.number.get() + 1;
    same("the number after `rm -f web redis` and `./up`", first(site)?, expected)
}

/// The same, while others have taken the addresses that were free.
fn by_name(site: &Site) -> Finding {
    let before = address(found(site)?);
    site.remove(&["web", "redis"])?;
    for name in ["first", "second"] {
        site.mydocker(&["run", "-d", "--name", name, "--network", "counter", "busybox", "sleep", "1000"])?;
    }
    site.up()?;
    let expected = site.number.get() + 1;
    let count = first(site).or_else(|_| wrong(format!("Redis is not at {before} any more, and is not found")))?;
    same("the number, with Redis at another address", count, expected)
}
