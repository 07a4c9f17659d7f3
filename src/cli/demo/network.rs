//! The demo of the wire: a network of its own with a random name, a web server on it, and the kernel's objects that
//! make it work, read by netlink and from the firewall. It touches no other network of the host.

use super::{Demo, Scene, Stage, Verdict, kernel};
use crate::plan::{Family, has_iptables};
use anyhow::Result;
use nix::net::if_::{if_indextoname, if_nametoindex};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const DEMO: Demo = Demo {
    name: "network",
    minutes: 9,
    scenes: &[
        Scene { name: "bridge", play: bridge },
        Scene { name: "veth", play: veth },
        Scene { name: "route", play: route },
        Scene { name: "names", play: names },
        Scene { name: "nat", play: nat },
        Scene { name: "port", play: port },
        Scene { name: "end", play: end },
    ],
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Without a firewall program there is no bridge network to show.
fn cannot(stage: &Stage<'_>) -> Option<Verdict> {
    let why = has_iptables(Family::V4).err()?;
    Some(Verdict::Skipped(format!("{} ({why})", stage.word("no-iptables"))))
}

/// The host's `ip`, or busybox's.
fn ip() -> &'static str {
    let found = |dir: &str| std::path::Path::new(dir).join("ip").exists();
    if ["/sbin", "/usr/sbin", "/bin", "/usr/bin"].into_iter().any(found) { "ip" } else { "busybox ip" }
}

fn has_link(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

fn bridge(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    stage.network()?;
    stage.needs("mydocker network create {name}")?;
    stage.assign("bridge", "mydocker network inspect -f '{{.Bridge}}' {name}")?;
    let shown = stage.outside(&format!("{} addr show dev $BRIDGE", ip()))?;
    let bridge = stage.value("bridge");
    Ok(Verdict::of(&[
        (has_link(&bridge), format!("there is no link {bridge}")),
        (shown.text.contains("inet "), format!("{bridge} has no address")),
    ]))
}

fn veth(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    let serve = "sh -c 'mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www'";
    stage.start("--network {name} -p 127.0.0.1::80", serve)?;
    // busybox's lists all of them.
    let ports =
        if ip() == "ip" { "ip link show master $BRIDGE | head -1 | cut -d' ' -f1-2" } else { "busybox ip link" };
    let (inside, outside) = stage.both("ip link show eth0 | head -1 | cut -d' ' -f1-2", ports)?;
    // `2: eth0@if7:` its other end is link number 7, over there.
    let number = inside.text.split_once("eth0@if").and_then(|(_, rest)| rest.split(':').next()?.parse::<u32>().ok());
    let end = number.and_then(|number| if_indextoname(number).ok()).and_then(|name| name.into_string().ok());
    let end = end.unwrap_or_default();
    stage.learn("end", end.clone());
    Ok(Verdict::of(&[
        (!end.is_empty(), format!("the other end of eth0 ({number:?}) is not on the host")),
        (outside.text.contains(&end), format!("{end} is no port of the bridge")),
    ]))
}

fn route(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    let (inside, outside) = stage.both("ip route", &format!("{} addr show dev $BRIDGE | grep 'inet '", ip()))?;
    let gateway = inside.text.split_once("default via ").and_then(|(_, rest)| rest.split(' ').next());
    let gateway = gateway.unwrap_or("none").to_string();
    let held = outside.text.contains(&format!("inet {gateway}/"));
    Ok(Verdict::of(&[(held, format!("the gateway {gateway} is not the bridge's address"))]))
}

fn names(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    if !listens(&stage.value("pid"), 80) {
        return Ok(Verdict::Wrong("nobody listens on port 80 in the container".to_string()));
    }
    let other = stage.also("2")?;
    let line =
        format!("mydocker run --rm --name {other} --network {{name}} busybox timeout 5 wget -qO- http://{{name}}/");
    let done = stage.outside(&line)?;
    Ok(Verdict::of(&[(done.status == 0 && done.text.trim() == "hello", done.text.trim().to_string())]))
}

/// Waits until somebody listens on the port, in the process's network namespace (`man 5 proc`, /proc/net/tcp: state 0A).
fn listens(pid: &str, port: u16) -> bool {
    let begun = Instant::now();
    let there = |file: &str| {
        let text = kernel::text(format!("/proc/{pid}/net/{file}"));
        let listens = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(3) == Some(&"0A") && words.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
        };
        text.lines().any(listens)
    };
    while begun.elapsed() < PATIENCE {
        if there("tcp") || there("tcp6") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn nat(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    let rules = stage.outside("iptables -w -t nat -S | grep $BRIDGE | grep MASQ | head -1")?;
    let forward = stage.outside("cat /proc/sys/net/ipv4/ip_forward")?;
    let bridge = stage.value("bridge");
    let translates = rules.text.contains(&format!("! -o {bridge}")) && rules.text.contains("-j MASQUERADE");
    Ok(Verdict::of(&[
        (translates, format!("no rule translates what leaves {bridge}")),
        (forward.text.trim() == "1", "the host does not forward packets".to_string()),
    ]))
}

fn port(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    stage.assign("at", "mydocker port {name} 80")?;
    let at = stage.value("at");
    let number = at.rsplit(':').next().unwrap_or_default().to_string();
    let rules = stage.outside(&format!("iptables -w -t nat -S | grep -w {number}"))?;
    let answer = at.parse().ok().and_then(|at| get(at, Instant::now() + PATIENCE)).unwrap_or_default();
    stage.outside("busybox wget -T 5 -qO- http://$AT/")?;
    Ok(Verdict::of(&[
        (rules.text.contains("-j DNAT"), format!("no rule leads port {number} in")),
        (answer.ends_with("hello"), format!("{at} answers {answer:?}")),
    ]))
}

/// What a web server says.
fn get(at: SocketAddr, until: Instant) -> Option<String> {
    loop {
        if let Ok(mut stream) = TcpStream::connect_timeout(&at, Duration::from_secs(2)) {
            let mut text = String::new();
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            stream.read_to_string(&mut text).ok()?;
            return Some(text.trim_end().to_string());
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end(stage: &mut Stage<'_>) -> Result<Verdict> {
    if let Some(skipped) = cannot(stage) {
        return Ok(skipped);
    }
    stage.needs("mydocker rm -f {name}")?;
    stage.needs("mydocker network rm {name}")?;
    let rules = stage.outside("iptables-save | grep -c $BRIDGE")?;
    let bridge = stage.value("bridge");
    Ok(Verdict::of(&[
        (!has_link(&bridge), format!("{bridge} is still there")),
        (rules.text.trim() == "0", "some of its rules are still there".to_string()),
    ]))
}
