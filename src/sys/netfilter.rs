//! What the packet filter holds, asked of the kernel itself: starting `iptables-save` takes several milliseconds, these
//! two questions a few microseconds. Rules are only looked for, never read into meaning: the answer is bytes.

use super::check;
use super::netlink::{attribute, dump, finish};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::os::fd::AsRawFd;

/// The rules of the table `name` as the old flavour keeps them (`iptables-legacy`, getsockopt IPT_SO_GET_ENTRIES).
/// ENOENT: there is no such table. Asking for a table that is not there makes it; look into
/// /proc/net/ip_tables_names before.
pub fn legacy_table(name: &str, ipv6: bool) -> Result<Vec<u8>, Errno> {
    const IPT_SO_GET_INFO: libc::c_int = 64;
    const IPT_SO_GET_ENTRIES: libc::c_int = 65;
    const NAME: usize = 32;
    // struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size.
    const INFO: usize = NAME + 4 * 13;
    let (family, level) =
        if ipv6 { (AddressFamily::Inet6, libc::IPPROTO_IPV6) } else { (AddressFamily::Inet, libc::IPPROTO_IP) };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let ask = |option: libc::c_int, buffer: &mut [u8]| {
        let mut size = buffer.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes into the buffer, which is that large.
        check(unsafe { libc::getsockopt(raw.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &mut size) }
            as libc::c_long)
    };
    let mut info = [0u8; INFO];
    let name = &name.as_bytes()[..name.len().min(NAME - 1)];
    info[..name.len()].copy_from_slice(name);
    ask(IPT_SO_GET_INFO, &mut info)?;
    let size = u32::from_ne_bytes([info[INFO - 4], info[INFO - 3], info[INFO - 2], info[INFO - 1]]);
    // struct ipt_get_entries: name, size, padding to eight bytes, the entries.
    let mut entries = vec![0u8; NAME + 8 + size as usize];
    entries[..name.len()].copy_from_slice(name);
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    ask(IPT_SO_GET_ENTRIES, &mut entries)?;
    Ok(entries)
}

/// The rules of the table `name` as nftables keeps them (`iptables-nft`, NFT_MSG_GETRULE); empty if there is none.
pub fn nft_table(name: &str, ipv6: bool) -> Result<Vec<u8>, Errno> {
    const NFT_MSG_GETRULE: u16 = 7;
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFTA_RULE_TABLE: u16 = 1;
    const NFPROTO_IPV4: u8 = 2;
    const NFPROTO_IPV6: u8 = 10;
    const DUMP: u16 = 0x300 | 1; // NLM_F_DUMP | NLM_F_REQUEST
    let (kind, sequence) = (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, 1u32);
    let mut message = vec![0u8; 16];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    message.extend([if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }, 0, 0, 0]);
    attribute(&mut message, NFTA_RULE_TABLE, &[name.as_bytes(), b"\0"].concat());
    finish(&mut message);
    dump(SockProtocol::NetlinkNetFilter, &message)
}
