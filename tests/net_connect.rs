//! Containers that join and leave networks while they run, and networks made and removed: as steps that are done wholly
//! or not at all.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;
use support::lab::{HOST, Lab, PATIENCE, comes_through, ok, pid, reaches, serve, sh};
use support::{Done, kernel};

fn refused(lab: &Lab, words: &[&str], word: &str) {
    let done = lab.engine.run(words);
    assert!(done.status != 0 && done.stdout.is_empty(), "{words:?} was accepted");
    assert!(done.stderr.contains(word) && done.stderr.lines().count() == 1, "{words:?}: {}", done.stderr);
    assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{words:?}");
}

fn detached(lab: &Lab, name: &str, flags: &[&str]) -> u32 {
    ok(lab, &[&["run", "-d", "--name", name], flags, &["busybox", "sleep", "1000"]].concat());
    pid(lab, name)
}

/// Cards and addresses, as the container's network namespace has them: `eth0 172.17.0.2/16`.
fn cards(pid: u32) -> Vec<String> {
    let text = sh(&format!("nsenter -t {pid} -n ip -4 -o addr show scope global"));
    let one = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", words[1], words[3])
    };
    text.lines().map(one).collect()
}

/// What the resolver inside says over TCP: the first address of the answer.
fn ask_names_over_tcp(pid: u32, name: &str) -> Option<Ipv4Addr> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    kernel::inside(pid, "net", || {
        let server = SocketAddr::from(([127, 0, 0, 11], 53));
        let mut stream = TcpStream::connect_timeout(&server, *PATIENCE).ok()?;
        stream.set_read_timeout(Some(crate::support::slow(Duration::from_secs(5)))).ok()?;
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).ok()?;
        let mut size = [0; 2];
        stream.read_exact(&mut size).ok()?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(size))];
        stream.read_exact(&mut reply).ok()?;
        let last: [u8; 4] = reply[reply.len() - 4..].try_into().ok()?;
        (reply[7] > 0).then_some(Ipv4Addr::from(last))
    })
    .unwrap()
}

#[test]
fn a_running_container_joins_a_network_and_leaves_it() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    let web = detached(&lab, "web", &["--network", "bridge"]);
    let db = detached(&lab, "db", &["--network", "lab"]);
    let before = ok(&lab, &["exec", "web", "cat", "/etc/resolv.conf"]);
    assert_eq!(cards(web), ["eth0 172.17.0.2/16"]);
    let dry = ok(&lab, &["network", "connect", "--dry-run", "lab", "web"]);
    assert!(dry.contains("ip link add ve") && dry.contains("peer name eth1"), "{dry}");
    assert_eq!(cards(web).len(), 1, "a dry run did it");
    ok(&lab, &["network", "connect", "--alias", "www", "--ip", "10.7.0.77", "lab", "web"]);
    assert_eq!(cards(web), ["eth0 172.17.0.2/16", "eth1 10.7.0.77/24"]);
    serve(web, 80, "web");
    assert!(comes_through(Some(db), Ipv4Addr::new(10, 7, 0, 77), 80, "web"));
    for name in ["web", "www"] {
        assert!(ok(&lab, &["exec", "db", "nslookup", name]).contains("10.7.0.77"), "{name}");
        assert_eq!(ask_names_over_tcp(db, name), Some(Ipv4Addr::new(10, 7, 0, 77)), "{name} over tcp");
    }
    // And the other way round: who was on the default network alone asks the resolver from now on.
    assert!(ok(&lab, &["exec", "web", "nslookup", "db"]).contains("10.7.0.2"));
    assert!(ok(&lab, &["exec", "web", "cat", "/etc/hosts"]).contains("10.7.0.77\t"));
    let networks = ok(&lab, &["inspect", "-f", "{{json .NetworkSettings.Networks}}", "web"]);
    let networks: serde_json::Value = serde_json::from_str(&networks).unwrap();
    assert_eq!(networks["lab"]["IPAddress"], "10.7.0.77", "{networks}");
    assert_eq!(networks["bridge"]["IPAddress"], "172.17.0.2", "{networks}");
    refused(&lab, &["network", "connect", "lab", "web"], "endpoint with name web already exists in network lab");
    refused(&lab, &["network", "rm", "lab"], "has active endpoints");
    ok(&lab, &["network", "disconnect", "lab", "web"]);
    assert_eq!(cards(web), ["eth0 172.17.0.2/16"]);
    assert_eq!(ok(&lab, &["exec", "web", "cat", "/etc/resolv.conf"]), before);
    assert!(!ok(&lab, &["exec", "web", "cat", "/etc/hosts"]).contains("10.7.0.77"));
    assert_eq!(ask_names_over_tcp(db, "web"), None, "who has left is still answered for");
    refused(&lab, &["network", "disconnect", "lab", "web"], "container web is not connected to the network lab");
    // The address is free at once, and the end of a container that has joined later is the end of its lease.
    ok(&lab, &["network", "connect", "--ip", "10.7.0.77", "lab", "web"]);
    ok(&lab, &["rm", "-f", "web"]);
    detached(&lab, "next", &["--network", "lab", "--ip", "10.7.0.77"]);
    ok(&lab, &["rm", "-f", "next", "db"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

#[test]
fn a_container_at_rest_joins_at_its_next_start() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    ok(&lab, &["create", "--name", "web", "--network", "bridge", "busybox", "sleep", "1000"]);
    ok(&lab, &["network", "connect", "--ip", "10.7.0.9", "lab", "web"]);
    ok(&lab, &["start", "web"]);
    assert_eq!(cards(pid(&lab, "web")), ["eth0 172.17.0.2/16", "eth1 10.7.0.9/24"]);
    ok(&lab, &["network", "disconnect", "bridge", "web"]);
    assert_eq!(cards(pid(&lab, "web")), ["eth1 10.7.0.9/24"]);
    let route = sh(&format!("nsenter -t {} -n ip route show default", pid(&lab, "web")));
    assert!(route.contains("via 10.7.0.1"), "the way out went with the first network: {route}");
    ok(&lab, &["restart", "-t", "0", "web"]);
    assert_eq!(cards(pid(&lab, "web")), ["eth0 10.7.0.9/24"]);
    ok(&lab, &["network", "disconnect", "lab", "web"]);
    assert_eq!(cards(pid(&lab, "web")), [""; 0]);
    ok(&lab, &["rm", "-f", "web"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

#[test]
fn published_ports_follow_the_container() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    let web = detached(&lab, "web", &["--network", "bridge", "-p", "8080:80", "-p", "8080:80/udp"]);
    serve(web, 80, "web");
    let lan = Some(lab.lan.id());
    assert!(comes_through(lan, HOST, 8080, "web"));
    ok(&lab, &["network", "connect", "lab", "web"]);
    ok(&lab, &["network", "disconnect", "bridge", "web"]);
    assert!(comes_through(lan, HOST, 8080, "web"), "the ports did not move to the network that is left");
    assert!(ok(&lab, &["port", "web"]).contains("80/tcp -> 0.0.0.0:8080"));
    ok(&lab, &["network", "disconnect", "lab", "web"]);
    assert!(!reaches(lan, HOST, 8080, "web"));
    assert!(!sh("iptables-save").contains("--dport 8080"), "{}", sh("iptables-save"));
    ok(&lab, &["network", "connect", "bridge", "web"]);
    assert!(comes_through(lan, HOST, 8080, "web"), "the ports did not come back");
    ok(&lab, &["rm", "-f", "web"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

#[test]
fn what_cannot_be_connected_is_refused() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    detached(&lab, "bare", &["--network", "none"]);
    detached(&lab, "hosts", &["--network", "host"]);
    detached(&lab, "web", &["--network", "bridge", "--ip", "172.17.0.9"]);
    detached(&lab, "beside", &["--network", "container:web"]);
    for (words, word) in [
        (&["connect", "nope", "web"][..], "network nope not found"),
        (&["connect", "lab", "nope"], "No such container: nope"),
        (&["connect", "lab", "bare"], "it was made with none"),
        (&["connect", "lab", "hosts"], "it has the host's"),
        (&["connect", "lab", "beside"], "sharing network namespace"),
        (&["connect", "--ip", "10.8.0.1", "lab", "web"], "--ip: `10.8.0.1` is not an address for a host"),
        (&["connect", "--ip", "10.7.0.1", "lab", "web"], "is the gateway"),
        (&["connect", "--ip", "x", "lab", "web"], "is not an IPv4 address"),
        (&["connect", "--alias", "a b", "lab", "web"], "--alias"),
        (&["disconnect", "lab", "web"], "is not connected to the network lab"),
    ] {
        refused(&lab, &[&["network"], words].concat(), word);
    }
    assert_eq!(cards(pid(&lab, "web")), ["eth0 172.17.0.9/16"]);
    ok(&lab, &["rm", "-f", "beside", "bare", "hosts", "web"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

/// The names of the steps that `words` would perform, from their dry run.
fn steps(lab: &Lab, words: &[&str]) -> Vec<String> {
    let dry = ok(lab, &[words, &["--dry-run"]].concat());
    let name = |line: &str| Some(line.strip_prefix("# ")?.split_once(": ")?.0.to_string());
    dry.lines().filter_map(name).filter(|name| name.starts_with("network.")).collect()
}

fn struck(lab: &Lab, words: &[&str], point: &str) -> Done {
    let mut command = lab.engine.command(words);
    command.env("MYDOCKER_FAILPOINT", point);
    lab.engine.finish(command)
}

#[test]
fn every_step_failed_and_killed_leaves_the_host_as_it_was() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let create = ["network", "create", "--subnet", "10.7.0.0/24", "lab"];
    let mut guard = lab.guard();
    guard.patience = crate::support::slow(Duration::from_secs(10));
    let all = steps(&lab, &create);
    assert!(all.len() >= 4, "{all:?}");
    for (step, fault) in all.iter().flat_map(|step| [(step, "error"), (step, "kill")]) {
        assert_ne!(struck(&lab, &create, &format!("{step}:{fault}")).status, 0, "{step}:{fault} did not strike");
        // Any command cleans up.
        ok(&lab, &["network", "prune", "-f"]);
        assert!(!sh("ip -o link").contains("md-"), "{step}:{fault} left a bridge");
        assert!(!lab.engine.root().join("networks/lab").exists(), "{step}:{fault} left a folder");
    }
    for step in ["create", "bridge", "rules"] {
        ok(&lab, &create);
        let point = format!("undo.network.{step}.lab:kill");
        assert_ne!(struck(&lab, &["network", "rm", "lab"], &point).status, 0, "{point} did not strike");
        ok(&lab, &["network", "prune", "-f"]);
        assert!(!lab.engine.root().join("networks/lab").exists() && !sh("ip -o link").contains("md-"), "{point}");
    }
    ok(&lab, &create);
    let web = detached(&lab, "web", &["--network", "bridge"]);
    let connect = ["network", "connect", "--ip", "10.7.0.9", "lab", "web"];
    let all = steps(&lab, &connect);
    assert!(all.len() >= 8, "{all:?}");
    for (step, fault) in all.iter().flat_map(|step| [(step, "error"), (step, "kill")]) {
        assert_ne!(struck(&lab, &connect, &format!("{step}:{fault}")).status, 0, "{step}:{fault} did not strike");
        ok(&lab, &["network", "prune", "-f"]);
        assert_eq!(cards(web), ["eth0 172.17.0.2/16"], "{step}:{fault}");
        // Prune has seen that nobody is on it.
        ok(&lab, &create);
    }
    ok(&lab, &["rm", "-f", "web"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}

#[test]
fn the_graph_is_what_the_kernel_has() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let guard = lab.guard();
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    let web = detached(&lab, "web", &["--network", "lab", "-p", "8080:80"]);
    detached(&lab, "db", &["--network", "lab"]);
    let text = ok(&lab, &["network", "inspect", "--graph", "lab"]);
    let ports = sh("bridge -o link | grep -o 've[0-9a-f]*@' | tr -d @");
    let mac = sh(&format!("nsenter -t {web} -n ip -o link show eth0"));
    let mac = mac.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    for word in ports.lines().chain([
        "eth0 of container web",
        "eth0 of container db",
        mac,
        "10.7.0.1/24",
        "10.7.0.2/24",
        "route default via 10.7.0.1 dev eth0",
        "route 10.7.0.0/24 dev md-",
        "--dport 8080",
        "-j MASQUERADE",
    ]) {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    // From the kernel, not from our files: what another tool changes is seen.
    sh(&format!("nsenter -t {web} -n ip addr add 10.7.0.99/24 dev eth0"));
    assert!(ok(&lab, &["network", "inspect", "--graph", "lab"]).contains("10.7.0.99/24"));
    let file = lab.engine.folder().join("lab.svg");
    ok(&lab, &["network", "inspect", "--graph", "-o", file.to_str().unwrap(), "lab"]);
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("eth0 of container web") && svg.contains(mac), "{svg}");
    refused(&lab, &["network", "inspect", "--graph", "nope"], "network nope not found");
    ok(&lab, &["rm", "-f", "web", "db"]);
    ok(&lab, &["network", "rm", "lab"]);
    guard.check();
}
