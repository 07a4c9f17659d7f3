//! Networks with IPv6 beside IPv4: addresses, names, the way out, and what keeps them apart.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use support::lab::{Lab, PATIENCE, settle, sh};
use support::{Running, kernel};

const HOST6: &str = "2001:db8::1";
const LAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

fn ok(lab: &Lab, words: &[&str]) -> String {
    let done = lab.engine.run(words);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{words:?}");
    done.stdout.trim().to_string()
}

fn on(lab: &Lab, network: &str, name: &str) -> Running {
    settle(lab.engine.start(["run", "--rm", "-i", "--network", network, "--name", name, "busybox", "cat"]))
}

fn address(running: &Running) -> Ipv6Addr {
    let text = sh(&format!("nsenter -t {} -n ip -6 -o addr show eth0 scope global", running.pid));
    text.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// Whether a connection from the network namespace of `pid` gets through.
fn reaches(pid: u32, to: Ipv6Addr, port: u16) -> bool {
    let connect = || TcpStream::connect_timeout(&SocketAddr::from((to, port)), *PATIENCE).is_ok();
    kernel::inside(pid, "net", connect).unwrap()
}

/// The same where it must: a busy machine may take its time.
fn comes_through(pid: u32, to: Ipv6Addr, port: u16) -> bool {
    (0..20).any(|_| reaches(pid, to, port))
}

fn listen(pid: u32, port: u16) -> TcpListener {
    kernel::inside(pid, "net", || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()).unwrap()
}

#[test]
fn both_kinds_of_addresses() {
    let Some(lab) = Lab::open() else { return };
    if !std::path::Path::new("/proc/sys/net/ipv6/conf").exists() {
        return support::skip("this kernel has no IPv6");
    }
    for line in ["echo 0 > /proc/sys/net/ipv6/conf/wire/disable_ipv6", "ip link set wire up"] {
        sh(line);
        sh(&format!("nsenter -t {} -n sh -c '{line}'", lab.lan.id()));
    }
    sh(&format!("ip addr add {HOST6}/64 dev wire nodad"));
    let way = format!("ip addr add {LAN6}/64 dev wire nodad; ip route add fd00:7::/32 via {HOST6}");
    sh(&format!("nsenter -t {} -n sh -c '{way}'", lab.lan.id()));
    let forwarding = || fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap();
    assert_eq!(forwarding().trim(), "0");
    ok(&lab, &["network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "one"]);
    ok(&lab, &["network", "create", "--ipv6", "--subnet", "10.8.0.0/24", "--subnet", "fd00:7:8::/64", "two"]);
    ok(&lab, &["network", "create", "--ipv6", "--internal", "inner"]);
    assert_eq!(forwarding().trim(), "1");
    let (web, db, far, inner) =
        (on(&lab, "one", "web"), on(&lab, "one", "db"), on(&lab, "two", "far"), on(&lab, "inner", "in"));
    let here = address(&web);
    assert_eq!(here, "fd00:7::2".parse::<Ipv6Addr>().unwrap());
    assert!(address(&inner).octets()[0] == 0xfd, "an internal network without a subnet gets one of its own");
    let _listening = [listen(web.pid, 80), listen(inner.pid, 80)];
    assert!(comes_through(db.pid, here, 80), "a neighbour on the same network");
    let host = || TcpStream::connect_timeout(&SocketAddr::from((here, 80)), *PATIENCE).is_ok();
    assert!((0..20).any(|_| host()), "the host");
    assert!(!reaches(lab.lan.id(), here, 80), "the lan came in by the container's address");
    assert!(!reaches(far.pid, here, 80), "another network");
    assert!(!reaches(web.pid, address(&inner), 80), "into an internal network");
    // By name, and out with the host's address.
    let found = ok(&lab, &["exec", "db", "nslookup", "-type=aaaa", "web"]);
    assert!(found.contains("fd00:7::2"), "{found}");
    let server = kernel::inside(lab.lan.id(), "net", || TcpListener::bind((LAN6, 7000)).unwrap()).unwrap();
    let seen = std::thread::spawn(move || server.accept().unwrap().1.ip());
    assert!(comes_through(web.pid, LAN6, 7000), "the way out");
    assert_eq!(seen.join().unwrap(), HOST6.parse::<IpAddr>().unwrap(), "the lan saw the container's own address");
    let shown = ok(&lab, &["inspect", "-f", "{{json .NetworkSettings.Networks.one}}", "web"]);
    assert!(shown.contains("\"GlobalIPv6Address\":\"fd00:7::2\"") && shown.contains("fd00:7::1"), "{shown}");
    // Another tool's flush is mended by the next start.
    sh("ip6tables -F; ip6tables -t nat -F; ip6tables -X; ip6tables -t nat -X");
    assert!(comes_through(lab.lan.id(), here, 80), "a positive control: without rules the lan comes in");
    ok(&lab, &["run", "--rm", "--network", "one", "busybox", "true"]);
    assert!(!reaches(lab.lan.id(), here, 80), "after the flush");
    for running in [web, db, far, inner] {
        running.stop();
    }
    ok(&lab, &["network", "rm", "one"]);
    assert_eq!(forwarding().trim(), "1", "another network needs it");
    ok(&lab, &["network", "rm", "two", "inner"]);
    assert_eq!(forwarding().trim(), "0");
    assert!(!sh("ip6tables-save").contains("MYDOCKER"), "{}", sh("ip6tables-save"));
}

#[test]
fn where_the_kernel_has_none_there_is_a_clear_word() {
    let Some(lab) = Lab::open() else { return };
    if std::path::Path::new("/proc/sys/net/ipv6/conf").exists() {
        sh("mount -t tmpfs tmpfs /proc/sys/net/ipv6");
    }
    let done = lab.engine.run(["network", "create", "--ipv6", "lab"]);
    assert!(done.status != 0 && done.stderr.contains("--ipv6: this kernel has no IPv6"), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1);
    assert!(!lab.engine.root().join("networks/lab").exists());
    ok(&lab, &["network", "create", "lab"]);
}
