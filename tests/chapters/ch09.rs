//! Chapter 09: the container has a card of its own, an address, and a way out over the host's bridge.

use super::check::{Check, Finding, Subject, expect, random, same};
use crate::support::{kernel, lab};
use std::process::Command;

pub const CHECKS: &[Check] = &[
    Check { chapter: 9, name: "a card of its own on a bridge", ask: card },
    Check { chapter: 9, name: "a way out over the bridge", ask: way_out },
    Check { chapter: 9, name: "a published port answers", ask: published },
];

/// What `ip WORDS` says in the network namespace of `pid`.
fn ip(pid: u32, words: &[&str]) -> String {
    let pid = pid.to_string();
    let output = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
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
