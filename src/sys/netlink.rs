//! The few questions about links that a way back asks (`man 7 rtnetlink`): undo lists are performed where no runtime is,
//! by whichever command comes next. Everything else is said through the crate, in the network's room.
//!
//! Try it without us: `ip -d link show; ip link del br0`

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::AsRawFd;

const REQUEST_ACK: u16 = 1 | 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;

/// A link, as far as a way back looks: its name, its kind (`bridge`, `veth`; empty for hardware), its alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedLink {
    pub name: String,
    pub kind: String,
    pub alias: String,
}

/// All links of this network namespace.
pub fn links() -> Result<Vec<NamedLink>, Errno> {
    const DUMP: u16 = 0x300 | 1; // NLM_F_DUMP | NLM_F_REQUEST
    let mut message = request(RTM_GETLINK, DUMP);
    finish(&mut message);
    messages(SockProtocol::NetlinkRoute, &message).map(|answers| answers.iter().map(|answer| named(answer)).collect())
}

/// The link `name`. ENODEV: there is none.
pub fn named_link(name: &str) -> Result<NamedLink, Errno> {
    let mut message = request(RTM_GETLINK, 1);
    attribute(&mut message, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    finish(&mut message);
    first(SockProtocol::NetlinkRoute, &message).map(|answer| named(&answer))
}

fn named(answer: &[u8]) -> NamedLink {
    let mut link = NamedLink { name: String::new(), kind: String::new(), alias: String::new() };
    for (kind, value) in attributes(answer.get(16..).unwrap_or_default()) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_LINKINFO => {
                let mut infos = attributes(value);
                link.kind = infos.find(|info| info.0 == IFLA_INFO_KIND).map_or(String::new(), |info| text(info.1));
            }
            _ => {}
        }
    }
    link
}

/// Deletes the link `name`. ENODEV: there is none.
pub fn delete_link(name: &str) -> Result<(), Errno> {
    let mut message = request(RTM_DELLINK, REQUEST_ACK);
    attribute(&mut message, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    finish(&mut message);
    dump(SockProtocol::NetlinkRoute, &message).map(drop)
}

/// Gives the link `name` another alias.
pub fn set_link_alias(name: &str, alias: &str) -> Result<(), Errno> {
    let mut message = request(RTM_NEWLINK, REQUEST_ACK);
    attribute(&mut message, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    attribute(&mut message, IFLA_IFALIAS, alias.as_bytes());
    finish(&mut message);
    dump(SockProtocol::NetlinkRoute, &message).map(drop)
}

/// Makes the bridge forget the port `name`, and the port hear nothing any more (`bridge link set`): at once, while
/// deleting the link would wait for every processor. ENODEV: there is no such link.
pub fn silence_bridge_port(name: &str) -> Result<(), Errno> {
    const IFLA_INFO_SLAVE_DATA: u16 = 5;
    // IFLA_BRPORT_LEARNING, _UNICAST_FLOOD, _FLUSH, _MCAST_FLOOD, _BCAST_FLOOD.
    const OFF: [u16; 4] = [8, 9, 27, 30];
    const FLUSH: u16 = 24;
    let mut port = Vec::new();
    OFF.iter().for_each(|kind| attribute(&mut port, *kind, &[0]));
    attribute(&mut port, FLUSH, &[]);
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_SLAVE_DATA, &port);
    let mut message = request(RTM_NEWLINK, REQUEST_ACK);
    attribute(&mut message, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    attribute(&mut message, IFLA_LINKINFO, &info);
    finish(&mut message);
    dump(SockProtocol::NetlinkRoute, &message).map(drop)
}

/// The head of a message (`struct nlmsghdr`), and an empty `struct ifinfomsg`.
fn request(kind: u16, flags: u16) -> Vec<u8> {
    let mut message = vec![0u8; 16 + 16];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}

/// Kind and value of each attribute in `bytes`.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let size = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]) as usize;
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & 0x3fff; // without NLA_F_NESTED and its kin
        let value = bytes.get(4..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Adds an attribute (`man 7 netlink`): its size and kind, its value, padding to four bytes.
pub(super) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((value.len() as u16 + 4).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Fills in the size of the whole message.
pub(super) fn finish(message: &mut [u8]) {
    let size = message.len() as u32;
    message[..4].copy_from_slice(&size.to_ne_bytes());
}

/// Sends a request and collects what comes back, one after the other.
pub(super) fn dump(protocol: SockProtocol, message: &[u8]) -> Result<Vec<u8>, Errno> {
    messages(protocol, message).map(|all| all.concat())
}

/// The body of the one message that answers a question about one thing.
fn first(protocol: SockProtocol, message: &[u8]) -> Result<Vec<u8>, Errno> {
    converse(protocol, message, true)?.into_iter().next().ok_or(Errno::ENODATA)
}

/// The bodies of the messages that come back, until the kernel says that it is done or that it has failed.
fn messages(protocol: SockProtocol, message: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    converse(protocol, message, false)
}

/// `one`: the answer is a single message, after which nothing comes.
fn converse(protocol: SockProtocol, message: &[u8], one: bool) -> Result<Vec<Vec<u8>>, Errno> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(netlink.as_raw_fd(), message, MsgFlags::empty())?;
    let mut all = Vec::new();
    let mut buffer = vec![0u8; 32 << 10];
    loop {
        let size = match recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut rest = &buffer[..size];
        while rest.len() >= 20 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                NLMSG_DONE => return Ok(all),
                NLMSG_ERROR => match i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]) {
                    0 => return Ok(all),
                    error => return Err(Errno::from_raw(-error)),
                },
                _ => all.push(rest[16..length.clamp(16, rest.len())].to_vec()),
            }
            rest = &rest[length.next_multiple_of(4).clamp(16, rest.len())..];
        }
        if size == 0 || one {
            return Ok(all);
        }
    }
}
