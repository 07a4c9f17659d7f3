//! The resolver at 127.0.0.11 (RFC 1035), over UDP and TCP: a name, alias or short id of a container on one of the asking
//! container's networks is answered from the lease files; everything else is asked of the host's resolvers, from the
//! host. Who is on internal networks only is told of nobody outside.
//!
//! Try it without us: `nslookup web 127.0.0.11; nslookup -vc web 127.0.0.11`

use super::ipam::{self, Lease};
use super::names::{host_servers, joined};
use super::store::{DEFAULT, Network};
use crate::plan::{Dirs, Id};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// How long an answer may be kept, in seconds: as docker's.
const TTL: u32 = 600;
/// So many questions may be waiting for the host's resolvers; more are dropped, and asked again.
const MOST_WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer over UDP for whoever says nothing else (EDNS, RFC 6891).
const SHORTEST: usize = 512;

pub struct Resolver {
    pub dirs: Dirs,
    /// Whose questions these are.
    pub id: Id,
    /// Whom to ask for what is not ours (`--dns`), if not the host's servers.
    pub dns: Vec<IpAddr>,
}

enum Answer {
    Ours(Vec<u8>),
    /// Not ours; these may know.
    Ask(Vec<IpAddr>),
    Nonsense,
}

/// How a question came, and so how it is passed on: an answer that is too long for UDP is asked for again over TCP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
}

impl Resolver {
    /// Until the container has ended: an open socket would keep its network namespace.
    pub fn serve(self: &Arc<Self>, udp: &Arc<UdpSocket>, tcp: &TcpListener, ended: &OwnedFd) {
        let waiting = Arc::new(AtomicUsize::new(0));
        let _ = (udp.set_nonblocking(true), tcp.set_nonblocking(true));
        loop {
            let mut fds = [ended.as_fd(), udp.as_fd(), tcp.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[0].any().unwrap_or(true) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let mut bytes = [0u8; 4096];
            if let Ok((size, from)) = udp.recv_from(&mut bytes) {
                self.hear(&bytes[..size], from, udp, &waiting);
            }
            if let Ok((stream, _)) = tcp.accept() {
                let this = Arc::clone(self);
                beside(&waiting, MOST_WAITING, move || drop(this.converse(stream)));
            }
        }
    }

    fn hear(self: &Arc<Self>, query: &[u8], from: SocketAddr, socket: &Arc<UdpSocket>, waiting: &Arc<AtomicUsize>) {
        match self.answer(query, Way::Udp) {
            Answer::Ours(reply) => drop(socket.send_to(&reply, from)),
            Answer::Ask(servers) => {
                let (query, socket) = (query.to_vec(), Arc::clone(socket));
                beside(waiting, MOST_WAITING, move || {
                    if let Some(reply) = servers.iter().find_map(|server| ask_udp(*server, &query).ok()) {
                        let _ = socket.send_to(&reply, from);
                    }
                });
            }
            Answer::Nonsense => {}
        }
    }

    /// Questions over TCP, each behind its length, until whoever asks has no more.
    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        for _ in 0..MOST_WAITING {
            let query = read_framed(&mut stream)?;
            let reply = match self.answer(&query, Way::Tcp) {
                Answer::Ours(reply) => reply,
                Answer::Ask(servers) => match servers.iter().find_map(|server| ask_tcp(*server, &query).ok()) {
                    Some(reply) => reply,
                    None => return Ok(()),
                },
                Answer::Nonsense => return Ok(()),
            };
            write_framed(&mut stream, &reply)?;
        }
        Ok(())
    }

    fn answer(&self, query: &[u8], way: Way) -> Answer {
        let Ok(packet) = Packet::parse(query) else { return Answer::Nonsense };
        let [question] = packet.questions.as_slice() else { return Answer::Nonsense };
        let networks: Vec<Network> = joined(&self.dirs, &self.id).into_iter().map(|(network, _)| network).collect();
        let name = question.qname.to_string().trim_end_matches('.').to_ascii_lowercase();
        let records: Option<Vec<RData<'_>>> = match question.qtype {
            QTYPE::TYPE(TYPE::PTR) => self
                .name_of(&networks, &name)
                .map(|name| Name::new(&name).map(|name| RData::PTR(PTR(name.into_owned()))).into_iter().collect()),
            qtype => self.addresses_of(&networks, &name).map(|all| match qtype {
                QTYPE::TYPE(TYPE::A) | QTYPE::ANY => {
                    all.into_iter().map(|(ip, _)| RData::A(A { address: ip.into() })).collect()
                }
                QTYPE::TYPE(TYPE::AAAA) => {
                    let record = |ip: Ipv6Addr| RData::AAAA(AAAA { address: ip.into() });
                    all.into_iter().filter_map(|(_, ip6)| ip6).map(record).collect()
                }
                // The name is ours and has no such record.
                _ => vec![],
            }),
        };
        let mut reply = Packet::new_reply(packet.id());
        reply.questions.push(question.clone());
        reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
        match records {
            None if networks.iter().any(|network| !network.internal) => {
                return Answer::Ask(if self.dns.is_empty() { host_servers() } else { self.dns.clone() });
            }
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(records) => {
                let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data);
                reply.answers.extend(records.into_iter().map(record));
            }
        }
        let longest = packet.opt().map_or(SHORTEST, |opt| usize::from(opt.udp_packet_size).max(SHORTEST));
        match reply.build_bytes_vec_compressed() {
            Ok(bytes) if way == Way::Udp && bytes.len() > longest => {
                reply.answers.clear();
                reply.set_flags(PacketFlag::TRUNCATION);
                reply.build_bytes_vec_compressed().map_or(Answer::Nonsense, Answer::Ours)
            }
            other => other.map_or(Answer::Nonsense, Answer::Ours),
        }
    }

    fn leases<'a>(&'a self, networks: &'a [Network]) -> impl Iterator<Item = (&'a Network, Lease)> {
        let named = networks.iter().filter(|network| network.name != DEFAULT);
        named.flat_map(|network| ipam::leases(&self.dirs, network).into_iter().map(move |lease| (network, lease)))
    }

    /// By name, alias or short id, bare or followed by the network's name; `None`: nobody of ours.
    fn addresses_of(&self, networks: &[Network], asked: &str) -> Option<Vec<(Ipv4Addr, Option<Ipv6Addr>)>> {
        let is = |network: &str, lease: &Lease| {
            let bare = asked.strip_suffix(&format!(".{}", network.to_ascii_lowercase())).unwrap_or(asked);
            let short = lease.container.get(..12).unwrap_or_default();
            let mut names = lease.aliases.iter().chain(&lease.name).map(String::as_str).chain([short]);
            names.any(|name| name.eq_ignore_ascii_case(bare))
        };
        let found: Vec<_> = self
            .leases(networks)
            .filter(|(network, lease)| is(&network.name, lease) && lease.is_held(&self.dirs))
            .map(|(network, lease)| (lease.address, lease.cidr6(network).map(|ip6| ip6.ip())))
            .collect();
        (!found.is_empty()).then_some(found)
    }

    /// The name behind `2.0.18.172.in-addr.arpa`.
    fn name_of(&self, networks: &[Network], asked: &str) -> Option<String> {
        let reversed: Ipv4Addr = asked.strip_suffix(".in-addr.arpa")?.parse().ok()?;
        let [a, b, c, d] = reversed.octets();
        let (network, lease) = self.leases(networks).find(|(_, lease)| lease.address.octets() == [d, c, b, a])?;
        let held = lease.is_held(&self.dirs);
        held.then(|| format!("{}.{}", lease.name.unwrap_or(lease.container[..12].to_string()), network.name))
    }
}

/// Does `work` on a thread of its own, if fewer than `most` are at it already.
pub fn beside(waiting: &Arc<AtomicUsize>, most: usize, work: impl FnOnce() + Send + 'static) {
    let counted = Arc::clone(waiting);
    let work = move || {
        work();
        counted.fetch_sub(1, Ordering::Relaxed);
    };
    let room = waiting.fetch_add(1, Ordering::Relaxed) < most;
    if !room || std::thread::Builder::new().stack_size(128 << 10).spawn(work).is_err() {
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer as it is; one to something else is none.
fn ask_udp(server: IpAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let out = UdpSocket::bind((any, 0))?;
    out.connect((server, 53))?;
    out.set_read_timeout(Some(PATIENCE))?;
    out.send(query)?;
    let mut bytes = vec![0; 4096];
    let size = out.recv(&mut bytes)?;
    bytes.truncate(size);
    if bytes.get(..2) == query.get(..2) { Ok(bytes) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn ask_tcp(server: IpAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = TcpStream::connect_timeout(&SocketAddr::new(server, 53), PATIENCE)?;
    out.set_read_timeout(Some(PATIENCE))?;
    write_framed(&mut out, query)?;
    let bytes = read_framed(&mut out)?;
    if bytes.get(..2) == query.get(..2) { Ok(bytes) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut size = [0; 2];
    stream.read_exact(&mut size)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(size))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let size = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&size.to_be_bytes(), bytes].concat())
}
