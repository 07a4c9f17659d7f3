//! Ports: what `-p` means, and the host's port kept for the container by a socket of ours that is bound and never
//! listens. Whoever else wants the port is told that it is in use; packets are sent on by a NAT rule, not by us.

use anyhow::{Result, bail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One port to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// `None`: every address of the host, of both kinds where the network has both.
    pub ip: Option<IpAddr>,
    /// First and last of the host's ports that will do; `None`: any (the kernel's ephemeral range).
    pub host: Option<(u16, u16)>,
    pub port: u16,
    pub protocol: Protocol,
}

/// One port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub ip: IpAddr,
    pub host_port: u16,
    pub port: u16,
    pub protocol: Protocol,
}

/// `-p [ip:][hostPort]:containerPort[/protocol]`, each port perhaps a range; one entry per container port.
pub fn parse(text: &str) -> Result<Vec<Publish>> {
    let shown = text.escape_debug();
    let (ports, protocol) = protocol("--publish", text)?;
    // The colons of an IPv6 address are its own.
    let (inside, ports) = match ports.strip_prefix('[').map(|rest| rest.split_once("]:")) {
        Some(Some((ip, rest))) => (Some(ip), rest),
        Some(None) => bail!("--publish: `{shown}` is not [IP:][HOST-PORT:]PORT[/PROTOCOL]"),
        None => (None, ports),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (ip, host, container) = match (inside, &parts[..]) {
        (None, [container]) => ("", "", *container),
        (None, [host, container]) => ("", *host, *container),
        (None, [ip, host, container]) => (*ip, *host, *container),
        (Some(ip), [host, container]) => (ip, *host, *container),
        (None, _) => {
            bail!("--publish: `{shown}`: invalid IP address: an IPv6 address stands in brackets, as in [::1]:8080:80")
        }
        _ => bail!("--publish: `{shown}` is not [IP:][HOST-PORT:]PORT[/PROTOCOL]"),
    };
    let address = match ip.parse() {
        Ok(ip) => Some(ip),
        Err(_) if ip.is_empty() && inside.is_none() => None,
        Err(_) => bail!("--publish: `{shown}`: invalid IP address: `{}`", ip.escape_debug()),
    };
    let (first, last) = range("--publish", text, container)?;
    // Docker reads `0:80` as it reads `80`.
    if host.is_empty() || host == "0" {
        let one = |port| Publish { ip: address, host: None, port, protocol };
        return Ok((first..=last).map(one).collect());
    }
    let (host_first, host_last) = range("--publish", text, host)?;
    let (many, host_many) = (last - first, host_last - host_first);
    if many == 0 {
        // Docker takes the first of them that is free.
        return Ok(vec![Publish { ip: address, host: Some((host_first, host_last)), port: first, protocol }]);
    }
    if many != host_many {
        bail!("--publish: `{shown}`: invalid ranges specified for container and host ports: {container} and {host}");
    }
    let one = |offset| {
        let host = Some((host_first + offset, host_first + offset));
        Publish { ip: address, host, port: first + offset, protocol }
    };
    Ok((0..=many).map(one).collect())
}

/// `--expose 80-82/udp`: one entry per port, as `80/udp`.
pub fn exposed(text: &str) -> Result<Vec<(u16, Protocol)>> {
    let (ports, protocol) = protocol("--expose", text)?;
    let (first, last) = range("--expose", text, ports)?;
    Ok((first..=last).map(|port| (port, protocol)).collect())
}

fn protocol<'a>(flag: &str, text: &'a str) -> Result<(&'a str, Protocol)> {
    let Some((ports, word)) = text.split_once('/') else { return Ok((text, Protocol::Tcp)) };
    if word.is_empty() {
        return Ok((ports, Protocol::Tcp));
    }
    match Protocol::parse(word) {
        Some(protocol) => Ok((ports, protocol)),
        None => bail!(
            "{flag}: `{}`: invalid protocol: `{}`; there are tcp, udp, sctp",
            text.escape_debug(),
            word.escape_debug()
        ),
    }
}

fn range(flag: &str, text: &str, ports: &str) -> Result<(u16, u16)> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => bail!("{flag}: `{}`: invalid port: `{}` (1 to 65535)", text.escape_debug(), ports.escape_debug()),
    }
}

/// Whether who has a port on the one address has it on the other, too.
pub fn meet(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// An address before a port: IPv6 stands in brackets.
pub fn bracketed(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

impl Publish {
    /// The addresses to be bound. `ipv6`: the network has IPv6.
    pub fn addresses(&self, ipv6: bool) -> Vec<IpAddr> {
        match self.ip {
            Some(ip) => vec![ip],
            None if ipv6 => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            None => vec![Ipv4Addr::UNSPECIFIED.into()],
        }
    }
}

/// Binds one of the ports that will do on all of `addresses`: the port, and the sockets that keep it. EADDRINUSE: none
/// is free; EADDRNOTAVAIL: the host has no such address. `taken`: a container has it whose engine, and so its socket, is
/// gone.
pub fn reserve(
    publish: &Publish,
    addresses: &[IpAddr],
    taken: impl Fn(u16) -> bool,
) -> Result<(u16, Vec<OwnedFd>), Errno> {
    // Of the ephemeral ones a few may be such a container's.
    const TRIES: u16 = 8;
    let wanted: Vec<u16> = publish.host.map_or(vec![0; TRIES.into()], |(first, last)| (first..=last).collect());
    for port in wanted {
        match bind_all(publish.protocol, addresses, port) {
            Ok((port, _)) if taken(port) => {}
            Err(Errno::EADDRINUSE) => {}
            other => return other,
        }
    }
    Err(Errno::EADDRINUSE)
}

fn bind_all(protocol: Protocol, addresses: &[IpAddr], mut port: u16) -> Result<(u16, Vec<OwnedFd>), Errno> {
    let mut sockets = Vec::new();
    for ip in addresses {
        let (bound, socket) = crate::sys::bind_port(protocol as u8, *ip, port)?;
        // Whatever the first one got, the others are to have as well.
        port = bound;
        sockets.push(socket);
    }
    Ok((port, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_docker_reads_them() {
        let show = |publish: &Publish| {
            let host = publish.host.map_or("any".to_string(), |(first, last)| format!("{first}-{last}"));
            let ip = publish.ip.map_or("any".to_string(), bracketed);
            format!("{ip}:{host}>{}/{}", publish.port, publish.protocol)
        };
        for (text, expected) in [
            ("80", "any:any>80/tcp"),
            ("8080:80", "any:8080-8080>80/tcp"),
            ("8080:80/UDP", "any:8080-8080>80/udp"),
            ("127.0.0.1:8080:80/sctp", "127.0.0.1:8080-8080>80/sctp"),
            ("127.0.0.1::80", "127.0.0.1:any>80/tcp"),
            (":80", "any:any>80/tcp"),
            ("0:80", "any:any>80/tcp"),
            ("127.0.0.1:0:80/", "127.0.0.1:any>80/tcp"),
            ("8000-8001:80-81", "any:8000-8000>80/tcp any:8001-8001>81/tcp"),
            ("8000-8010:80", "any:8000-8010>80/tcp"),
            ("80-81", "any:any>80/tcp any:any>81/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080-8080>80/tcp"),
            ("[::1]:8080:80", "[::1]:8080-8080>80/tcp"),
            ("[::]::80/udp", "[::]:any>80/udp"),
            ("[2001:db8::1]:8000-8001:80-81", "[2001:db8::1]:8000-8000>80/tcp [2001:db8::1]:8001-8001>81/tcp"),
        ] {
            assert_eq!(parse(text).unwrap().iter().map(show).collect::<Vec<_>>().join(" "), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_named() {
        for text in [
            "70000:80",
            "80:80/xyz",
            "::1:80:80",
            "[::1]:80",
            "[::1]80:80",
            "[]:80:80",
            "[::1]:1:80:80",
            "[::1%lo]:80:80",
            "[x]:80:80",
            "[::1:80:80",
            "8080-8090:80-81",
            "80:0",
            "",
            ":",
            "a:80",
            "80:",
            "+80:80",
            "81-80",
            "1.2.3:80:80",
            "1.2.3.4:80:80:80",
            "0-1:80",
            "80:80//",
            "80:80\n",
            "-1:80",
            "localhost:80:80",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("--publish: `") && !error.contains('\n'), "{text:?}: {error}");
        }
        assert_eq!(exposed("80-81/udp").unwrap(), [(80, Protocol::Udp), (81, Protocol::Udp)]);
        assert!(exposed("x").is_err());
    }
}
