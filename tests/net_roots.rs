//! Two data roots on one host, and a container that has lost its monitor: no address, bridge, port or rule is had twice.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use support::lab::{HOST, Lab, ask_tcp, comes_through, reaches, serve, sh};
use support::{Done, kernel};

fn under(lab: &Lab, root: &Path, words: &[&str]) -> Command {
    let mut command = lab.engine.command(words);
    command.env("MYDOCKER_ROOT", root);
    command
}

fn ok(lab: &Lab, root: &Path, words: &[&str]) -> String {
    let done = lab.engine.finish(under(lab, root, words));
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{words:?}");
    done.stdout.trim().to_string()
}

fn detached(lab: &Lab, root: &Path, name: &str, flags: &[&str]) -> u32 {
    let words = [&["run", "-d", "--name", name, "--network", "bridge"], flags, &["busybox", "sleep", "1000"]].concat();
    ok(lab, root, &words);
    ok(lab, root, &["inspect", "-f", "{{.State.Pid}}", name]).parse().unwrap()
}

fn address(pid: u32) -> String {
    let text = sh(&format!("nsenter -t {pid} -n ip -4 -o addr show eth0"));
    text.split_whitespace().nth(3).unwrap().to_string()
}

#[test]
fn a_second_data_root_is_beside_the_first() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let (one, two) = (lab.engine.root().to_owned(), lab.engine.folder().join("other"));
    let web = detached(&lab, &one, "web", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let other = detached(&lab, &two, "web", &["-p", "8081:80", "-p", "8081:80/udp"]);
    assert_eq!((address(web), address(other)), ("172.17.0.2/16".into(), "172.18.0.2/16".into()));
    let bridges = sh("ip -o link show type bridge");
    assert!(bridges.contains("mydocker0") && bridges.contains("mydocker1"), "{bridges}");
    serve(web, 80, "one");
    serve(other, 80, "two");
    let lan = Some(lab.lan.id());
    let both = |what: &str| {
        assert!(comes_through(lan, HOST, 8080, "one"), "{what}");
        assert!(comes_through(lan, HOST, 8081, "two"), "{what}");
        assert!(!reaches(Some(web), Ipv4Addr::new(172, 18, 0, 2), 80, "two"), "{what}: networks are not apart");
    };
    both("both are up");
    // Networks that come and go in one leave the other's rules alone.
    ok(&lab, &one, &["network", "create", "one"]);
    ok(&lab, &two, &["network", "create", "two"]);
    ok(&lab, &two, &["network", "rm", "two"]);
    ok(&lab, &one, &["network", "rm", "one"]);
    both("after other networks");
    ok(&lab, &two, &["rm", "-f", "web"]);
    ok(&lab, &two, &["network", "rm", "bridge"]);
    assert!(comes_through(lan, HOST, 8080, "one"), "the first root lost its rules with the second's last network");
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    ok(&lab, &one, &["rm", "-f", "web"]);
    ok(&lab, &one, &["network", "rm", "bridge"]);
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0", "forwarding was not put back by the last one");
    assert!(!sh("iptables-save").contains("MYDOCKER"), "{}", sh("iptables-save"));
}

#[test]
fn two_data_roots_begin_at_once() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let words = ["run", "--rm", "--network", "bridge", "busybox", "ip", "-4", "-o", "addr", "show", "eth0"];
    for round in 0..3 {
        let roots = [0, 1].map(|number| lab.engine.folder().join(format!("root-{round}-{number}")));
        let all = roots.each_ref().map(|root| lab.engine.spawn(under(&lab, root, &words)));
        let mut done: Vec<Done> = all.into_iter().map(|one| one.wait()).collect();
        // Of two who have had the same thought one must think again.
        for (one, root) in done.iter_mut().zip(&roots).filter(|(one, _)| one.stderr.contains("try again")) {
            *one = lab.engine.finish(under(&lab, root, &words));
        }
        let address = |done: &Done| done.stdout.split_whitespace().find(|word| word.contains('/')).map(str::to_string);
        for one in &done {
            assert_eq!((one.status, one.stderr.as_str()), (0, ""), "round {round}");
        }
        assert_ne!(address(&done[0]), address(&done[1]), "round {round}");
        for root in &roots {
            ok(&lab, root, &["network", "rm", "bridge"]);
        }
    }
}

#[test]
fn a_container_whose_monitor_was_killed_keeps_address_and_ports() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    let root = lab.engine.root().to_owned();
    let web = detached(&lab, &root, "web", &["-p", "8080:80"]);
    serve(web, 80, "web");
    let monitor: u32 = kernel::status(web, "PPid").unwrap().parse().unwrap();
    sh(&format!("kill -9 {monitor}"));
    while kernel::alive(monitor) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let other = detached(&lab, &root, "other", &[]);
    assert_eq!(address(other), "172.17.0.3/16", "the address of a living container was leased again");
    let taken = lab.engine.run(["run", "-d", "--network", "bridge", "-p", "8080:80", "busybox", "true"]);
    assert!(taken.status != 0 && taken.stderr.contains("port is already allocated"), "{}", taken.stderr);
    let ask = || (0..20).find_map(|_| ask_tcp(HOST, 8080));
    assert_eq!(kernel::inside(lab.lan.id(), "net", ask).unwrap().as_deref(), Some("web"));
    let beside = lab.engine.run(["run", "--rm", "--network", "container:web", "busybox", "ip", "addr"]);
    assert!(beside.stdout.contains("172.17.0.2/16"), "{}", beside.stderr);
    let all = ok(&lab, &root, &["ps", "-aq"]);
    ok(&lab, &root, &[&["rm", "-f"], &all.lines().collect::<Vec<_>>()[..]].concat());
    guard.check();
}

#[test]
fn a_data_root_that_was_deleted_leaves_no_bridge_for_ever() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let roots = ["first", "second", "third"].map(|name| lab.engine.folder().join(name));
    let web = detached(&lab, &roots[0], "web", &[]);
    ok(&lab, &roots[1], &["run", "--rm", "--network", "bridge", "busybox", "true"]);
    std::fs::remove_dir_all(&roots[1]).unwrap();
    assert!(sh("ip -o link show type bridge").contains("mydocker1"));
    let other = detached(&lab, &roots[2], "other", &[]);
    assert_eq!(address(other), "172.18.0.2/16", "the subnet of the root that is gone is free");
    assert_eq!(address(web), "172.17.0.2/16");
    let bridges = sh("ip -o link show type bridge");
    assert!(
        bridges.contains("mydocker0") && bridges.contains("mydocker1") && !bridges.contains("mydocker2"),
        "{bridges}"
    );
    for (root, name) in [(&roots[0], "web"), (&roots[2], "other")] {
        ok(&lab, root, &["rm", "-f", name]);
        ok(&lab, root, &["network", "rm", "bridge"]);
    }
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
    assert!(!sh("iptables-save").contains("MYDOCKER"), "{}", sh("iptables-save"));
}
