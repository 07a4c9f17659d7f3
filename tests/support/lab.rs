//! A laboratory for networks: the engine's host is the test's private one, with one card; a second network namespace,
//! the `lan`, is its neighbour at the other end of the cable.

use super::{Done, Engine, Guard, Running, kernel, skip};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::time::Duration;

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const HOST6: &str = "2001:db8::1";
pub const LAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The engine's host with one card, and the neighbour at the other end of its cable.
pub struct Lab {
    pub engine: Engine,
    pub lan: Child,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.lan.kill();
        let _ = self.lan.wait();
    }
}

pub fn sh(line: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Lab {
    pub fn open() -> Option<Self> {
        Self::around(Engine::open()?)
    }

    /// The same, for an engine on a host of its own that has no card yet.
    pub fn around(engine: Engine) -> Option<Self> {
        if Command::new("iptables-restore").arg("--version").output().is_err() {
            skip("iptables is not installed");
            return None;
        }
        let lab = Self { engine, lan: neighbour() };
        // A new network namespace begins with what the machine's own says.
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        lab.in_lan(&format!("ip route add 172.16.0.0/12 via {HOST}"));
        Some(lab)
    }

    pub fn in_lan(&self, line: &str) -> String {
        sh(&format!("nsenter -t {} -n sh -c '{line}'", self.lan.id()))
    }

    pub fn run(&self, words: &[&str]) -> Done {
        self.engine.run([&["run", "--rm", "--network", "bridge"], words].concat())
    }

    /// A container that waits; its pid names its namespaces.
    pub fn start(&self, flags: &[&str]) -> Running {
        let words = [&["run", "--rm", "-i", "--network", "bridge"], flags, &["busybox", "cat"]].concat();
        settle(self.engine.start(words))
    }

    /// A guard that takes the default network, which stays, as given.
    pub fn guard(&self) -> Guard {
        warm(&self.engine);
        Guard::new(self.engine.root())
    }
}

/// Does what must succeed and has nothing to complain of: what it says.
#[track_caller]
pub fn ok(lab: &Lab, words: &[&str]) -> String {
    let done = lab.engine.run(words);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{words:?}");
    done.stdout.trim().to_string()
}

/// The first process of a container that runs.
pub fn pid(lab: &Lab, name: &str) -> u32 {
    ok(lab, &["inspect", "-f", "{{.State.Pid}}", name]).parse().unwrap()
}

/// A detached container `web` on `network`, whose port 80 is the host's 8080 over both protocols: its first process. What
/// serves there is the caller's.
pub fn web(lab: &Lab, network: &str) -> u32 {
    let ports = ["-p", "8080:80", "-p", "8080:80/udp"];
    ok(
        lab,
        &[&["run", "-d", "--name", "web", "--network", network], &ports[..], &["busybox", "sleep", "1000"]].concat(),
    );
    pid(lab, "web")
}

/// A network with IPv6 on the wire, and a neighbour who knows the way to the host.
pub fn lab6() -> Option<Lab> {
    let lab = Lab::open()?;
    if !std::path::Path::new("/proc/sys/net/ipv6/conf").exists() {
        skip("this kernel has no IPv6");
        return None;
    }
    for line in ["echo 0 > /proc/sys/net/ipv6/conf/wire/disable_ipv6", "ip link set wire up"] {
        sh(line);
        sh(&format!("nsenter -t {} -n sh -c '{line}'", lab.lan.id()));
    }
    // ::1, which every host has.
    sh("echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; ip link set lo up; ip addr replace ::1/128 dev lo");
    sh(&format!("ip addr add {HOST6}/64 dev wire nodad"));
    lab.in_lan(&format!("ip addr add {LAN6}/64 dev wire nodad; ip route add fd00:7::/32 via {HOST6}"));
    Some(lab)
}

/// A network namespace at the other end of a cable, which knows the host and nobody else; it lives as long as this
/// process.
pub fn neighbour() -> Child {
    let lan = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
    let host = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    while kernel::namespace(lan.id(), "net").is_none_or(|net| net == host.display().to_string()) {
        super::nap(Duration::from_millis(1));
    }
    // Addresses that come and go by themselves would look like a change.
    sh("for i in all default; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done");
    let pid = lan.id();
    sh(&format!("ip link add wire mtu 1400 type veth peer name wire mtu 1400 netns {pid}"));
    sh(&format!("ip addr add {HOST}/24 dev wire; ip link set wire up; ip route add default via {LAN}"));
    let inside = format!("ip link set lo up; ip addr add {LAN}/24 dev wire; ip link set wire up");
    sh(&format!("nsenter -t {pid} -n sh -c '{inside}'"));
    lan
}

/// Has the engine make its default network, which stays, and waits until the first container's port is gone.
pub fn warm(engine: &Engine) {
    warm_by(|| {
        let done = engine.run(["run", "--rm", "--network", "bridge", "busybox", "true"]);
        assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    });
}

/// The same, by whatever starts a container on it and sees it end.
pub fn warm_by<T>(first: impl FnOnce() -> T) -> T {
    // Addresses that come and go by themselves would look like a change.
    sh("for i in all default; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done");
    let done = first();
    let end = std::time::Instant::now() + crate::support::slow(Duration::from_secs(5));
    while !sh("ip -o link show type bridge").contains("NO-CARRIER") && std::time::Instant::now() < end {
        super::nap(Duration::from_millis(5));
    }
    done
}

/// What was taken for the command may have been `iptables-restore`, on a slow day: the command is in its own PID
/// namespace.
pub fn settle(mut running: Running) -> Running {
    let ours = kernel::namespace(std::process::id(), "pid");
    while kernel::namespace(running.pid, "pid").is_none_or(|theirs| Some(theirs) == ours) {
        running.wait_for_command();
    }
    running
}

/// The container's address, as its own network namespace has it.
pub fn address(running: &Running) -> Ipv4Addr {
    let text = sh(&format!("nsenter -t {} -n ip -4 -o addr show eth0", running.pid));
    let address = text.split_whitespace().skip_while(|word| *word != "inet").nth(1).unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

/// Serves in the network namespace of `pid`: whoever comes is told `who`, on both protocols; ends with the process.
pub fn serve(pid: u32, port: u16, who: &'static str) {
    let sockets = kernel::inside(pid, "net", || {
        (TcpListener::bind(("0.0.0.0", port)).unwrap(), UdpSocket::bind(("0.0.0.0", port)).unwrap())
    });
    let (tcp, udp) = sockets.unwrap();
    // An open socket keeps a network namespace: both go when the container does.
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

pub static PATIENCE: std::sync::LazyLock<Duration> =
    std::sync::LazyLock::new(|| crate::support::slow(Duration::from_millis(400)));

pub fn ask_tcp(ip: Ipv4Addr, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(ip), port), *PATIENCE).ok()?;
    stream.set_read_timeout(Some(*PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

pub fn ask_udp(ip: Ipv4Addr, port: u16) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(*PATIENCE)).ok()?;
    socket.send_to(b"?", (ip, port)).ok()?;
    let mut bytes = [0; 64];
    let (size, _) = socket.recv_from(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..size]).into_owned())
}

/// What answers at a port by TCP and by UDP, asked once from the network namespace of `from` or from the host.
fn ask(from: Option<u32>, ip: Ipv4Addr, port: u16) -> (Option<String>, Option<String>) {
    let ask = || (ask_tcp(ip, port), ask_udp(ip, port));
    match from {
        Some(pid) => kernel::inside(pid, "net", ask).unwrap(),
        None => ask(),
    }
}

/// Both protocols get through to `who`, and to nobody else. A bridge that just got its first port takes no packet until
/// the kernel has told everybody of its carrier, which on a busy machine takes longer than one question.
pub fn comes_through(from: Option<u32>, ip: Ipv4Addr, port: u16, who: &str) -> bool {
    let both = |_| {
        let (tcp, udp) = ask(from, ip, port);
        for text in [&tcp, &udp].into_iter().flatten() {
            assert_eq!(text, who, "another answered at {ip}:{port}");
        }
        tcp.is_some() && udp.is_some()
    };
    (0..20).any(both)
}

/// Both protocols must agree: `true` if `who` answers, `false` if nobody does. Only for what must not get through:
/// one question, and a lost packet is taken for nobody.
pub fn reaches(from: Option<u32>, ip: Ipv4Addr, port: u16, who: &str) -> bool {
    let (tcp, udp) = ask(from, ip, port);
    assert_eq!(tcp.is_some(), udp.is_some(), "tcp and udp differ for {ip}:{port}: {tcp:?} {udp:?}");
    if let Some(text) = &tcp {
        assert_eq!((text.as_str(), udp.as_deref()), (who, Some(who)), "another answered at {ip}:{port}");
    }
    tcp.is_some()
}
