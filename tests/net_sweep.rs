//! Faults and races of networks: a container leaves, networks are mended, and one is removed while somebody joins it.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;
use support::lab::{HOST, Lab, comes_through, lab6, ok, pid, serve, sh, web};
use support::{Done, kernel};

/// The names of the steps that `words` would perform, from their dry run, each with both faults.
fn faults(lab: &Lab, words: &[&str]) -> Vec<String> {
    // In front of the words of `run`, which may be the container's.
    let at = words.iter().position(|word| *word == "run").map_or(words.len(), |at| at + 1);
    let dry = ok(lab, &[&words[..at], &["--dry-run"], &words[at..]].concat());
    let name = |line: &str| Some(line.strip_prefix("# ")?.split_once(": ")?.0.to_string());
    let steps = dry.lines().filter_map(name).filter(|name| name.starts_with("network."));
    steps.flat_map(|step| [format!("{step}:error"), format!("{step}:kill")]).collect()
}

fn struck(lab: &Lab, words: &[&str], point: &str) -> Done {
    let mut command = lab.engine.command(words);
    command.env("MYDOCKER_FAILPOINT", point);
    let done = lab.engine.finish(command);
    assert_ne!(done.status, 0, "{words:?}: {point} did not strike");
    done
}

fn cards(pid: u32) -> Vec<String> {
    let text = sh(&format!("nsenter -t {pid} -n ip -4 -o addr show scope global"));
    text.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_string()).collect()
}

#[test]
fn a_container_that_leaves_whatever_fails_can_leave_again_and_come_back() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let mut guard = lab.guard();
    guard.patience = support::slow(Duration::from_secs(10));
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    let pid = web(&lab, "lab");
    serve(pid, 80, "web");
    ok(&lab, &["network", "connect", "bridge", "web"]);
    let leave = ["network", "disconnect", "lab", "web"];
    let all = faults(&lab, &leave);
    assert!(all.len() >= 10, "{all:?}");
    for point in &all {
        struck(&lab, &leave, point);
        // Again: it goes on where it stopped.
        let again = lab.engine.run(leave);
        assert_eq!((again.status, again.stderr.as_str()), (0, ""), "after {point}");
        assert_eq!(cards(pid), ["eth1"], "after {point}");
        assert!(
            comes_through(Some(lab.lan.id()), HOST, 8080, "web"),
            "its ports lead over the other network, after {point}"
        );
        // The address and the name are free, and the ports lead back.
        ok(&lab, &["run", "--rm", "--network", "lab", "--ip", "10.7.0.2", "--name", "next", "busybox", "true"]);
        ok(&lab, &["network", "connect", "--ip", "10.7.0.2", "lab", "web"]);
        ok(&lab, &["network", "disconnect", "bridge", "web"]);
        assert!(comes_through(Some(lab.lan.id()), HOST, 8080, "web"), "after {point}");
        ok(&lab, &["network", "connect", "bridge", "web"]);
    }
    ok(&lab, &["rm", "-f", "web"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

#[test]
fn networks_are_mended_whatever_fails_on_the_way() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let mut guard = lab.guard();
    guard.patience = support::slow(Duration::from_secs(10));
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    let pid = web(&lab, "bridge");
    serve(pid, 80, "web");
    let break_it = || {
        sh("for t in raw nat filter; do iptables -t $t -F; iptables -t $t -X; done");
        sh("ip link del $(ip -o link show type bridge | grep -o 'md-[0-9a-f]*' | head -1)");
    };
    break_it();
    let all = faults(&lab, &["network", "repair"]);
    assert!(all.len() >= 10, "{all:?}");
    for point in &all {
        struck(&lab, &["network", "repair"], point);
        ok(&lab, &["network", "repair"]);
        assert!(comes_through(Some(lab.lan.id()), HOST, 8080, "web"), "after {point}");
        assert!(sh("ip -4 -o addr").contains("10.7.0.1/24"), "after {point}");
        assert_eq!(sh("iptables-save | grep -c '^-A [A-Z]* .*-j MYDOCKER-'").trim(), "7", "after {point}");
        break_it();
    }
    ok(&lab, &["network", "repair"]);
    ok(&lab, &["rm", "-f", "web"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

/// The first container of a network with both kinds of addresses makes its bridge and its rules, in both firewalls. Each
/// step struck, and nothing is left but the network's own record: no link, no rule, no lease, no forwarding.
#[test]
fn whatever_fails_on_the_way_to_ipv6_leaves_nothing() {
    let Some(mut lab) = lab6() else { return };
    lab.engine.keeps = true;
    lab.engine.run(["run", "--rm", "busybox", "true"]);
    let forwarding = || sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding");
    let rules = || sh("iptables-save; ip6tables-save").lines().filter(|line| line.starts_with("-A")).count();
    let before = (sh("ip -o link"), forwarding(), rules());
    let make = ["network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "lab"];
    let all = faults(&lab, &make);
    let six = |all: &[String]| all.iter().filter(|point| point.contains('6')).count();
    assert!(six(&all) >= 4, "{all:?}");
    let mut count = all.len();
    for point in &all {
        struck(&lab, &make, point);
        lab.engine.run(["network", "rm", "lab"]);
        ok(&lab, &make);
        ok(&lab, &["network", "rm", "lab"]);
        assert_eq!((sh("ip -o link"), forwarding(), rules()), before, "after {point}");
    }
    ok(&lab, &make);
    let made = (sh("ip -o link"), forwarding(), rules());
    let run = ["run", "-d", "--name", "web", "--network", "lab", "--ip6", "fd00:7::9", "-p", "[::]:8080:80", "busybox"];
    let run = [&run[..], &["sleep", "1000"]].concat();
    let all = faults(&lab, &run);
    assert!(six(&all) >= 4, "{all:?}");
    count += all.len();
    for point in &all {
        struck(&lab, &run, point);
        ok(&lab, &["ps", "-aq"]);
        lab.engine.run(["rm", "-f", "web"]);
        let leases = std::fs::read_dir(lab.engine.root().join("networks/lab/leases")).into_iter().flatten().count();
        assert_eq!(leases, 0, "after {point}");
        // The name, both addresses and the port are free.
        ok(&lab, &run);
        assert!(
            sh(&format!("nsenter -t {} -n ip -6 -o addr", pid(&lab, "web"))).contains("fd00:7::9/64"),
            "after {point}"
        );
        ok(&lab, &["rm", "-f", "web"]);
        let settled = || sh("ip -o link").lines().count() == made.0.lines().count();
        support::life::until("its link goes", settled);
        assert_eq!((forwarding(), rules()), (made.1.clone(), made.2), "after {point}");
    }
    ok(&lab, &["network", "rm", "lab"]);
    assert_eq!((sh("ip -o link"), forwarding(), rules()), before);
    println!("network create and run with IPv6: {count} faults, host unchanged");
}

/// Whoever is first: either the network goes and the container does not start, or it starts and the network stays.
#[test]
fn a_network_is_removed_while_a_container_starts_on_it() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let mut guard = lab.guard();
    guard.patience = support::slow(Duration::from_secs(10));
    let (mut went, mut stayed) = (0, 0);
    for round in 0..40u64 {
        ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
        let words = ["run", "-d", "--name", "web", "--network", "lab", "busybox", "sleep", "1000"];
        let start = lab.engine.spawn(lab.engine.command(words));
        // A little later each time, all over the time that a start takes.
        std::thread::sleep(Duration::from_micros(round * 1000));
        let removed = lab.engine.run(["network", "rm", "lab"]);
        let started = start.wait();
        let there = lab.engine.root().join("networks/lab/network.json").exists();
        if started.status == 0 {
            stayed += 1;
            assert!(removed.stderr.contains("has active endpoints: web (10.7.0.2)"), "{round}: {}", removed.stderr);
            assert!(there, "{round}: the network of a living container is gone");
            let pid = pid(&lab, "web");
            assert_eq!(cards(pid), ["eth0"], "{round}");
            assert!(kernel::alive(pid) && sh("bridge link").contains("master md-"), "{round}: {}", sh("bridge link"));
            ok(&lab, &["rm", "-f", "web"]);
            ok(&lab, &["network", "rm", "lab"]);
        } else {
            went += 1;
            assert_eq!((started.status, removed.status), (125, 0), "{round}: {}{}", started.stderr, removed.stderr);
            let word = ["not found", "was just removed"].iter().any(|word| started.stderr.contains(word));
            assert!(word && started.stderr.lines().count() <= 2, "{round}: {}", started.stderr);
            assert!(!there, "{round}");
            lab.engine.run(["rm", "-f", "web"]);
        }
        assert!(!sh("ip -o link").contains("md-"), "{round}: a bridge is left");
        assert!(!sh("iptables-save").contains("10.7.0."), "{round}: {}", sh("iptables-save"));
    }
    println!("{stayed} times the container was first, {went} times the removal");
    guard.check();
}
