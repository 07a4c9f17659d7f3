//! Links, addresses and routes, asked of the kernel through rtnetlink (`man 7 rtnetlink`): what `ip` says, in the same
//! messages. The one file that knows the crate and its runtime, which has one thread, ours, and is built when the
//! first message is sent: a container without a network starts none.
//!
//! Try it without us: `strace -e sendmsg ip link add br0 type bridge`

use ipnetwork::{Ipv4Network, Ipv6Network};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::cell::Cell;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use tokio::runtime::{Builder, Runtime};

/// Of one process, until it ends: a monitor that has forked off begins anew, for what the runtime waits on is shared by
/// a fork, and whoever of the two ends first would take the other's sockets out of it (`man 7 epoll`).
type Own<T> = Cell<Option<(u32, &'static T)>>;

thread_local! {
    static RUNTIME: Own<Runtime> = const { Cell::new(None) };
    /// The socket of the engine's own network namespace.
    static HERE: Own<Netlink> = const { Cell::new(None) };
}

/// What is there for this process, or else made for it.
fn own<T>(cell: &Own<T>, make: impl FnOnce() -> Result<T, Errno>) -> Result<&'static T, Errno> {
    let process = std::process::id();
    if let Some((_, there)) = cell.get().filter(|(owner, _)| *owner == process) {
        return Ok(there);
    }
    let made: &'static T = Box::leak(Box::new(make()?));
    cell.set(Some((process, made)));
    Ok(made)
}

/// A netlink socket; it talks about the network namespace in which it was opened.
#[derive(Clone)]
pub struct Netlink(Handle);

/// A link, as far as we look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth` …; empty for hardware and lo.
    pub kind: String,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub alias: String,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth pair: its number in its own namespace.
    pub peer: Option<u32>,
    pub up: bool,
}

/// A route of the main table, or of any other but `local`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: Ipv4Network,
    pub gateway: Option<Ipv4Addr>,
    pub link: Option<u32>,
}

/// A pair of links that is to be: one end here as a port of a bridge, the other as `eth0` in the namespace of `pid`.
pub struct Veth<'a> {
    pub name: &'a str,
    pub mtu: u32,
    pub bridge: &'a str,
    pub peer: &'a str,
    pub mac: [u8; 6],
    pub pid: u32,
}

/// Runs one request to its end.
fn wait<T>(request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, Errno> {
    runtime()?.block_on(request).map_err(|error| errno(&error))
}

fn runtime() -> Result<&'static Runtime, Errno> {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    RUNTIME.with(|cell| own(cell, || Builder::new_current_thread().enable_io().build().map_err(io)))
}

fn errno(error: &rtnetlink::Error) -> Errno {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_raw(-message.raw_code()),
        _ => Errno::EIO,
    }
}

fn open() -> Result<Netlink, Errno> {
    let _entered = runtime()?.enter();
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    tokio::spawn(connection);
    Ok(Netlink(handle))
}

/// The number of the link `name` in this thread's network namespace.
pub fn index(name: &str) -> Result<u32, Errno> {
    nix::net::if_::if_nametoindex(name).map_err(|_| Errno::ENODEV)
}

/// Goes into the network namespace `there`, does `work`, and comes back; the rest of the process stays here.
pub fn within<T>(there: BorrowedFd<'_>, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let home = File::open("/proc/thread-self/ns/net").map_err(io)?;
    setns(there, CloneFlags::CLONE_NEWNET)?;
    let result = work();
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    result
}

/// Where the IPv6 routes of this network namespace lead, but for addresses of our own.
pub fn routes6() -> Result<Vec<Ipv6Network>, Errno> {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let text = match std::fs::read_to_string("/proc/thread-self/net/ipv6_route") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(io)?,
    };
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let to = u128::from_str_radix(fields.next()?, 16).ok()?;
        let prefix = u8::from_str_radix(fields.next()?, 16).ok()?;
        Ipv6Network::new(to.into(), prefix).ok().filter(|to| to.prefix() < 128 && !to.ip().is_unicast_link_local())
    };
    Ok(text.lines().filter_map(one).filter(|to| !to.ip().is_multicast()).collect())
}

impl Netlink {
    /// Of the engine's own namespace.
    pub fn here() -> Result<Self, Errno> {
        HERE.with(|cell| own(cell, open)).cloned()
    }

    /// Of the network namespace `there`.
    pub fn inside(there: BorrowedFd<'_>) -> Result<Self, Errno> {
        within(there, open)
    }

    pub fn add_bridge(&self, name: &str, mtu: u32, mac: [u8; 6]) -> Result<(), Errno> {
        let message = LinkBridge::new(name).mtu(mtu).address(mac.to_vec()).build();
        wait(self.0.link().add(message).execute())
    }

    /// Makes both ends where they belong, in one message: neither is ever seen elsewhere.
    pub fn add_veth(&self, veth: &Veth<'_>) -> Result<(), Errno> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(veth.peer).mtu(veth.mtu).address(veth.mac.to_vec());
        let peer = InfoData::Veth(InfoVeth::Peer(peer.setns_by_pid(veth.pid).build()));
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).name(veth.name).mtu(veth.mtu);
        let message = message.controller(index(veth.bridge)?).up().set_info_data(peer).build();
        wait(self.0.link().add(message).execute())
    }

    pub fn set_alias(&self, link: u32, alias: &str) -> Result<(), Errno> {
        wait(self.0.link().set(LinkMessageBuilder::<LinkUnspec>::new().index(link).alias(alias).build()).execute())
    }

    /// Lets the bridge send a frame back out of the port it came in by.
    pub fn set_hairpin(&self, link: u32) -> Result<(), Errno> {
        wait(self.0.link().set_port(LinkBridgePort::new(link).hairpin(true).build()).execute())
    }

    pub fn set_up(&self, link: u32) -> Result<(), Errno> {
        wait(self.0.link().set(LinkMessageBuilder::<LinkUnspec>::new().index(link).up().build()).execute())
    }

    pub fn delete(&self, link: u32) -> Result<(), Errno> {
        wait(self.0.link().del(link).execute())
    }

    pub fn add_address(&self, link: u32, address: Ipv4Network) -> Result<(), Errno> {
        wait(self.0.address().add(link, address.ip().into(), address.prefix()).execute())
    }

    /// Usable at once: nobody else on a switch of ours could have it (no duplicate address detection).
    pub fn add_address6(&self, link: u32, address: Ipv6Network) -> Result<(), Errno> {
        let mut request = self.0.address().add(link, address.ip().into(), address.prefix());
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        wait(request.execute())
    }

    pub fn add_default_route6(&self, gateway: Ipv6Addr) -> Result<(), Errno> {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build();
        wait(self.0.route().add(route).execute())
    }

    /// The default route, over `gateway`.
    pub fn add_default_route(&self, gateway: Ipv4Addr) -> Result<(), Errno> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        wait(self.0.route().add(route).execute())
    }

    pub fn links(&self) -> Result<Vec<Link>, Errno> {
        use futures_util::TryStreamExt;
        let messages: Vec<_> = wait(self.0.link().get().execute().try_collect())?;
        Ok(messages.iter().map(link).collect())
    }

    /// The addresses of a link, with their prefixes.
    pub fn addresses(&self, link: u32) -> Result<Vec<String>, Errno> {
        use futures_util::TryStreamExt;
        let messages: Vec<_> = wait(self.0.address().get().set_link_index_filter(link).execute().try_collect())?;
        let mut addresses = Vec::new();
        for message in &messages {
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(ip),
                _ => None,
            });
            addresses.extend(ip.map(|ip| format!("{ip}/{}", message.header.prefix_len)));
        }
        Ok(addresses)
    }

    /// Every IPv4 route but those of the table `local` (broadcasts and our own addresses).
    pub fn routes(&self) -> Result<Vec<Route>, Errno> {
        use futures_util::TryStreamExt;
        const LOCAL: u8 = 255;
        let messages: Vec<_> =
            wait(self.0.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect())?;
        let mut routes = Vec::new();
        for message in messages.iter().filter(|message| message.header.table != LOCAL) {
            let (mut to, mut gateway, mut link) = (Ipv4Addr::UNSPECIFIED, None, None);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = *ip,
                    RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
                    RouteAttribute::Oif(index) => link = Some(*index),
                    _ => {}
                }
            }
            if let Ok(to) = Ipv4Network::new(to, message.header.destination_prefix_length) {
                routes.push(Route { to, gateway, link });
            }
        }
        Ok(routes)
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        mac: vec![],
        mtu: 0,
        alias: String::new(),
        master: None,
        peer: None,
        up: message.header.flags.contains(rtnetlink::packet_route::link::LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}
