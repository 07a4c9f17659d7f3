//! What the container's engine carries on itself, because no rule can: messages over UDP, of every length and from many.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::kernel;
use support::lab::{Lab, ok, pid, sh};

/// Sends back whatever comes to port 80 in the network namespace of `pid`, until the process ends.
fn echo(pid: u32) {
    let socket = kernel::inside(pid, "net", || UdpSocket::bind("0.0.0.0:80").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while kernel::alive(pid) {
            if let Ok((size, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..size], from);
            }
        }
    });
}

/// A socket that talks to `to` alone.
fn caller(to: &str) -> UdpSocket {
    let to: SocketAddr = to.parse().unwrap();
    let socket = UdpSocket::bind(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(support::slow(Duration::from_millis(400)))).unwrap();
    socket
}

/// Whether `message` comes back whole; over UDP a message may be lost, so it is sent again.
fn comes_back(socket: &UdpSocket, message: &[u8]) -> bool {
    let mut bytes = vec![0; 1 << 16];
    (0..20).any(|_| {
        // A refusal of the message before this one is told by this call.
        socket.send(message).is_ok() && socket.recv(&mut bytes).is_ok_and(|size| bytes[..size] == *message)
    })
}

/// A detached container `web` with two ways in: a rule, and the engine's relay.
fn open() -> Option<Lab> {
    let mut lab = Lab::open()?;
    if !std::path::Path::new("/proc/sys/net/ipv6/conf").exists() {
        support::skip("this kernel has no IPv6");
        return None;
    }
    sh("echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; ip addr replace ::1/128 dev lo");
    lab.engine.keeps = true;
    let ports = ["-p", "127.0.0.1:8080:80/udp", "-p", "[::1]:8080:80/udp"];
    let run = ["run", "-d", "--name", "web", "--network", "bridge"];
    ok(&lab, &[&run[..], &ports, &["busybox", "sleep", "1000"]].concat());
    Some(lab)
}

#[test]
fn messages_of_every_length_go_both_ways() {
    let Some(lab) = open() else { return };
    echo(pid(&lab, "web"));
    for to in ["127.0.0.1:8080", "[::1]:8080"] {
        let socket = caller(to);
        // The wire takes 1400 bytes; 65507 are the most that UDP over IPv4 can carry, in 48 fragments.
        for length in [0, 1, 1372, 1373, 1500, 9000, 40_000, 65_507] {
            let message: Vec<u8> = (0..length).map(|number: u32| (number % 251) as u8).collect();
            assert!(comes_back(&socket, &message), "{to}: {length} bytes");
        }
    }
    // Longer ones exist in IPv6 alone: they are lost, and nothing else is.
    let socket = caller("[::1]:8080");
    socket.send(&[7; 65_520]).unwrap();
    assert!(comes_back(&socket, b"still there"));
    ok(&lab, &["rm", "-f", "web"]);
}

#[test]
fn many_may_ask_over_udp_and_nobody_is_shut_out() {
    let Some(lab) = open() else { return };
    let first = caller("[::1]:8080");
    // Nobody listens in there yet: that is no reason to give up.
    let _ = first.send(b"too early");
    assert!(first.recv(&mut [0; 9]).is_err());
    echo(pid(&lab, "web"));
    assert!(comes_back(&first, b"first"));
    let all: Vec<_> = (0..400).map(|_| caller("[::1]:8080")).collect();
    for (number, socket) in all.iter().enumerate() {
        assert!(comes_back(socket, number.to_string().as_bytes()), "number {number}");
    }
    assert!(comes_back(&first, b"first again"), "he was forgotten, and is known again");
    // One descriptor each, and no more of them than there may be.
    let parent = sh(&format!("grep PPid: /proc/{}/status", pid(&lab, "web")));
    let engine = parent.split_whitespace().last().unwrap();
    let held = std::fs::read_dir(format!("/proc/{engine}/fd")).unwrap().count();
    assert!(held < 320, "the engine holds {held} descriptors");
    ok(&lab, &["rm", "-f", "web"]);
    UdpSocket::bind("[::1]:8080").unwrap();
}
