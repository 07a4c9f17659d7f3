//! A port of the host, kept by a socket that is bound and never listens (`man 2 bind`).

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname};
use nix::sys::socket::{setsockopt, socket, sockopt};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Binds `port` (0: any that is free) of `ip`, for TCP (0), UDP (1) or SCTP (2): the port it became, and the socket.
///
/// EADDRINUSE: somebody has it; EADDRNOTAVAIL: this machine does not have `ip`. A kernel without SCTP has no port of
/// it that could be taken: then UDP's of that number is kept in its place.
pub fn bind_port(protocol: u8, ip: IpAddr, port: u16) -> Result<(u16, OwnedFd), Errno> {
    let (kind, number) = match protocol {
        0 => (SockType::Stream, None),
        2 => (SockType::Stream, Some(libc::IPPROTO_SCTP)),
        _ => (SockType::Datagram, None),
    };
    let family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = match number {
        Some(_) => sctp(family).or_else(|_| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))?,
        None => socket(family, kind, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?,
    };
    // 0.0.0.0 has a socket of its own.
    if ip.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    // What is left of a server's connections (TIME_WAIT) is nobody. Once bound, we share the port with no one.
    if protocol == 0 {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, port)))?;
    if protocol == 0 {
        setsockopt(&fd, sockopt::ReuseAddr, &false)?;
    }
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let port = bound.as_sockaddr_in().map(|v4| v4.port()).or_else(|| bound.as_sockaddr_in6().map(|v6| v6.port()));
    Ok((port.ok_or(Errno::EAFNOSUPPORT)?, fd))
}

fn sctp(family: AddressFamily) -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain integers; a descriptor that comes back is ours alone.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let fd = super::check(libc::socket(family as libc::c_int, kind, libc::IPPROTO_SCTP) as libc::c_long)?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}
