//! What `mydocker network …` does to networks: made, listed, removed, repaired. Words in and out are the front's.

use super::ipam::{self, Lease};
use super::netlink::{self, Netlink};
use super::store::{self, DEFAULT, Network, Wishes};
use super::{firewall, join, setup};
use crate::plan::Dirs;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::net::Ipv4Addr;

/// A network, and the containers on it that live.
pub struct Seen {
    pub network: Network,
    pub leases: Vec<Lease>,
}

/// All networks; the default one comes with its first container.
pub fn list(dirs: &Dirs) -> Vec<Seen> {
    store::list(dirs).into_iter().map(|network| see(dirs, network)).collect()
}

fn see(dirs: &Dirs, network: Network) -> Seen {
    let leases = ipam::living(dirs, &network);
    Seen { network, leases }
}

/// The one that is called `name`, or whose id begins so.
pub fn find(dirs: &Dirs, name: &str) -> Result<Seen> {
    let all = store::list(dirs);
    let exact = all.iter().find(|network| network.name == name || network.id == name);
    let mut begins = all.iter().filter(|network| !name.is_empty() && network.id.starts_with(name));
    match (exact, begins.next(), begins.next()) {
        (Some(network), ..) | (None, Some(network), None) => Ok(see(dirs, network.clone())),
        (None, Some(_), Some(_)) => bail!("`{}` is the beginning of more than one network's id", name.escape_debug()),
        (None, None, _) => bail!("network {} not found", name.escape_debug()),
    }
}

/// Makes a network, on disk and in the kernel: its id. If the kernel refuses, nothing of it is left.
pub fn create(dirs: &Dirs, name: &str, wishes: Wishes) -> Result<String> {
    let taken = ["none", "host", "default", "container"];
    if crate::plan::Name::parse(name).is_err() || taken.contains(&name) {
        bail!("`{}` cannot be the name of a network", name.escape_debug());
    }
    if store::load(dirs, name)?.is_some() {
        bail!("network with name {name} already exists");
    }
    let network = setup::draft(dirs, name, wishes)?;
    network.save_new(dirs).with_context(|| format!("network {name}"))?;
    raise(dirs, &network).inspect_err(|_| {
        if let Err(error) = remove(dirs, &see(dirs, network.clone())) {
            log::warn!("{error:#}");
        }
    })?;
    Ok(network.id)
}

/// Makes what of `network` the kernel does not have.
fn raise(dirs: &Dirs, network: &Network) -> Result<()> {
    if !setup::is_up(network) {
        setup::make(network).map_err(|trouble| anyhow!("{trouble}"))?;
        let (netlink, link) = (Netlink::here()?, netlink::index(&network.bridge)?);
        netlink.set_alias(link, &network.mark())?;
        let gateway = ipnetwork::Ipv4Network::new(network.gateway, network.subnet.prefix())?;
        match netlink.add_address(link, gateway) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => bail!("cannot give {gateway} to `{}`: {}", network.bridge, errno.desc()),
        }
    }
    if !network.internal {
        setup::forward_if_off(dirs).context("net.ipv4.ip_forward")?;
    }
    if !firewall::is_installed(network) {
        setup::mend(dirs, &store::list(dirs))?;
    }
    Ok(())
}

/// Removes a network that nobody is on: bridge, rules, files; with the last one forwarding as well.
pub fn remove(dirs: &Dirs, seen: &Seen) -> Result<()> {
    let Seen { network, leases } = seen;
    if let Some(lease) = leases.first() {
        let who = lease.name.as_deref().unwrap_or(lease.container.get(..12).unwrap_or_default());
        bail!("network {} has active endpoints: {who} ({})", network.name, lease.address);
    }
    if let Ok(netlink) = Netlink::here()
        && let Some(link) = netlink.links()?.iter().find(|link| link.name == network.bridge)
        && link.kind == "bridge"
        && link.mac == network.bridge_mac()
    {
        netlink.delete(link.index).with_context(|| format!("cannot delete the bridge `{}`", network.bridge))?;
    }
    fs::remove_dir_all(network.folder(dirs)).with_context(|| format!("network {}", network.name))?;
    let rest = store::list(dirs);
    let lock = setup::firewall_lock(dirs)?;
    if rest.is_empty() {
        firewall::uninstall(&lock)?;
        setup::forward_back(dirs).context("net.ipv4.ip_forward")?;
    } else {
        firewall::install(&rest, &lock)?;
    }
    Ok(())
}

/// Removes every network of the user's that nobody is on: their names.
pub fn prune(dirs: &Dirs) -> Result<Vec<String>> {
    let unused = |seen: &Seen| seen.leases.is_empty() && seen.network.name != DEFAULT;
    let mut names = Vec::new();
    for seen in list(dirs).into_iter().filter(unused) {
        remove(dirs, &seen)?;
        names.push(seen.network.name);
    }
    Ok(names)
}

/// Makes the kernel agree with what is on disk again, and deletes links of ours whose container is dead.
pub fn repair(dirs: &Dirs) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let networks = store::list(dirs);
    for network in &networks {
        if !setup::is_up(network) {
            done.push(format!("bridge {} of network {}", network.bridge, network.name));
        }
        raise(dirs, network)?;
    }
    if !networks.is_empty() {
        setup::mend(dirs, &networks)?;
        done.push(format!("rules of {} networks", networks.len()));
    }
    let living: Vec<_> =
        networks.iter().flat_map(|network| ipam::living(dirs, network)).map(|lease| lease.link).collect();
    let netlink = Netlink::here()?;
    let bridges: Vec<_> = networks.iter().filter_map(|network| netlink::index(&network.bridge).ok()).collect();
    for link in netlink.links()? {
        let port = link.master.is_some_and(|master| bridges.contains(&master));
        if port && link.alias.starts_with("mydocker:") && !living.contains(&link.name) {
            netlink.delete(link.index)?;
            done.push(format!("link {}, whose container is dead", link.name));
        }
    }
    Ok(done)
}

/// The published ports of a container, as `80/tcp -> 0.0.0.0:8080`.
pub fn ports(dirs: &Dirs, container: &str) -> Result<Vec<(String, String)>> {
    let id = join::find(dirs, container).map_err(|_| anyhow!("No such container: {}", container.escape_debug()))?;
    let mut ports: Vec<_> = store::list(dirs)
        .iter()
        .flat_map(|network| ipam::living(dirs, network))
        .filter(|lease| lease.container == id.as_str())
        .flat_map(|lease| lease.published)
        .collect();
    ports.sort_by_key(|one| (one.port, one.protocol as u8, one.host_port));
    let show = |ip: Ipv4Addr, port: u16| format!("{ip}:{port}");
    Ok(ports.iter().map(|one| (format!("{}/{}", one.port, one.protocol), show(one.ip, one.host_port))).collect())
}
