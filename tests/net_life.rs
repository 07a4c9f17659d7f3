//! Detached containers and their network: the monitor holds what the foreground engine held.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use support::lab::{HOST, Lab, reaches, serve, sh};

fn ok(lab: &Lab, words: &[&str]) -> String {
    let done = lab.engine.run(words);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{words:?}");
    done.stdout.trim().to_string()
}

fn pid(lab: &Lab, name: &str) -> u32 {
    ok(lab, &["inspect", "-f", "{{.State.Pid}}", name]).parse().unwrap()
}

#[test]
fn a_detached_container_keeps_its_network_until_it_stops_and_gets_one_again() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    ok(
        &lab,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--net",
            "bridge",
            "-p",
            "8080:80",
            "-p",
            "8080:80/udp",
            "busybox",
            "sleep",
            "100",
        ],
    );
    serve(pid(&lab, "web"), 80, "web");
    assert!(reaches(Some(lab.lan.id()), HOST, 8080, "web"));
    assert!(ok(&lab, &["exec", "web", "ip", "-4", "-o", "addr"]).contains("172.17.0.2/16"));
    ok(&lab, &["stop", "-t", "0", "web"]);
    assert!(!sh("iptables-save").contains("DNAT --to-destination"), "a stopped container's port is still led in");
    ok(&lab, &["run", "-d", "--name", "other", "--net", "bridge", "busybox", "sleep", "100"]);
    ok(&lab, &["start", "web"]);
    let hosts = ok(&lab, &["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains("172.17.0.3\t") && !hosts.contains("172.17.0.2\t"), "{hosts}");
    serve(pid(&lab, "web"), 80, "again");
    assert!(reaches(Some(lab.lan.id()), HOST, 8080, "again"));
    ok(&lab, &["rm", "-f", "web", "other"]);
    guard.check();
}

#[test]
fn twenty_at_once_twice_over() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    for _ in 0..2 {
        let words = ["run", "-d", "--net", "bridge", "busybox", "sleep", "100"];
        let all: Vec<_> = (0..20).map(|_| lab.engine.spawn(lab.engine.command(words))).collect();
        let ids: Vec<_> = all.into_iter().map(|one| one.wait().stdout.trim().to_string()).collect();
        let address = |id: &String| sh(&format!("nsenter -t {} -n ip -4 -o addr show eth0", pid(&lab, id)));
        let found: BTreeSet<_> =
            ids.iter().map(|id| address(id).split_whitespace().nth(3).unwrap().to_string()).collect();
        assert_eq!(found.len(), 20, "{found:?}");
        let words: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        ok(&lab, &words);
    }
    guard.check();
}
