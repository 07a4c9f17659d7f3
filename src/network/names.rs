//! Names: containers on a network of the user's making find each other through a resolver at 127.0.0.11, port 53. Its
//! socket is bound in the container's network namespace and served by a thread of the container's engine; who is on the
//! network is read from the lease files, so there is nothing to keep in step. What it does not know is asked of the
//! host's resolvers, from the host; on an internal network nobody is asked (RFC 1035).
//!
//! Look: `nsenter -t $PID -n nslookup web 127.0.0.11`

use super::ipam;
use super::netlink;
use super::store::{self, DEFAULT, Network};
use super::trouble::op;
use super::wish::Wish;
use crate::plan::{Dirs, Phase, Plan, Spec};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use simple_dns::rdata::{A, PTR, RData};
use simple_dns::{CLASS, Name, Packet, QTYPE, RCODE, ResourceRecord, TYPE};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// How long an answer may be kept, in seconds: as docker's.
const TTL: u32 = 600;
/// So many questions may be waiting for the host's resolvers; more are dropped, and asked again.
const MOST_WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(3);

/// The step that starts the resolver, if the container is on a network that has names, and its resolv.conf.
pub fn plan(spec: &Spec, wish: &Wish, networks: &[Network], plan: &mut Plan) {
    let named: Vec<String> = networks.iter().filter(|one| one.name != DEFAULT).map(|one| one.name.clone()).collect();
    if spec.rootfs().is_some()
        && (!named.is_empty() || !wish.dns.is_empty() || !wish.dns_search.is_empty() || !wish.dns_options.is_empty())
    {
        resolv_conf(spec, wish, !named.is_empty(), plan);
    }
    if named.is_empty() {
        return;
    }
    let outside = networks.iter().any(|network| !network.internal);
    let servers = if !outside {
        vec![]
    } else if wish.dns.is_empty() {
        host_servers()
    } else {
        wish.dns.clone()
    };
    let resolver = Resolver { dirs: spec.dirs.clone(), networks: named, servers };
    let resolver = Arc::new(resolver);
    let shell = format!("# serve {ADDRESS}:53/udp in the container's network namespace");
    let op = op("bind", [ADDRESS.to_string(), "53".into(), "udp".into()], shell, move |stage| {
        let child = stage.child.as_ref().ok_or(Errno::ECHILD)?;
        let socket = netlink::within(child.network.as_fd(), || {
            sys::loopback_up()?;
            UdpSocket::bind((ADDRESS, 53)).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        })?;
        let (resolver, ended) = (Arc::clone(&resolver), child.pidfd.try_clone()?);
        std::thread::Builder::new().name("names".into()).spawn(move || resolver.serve(&Arc::new(socket), &ended))?;
        Ok(())
    });
    plan.add(Phase::Beside, "names", op)
        .why("On this network containers have names; whoever asks is answered from the lease files.")
        .look("nsenter -t $PID -n ss -lnu");
}

fn resolv_conf(spec: &Spec, wish: &Wish, resolver: bool, plan: &mut Plan) {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let of_host = |word: &str| {
        let line = host.lines().rev().find_map(|line| line.trim().strip_prefix(word));
        line.map(|rest| rest.split_whitespace().map(str::to_string).collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut text = String::new();
    let servers = match (resolver, wish.dns.is_empty()) {
        (true, _) => vec![IpAddr::V4(ADDRESS)],
        (false, false) => wish.dns.clone(),
        (false, true) => host_servers().into_iter().filter(|server| !server.is_loopback()).collect(),
    };
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = if wish.dns_search.is_empty() { of_host("search") } else { wish.dns_search.clone() };
    // `--dns-search .`: none.
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = if wish.dns_options.is_empty() { of_host("options") } else { wish.dns_options.clone() };
    if resolver && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_string());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    plan.add(Phase::Host, "resolv.conf", crate::plan::Op::write_file(&spec.folder().join("resolv.conf"), text, 0o644))
        .why("Whom the container asks for names.")
        .look("cat /proc/$PID/root/etc/resolv.conf");
}

fn host_servers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

struct Resolver {
    dirs: Dirs,
    networks: Vec<String>,
    /// Whom to ask for what is not ours; empty: nobody.
    servers: Vec<IpAddr>,
}

impl Resolver {
    /// Until the container has ended: an open socket would keep its network namespace.
    fn serve(self: &Arc<Self>, socket: &Arc<UdpSocket>, ended: &OwnedFd) {
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut bytes = [0u8; 4096];
        loop {
            let mut fds =
                [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[0].any().unwrap_or(true) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let _ = socket.set_nonblocking(true);
            let Ok((size, from)) = socket.recv_from(&mut bytes) else { continue };
            let query = &bytes[..size];
            match self.answer(query) {
                Answer::Ours(reply) => drop(socket.send_to(&reply, from)),
                Answer::Ask if waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING => {
                    self.forward(query.to_vec(), from, Arc::clone(socket), Arc::clone(&waiting));
                }
                Answer::Ask => drop(waiting.fetch_sub(1, Ordering::Relaxed)),
                Answer::Nonsense => {}
            }
        }
    }

    fn answer(&self, query: &[u8]) -> Answer {
        let Ok(packet) = Packet::parse(query) else { return Answer::Nonsense };
        let [question] = packet.questions.as_slice() else { return Answer::Nonsense };
        let name = question.qname.to_string().trim_end_matches('.').to_ascii_lowercase();
        let records: Option<Vec<RData<'_>>> = match question.qtype {
            QTYPE::TYPE(TYPE::PTR) => self
                .name_of(&name)
                .map(|name| Name::new(&name).map(|name| RData::PTR(PTR(name.into_owned()))).into_iter().collect()),
            qtype => self.addresses_of(&name).map(|all| match qtype {
                QTYPE::TYPE(TYPE::A) | QTYPE::ANY => {
                    all.into_iter().map(|ip| RData::A(A { address: ip.into() })).collect()
                }
                // The name is ours and has no such record.
                _ => vec![],
            }),
        };
        let (id, qname) = (packet.id(), question.qname.clone());
        let mut reply = Packet::new_reply(id);
        reply.questions.push(question.clone());
        reply.set_flags(simple_dns::PacketFlag::RECURSION_DESIRED | simple_dns::PacketFlag::RECURSION_AVAILABLE);
        match records {
            None if !self.servers.is_empty() => return Answer::Ask,
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(records) => {
                let record = |data| ResourceRecord::new(qname.clone(), CLASS::IN, TTL, data);
                reply.answers.extend(records.into_iter().map(record));
            }
        }
        reply.build_bytes_vec_compressed().map_or(Answer::Nonsense, Answer::Ours)
    }

    fn leases(&self) -> impl Iterator<Item = (String, ipam::Lease)> + '_ {
        let load = |name: &String| store::load(&self.dirs, name).ok().flatten();
        let networks = self.networks.iter().filter_map(load);
        networks.flat_map(|network| {
            ipam::leases(&self.dirs, &network).into_iter().map(move |lease| (network.name.clone(), lease))
        })
    }

    /// By name, alias or short id, bare or followed by the network's name; `None`: nobody of ours.
    fn addresses_of(&self, asked: &str) -> Option<Vec<Ipv4Addr>> {
        let is = |network: &str, lease: &ipam::Lease| {
            let bare = asked.strip_suffix(&format!(".{}", network.to_ascii_lowercase())).unwrap_or(asked);
            let short = lease.container.get(..12).unwrap_or_default();
            let mut names = lease.aliases.iter().chain(&lease.name).map(String::as_str).chain([short]);
            names.any(|name| name.eq_ignore_ascii_case(bare))
        };
        let found: Vec<_> = self
            .leases()
            .filter(|(network, lease)| is(network, lease) && lease.is_held(&self.dirs))
            .map(|(_, lease)| lease.address)
            .collect();
        (!found.is_empty()).then_some(found)
    }

    /// The name behind `2.0.18.172.in-addr.arpa`.
    fn name_of(&self, asked: &str) -> Option<String> {
        let reversed: Ipv4Addr = asked.strip_suffix(".in-addr.arpa")?.parse().ok()?;
        let [a, b, c, d] = reversed.octets();
        let (network, lease) = self.leases().find(|(_, lease)| lease.address.octets() == [d, c, b, a])?;
        lease
            .is_held(&self.dirs)
            .then(|| format!("{}.{network}", lease.name.unwrap_or(lease.container[..12].to_string())))
    }

    /// Asks the host's resolvers, one after the other, and passes the first answer on as it is.
    fn forward(self: &Arc<Self>, query: Vec<u8>, from: SocketAddr, socket: Arc<UdpSocket>, waiting: Arc<AtomicUsize>) {
        let this = Arc::clone(self);
        let ask = move |server: &IpAddr| -> std::io::Result<Vec<u8>> {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
            let out = UdpSocket::bind((any, 0))?;
            out.connect((*server, 53))?;
            out.set_read_timeout(Some(PATIENCE))?;
            out.send(&query)?;
            let mut bytes = vec![0; 4096];
            let size = out.recv(&mut bytes)?;
            bytes.truncate(size);
            // The id is the question's, or it is an answer to something else.
            if bytes.get(..2) == query.get(..2) { Ok(bytes) } else { Err(std::io::ErrorKind::InvalidData.into()) }
        };
        let counted = Arc::clone(&waiting);
        let work = move || {
            if let Some(reply) = this.servers.iter().find_map(|server| ask(server).ok()) {
                let _ = socket.send_to(&reply, from);
            }
            counted.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().stack_size(128 << 10).spawn(work).is_err() {
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

enum Answer {
    Ours(Vec<u8>),
    /// Not ours; the host's resolvers may know.
    Ask,
    Nonsense,
}
