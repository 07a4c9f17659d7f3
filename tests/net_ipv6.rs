//! Networks with IPv6 beside IPv4: addresses, names, the way out, and what keeps them apart.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use support::lab::{HOST6, LAN6, Lab, PATIENCE, lab6, ok, pid, settle, sh, web};
use support::{Running, kernel};

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
    let Some(lab) = lab6() else { return };
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

/// Serves in the network namespace of `pid` on both protocols: whoever comes is told `who`, until the process ends.
fn serve6(pid: u32, port: u16, who: &'static str) {
    let sockets = kernel::inside(pid, "net", || {
        // Of both kinds at once.
        (TcpListener::bind(("::", port)).unwrap(), UdpSocket::bind(("::", port)).unwrap())
    });
    let (tcp, udp) = sockets.unwrap();
    tcp.set_nonblocking(true).unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while kernel::alive(pid) {
            if let Ok((mut stream, _)) = tcp.accept() {
                let _ = stream.write_all(who.as_bytes());
            }
            if let Ok((_, from)) = udp.recv_from(&mut bytes) {
                let _ = udp.send_to(who.as_bytes(), from);
            }
        }
    });
}

/// What answers at that port, over TCP and over UDP.
fn answers(from: Option<u32>, to: &str, port: u16) -> (Option<String>, Option<String>) {
    let to: SocketAddr = format!("[{to}]:{port}").parse().unwrap();
    let ask = || {
        let tcp = TcpStream::connect_timeout(&to, *PATIENCE).ok().and_then(|mut stream| {
            stream.set_read_timeout(Some(*PATIENCE)).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok().filter(|size| *size > 0)?;
            Some(text)
        });
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(*PATIENCE)).unwrap();
        let mut bytes = [0; 64];
        let udp = socket.send_to(b"?", to).ok().and_then(|_| socket.recv(&mut bytes).ok());
        (tcp, udp.map(|size| String::from_utf8_lossy(&bytes[..size]).into_owned()))
    };
    match from {
        Some(pid) => kernel::inside(pid, "net", ask).unwrap(),
        None => ask(),
    }
}

/// Both must agree.
fn answer(from: Option<u32>, to: &str, port: u16) -> Option<String> {
    let (tcp, udp) = answers(from, to, port);
    assert_eq!(tcp, udp, "tcp and udp differ for {to}:{port}");
    tcp
}

/// The same where somebody must answer, by both; a busy machine may take its time.
fn answered(from: Option<u32>, to: &str, port: u16) -> Option<String> {
    let mut all = (0..20).map(|_| answers(from, to, port));
    all.find_map(|(tcp, udp)| tcp.filter(|tcp| udp.as_ref() == Some(tcp)))
}

#[test]
fn who_reaches_a_port_over_ipv6() {
    let Some(lab) = lab6() else { return };
    ok(&lab, &["network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "one"]);
    ok(&lab, &["network", "create", "--ipv6", "--subnet", "10.8.0.0/24", "--subnet", "fd00:7:8::/64", "two"]);
    let ports = ["8080:80", "[::1]:8081:81", "[2001:db8::1]:8082:82", "0.0.0.0:8083:83"];
    let both: Vec<String> = ports.iter().flat_map(|port| [port.to_string(), format!("{port}/udp")]).collect();
    let flags = both.iter().flat_map(|port| ["-p", port]).collect::<Vec<_>>();
    let words = [&["run", "--rm", "-i", "--network", "one", "--name", "web"], &flags[..], &["busybox", "cat"]].concat();
    let web = settle(lab.engine.start(words));
    let (beside, far) = (on(&lab, "one", "beside"), on(&lab, "two", "far"));
    for (port, who) in [(80, "all"), (81, "local"), (82, "one"), (83, "four"), (84, "unpublished")] {
        serve6(web.pid, port, who);
    }
    let own = sh("ip -6 -o addr show wire scope link").split_whitespace().nth(3).unwrap().replace("/64", "");
    let index = lab.in_lan("ip -o link show wire | cut -d: -f1");
    let link_local = format!("{own}%{}", index.trim());
    let lan = Some(lab.lan.id());
    let cases = [
        ("host by ::1", None, "::1", [true, true, false, false, false]),
        ("host by its address", None, HOST6, [true, false, true, false, false]),
        ("host by the gateway's address", None, "fd00:7::1", [true, false, false, false, false]),
        ("lan by the host's address", lan, HOST6, [true, false, true, false, false]),
        ("lan by the host's link-local address", lan, &link_local, [true, false, false, false, false]),
        ("a neighbour by the host's address", Some(beside.pid), HOST6, [true, false, true, false, false]),
        ("another network by the host's address", Some(far.pid), HOST6, [true, false, true, false, false]),
        ("itself by the host's address", Some(web.pid), HOST6, [true, false, true, false, false]),
    ];
    let all = [(8080, "all"), (8081, "local"), (8082, "one"), (8083, "four"), (84, "unpublished")];
    for (what, from, ip, expected) in cases {
        for ((port, who), expected) in all.iter().zip(expected) {
            let found = if expected { answered(from, ip, *port) } else { answer(from, ip, *port) };
            assert_eq!(found.as_deref(), expected.then_some(*who), "{what}, port {port}");
        }
    }
    // Neither by the container's own address.
    let here = address(&web).to_string();
    assert_eq!(answer(lan, &here, 80), None, "the lan came in by the container's address");
    assert_eq!(answer(Some(far.pid), &here, 80), None, "another network");
    assert_eq!(answer(Some(beside.pid), &here, 84).as_deref(), Some("unpublished"), "a positive control");
    assert!(support::lab::comes_through(lan, support::lab::HOST, 8080, "all"), "IPv4 as ever");
    assert!(support::lab::comes_through(lan, support::lab::HOST, 8083, "four"));
    // What is told of it.
    let text = ok(&lab, &["port", "web", "80"]);
    assert_eq!(text, "0.0.0.0:8080\n[::]:8080");
    let shown = ok(&lab, &["ps", "--format", "{{.Names}} {{.Ports}}"]);
    assert!(shown.contains("0.0.0.0:8080->80/tcp, ") && shown.contains("[::]:8080->80/tcp"), "{shown}");
    let seen = ok(&lab, &["inspect", "-f", "{{json .NetworkSettings.Ports}}", "web"]);
    assert!(seen.contains(r#""80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}]"#));
    // A rule of ours has the container's id; the user's chain comes first and stays.
    let id = ok(&lab, &["inspect", "-f", "{{.Id}}", "web"]);
    let rules = sh("ip6tables-save -t nat");
    assert!(rules.lines().filter(|line| line.contains("--dport")).all(|line| line.contains(&id[..12])), "{rules}");
    sh("ip6tables -A MYDOCKER-USER -s 2001:db8::7 -j DROP");
    sh("ip6tables -t nat -F; ip6tables -t nat -X; ip6tables -F MYDOCKER-FORWARD; ip6tables -F FORWARD");
    assert_eq!(answered(lan, &here, 80).as_deref(), Some("all"), "a positive control: without rules the lan comes in");
    ok(&lab, &["run", "--rm", "--network", "one", "busybox", "true"]);
    assert_eq!(answered(lan, HOST6, 8082).as_deref(), Some("one"), "after the flush");
    assert_eq!(answer(lan, &here, 80), None, "after the flush");
    assert!(sh("ip6tables-save").contains("--dport 8082"), "{}", sh("ip6tables-save"));
    assert!(sh("ip6tables -S MYDOCKER-USER").contains("2001:db8::7"), "the user's chain was flushed");
    for running in [web, beside, far] {
        running.stop();
    }
    assert!(!sh("ip6tables-save").contains("--dport"), "{}", sh("ip6tables-save"));
    assert!(TcpListener::bind("[::]:8080").is_ok() && UdpSocket::bind("[::1]:8081").is_ok(), "a port is still kept");
    sh("ip6tables -F MYDOCKER-USER");
    ok(&lab, &["network", "rm", "one", "two"]);
    assert!(!sh("ip6tables-save").contains("MYDOCKER"), "{}", sh("ip6tables-save"));
}

#[test]
fn a_port_on_ipv6_leads_to_a_network_without() {
    let Some(mut lab) = lab6() else { return };
    lab.engine.keeps = true;
    let run = ["run", "-d", "--network", "bridge", "--name", "web", "--restart", "on-failure:1"];
    let ports = ["-p", "[::]:8080:80", "-p", "[::]:8080:80/udp", "-p", "[::1]:8081:81", "busybox", "sleep", "1000"];
    ok(&lab, &[&run[..], &ports].concat());
    let first = pid(&lab, "web");
    serve6(first, 80, "web");
    for (from, ip) in [(None, "::1"), (None, HOST6), (Some(lab.lan.id()), HOST6)] {
        assert_eq!(answered(from, ip, 8080).as_deref(), Some("web"), "{ip}");
    }
    let done = lab.engine.run(["run", "--rm", "--network", "bridge", "-p", "[::1]:8080:80", "busybox", "true"]);
    assert!(done.status == 125 && done.stderr.contains("port is already allocated"), "{}", done.stderr);
    // The other kind of address has ports of its own.
    ok(&lab, &["run", "--rm", "--network", "bridge", "-p", "0.0.0.0:8080:80", "busybox", "true"]);
    // A megabyte each way, whole; and a connection that is broken off harms no other.
    let server = kernel::inside(first, "net", || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
    let echo = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = server.accept().unwrap();
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            let _ = stream.write_all(&all);
        }
    });
    drop(TcpStream::connect("[::1]:8081").unwrap());
    let mut stream = TcpStream::connect("[::1]:8081").unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    assert!(came == sent, "{} bytes came back", came.len());
    echo.join().unwrap();
    // It is started again, and still has its ports; when it has gone they are free.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first as i32), nix::sys::signal::SIGKILL).unwrap();
    let end = std::time::Instant::now() + support::slow(Duration::from_secs(10));
    while ok(&lab, &["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "web"]) != "1 running" {
        assert!(std::time::Instant::now() < end, "it did not start again");
        std::thread::sleep(Duration::from_millis(20));
    }
    serve6(pid(&lab, "web"), 80, "again");
    assert_eq!(answered(None, "::1", 8080).as_deref(), Some("again"));
    ok(&lab, &["rm", "-f", "web"]);
    TcpListener::bind("[::]:8080").unwrap();
    UdpSocket::bind("[::]:8080").unwrap();
    TcpListener::bind("[::1]:8081").unwrap();
}

#[test]
fn ports_on_ipv6_follow_the_container() {
    let Some(mut lab) = lab6() else { return };
    lab.engine.keeps = true;
    ok(&lab, &["network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "wide"]);
    ok(&lab, &["network", "create", "--subnet", "10.8.0.0/24", "narrow"]);
    let pid = web(&lab, "wide");
    serve6(pid, 80, "web");
    let everywhere = |what: &str| {
        for (from, ip) in [(None, "::1"), (None, HOST6), (Some(lab.lan.id()), HOST6)] {
            assert_eq!(answered(from, ip, 8080).as_deref(), Some("web"), "{what}: {ip}");
        }
    };
    everywhere("at first");
    ok(&lab, &["network", "connect", "narrow", "web"]);
    ok(&lab, &["network", "disconnect", "wide", "web"]);
    assert!(!sh("ip6tables-save").contains("--dport 8080"), "{}", sh("ip6tables-save"));
    everywhere("on a network without IPv6");
    ok(&lab, &["network", "disconnect", "narrow", "web"]);
    assert_eq!(answer(None, "::1", 8080), None, "it is on no network");
    ok(&lab, &["network", "connect", "wide", "web"]);
    assert!(sh("ip6tables-save").contains("--dport 8080"), "{}", sh("ip6tables-save"));
    everywhere("back again");
    ok(&lab, &["rm", "-f", "web"]);
    ok(&lab, &["network", "rm", "wide", "narrow"]);
}

#[test]
fn an_address_of_ones_own() {
    let Some(mut lab) = lab6() else { return };
    lab.engine.keeps = true;
    ok(&lab, &["network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "lab"]);
    let run = |name: &str, flags: &[&str]| {
        ok(&lab, &[&["run", "-d", "--network", "lab", "--name", name], flags, &["busybox", "sleep", "1000"]].concat());
        let pid = ok(&lab, &["inspect", "-f", "{{.State.Pid}}", name]);
        let text = sh(&format!("nsenter -t {pid} -n ip -o addr show eth0 scope global"));
        text.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_string()).collect::<Vec<_>>().join(" ")
    };
    // One that goes with no IPv4 address, one that goes with another's, and one that goes with the next free one.
    assert_eq!(run("far", &["--ip6", "fd00:7::cafe:1"]), "10.7.0.2/24 fd00:7::cafe:1/64");
    assert_eq!(run("cross", &["--ip", "10.7.0.10", "--ip6", "fd00:7::20"]), "10.7.0.10/24 fd00:7::20/64");
    assert_eq!(run("early", &["--ip6", "fd00:7::3"]), "10.7.0.3/24 fd00:7::3/64");
    assert_eq!(run("taker", &["--ip6", "fd00:7::5"]), "10.7.0.4/24 fd00:7::5/64");
    assert_eq!(run("next", &[]), "10.7.0.6/24 fd00:7::6/64", "10.7.0.5 has lost its IPv6 address to another");
    assert!(ok(&lab, &["exec", "far", "nslookup", "-type=aaaa", "cross"]).contains("fd00:7::20"));
    let seen = ok(&lab, &["inspect", "-f", "{{json .NetworkSettings.Networks.lab}}", "cross"]);
    assert!(
        seen.contains(r#""GlobalIPv6Address":"fd00:7::20""#) && seen.contains(r#""IPv6Address":"fd00:7::20""#),
        "{seen}"
    );
    assert!(ok(&lab, &["network", "inspect", "lab"]).contains("fd00:7::20/64"));
    for (flags, word) in [
        (&["--network", "lab", "--ip6", "fd00:7::20"][..], "--ip6: `fd00:7::20` is in use on network `lab`"),
        (&["--network", "lab", "--ip6", "fd00:7::6"], "--ip6: `fd00:7::6` is in use"),
        (&["--network", "lab", "--ip", "10.7.0.5"], "--ip: `10.7.0.5` is in use"),
        (&["--network", "lab", "--ip6", "fd00:8::2"], "is not an address for a host in `fd00:7::/64`"),
        (&["--network", "lab", "--ip6", "fd00:7::1"], "is the gateway"),
        (&["--network", "lab", "--ip6", "fd00:7::"], "is not an address for a host"),
        (&["--network", "lab", "--ip6", "10.7.0.9"], "is not an IPv6 address"),
        (&["--network", "bridge", "--ip6", "fd00:7::9"], "network `bridge` has no IPv6"),
        (&["--network", "none", "--ip6", "fd00:7::9"], "--ip6: the container has no network of its own"),
    ] {
        let done = lab.engine.run([&["run", "--rm"], flags, &["busybox", "true"]].concat());
        assert_eq!((done.status, done.stdout.as_str()), (125, ""), "{flags:?}: {}", done.stderr);
        assert!(done.stderr.contains(word) && done.stderr.lines().count() == 1, "{flags:?}: {}", done.stderr);
    }
    // What has ended, or has left, holds nothing.
    ok(&lab, &["network", "disconnect", "lab", "cross"]);
    ok(&lab, &["rm", "-f", "taker"]);
    ok(&lab, &["network", "connect", "--ip6", "fd00:7::20", "lab", "cross"]);
    assert!(ok(&lab, &["exec", "cross", "ip", "-6", "addr", "show", "eth0"]).contains("fd00:7::20/64"));
    ok(&lab, &["run", "--rm", "--network", "lab", "--ip", "10.7.0.5", "busybox", "true"]);
    ok(&lab, &["rm", "-f", "far", "cross", "early", "next"]);
    let left = fs::read_dir(lab.engine.root().join("networks/lab/leases")).unwrap().count();
    assert_eq!(left, 0, "leases are left");
    ok(&lab, &["network", "rm", "lab"]);
}

#[test]
fn without_an_ipv6_address_the_port_is_refused_by_name() {
    let Some(lab) = Lab::open() else { return };
    // As a host with net.ipv6.conf.all.disable_ipv6=1.
    sh("[ ! -e /proc/sys/net/ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6");
    let guard = lab.guard();
    for (port, word) in [
        ("[::1]:8080:80", "--publish: bind for [::1]:8080/tcp failed: "),
        ("[2001:db8::9]:8080:80/udp", "--publish: bind for [2001:db8::9]:8080/udp failed: "),
    ] {
        let done = lab.run(&["-p", port, "busybox", "true"]);
        assert_eq!((done.status, done.stdout.as_str()), (125, ""), "{port}: {}", done.stderr);
        assert!(done.stderr.contains(word) && done.stderr.lines().count() == 1, "{port}: {}", done.stderr);
        assert!(done.stderr.contains("no such address") || done.stderr.contains("no IPv6"), "{}", done.stderr);
    }
    assert_eq!(lab.run(&["-p", "8080:80", "busybox", "true"]).status, 0, "IPv4 is as ever");
    guard.check();
}
