//! A port of the host, kept by a socket that is bound and never listens (`man 2 bind`).

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname};
use nix::sys::socket::{Backlog, Shutdown, listen, setsockopt, shutdown, socket, sockopt};
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
    let address = SockaddrStorage::from(SocketAddr::new(ip, port));
    let fresh = || -> Result<OwnedFd, Errno> {
        let fd = match number {
            Some(_) => sctp(family).or_else(|_| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))?,
            None => socket(family, kind, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?,
        };
        // 0.0.0.0 has a socket of its own.
        if ip.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        Ok(fd)
    };
    let mut fd = fresh()?;
    match bind(fd.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) if protocol == 0 && port != 0 => {
            fd = fresh()?;
            bind_beside_time_wait(&fd, &address)?;
        }
        other => other?,
    }
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let port = bound.as_sockaddr_in().map(|v4| v4.port()).or_else(|| bound.as_sockaddr_in6().map(|v6| v6.port()));
    Ok((port.ok_or(Errno::EAFNOSUPPORT)?, fd))
}

/// The same for a port of which only ended connections are left (TIME_WAIT): they are nobody, and SO_REUSEADDR says so.
///
/// Two sockets with that option may share a port as long as neither listens, and older kernels (6.1 does) remember of a port
/// that it was once bound so, whatever its sockets say later. To listen for a moment makes the kernel look at each of
/// them, and forget that.
fn bind_beside_time_wait(fd: &OwnedFd, address: &SockaddrStorage) -> Result<(), Errno> {
    setsockopt(fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), address)?;
    listen(fd, Backlog::new(0)?)?;
    setsockopt(fd, sockopt::ReuseAddr, &false)?;
    shutdown(fd.as_raw_fd(), Shutdown::Read)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn a_port_has_one_owner_also_after_a_server_that_has_ended() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = TcpListener::bind((here, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(bind_port(0, here, port).unwrap_err(), Errno::EADDRINUSE);
        // Who closes first is left in TIME_WAIT.
        let mut client = TcpStream::connect((here, port)).unwrap();
        drop(server.accept().unwrap());
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);

        let (_, kept) = bind_port(0, here, port).unwrap();
        assert_eq!(bind_port(0, here, port).unwrap_err(), Errno::EADDRINUSE);
        assert!(TcpListener::bind((here, port)).is_err(), "a stranger got it");
        assert!(TcpStream::connect((here, port)).is_err(), "it listens");
        drop(kept);
        bind_port(0, here, port).unwrap();
        let (other, kept) = bind_port(0, here, 0).unwrap();
        assert!(TcpListener::bind((here, other)).is_err(), "a stranger got it");
        drop(kept);
    }
}
