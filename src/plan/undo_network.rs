//! The ways back that belong to networks: leases given back, pairs and bridges deleted, forwarding as it was.
//!
//! Try it without us: `ip -d link show type bridge; ip link del br0; sysctl -w net.ipv4.ip_forward=0`

use super::undo::gone;
use crate::sys::{self, NamedLink};
use nix::errno::Errno;
use std::fs;
use std::io;
use std::path::Path;

/// What the alias of every link of ours begins with.
pub const MARK: &str = "mydocker:";
/// Behind the mark of a bridge: forwarding was off before there was a network of ours. It stands in the kernel, beside
/// what it is about: it goes with a reboot or a network namespace, and every data root can read it.
pub const FORWARD_WAS_OFF: &str = " ip_forward=0";

/// The same for IPv6.
pub const FORWARD6_WAS_OFF: &str = " ipv6_forward=0";

const NOTES: [(&str, &str); 2] =
    [(FORWARD_WAS_OFF, "/proc/sys/net/ipv4/ip_forward"), (FORWARD6_WAS_OFF, "/proc/sys/net/ipv6/conf/all/forwarding")];

fn read(path: &Path) -> io::Result<Option<serde_json::Value>> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A lease is a file named by the address, and the container's folder holds a copy. Under the lock of the network,
/// because a lease whose owner is dead may be taken over meanwhile.
pub(super) fn release_lease(leases: &Path, record: &Path) -> io::Result<()> {
    let Some(ours) = read(record)? else { return Ok(()) };
    let Some(address) = ours["address"].as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok()) else {
        return Ok(());
    };
    let folder = match fs::File::open(leases) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    folder.lock()?;
    let wide = ours["address6"].as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok());
    for address in [Some(address), wide].into_iter().flatten() {
        let lease = leases.join(address.to_string());
        if read(&lease)?.is_some_and(|there| there["container"] == ours["container"]) {
            gone(fs::remove_file(&lease))?;
        }
    }
    Ok(())
}

/// Leaves the networks of which a lease is recorded in a container's `folder`.
pub(super) fn leave_all(networks: &Path, folder: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(network) = name.to_str().and_then(|name| name.strip_prefix("lease-")) {
            result = result.and(leave(&networks.join(network).join("leases"), &entry.path(), false));
        }
    }
    result
}

/// Leaves one network. `delete`: the container goes on living, so the pair must go now; else the kernel deletes it
/// with the container's network namespace, and we do not wait for that.
pub(super) fn leave(leases: &Path, record: &Path, delete: bool) -> io::Result<()> {
    let Some(ours) = read(record)? else { return Ok(()) };
    if let Some(link) = ours["link"].as_str() {
        let done = if delete { sys::delete_link(link) } else { sys::silence_bridge_port(link) };
        match done {
            Ok(()) | Err(Errno::ENODEV | Errno::EOPNOTSUPP | Errno::EINVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    release_lease(leases, record)?;
    gone(fs::remove_file(record))
}

/// Deletes the bridge `name`, if its alias says that it is ours. The note about forwarding is handed on to another
/// bridge of ours; with the last one forwarding is switched off again.
pub(super) fn remove_bridge(name: &str, mark: &str) -> io::Result<()> {
    let links = sys::links()?;
    let ours = |link: &&NamedLink| link.name == name && link.kind == "bridge" && link.alias.starts_with(mark);
    let Some(bridge) = links.iter().find(ours) else { return Ok(()) };
    let other = |link: &&NamedLink| link.name != name && link.kind == "bridge" && link.alias.starts_with(MARK);
    let mut heir = links.iter().find(other).cloned();
    for (note, path) in NOTES.iter().filter(|(note, _)| bridge.alias.contains(note)) {
        match &mut heir {
            Some(heir) if heir.alias.contains(note) => {}
            Some(heir) => {
                heir.alias.push_str(note);
                sys::set_link_alias(&heir.name, &heir.alias)?;
            }
            None => fs::write(path, "0")?,
        }
    }
    match sys::delete_link(name) {
        Ok(()) | Err(Errno::ENODEV) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
