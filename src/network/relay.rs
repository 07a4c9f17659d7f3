//! What no rule can do: the kernel lets no packet from ::1, and none from a neighbour's fe80:: address, leave by another
//! card (RFC 4291, 2.5.3 and 2.5.6). Whoever comes to a published port that way reaches the socket that keeps it, and a
//! thread of the container's engine carries his bytes on, over IPv4 if the network has nothing else.
//!
//! Try it without us: `socat TCP6-LISTEN:8080,bind=[::1],fork TCP4:172.17.0.2:80`

use super::names;
use super::publish::{Protocol, Published};
use super::resolver::beside;
use crate::plan::{Dirs, Id};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// So many connections at once; whoever comes then is sent away.
const MOST: usize = 256;
/// How long a question over UDP may wait for its answer: as docker's proxy.
const UDP_PATIENCE: Duration = Duration::from_secs(90);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const BUFFER: usize = 64 << 10;

/// The sockets of one container's ports on IPv6 addresses, and the thread that serves them.
#[derive(Default)]
pub struct Relay {
    sockets: Mutex<Vec<(Published, OwnedFd)>>,
    running: Mutex<Option<(OwnedFd, JoinHandle<()>)>>,
}

/// What the engine holds as long as the container runs: then nobody listens any more.
pub struct Guard(pub Arc<Relay>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Whose ports they are.
#[derive(Clone)]
struct Owner {
    dirs: Dirs,
    id: Id,
}

enum Listener {
    Tcp(Published, TcpListener),
    Udp(Published, Arc<UdpSocket>, Clients),
}

type Clients = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

impl Relay {
    pub fn add(&self, published: Published, socket: OwnedFd) {
        if let Ok(mut sockets) = self.sockets.lock() {
            sockets.push((published, socket));
        }
    }

    /// Begins to listen. SCTP is not carried: only a rule leads it in.
    pub fn start(&self, dirs: &Dirs, id: &Id) -> io::Result<()> {
        let sockets = self.sockets.lock().map(|mut sockets| std::mem::take(&mut *sockets)).unwrap_or_default();
        let mut listeners = Vec::new();
        for (published, socket) in sockets {
            match published.protocol {
                Protocol::Tcp => {
                    // Nobody else can have a port on which we listen; but what is left of a connection (TIME_WAIT) must
                    // not keep it from the container's next start.
                    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
                    listen(&socket, Backlog::new(128)?)?;
                    let socket = TcpListener::from(socket);
                    socket.set_nonblocking(true)?;
                    listeners.push(Listener::Tcp(published, socket));
                }
                Protocol::Udp => {
                    let socket = UdpSocket::from(socket);
                    socket.set_nonblocking(true)?;
                    listeners.push(Listener::Udp(published, Arc::new(socket), Clients::default()));
                }
                Protocol::Sctp => {}
            }
        }
        let (end, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let owner = Owner { dirs: dirs.clone(), id: id.clone() };
        let work = move || serve(&listeners, &end, &owner);
        let thread = Builder::new().name("ports".into()).stack_size(256 << 10).spawn(work)?;
        if let Ok(mut running) = self.running.lock() {
            *running = Some((stop, thread));
        }
        Ok(())
    }

    /// Lets the ports go; when it returns they are free.
    fn end(&self) {
        if let Ok(mut sockets) = self.sockets.lock() {
            sockets.clear();
        }
        let running = self.running.lock().ok().and_then(|mut running| running.take());
        if let Some((stop, thread)) = running {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn serve(listeners: &[Listener], end: &OwnedFd, owner: &Owner) {
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let sockets = listeners.iter().map(|one| match one {
            Listener::Tcp(_, socket) => socket.as_fd(),
            Listener::Udp(_, socket, _) => socket.as_fd(),
        });
        let mut fds: Vec<_> = sockets.chain([end.as_fd()]).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds.last().and_then(PollFd::any).unwrap_or(true) => return,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        for listener in listeners {
            match listener {
                Listener::Tcp(published, socket) => {
                    if let Ok((client, _)) = socket.accept() {
                        let (owner, published) = (owner.clone(), published.clone());
                        beside(&busy, MOST, move || drop(carry(client, &owner, &published)));
                    }
                }
                Listener::Udp(published, socket, clients) => drop(pass_on(socket, clients, owner, published, &busy)),
            }
        }
    }
}

impl Owner {
    /// Where the port leads now: the container may have changed networks since.
    fn target(&self, published: &Published) -> io::Result<SocketAddr> {
        let leases = names::joined(&self.dirs, &self.id);
        let lease = leases.iter().map(|(_, lease)| lease).find(|lease| lease.published.contains(published));
        lease.map(|lease| (lease.address, published.port).into()).ok_or(io::ErrorKind::ConnectionRefused.into())
    }
}

/// One connection, both ways, until both ends have said all they had to say.
fn carry(client: TcpStream, owner: &Owner, published: &Published) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&owner.target(published)?, CONNECT_PATIENCE)?;
    client.set_nonblocking(false)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        // A container that is gone says no goodbye.
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    }
    let (from, to) = (server.try_clone()?, client.try_clone()?);
    let back = Builder::new().stack_size(128 << 10).spawn(move || one_way(from, to))?;
    one_way(client, server);
    let _ = back.join();
    Ok(())
}

fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; BUFFER];
    while let Ok(size @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..size]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    // Nobody will take what is still to come.
    let _ = from.shutdown(Shutdown::Read);
}

/// One packet, to the socket that stands for whoever sent it; the answers come back through a thread of its own.
fn pass_on(
    socket: &Arc<UdpSocket>,
    clients: &Clients,
    owner: &Owner,
    published: &Published,
    busy: &Arc<AtomicUsize>,
) -> io::Result<()> {
    let mut bytes = vec![0; BUFFER];
    let (size, from) = socket.recv_from(&mut bytes)?;
    let known = clients.lock().ok().and_then(|clients| clients.get(&from).cloned());
    let server = match known {
        Some(server) => server,
        None => {
            let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            server.connect(owner.target(published)?)?;
            server.set_read_timeout(Some(UDP_PATIENCE))?;
            let server = Arc::new(server);
            let (here, back, all) = (Arc::clone(&server), Arc::downgrade(socket), Arc::clone(clients));
            if let Ok(mut clients) = clients.lock() {
                clients.insert(from, Arc::clone(&server));
            }
            beside(busy, MOST, move || {
                answers(&here, &back, from);
                if let Ok(mut all) = all.lock() {
                    all.remove(&from);
                }
            });
            server
        }
    };
    server.send(&bytes[..size]).map(drop)
}

/// The port itself is held only for the moment of an answer.
fn answers(server: &UdpSocket, back: &Weak<UdpSocket>, to: SocketAddr) {
    let mut bytes = vec![0; BUFFER];
    while let Ok(size) = server.recv(&mut bytes) {
        let Some(socket) = back.upgrade() else { return };
        if socket.send_to(&bytes[..size], to).is_err() {
            return;
        }
    }
}
