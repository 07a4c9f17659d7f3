//! Detached containers and their network: the monitor holds what the foreground engine held.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use support::lab::{HOST, Lab, comes_through, ok, pid, serve, sh, web};

#[test]
fn a_detached_container_keeps_its_network_until_it_stops_and_gets_one_again() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    serve(web(&lab, "bridge"), 80, "web");
    assert!(comes_through(Some(lab.lan.id()), HOST, 8080, "web"));
    assert!(ok(&lab, &["exec", "web", "ip", "-4", "-o", "addr"]).contains("172.17.0.2/16"));
    ok(&lab, &["stop", "-t", "0", "web"]);
    assert!(!sh("iptables-save").contains("DNAT --to-destination"), "a stopped container's port is still led in");
    ok(&lab, &["run", "-d", "--name", "other", "--net", "bridge", "busybox", "sleep", "100"]);
    ok(&lab, &["start", "web"]);
    let hosts = ok(&lab, &["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains("172.17.0.3\t") && !hosts.contains("172.17.0.2\t"), "{hosts}");
    serve(pid(&lab, "web"), 80, "again");
    assert!(comes_through(Some(lab.lan.id()), HOST, 8080, "again"));
    ok(&lab, &["rm", "-f", "web", "other"]);
    guard.check();
}

/// As many rounds as `MYDOCKER_NET_ROUNDS` says; two, if nothing.
#[test]
fn fifty_at_once_and_away_again() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    lab.engine.limit = crate::support::slow(std::time::Duration::from_secs(120));
    let guard = lab.guard();
    let rounds = std::env::var("MYDOCKER_NET_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for round in 0..rounds {
        let start = |number: u32| {
            let name = format!("c{number}");
            let words = ["run", "-d", "--name", &name, "--net", "bridge", "busybox", "sleep", "1000"];
            lab.engine.spawn(lab.engine.command(words))
        };
        let all: Vec<_> = (0..50).map(start).collect();
        let done: Vec<_> = all.into_iter().map(|one| one.wait()).collect();
        for one in &done {
            assert_eq!((one.status, one.stderr.as_str()), (0, ""), "round {round}");
        }
        let ids: Vec<_> = done.iter().map(|one| one.stdout.trim().to_string()).collect();
        let shown: Vec<&str> =
            ["inspect", "-f", "{{.State.Pid}}"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        let pids = ok(&lab, &shown);
        let address = |pid: &str| sh(&format!("nsenter -t {pid} -n ip -4 -o addr show eth0"));
        let found: BTreeSet<_> =
            pids.lines().map(|pid| address(pid).split_whitespace().nth(3).unwrap().to_string()).collect();
        assert_eq!(found.len(), 50, "round {round}: {found:?}");
        let words: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        ok(&lab, &words);
    }
    guard.check();
}
