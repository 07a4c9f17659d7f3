//! Networks of the user's making: made, inspected, kept apart, removed; names on them, and what the older flags say.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;
use support::lab::{HOST, LAN, Lab, address, comes_through, reaches, serve, settle, sh};
use support::{Done, Guard, Running, kernel};

fn ok(lab: &Lab, words: &[&str]) -> String {
    let done = lab.engine.run(words);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{words:?}");
    done.stdout
}

fn refused(lab: &Lab, words: &[&str], word: &str) -> Done {
    let done = lab.engine.run(words);
    assert!(done.status != 0 && done.stdout.is_empty(), "{words:?} was accepted");
    assert!(done.stderr.contains(word) && done.stderr.lines().count() <= 2, "{words:?}: {}", done.stderr);
    assert!(done.took < crate::support::slow(Duration::from_secs(5)), "{words:?}");
    done
}

fn on(lab: &Lab, network: &str, flags: &[&str]) -> Running {
    settle(lab.engine.start([&["run", "--rm", "-i", "--network", network], flags, &["busybox", "cat"]].concat()))
}

/// What `nslookup` finds from inside, with the container's own resolv.conf.
fn lookup(lab: &Lab, network: &str, name: &str) -> Done {
    lab.engine.run(["run", "--rm", "--network", network, "--dns", "192.0.2.2", "busybox", "nslookup", name])
}

#[test]
fn a_network_comes_and_goes_without_a_trace() {
    let Some(lab) = Lab::open() else { return };
    lab.engine.run(["run", "--rm", "--network", "none", "busybox", "true"]);
    // The tables themselves appear with the first rule and stay, empty.
    ok(&lab, &["network", "create", "first"]);
    ok(&lab, &["network", "rm", "first"]);
    let guard = Guard::new(lab.engine.root());
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
    let id = ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "--label", "a=b", "lab"]);
    assert_eq!(id.trim().len(), 64);
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    let seen: serde_json::Value = serde_json::from_str(&ok(&lab, &["network", "inspect", "lab"])).unwrap();
    assert_eq!(seen[0]["IPAM"]["Config"][0]["Gateway"], "10.7.0.1");
    assert_eq!(seen[0]["Labels"]["a"], "b");
    let bridge = seen[0]["Bridge"].as_str().unwrap();
    assert!(sh(&format!("ip -4 -o addr show {bridge}")).contains("10.7.0.1/24"));
    assert!(ok(&lab, &["network", "ls"]).contains(&format!("{}   lab ", &id[..12])));
    let web = on(&lab, "lab", &["--name", "web"]);
    refused(&lab, &["network", "rm", "lab"], "network lab has active endpoints: web (10.7.0.2)");
    web.stop();
    assert_eq!(ok(&lab, &["network", "rm", &id[..12]]).trim(), &id[..12]);
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
    assert!(!sh("iptables-save").contains("MYDOCKER"), "rules are left:\n{}", sh("iptables-save"));
    ok(&lab, &["network", "create", "one"]);
    ok(&lab, &["network", "create", "two"]);
    assert_eq!(ok(&lab, &["network", "prune", "-f"]), "Deleted Networks:\none\ntwo\n\n");
    guard.check();
}

#[test]
fn networks_that_cannot_be_are_refused() {
    let Some(lab) = Lab::open() else { return };
    sh("ip link add mydocker0 type bridge");
    refused(
        &lab,
        &["run", "--rm", "--network", "bridge", "busybox", "true"],
        "the name of the bridge of network `bridge` is taken",
    );
    sh("ip link del mydocker0");
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/24", "lab"]);
    for (flags, word) in [
        (&["--subnet", "10.7.0.0/25"][..], "overlaps with `10.7.0.0/24` of the network `lab`"),
        (&["--subnet", "192.0.2.0/25"], "overlaps with the host's route `192.0.2.0/24 dev wire`"),
        (&["--subnet", "10.8.0.1/24"], "host bits"),
        (&["--subnet", "nonsense"], "--subnet: `nonsense`"),
        (&["--subnet", "fd00::/64"], "`fd00::/64` is for --ipv6"),
        (&["--ipv6", "--subnet", "fd00::1/64"], "host bits"),
        (&["--ipv6", "--subnet", "fd00::/120"], "is too small"),
        (&["--subnet", "10.8.0.0/24", "--gateway", "10.9.0.1"], "--gateway: `10.9.0.1`"),
        (&["--subnet", "10.8.0.0/24", "--ip-range", "10.9.0.0/25"], "--ip-range"),
        (&["--driver", "overlay"], "there is only bridge"),
        (&["-o", "com.docker.network.bridge.name=a-name-that-is-too-long"], "is not the name of a link"),
        (&["-o", "com.docker.network.bridge.name=wire"], "is taken"),
    ] {
        refused(&lab, &[&["network", "create"], flags, &["other"]].concat(), word);
        assert!(!lab.engine.root().join("networks/other").exists(), "{flags:?} left its folder");
    }
    refused(&lab, &["network", "create", "lab"], "already exists");
    refused(&lab, &["network", "create", "../x"], "cannot be the name");
    refused(&lab, &["network", "create", "host"], "cannot be the name");
    refused(&lab, &["network", "rm", "nope"], "network nope not found");
    // Docker's thirty-one pools, of which the default network has one.
    for number in 0..30 {
        ok(&lab, &["network", "create", &format!("n{number}")]);
    }
    refused(&lab, &["network", "create", "n30"], "non-overlapping IPv4 address pool");
}

#[test]
fn a_29_has_five_addresses() {
    let Some(lab) = Lab::open() else { return };
    ok(&lab, &["network", "create", "--subnet", "10.7.0.0/29", "small"]);
    let five: Vec<_> = (0..5).map(|_| on(&lab, "small", &[])).collect();
    let found: Vec<_> = five.iter().map(|one| address(one).octets()[3]).collect();
    assert_eq!(found, [2, 3, 4, 5, 6]);
    refused(&lab, &["run", "--rm", "--network", "small", "busybox", "true"], "no address is left in `10.7.0.0/29`");
    // An engine that is killed gives nothing back; its lease is free all the same.
    let mut five = five;
    let killed = five.remove(2);
    killed.signal(nix::sys::signal::SIGKILL);
    drop(killed);
    let again = on(&lab, "small", &[]);
    assert_eq!(address(&again).octets()[3], 4);
}

#[test]
fn networks_are_apart_and_an_internal_one_goes_nowhere() {
    let Some(lab) = Lab::open() else { return };
    for (name, flag) in [("a", "--label=x"), ("b", "--label=x"), ("i", "--internal")] {
        ok(&lab, &["network", "create", flag, &format!("net-{name}")]);
    }
    let (one, two, inner) =
        (on(&lab, "net-a", &[]), on(&lab, "net-b", &["-p", "8080:80", "-p", "8080:80/udp"]), on(&lab, "net-i", &[]));
    let beside = on(&lab, "net-i", &[]);
    for running in [&one, &two, &inner] {
        serve(running.pid, 80, "here");
    }
    let lan = kernel::inside(lab.lan.id(), "net", || UdpSocket::bind((LAN, 5000)).unwrap()).unwrap();
    lan.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let heard = |from: u32| {
        let sent =
            kernel::inside(from, "net", || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (LAN, 5000))).unwrap();
        sent.is_ok() && lan.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(heard(one.pid), "a positive control: an ordinary network goes out");
    assert!(!heard(inner.pid), "an internal network goes out");
    assert!(comes_through(Some(beside.pid), address(&inner), 80, "here"), "neighbours on an internal network");
    for (from, to, what) in
        [(&one, &two, "a to b"), (&two, &one, "b to a"), (&one, &inner, "a to i"), (&inner, &one, "i to a")]
    {
        assert!(!reaches(Some(from.pid), address(to), 80, "here"), "{what}");
    }
    assert!(comes_through(Some(one.pid), HOST, 8080, "here"), "what is published is published, to other networks too");
    let both = lab.engine.start(["run", "--rm", "-i", "--network", "net-a", "--network", "net-b", "busybox", "cat"]);
    assert!(
        comes_through(Some(both.pid), address(&one), 80, "here")
            && comes_through(Some(both.pid), address(&two), 80, "here")
    );
}

#[test]
fn containers_find_each_other_by_name() {
    let Some(lab) = Lab::open() else { return };
    ok(&lab, &["network", "create", "lab"]);
    ok(&lab, &["network", "create", "--internal", "inner"]);
    // The resolver of the outside world: knows one name, and tells who asked.
    let dns = kernel::inside(lab.lan.id(), "net", || UdpSocket::bind((LAN, 53)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((size, from)) = dns.recv_from(&mut bytes) {
            let mut reply = bytes[..size].to_vec();
            (reply[2], reply[3], reply[7]) = (0x81, 0x80, 1);
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 9]);
            let _ = dns.send_to(&reply, from);
        }
    });
    let web = on(&lab, "lab", &["--name", "web", "--network-alias", "www"]);
    let here = address(&web).to_string();
    let id = fs::read_link(lab.engine.root().join("names/web")).unwrap();
    let short = &id.file_name().unwrap().to_str().unwrap()[..12];
    for name in ["web", "WEB", "www", "web.lab", short] {
        let done = lookup(&lab, "lab", name);
        assert!(
            done.stdout.contains(&here) && done.stdout.contains("127.0.0.11"),
            "{name}: {}{}",
            done.stdout,
            done.stderr
        );
    }
    assert!(
        lookup(&lab, "lab", "outside.example").stdout.contains("198.51.100.9"),
        "what is not ours goes to the resolver"
    );
    assert!(
        !lookup(&lab, "inner", "outside.example").stdout.contains("198.51.100.9"),
        "an internal network asked outside"
    );
    assert!(lookup(&lab, "lab", &here).stdout.contains("web.lab"), "the way back");
    web.stop();
    assert!(!lookup(&lab, "lab", "web").stdout.contains(&here), "a dead container is still answered for");
    // Nothing of the resolver keeps the network namespace: the ports go.
    let end = std::time::Instant::now() + crate::support::slow(Duration::from_secs(5));
    while sh("ip -o link").contains(": ve") {
        assert!(std::time::Instant::now() < end, "{}", sh("ip -o link"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn hosts_resolv_conf_and_links() {
    let Some(lab) = Lab::open() else { return };
    assert_eq!(lab.run(&["busybox", "true"]).status, 0);
    let db = lab.start(&["--name", "db", "--expose", "5432", "-e", "SECRET=x"]);
    let ip = address(&db);
    let words = [
        "run",
        "--rm",
        "--net",
        "bridge",
        "--link",
        "db:data",
        "--add-host",
        "far:198.51.100.1",
        "--add-host",
        "gate:host-gateway",
    ];
    let words = [
        &words[..],
        &["--dns", "192.0.2.2", "--dns-search", "lab.example", "--dns-option", "ndots:3", "--hostname", "me"],
    ]
    .concat();
    let done = lab
        .engine
        .run([&words[..], &["busybox", "sh", "-c", "cat /etc/hosts /etc/resolv.conf /etc/hostname; env"]].concat());
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    for line in [
        "198.51.100.1\tfar",
        "172.17.0.1\tgate",
        "172.17.0.3\tme",
        "nameserver 192.0.2.2",
        "search lab.example",
        "options ndots:3",
        &format!("DATA_PORT_5432_TCP_ADDR={ip}"),
        &format!("DATA_PORT=tcp://{ip}:5432"),
        "DATA_ENV_SECRET=x",
    ] {
        assert!(done.stdout.lines().any(|there| there == line), "no `{line}` in\n{}", done.stdout);
    }
    assert!(done.stdout.contains(&format!("{ip}\tdata ")));
    for (flags, word) in [
        (["--link", "nope"], "--link: could not get container for nope: No such container: nope"),
        (["--dns", "x"], "--dns: `x`"),
        (["--add-host", "a\n1.2.3.4 b:1.2.3.4"], "--add-host"),
        (["--dns-search", "a b"], "--dns-search"),
        (["--network-alias", "www"], "--network-alias"),
    ] {
        refused(&lab, &[&["run", "--rm", "--net", "bridge"], &flags[..], &["busybox", "true"]].concat(), word);
    }
}

#[test]
fn port_tells_what_is_published() {
    let Some(lab) = Lab::open() else { return };
    assert_eq!(lab.run(&["busybox", "true"]).status, 0);
    let web = lab.start(&["--name", "web", "-p", "127.0.0.1:8081:81", "-p", "8080:80/udp", "-P", "--expose", "90"]);
    let text = ok(&lab, &["port", "web"]);
    assert!(text.starts_with("80/udp -> 0.0.0.0:8080\n81/tcp -> 127.0.0.1:8081\n90/tcp -> 0.0.0.0:"), "{text}");
    let port: u16 = ok(&lab, &["port", "web", "90"]).trim().rsplit(':').next().unwrap().parse().unwrap();
    serve(web.pid, 90, "here");
    std::thread::sleep(Duration::from_millis(20));
    let stream = std::net::TcpStream::connect((HOST, port)).unwrap();
    drop(stream);
    refused(&lab, &["port", "web", "7"], "No public port '7/tcp' published for web");
    // The same in docker's shapes: `ps` and `inspect`.
    let shown = ok(&lab, &["ps", "--format", "{{.Names}} {{.Networks}} {{.Ports}}"]);
    let expected = format!("0.0.0.0:8080->80/udp, 127.0.0.1:8081->81/tcp, 0.0.0.0:{port}->90/tcp");
    assert_eq!(shown.trim_end(), format!("web bridge {expected}"));
    let seen: serde_json::Value = serde_json::from_str(&ok(&lab, &["inspect", "web"])).unwrap();
    let settings = &seen[0]["NetworkSettings"];
    let here = address(&web).to_string();
    let mac = sh(&format!("nsenter -t {} -n ip -o link show eth0", web.pid));
    for place in [settings, &settings["Networks"]["bridge"]] {
        assert_eq!(
            (&place["IPAddress"], &place["Gateway"]),
            (&here.as_str().into(), &"172.17.0.1".into()),
            "{settings}"
        );
        assert!(mac.contains(place["MacAddress"].as_str().unwrap()) && place["IPPrefixLen"] == 16, "{mac} {settings}");
    }
    assert_eq!(settings["Ports"]["80/udp"][0]["HostPort"], "8080", "{settings}");
    assert_eq!(settings["Ports"]["81/tcp"][0]["HostIp"], "127.0.0.1", "{settings}");
    assert_eq!(seen[0]["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(seen[0]["HostConfig"]["PortBindings"]["81/tcp"][0]["HostPort"], "8081");
    assert!(seen[0]["Config"]["ExposedPorts"]["90/tcp"].is_object());
    refused(&lab, &["port", "nope"], "No such container: nope");
}

#[test]
fn repair_brings_back_what_another_tool_took() {
    let Some(lab) = Lab::open() else { return };
    assert_eq!(lab.run(&["busybox", "true"]).status, 0);
    let web = lab.start(&["-p", "8080:80", "-p", "8080:80/udp"]);
    serve(web.pid, 80, "web");
    sh("for t in raw nat filter; do iptables -t $t -F; iptables -t $t -X; done");
    assert!(!reaches(Some(lab.lan.id()), HOST, 8080, "web"), "a positive control: the flush cuts it off");
    ok(&lab, &["network", "repair"]);
    assert!(comes_through(Some(lab.lan.id()), HOST, 8080, "web"));
    sh("ip link del mydocker0");
    web.stop();
    ok(&lab, &["network", "repair"]);
    assert!(lab.run(&["busybox", "ping", "-c1", "-w2", "192.0.2.2"]).stdout.contains(" 0% packet loss"));
}

#[test]
fn networks_are_listed_filtered_and_pruned_in_dockers_words() {
    let Some(lab) = Lab::open() else { return };
    assert_eq!(lab.run(&["busybox", "true"]).status, 0);
    let red = ok(&lab, &["network", "create", "--label", "colour=red", "--label", "x", "lab-red"]);
    ok(&lab, &["network", "create", "--label", "colour=blue", "--ipv6", "--internal", "lab-blue"]);
    let web = on(&lab, "lab-red", &["--name", "web"]);
    let names = |filters: &[&str]| {
        let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
        let words = ["network", "ls", "--format", "{{.Name}}"].into_iter().chain(filters).collect::<Vec<_>>();
        ok(&lab, &words).lines().map(str::to_string).collect::<Vec<_>>().join(" ")
    };
    for (filters, expected) in [
        (&[][..], "bridge lab-blue lab-red"),
        (&["name=lab"], "lab-blue lab-red"),
        (&["name=red", "name=bridge"], "bridge lab-red"),
        (&[&format!("id={}", &red[..7])], "lab-red"),
        (&["label=colour"], "lab-blue lab-red"),
        (&["label=colour=red"], "lab-red"),
        (&["label=colour", "label=x"], "lab-red"),
        (&["driver=bridge"], "bridge lab-blue lab-red"),
        (&["driver=overlay"], ""),
        (&["scope=local", "type=custom"], "lab-blue lab-red"),
        (&["scope=swarm"], ""),
        (&["type=builtin"], "bridge"),
        (&["dangling=true"], "lab-blue"),
        (&["dangling=false"], "bridge lab-red"),
    ] {
        assert_eq!(names(filters), expected, "{filters:?}");
    }
    for (filter, word) in [
        ("colour", "expected name=value"),
        ("nope=1", "invalid filter 'nope'"),
        ("dangling=perhaps", "invalid filter 'dangling=[perhaps]'"),
        ("type=mine", "'type'='mine'"),
    ] {
        refused(&lab, &["network", "ls", "--filter", filter], word);
    }
    assert_eq!(ok(&lab, &["network", "ls", "-q", "-f", "name=lab-red"]).trim(), &red[..12]);
    assert_eq!(ok(&lab, &["network", "ls", "-q", "--no-trunc", "-f", "name=lab-red"]), red);
    let table = ok(&lab, &["network", "ls"]);
    assert!(table.starts_with("NETWORK ID     NAME       DRIVER    SCOPE\n"), "{table}");
    assert!(table.contains(&format!("{}   lab-red    bridge    local\n", &red[..12])), "{table}");
    let seen = ok(&lab, &["network", "ls", "--format", "json", "-f", "name=blue"]);
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    for (field, value) in [
        ("Name", "lab-blue"),
        ("Driver", "bridge"),
        ("Scope", "local"),
        ("Internal", "true"),
        ("IPv6", "true"),
        ("Labels", "colour=blue"),
    ] {
        assert_eq!(seen[field], value, "{seen}");
    }
    assert_eq!(ok(&lab, &["network", "inspect", "-f", "{{.Name}} {{index .Labels \"x\"}}|", "lab-red"]), "lab-red |\n");
    let done = lab.engine.run(["network", "inspect", "-f", "{{.Name}}", "lab-red", "nope"]);
    assert_eq!((done.status, done.stdout.as_str()), (1, "lab-red\n"), "{}", done.stderr);
    assert!(done.stderr.contains("network nope not found"), "{}", done.stderr);
    // Only what nobody is on, and what the filters let through.
    let prune = |filter: &str| ok(&lab, &["network", "prune", "-f", "--filter", filter]);
    assert_eq!(prune("label=colour=red"), "", "somebody is on it");
    assert_eq!(prune("label!=colour"), "");
    assert_eq!(prune("until=1h"), "");
    refused(&lab, &["network", "prune", "-f", "--filter", "nope=1"], "invalid filter 'nope'");
    refused(&lab, &["network", "prune", "-f", "--filter", "until=soon"], "--filter: until");
    ok(&lab, &["network", "create", "lab-plain"]);
    assert_eq!(prune("label!=colour"), "Deleted Networks:\nlab-plain\n\n");
    assert_eq!(prune("label=colour=blue"), "Deleted Networks:\nlab-blue\n\n");
    web.stop();
    assert_eq!(prune("until=2030-01-01"), "Deleted Networks:\nlab-red\n\n");
    assert_eq!(names(&[]), "bridge");
}
