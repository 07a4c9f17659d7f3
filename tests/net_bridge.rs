//! The network of a container, judged by packets and by the kernel: bridge, NAT, ports, addresses. The engine's host is
//! the test's private one; a second network namespace, the `lan`, is its neighbour on the wire.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::lab::{HOST, LAN, LOCALHOST, Lab, PATIENCE, address, comes_through, reaches, serve, settle, sh};
use support::{Running, kernel};

#[test]
fn who_reaches_a_port() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let ports = ["8080:80", "8080:80/udp", "127.0.0.1:8081:81", "127.0.0.1:8081:81/udp"];
    let web = lab.start(&ports.iter().flat_map(|port| ["-p", port]).collect::<Vec<_>>());
    let other = lab.start(&[]);
    let here = address(&web);
    for (port, who) in [(80, "published"), (81, "local"), (82, "unpublished")] {
        serve(web.pid, port, who);
    }
    let (lan, neighbour) = (Some(lab.lan.id()), Some(other.pid));
    let gateway = Ipv4Addr::new(172, 17, 0, 1);
    let cases = [
        ("host by 127.0.0.1", None, LOCALHOST, [true, true, false]),
        ("host by its address", None, HOST, [true, false, false]),
        ("host by the gateway's address", None, gateway, [true, false, false]),
        ("lan by the host's address", lan, HOST, [true, false, false]),
        ("container by the host's address", neighbour, HOST, [true, false, false]),
        ("container by the gateway", neighbour, gateway, [true, false, false]),
        ("itself by the host's address", Some(web.pid), HOST, [true, false, false]),
    ];
    for (what, from, ip, expected) in cases {
        let ports = [(8080, "published"), (8081, "local"), (82, "unpublished")];
        let mut expects = expected.into_iter();
        let found = ports.map(|(port, who)| match expects.next() {
            Some(true) => comes_through(from, ip, port, who),
            _ => reaches(from, ip, port, who),
        });
        assert_eq!(found, expected, "{what}: published, published on 127.0.0.1, unpublished");
    }
    // By name, on a network of the user's: what is not published as well, and nothing of it by the host's address.
    let done = lab.engine.run(["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let on = |name: &str| {
        let words = ["run", "--rm", "-i", "--network", "lab", "--name", name, "-p", "127.0.0.1::80", "busybox", "cat"];
        settle(lab.engine.start(words))
    };
    let (named, asks) = (on("named"), on("asks"));
    serve(named.pid, 80, "named");
    let found = lab.engine.run(["exec", "asks", "nslookup", "named"]);
    assert!(found.stdout.contains(&address(&named).to_string()), "{}{}", found.stdout, found.stderr);
    assert!(comes_through(Some(asks.pid), address(&named), 80, "named"), "a container by name");
    assert!(!reaches(neighbour, address(&named), 80, "named"), "another network by the container's address");
    named.stop();
    asks.stop();
    assert_eq!(lab.engine.run(["network", "rm", "lab"]).status, 0);
    // By the container's own address: everything from the same bridge and the host, nothing from the neighbour on the
    // wire, although it has a route and FORWARD is ACCEPT.
    assert!(sh("iptables -S FORWARD").contains("-P FORWARD ACCEPT"));
    for (port, who) in [(80, "published"), (81, "local"), (82, "unpublished")] {
        assert!(comes_through(neighbour, here, port, who), "a neighbour on the bridge, port {port}");
        assert!(comes_through(None, here, port, who), "the host, port {port}");
        assert!(!reaches(lan, here, port, who), "the lan came in by the container's address, port {port}");
    }
    // 127.0.0.1 over the wire (CVE-2020-8558): from the lan, and from a container.
    for pid in [lab.lan.id(), other.pid] {
        let way = if pid == other.pid { "via 172.17.0.1 dev eth0 src 172.17.0.3" } else { "via 192.0.2.1 dev wire" };
        sh(&format!(
            "nsenter -t {pid} -n sh -c 'for i in all eth0 wire; do f=/proc/sys/net/ipv4/conf/$i/route_localnet; [ -e $f ] && \
             echo 1 > $f; done; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 {way}'"
        ));
        assert!(!reaches(Some(pid), LOCALHOST, 8081, "local"), "127.0.0.1 came in over the wire");
    }
    web.stop();
    other.stop();
    guard.check();
}

#[test]
fn a_real_server_and_a_megabyte_both_ways() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let script = "mkdir /w /w/cgi-bin; head -c 1000000 /dev/zero > /w/big; \
                  printf '#!/bin/sh\\necho; wc -c\\n' > /w/cgi-bin/count; chmod +x /w/cgi-bin/count; httpd -f -p 80 -h /w";
    let words = ["run", "--rm", "-i", "--network", "bridge", "-p", "8080:80", "busybox", "sh", "-c", script];
    let web = settle(lab.engine.start(words));
    let end = std::time::Instant::now() + crate::support::slow(Duration::from_secs(5));
    let ask = |request: &[u8]| {
        kernel::inside(lab.lan.id(), "net", || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((HOST, 8080)), *PATIENCE).ok()?;
            stream.set_read_timeout(Some(crate::support::slow(Duration::from_secs(5)))).ok()?;
            stream.write_all(request).ok()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).ok()?;
            Some(bytes)
        })
        .unwrap()
    };
    while ask(b"GET /big HTTP/1.0\r\n\r\n").is_none_or(|bytes| bytes.len() < 1_000_000) {
        assert!(std::time::Instant::now() < end, "no megabyte came");
    }
    let post =
        [b"POST /cgi-bin/count HTTP/1.0\r\nContent-Length: 1000000\r\n\r\n".as_slice(), &[b'x'; 1_000_000]].concat();
    let answer = String::from_utf8(ask(&post).unwrap()).unwrap();
    assert!(answer.ends_with("\n1000000\n"), "{answer}");
    let here = address(&web).to_string();
    let done = lab.run(&["busybox", "sh", "-c", &format!("wget -qO- http://{here}/big | wc -c")]);
    assert_eq!(done.stdout.trim(), "1000000", "{}", done.stderr);
    assert!(sh(&format!("nsenter -t {} -n ip link show eth0", web.pid)).contains("mtu 1400"));
    web.stop();
    guard.check();
}

#[test]
fn the_way_out_is_translated() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let server = kernel::inside(lab.lan.id(), "net", || TcpListener::bind((LAN, 7000)).unwrap()).unwrap();
    let seen = std::thread::spawn(move || server.accept().unwrap().1.ip());
    let web = lab.start(&[]);
    kernel::inside(web.pid, "net", || {
        drop(TcpStream::connect_timeout(&SocketAddr::from((LAN, 7000)), Duration::from_secs(10)).unwrap())
    })
    .unwrap();
    assert_eq!(seen.join().unwrap(), IpAddr::V4(HOST), "the lan saw the container's own address");
    web.stop();
    guard.check();
}

#[test]
fn fifty_at_once_get_fifty_addresses() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let all: Vec<_> = (0..50)
        .map(|_| {
            lab.engine.spawn(lab.engine.command([
                "run",
                "--rm",
                "--net",
                "bridge",
                "busybox",
                "sh",
                "-c",
                "ip -4 -o addr show eth0; sleep 8",
            ]))
        })
        .collect();
    let addresses: Vec<_> = all
        .into_iter()
        .map(Running::wait)
        .map(|done| {
            assert_eq!((done.status, done.stderr.as_str()), (0, ""));
            done.stdout.split_whitespace().find(|word| word.contains('/')).unwrap().to_string()
        })
        .collect();
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 50, "{addresses:?}");
    guard.check();
}

#[test]
fn a_flush_by_another_tool_is_repaired_by_the_next_start() {
    let Some(lab) = Lab::open() else { return };
    let _ = lab.guard();
    let web = lab.start(&["-p", "8080:80", "-p", "8080:80/udp"]);
    serve(web.pid, 80, "web");
    sh("iptables -A MYDOCKER-USER -s 198.51.100.1 -j DROP");
    for flush in [
        "for t in raw nat filter; do iptables -t $t -F; iptables -t $t -X; done",
        "iptables -F FORWARD",
        "iptables -t nat -F MYDOCKER-NAT",
    ] {
        sh(flush);
        assert_eq!(lab.run(&["busybox", "true"]).status, 0);
        assert!(comes_through(Some(lab.lan.id()), HOST, 8080, "web"), "after `{flush}`");
        assert!(!reaches(Some(lab.lan.id()), address(&web), 80, "web"), "after `{flush}`");
        let jumps = sh("iptables-save | grep -c '^-A [A-Z]* .*-j MYDOCKER-'");
        assert_eq!(jumps.trim(), "7", "after `{flush}`");
    }
    sh("iptables -A MYDOCKER-USER -s 198.51.100.2 -j DROP; iptables -t nat -F MYDOCKER-NAT");
    assert_eq!(lab.run(&["busybox", "true"]).status, 0);
    assert!(sh("iptables -S MYDOCKER-USER").contains("198.51.100.2"), "the user's chain was flushed");
    web.stop();
}

#[test]
fn bad_input_is_one_line_and_leaves_nothing() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let web = lab.start(&["-p", "8080:80", "--ip", "172.17.0.9"]);
    let stranger = TcpListener::bind("0.0.0.0:9999").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["-p", "70000:80"], "invalid port: `70000`"),
        (&["-p", "80:80/xyz"], "invalid protocol: `xyz`"),
        // Docker's own words where a script may look for them; its exit status is 125 for each of these, too.
        (&["-p", "::1:80:80"], "invalid IP address: an IPv6 address stands in brackets"),
        (&["-p", "[::1]:80"], "is not [IP:][HOST-PORT:]PORT"),
        (&["-p", ""], "invalid port"),
        (&["-p", "80:0"], "invalid port: `0`"),
        (&["-p", "80:"], "invalid port"),
        (&["-p", "81-80"], "invalid port: `81-80`"),
        (&["-p", "1.2.3:80:80"], "invalid IP address: `1.2.3`"),
        (&["-p", "localhost:80:80"], "invalid IP address: `localhost`"),
        (&["--expose", "x"], "--expose: `x`: invalid port"),
        (&["--network", "none"], "`none` cannot be combined with other networks"),
        (&["--network", "bridge"], "`bridge` is named twice"),
        (&["--dns", "x"], "--dns: `x` is not an IP address"),
        (&["--add-host", "x"], "--add-host: `x`"),
        (&["-p", "8080-8090:80-81"], "invalid ranges"),
        (&["-p", "8080:80"], "port is already allocated"),
        (&["-p", "127.0.0.1:8080:80"], "port is already allocated"),
        (&["-p", "9999:80"], "port is already allocated"),
        (&["-p", "198.51.100.7:80:80"], "no such address"),
        (&["--ip", "10.0.0.1"], "--ip: `10.0.0.1` is not an address"),
        (&["--ip", "172.17.0.9"], "--ip: `172.17.0.9` is in use"),
        (&["--ip", "172.17.0.1"], "is the gateway"),
        (&["--ip", "172.17.255.255"], "is not an address for a host"),
        (&["--ip", "172.17.0.0"], "is not an address for a host"),
        (&["--ip", "x"], "is not an IPv4 address"),
        (&["--mac-address", "01:00:00:00:00:00"], "--mac-address"),
    ];
    for (flags, word) in cases {
        let done = lab.run(&[flags, &["busybox", "true"][..]].concat());
        assert_eq!((done.status, done.stdout.as_str()), (125, ""), "{flags:?}: {}", done.stderr);
        assert!(done.stderr.contains(word) && done.stderr.lines().count() == 1, "{flags:?}: {}", done.stderr);
        assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{flags:?}");
    }
    assert_eq!(lab.engine.run(["create", "--name", "rest", "busybox", "true"]).status, 0);
    for (network, word) in [
        ("nope", "network `nope` not found"),
        ("container:nope", "no such container"),
        ("container:../x", "does not name a container"),
        ("container:", "does not name a container"),
        // The container that is being made has no network yet that it could join.
        ("container:self", "no such container"),
        ("container:rest", "it is not running"),
        ("a/b", "is not the name of a network"),
    ] {
        let done = lab.engine.run(["run", "--rm", "--name", "self", "--network", network, "busybox", "true"]);
        assert_eq!(done.status, 125, "{network}: {}", done.stderr);
        assert!(done.stderr.contains(word), "{network}: {}", done.stderr);
    }
    // Without --rm the container is there, not started; its address is free, and it starts when the port is.
    let words = ["create", "--name", "later", "--network", "bridge", "-p", "9999:80", "busybox", "true"];
    assert_eq!(lab.engine.run(words).status, 0);
    let done = lab.engine.run(["start", "later"]);
    assert!(done.status != 0 && done.stderr.contains("port is already allocated"), "{}", done.stderr);
    let shown = lab.engine.run(["ps", "-a", "--filter", "name=later", "--format", "{{.Status}}"]);
    assert_eq!(shown.stdout.trim(), "Created", "{}", shown.stderr);
    let leases = std::fs::read_dir(lab.engine.root().join("networks/bridge/leases")).unwrap();
    assert_eq!(leases.count(), 1, "an address of a container that did not start is still leased");
    drop(stranger);
    // What another test has forked and not yet started holds it for a moment more.
    support::life::until("the port is free", || TcpListener::bind("0.0.0.0:9999").is_ok());
    let done = lab.engine.run(["start", "later"]);
    assert_eq!(done.status, 0, "the port is free now: {}", done.stderr);
    assert_eq!(lab.engine.run(["wait", "later"]).stdout.trim(), "0");
    assert_eq!(lab.engine.run(["rm", "later", "rest"]).status, 0);
    web.stop();
    guard.check();
}

#[test]
fn a_detached_container_keeps_its_port_until_it_ends() {
    let Some(mut lab) = Lab::open() else { return };
    lab.engine.keeps = true;
    let run = ["run", "-d", "--network", "bridge", "-p", "8080:80"];
    let words = |name| [&run[..], &["--name", name, "--restart", "on-failure:1", "busybox", "sleep", "100"]].concat();
    let done = lab.engine.run(words("one"));
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "a stranger could have the port of a container");
    let done = lab.engine.run(words("two"));
    assert!(done.status == 125 && done.stderr.contains("port is already allocated"), "{}", done.stderr);
    // It is started again, and still has it.
    let shown = lab.engine.run(["inspect", "-f", "{{.State.Pid}}", "one"]).stdout;
    let pid: i32 = shown.trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    let end = std::time::Instant::now() + support::slow(Duration::from_secs(10));
    while lab.engine.run(["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "one"]).stdout.trim() != "1 running" {
        assert!(std::time::Instant::now() < end, "it did not start again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "a restart lost the port");
    let done = lab.engine.run(["rm", "-f", "one", "two"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    TcpListener::bind("0.0.0.0:8080").unwrap();
}

#[test]
fn another_containers_network_is_joined() {
    let Some(lab) = Lab::open() else { return };
    let guard = lab.guard();
    let web = lab.start(&["--name", "web"]);
    serve(web.pid, 80, "web");
    let beside = lab.engine.start(["run", "--rm", "-i", "--network", "container:web", "busybox", "cat"]);
    assert_eq!(kernel::namespace(beside.pid, "net"), kernel::namespace(web.pid, "net"));
    assert!(comes_through(Some(beside.pid), LOCALHOST, 80, "web"));
    beside.stop();
    web.stop();
    let host = lab.engine.start(["run", "--rm", "-i", "--network", "host", "busybox", "cat"]);
    assert_eq!(
        kernel::namespace(host.pid, "net"),
        std::fs::read_link("/proc/thread-self/ns/net").ok().map(|path| path.display().to_string())
    );
    host.stop();
    guard.check();
}

#[test]
fn every_network_step_failed_and_killed_leaves_the_host_as_it_was() {
    let Some(lab) = Lab::open() else { return };
    let mut guard = lab.guard();
    let flags = ["run", "--rm", "--net", "bridge", "--name", "swept", "-p", "8080:80", "-p", "127.0.0.1::81"];
    let dry = lab.engine.run([&flags[..], &["--explain=json", "busybox", "true"]].concat());
    let steps: Vec<String> = dry
        .stderr
        .lines()
        .filter_map(|line| {
            let name = line.split("\"step\":\"").nth(1)?.split('"').next()?;
            name.starts_with("network.").then(|| name.to_string())
        })
        .collect();
    assert!(steps.len() >= 11, "{steps:?}\n{}", dry.stderr);
    for step in steps.iter().flat_map(|step| [step.clone(), format!("undo.{step}")]) {
        for fault in ["error", "kill"] {
            let mut command = lab.engine.command([&flags[..], &["busybox", "true"]].concat());
            command.env("MYDOCKER_FAILPOINT", format!("{step}:{fault}"));
            let struck = lab.engine.finish(command);
            if !step.starts_with("undo.") {
                assert_ne!(struck.status, 0, "{step}:{fault} did not strike");
            }
            let again = lab.engine.run([&flags[..], &["--ip", "172.17.0.2", "busybox", "true"]].concat());
            assert_eq!((again.status, again.stderr.as_str()), (0, ""), "after {step}:{fault}");
        }
    }
    guard.patience = crate::support::slow(Duration::from_secs(5));
    guard.check();
}
