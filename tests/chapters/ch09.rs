//! Chapter 09: the container has a card of its own, an address, and a way out over the host's bridge.

use super::check::{Check, Finding, Subject, expect, random, same};
use crate::support::{kernel, lab};
use std::process::Command;

pub const CHECKS: &[Check] = &[
    Check { chapter: 9, name: "a card of its own on a bridge", ask: card },
    Check { chapter: 9, name: "a way out over the bridge", ask: way_out },
    Check { chapter: 9, name: "an address of its own", ask: own_address },
    Check { chapter: 9, name: "the world answers", ask: world },
    Check { chapter: 9, name: "a published port answers", ask: published },
];

/// What `ip WORDS` says in the network namespace of `pid`.
fn ip(pid: u32, words: &[&str]) -> String {
    let pid = pid.to_string();
    let output = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn addresses(pid: u32) -> Vec<String> {
    let text = ip(pid, &["-4", "-o", "addr", "show", "scope", "global"]);
    let words = text.split_whitespace().collect::<Vec<_>>();
    words.windows(2).filter(|pair| pair[0] == "inet").map(|pair| pair[1].to_string()).collect()
}

/// Two at the same time have two addresses.
fn own_address(subject: &Subject) -> Finding {
    let (one, other) = (subject.idle(&["--network", "bridge"])?, subject.idle(&["--network", "bridge"])?);
    let (ours, theirs) = (addresses(one.pid), addresses(other.pid));
    expect(!ours.is_empty() && ours != theirs, || {
        format!("two containers run, with the addresses {ours:?} and {theirs:?}")
    })
}

/// A neighbour of the host, which knows no way to a container, answers one all the same: packets pass, and bear the
/// host's address.
fn world(subject: &Subject) -> Finding {
    let mut lan = lab::neighbour();
    lab::sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    let asked = (|| {
        let running = subject.idle(&["--network", "bridge"])?;
        // Who is on the host's own network needs nobody's help.
        let host = std::fs::read_link("/proc/thread-self/ns/net").ok().map(|link| link.display().to_string());
        let own = kernel::namespace(running.pid, "net") != host;
        expect(own, || "the container has no network of its own".to_string())?;
        lab::serve(lan.id(), 9000, "the world");
        let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
        let answer = kernel::inside(running.pid, "net", || lab::ask_tcp(lab::LAN, 9000)).ok().flatten();
        let what = format!("what a host beyond ours answers the container (ip_forward is {})", forward.trim());
        same(&what, answer.as_deref(), Some("the world"))
    })();
    let _ = lan.kill();
    let _ = lan.wait();
    lab::sh("ip link del wire 2>/dev/null; true");
    asked
}

fn card(subject: &Subject) -> Finding {
    let running = subject.idle(&["--network", "bridge"])?;
    let inside = ip(running.pid, &["-4", "-o", "addr", "show", "scope", "global"]);
    let own = kernel::namespace(running.pid, "net") != kernel::namespace(std::process::id(), "net");
    expect(own && inside.contains("inet "), || format!("no card with an address in the container: {inside:?}"))?;
    let ports = Command::new("ip").args(["-o", "link", "show", "type", "veth"]).output();
    let ports = ports.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    expect(ports.contains(" master "), || format!("no veth on the host is a port of a bridge: {ports:?}"))
}

fn way_out(subject: &Subject) -> Finding {
    let running = subject.idle(&["--network", "bridge"])?;
    let routes = ip(running.pid, &["-4", "route"]);
    let gateway =
        routes.split_whitespace().skip_while(|word| *word != "default").nth(2).unwrap_or_default().to_string();
    expect(!gateway.is_empty(), || format!("no default route in the container: {routes:?}"))?;
    let here = Command::new("ip").args(["-4", "-o", "addr"]).output();
    let here = here.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    expect(here.contains(&format!(" {gateway}/")), || format!("its gateway {gateway} is no address of the host"))
}

/// A server in the container is reached by the port of the host, also from the host itself.
fn published(subject: &Subject) -> Finding {
    let port = random(20_000, 30_000) as u16;
    let running = subject.idle(&["--network", "bridge", "-p", &format!("{port}:8000")])?;
    lab::serve(running.pid, 8000, "served");
    let here = Command::new("ip").args(["-4", "-o", "addr", "show", "type", "bridge"]).output();
    let here = here.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let gateway = here.split_whitespace().find_map(|word| word.split_once('/')?.0.parse().ok());
    for address in [Some(lab::LOCALHOST), gateway].into_iter().flatten() {
        same(&format!("the answer at {address}:{port}"), lab::ask_tcp(address, port).as_deref(), Some("served"))?;
    }
    Ok(())
}
