//! What `mydocker network …` does to networks: made, listed, removed, repaired; each as steps, or as the undo list of
//! its making. Words in and out are the front's.

use super::ipam::{self, Lease};
use super::netlink::{self, Netlink};
use super::publish::bracketed;
use super::store::{self, DEFAULT, Network, Wishes};
use super::trouble::op;
use super::{firewall, join, setup};
use crate::plan::{Dirs, Entry, Family, MARK, Phase, Plan, Undo, When, remove_rules};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;

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

/// The steps that make a network, on disk and in the kernel, and its id.
pub fn plan_create(dirs: &Dirs, name: &str, wishes: Wishes) -> Result<(Plan, String)> {
    let taken = ["none", "host", "default", "container"];
    if crate::plan::Name::parse(name).is_err() || taken.contains(&name) {
        bail!("`{}` cannot be the name of a network", name.escape_debug());
    }
    if store::load(dirs, name)?.is_some() {
        bail!("network with name {name} already exists");
    }
    let network = setup::draft(dirs, name, wishes)?;
    let plan = Plan::on_host("network", |plan| {
        setup::plan(dirs, &network, false, true, plan);
        Ok(())
    })?;
    Ok((plan, network.id))
}

/// What removes a network that nobody is on, in the order in which it was made: files, bridge, rules. Afterwards
/// [`after_removal`]. Nobody joins it as long as the file is open.
pub fn removal(dirs: &Dirs, seen: &Seen) -> Result<(fs::File, Vec<Entry>)> {
    let network = &seen.network;
    let lock = store::seize(dirs, network)?;
    if let Some(lease) = ipam::living(dirs, network).first() {
        let who = lease.name.as_deref().unwrap_or(lease.container.get(..12).unwrap_or_default());
        bail!("network {} has active endpoints: {who} ({})", network.name, lease.address);
    }
    let write = |family| {
        let rules = firewall::removal_file(dirs, family, network);
        let written = fs::write(&rules, firewall::removal(family, network));
        written.with_context(|| format!("cannot write `{}`", rules.display())).map(|()| rules)
    };
    let (rules, rules6) = (write(Family::V4)?, write(Family::V6)?);
    let entry = |step: &str, undo| Entry { step: format!("network.{step}.{}", network.name), when: When::End, undo };
    let entries = vec![
        entry("create", Undo::RemoveTree { path: network.folder(dirs) }),
        entry("bridge", Undo::RemoveBridge { name: network.bridge.clone(), mark: network.mark() }),
        entry("rules6", Undo::RemoveRules { rules: rules6 }),
        entry("rules", Undo::RemoveRules { rules }),
    ];
    Ok((lock, entries))
}

/// With the last network of a data root our chains go too, unless another data root uses them.
pub fn after_removal(dirs: &Dirs, seen: &Seen) -> Result<()> {
    // Whoever makes a network writes it down before he waits for this lock.
    let lock = setup::firewall_lock()?;
    // Somebody who mended all networks may have read of this one just before it went.
    for family in [Family::V4, Family::V6] {
        remove_rules(&firewall::removal(family, &seen.network))?;
    }
    if store::list(dirs).is_empty() {
        firewall::uninstall(&lock)?;
    }
    Ok(())
}

/// The networks of the user's that nobody is on.
pub fn unused(dirs: &Dirs) -> Vec<Seen> {
    list(dirs).into_iter().filter(|seen| seen.leases.is_empty() && seen.network.name != DEFAULT).collect()
}

/// The steps that make the kernel agree with what is on disk again, and delete links of ours whose container is dead;
/// and what they do, in words.
pub fn plan_repair(dirs: &Dirs) -> Result<(Plan, Vec<String>)> {
    let networks = store::list(dirs);
    let mut done = Vec::new();
    let plan = Plan::on_host("network", |plan| {
        for network in &networks {
            if !setup::is_up(network) {
                done.push(format!("bridge {} of network {}", network.bridge, network.name));
            }
            setup::plan(dirs, network, true, false, plan);
        }
        if !networks.is_empty() {
            let (root, all) = (dirs.clone(), networks.clone());
            let shell = "iptables-save; iptables-restore --noflush --wait   # what is missing";
            let op = op("posix_spawn", ["iptables-restore"], shell, move |_| Ok(setup::mend(&root, &all)?));
            plan.add(Phase::Host, "mend", op)
                .why("The rules of every network, and the ports of every container that lives.")
                .look("iptables-save | grep mydocker");
            done.push(format!("rules of {} networks", networks.len()));
        }
        for link in dead_links(dirs, &networks)? {
            let (name, shell) = (link.clone(), format!("ip link del {link}"));
            let op = op("sendto", ["RTM_DELLINK".to_string(), link.clone()], shell, move |_| {
                Ok(Netlink::here()?.delete(netlink::index(&name)?)?)
            });
            plan.add(Phase::Host, format!("delete.{link}"), op).why("Its container is dead.");
            done.push(format!("link {link}, whose container is dead"));
        }
        Ok(())
    })?;
    Ok((plan, done))
}

/// Ports of our bridges that no living lease speaks of.
fn dead_links(dirs: &Dirs, networks: &[Network]) -> Result<Vec<String>> {
    let living: Vec<_> =
        networks.iter().flat_map(|network| ipam::living(dirs, network)).map(|lease| lease.link).collect();
    let bridges: Vec<_> = networks.iter().filter_map(|network| netlink::index(&network.bridge).ok()).collect();
    let dead = |link: &netlink::Link| {
        let port = link.master.is_some_and(|master| bridges.contains(&master));
        port && link.alias.starts_with(MARK) && !living.contains(&link.name)
    };
    Ok(Netlink::here()?.links()?.into_iter().filter(dead).map(|link| link.name).collect())
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
    ports.sort_by_key(|one| (one.port, one.protocol as u8, one.ip.is_ipv6(), one.host_port));
    let show = |ip, port: u16| format!("{}:{port}", bracketed(ip));
    Ok(ports.iter().map(|one| (format!("{}/{}", one.port, one.protocol), show(one.ip, one.host_port))).collect())
}
