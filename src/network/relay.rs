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
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// So many connections at once, and whoever comes then is sent away; so many who ask over UDP at one port, of whom then the
/// one who was silent for longest is forgotten.
const MOST: usize = 256;
/// How long a question over UDP may wait for its answer: as docker's proxy.
const UDP_PATIENCE: Duration = Duration::from_secs(90);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
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
    Udp(Published, UdpSocket, Vec<Client>),
}

/// One who asks over UDP.
struct Client {
    from: SocketAddr,
    /// Stands for him in the container's network.
    server: UdpSocket,
    used: Instant,
}

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
                    listeners.push(Listener::Udp(published, socket, vec![]));
                }
                Protocol::Sctp => {}
            }
        }
        let (end, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let owner = Owner { dirs: dirs.clone(), id: id.clone() };
        let work = move || serve(listeners, &end, &owner);
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

fn serve(mut listeners: Vec<Listener>, end: &OwnedFd, owner: &Owner) {
    let (busy, mut bytes) = (Arc::new(AtomicUsize::new(0)), vec![0; BUFFER]);
    while let Some(ready) = wait(&listeners, end) {
        let mut ready = ready.into_iter();
        for listener in &mut listeners {
            let asked = ready.next() == Some(true);
            match listener {
                Listener::Tcp(published, socket) => {
                    match asked.then(|| socket.accept()) {
                        Some(Ok((client, _))) => {
                            let (owner, published) = (owner.clone(), published.clone());
                            beside(&busy, MOST, move || drop(carry(&client, &owner, &published)));
                        }
                        // Without a free descriptor it stays ready: not to be asked again and again.
                        Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                        _ => {}
                    }
                }
                Listener::Udp(published, socket, clients) => {
                    // In the order in which `wait` has named them.
                    clients.retain_mut(|client| {
                        let answered = ready.next() == Some(true);
                        (!answered || client.answer(socket, &mut bytes).is_ok()) && client.used.elapsed() < UDP_PATIENCE
                    });
                    if asked {
                        let _ = pass_on(socket, clients, owner, published, &mut bytes);
                    }
                }
            }
        }
    }
}

/// Which sockets have something to say: each listener's own, then those of its clients. `None`: it is over.
fn wait(listeners: &[Listener], end: &OwnedFd) -> Option<Vec<bool>> {
    let mut fds = Vec::new();
    for listener in listeners {
        match listener {
            Listener::Tcp(_, socket) => fds.push(socket.as_fd()),
            Listener::Udp(_, socket, clients) => {
                fds.push(socket.as_fd());
                fds.extend(clients.iter().map(|client| client.server.as_fd()));
            }
        }
    }
    fds.push(end.as_fd());
    let mut fds: Vec<_> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let asked = poll(&mut fds, PollTimeout::NONE);
    let mut ready: Vec<bool> = fds.iter().map(|fd| asked.is_ok() && fd.any().unwrap_or(true)).collect();
    match asked {
        Ok(_) | Err(nix::errno::Errno::EINTR) => ready.pop().filter(|over| !over).map(|_| ready),
        Err(_) => None,
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
fn carry(client: &TcpStream, owner: &Owner, published: &Published) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&owner.target(published)?, CONNECT_PATIENCE)?;
    client.set_nonblocking(false)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
        // A container that is gone says no goodbye: a minute and a half of silence from its side is one.
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
        setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
        setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    }
    std::thread::scope(|scope| {
        Builder::new().stack_size(128 << 10).spawn_scoped(scope, || one_way(&server, client))?;
        one_way(client, &server);
        Ok(())
    })
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
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

/// One packet, to the socket that stands for whoever sent it.
fn pass_on(
    socket: &UdpSocket,
    clients: &mut Vec<Client>,
    owner: &Owner,
    published: &Published,
    bytes: &mut [u8],
) -> io::Result<()> {
    let (size, from) = socket.recv_from(bytes)?;
    let number = match clients.iter().position(|client| client.from == from) {
        Some(number) => number,
        None => {
            let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            server.connect(owner.target(published)?)?;
            server.set_nonblocking(true)?;
            if clients.len() >= MOST {
                let silent = clients.iter().enumerate().min_by_key(|(_, client)| client.used);
                silent.map(|(number, _)| number).map(|number| clients.swap_remove(number));
            }
            clients.push(Client { from, server, used: Instant::now() });
            clients.len() - 1
        }
    };
    clients[number].used = Instant::now();
    match clients[number].server.send(&bytes[..size]) {
        // Longer than IPv4 can carry; or the one before it found nobody (ICMP): this one may.
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            clients[number].server.send(&bytes[..size]).map(drop)
        }
        // The container may have another address by now.
        Err(error) => {
            clients.swap_remove(number);
            Err(error)
        }
        Ok(_) => Ok(()),
    }
}

impl Client {
    /// One packet, back to him.
    fn answer(&mut self, socket: &UdpSocket, bytes: &mut [u8]) -> io::Result<()> {
        match self.server.recv(bytes) {
            Ok(size) => {
                self.used = Instant::now();
                socket.send_to(&bytes[..size], self.from).map(drop)
            }
            // Nobody listens there yet.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
