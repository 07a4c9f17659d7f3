//! A network as the kernel has it wired: the bridge, its ports, the card at the other end of each cable in its own network
//! namespace, addresses, routes, and the rules that mention them. Nothing here is read from our own files but which
//! containers there are.
//!
//! Try it without us: `bridge link; ip -d link show; nsenter -t $PID -n ip -br addr; iptables-save`

use super::manage::Seen;
use super::netlink::{self, Netlink};
use super::{ipam, join};
use crate::plan::{Dirs, Family, Id, MARK, has_iptables, iptables_save};
use anyhow::{Context, Result};
use std::fs::File;
use std::os::fd::AsFd;

/// A network, as the kernel has it.
pub struct Graph {
    pub network: String,
    pub bridge: String,
    /// `UP` or `DOWN`, hardware address, MTU; empty if there is no such bridge.
    pub state: String,
    pub addresses: Vec<String>,
    pub ports: Vec<Port>,
    /// Routes of the host over this bridge.
    pub routes: Vec<String>,
    /// Table and rule.
    pub rules: Vec<(String, String)>,
}

/// A port of the bridge, and what is at the other end of its cable.
pub struct Port {
    pub link: String,
    /// Whose it is: the container's name or short id, or the link's alias.
    pub container: String,
    /// The card inside; `None` if its namespace is gone or not ours to enter.
    pub card: Option<Card>,
}

pub struct Card {
    pub name: String,
    pub mac: String,
    pub addresses: Vec<String>,
    pub routes: Vec<String>,
}

/// Asks the kernel.
pub fn graph(dirs: &Dirs, seen: &Seen) -> Result<Graph> {
    let network = &seen.network;
    let netlink = Netlink::here().context("cannot ask the kernel for its links")?;
    let links = netlink.links().context("cannot ask the kernel for its links")?;
    let bridge = links.iter().find(|link| link.name == network.bridge);
    let mut graph = Graph {
        network: network.name.clone(),
        bridge: network.bridge.clone(),
        state: bridge.map_or(String::new(), |link| {
            let mac = link.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            format!("{}, {mac}, mtu {}", if link.up { "UP" } else { "DOWN" }, link.mtu)
        }),
        addresses: vec![],
        ports: vec![],
        routes: vec![],
        rules: vec![],
    };
    let Some(bridge) = bridge else { return Ok(graph) };
    graph.addresses = netlink.addresses(bridge.index)?;
    graph.routes = routes(&netlink, bridge.index, &network.bridge)?;
    for link in links.iter().filter(|link| link.master == Some(bridge.index)) {
        let lease = ipam::leases(dirs, network).into_iter().find(|lease| lease.link == link.name);
        let id = lease.as_ref().and_then(|lease| Id::parse(&lease.container));
        let pid = id.and_then(|id| join::first_process(dirs, &id));
        let alias = link.alias.trim_start_matches(MARK).to_string();
        let container = lease.and_then(|lease| lease.name).unwrap_or(alias);
        let card = pid.zip(link.peer).and_then(|(pid, peer)| card(pid, peer).ok().flatten());
        graph.ports.push(Port { link: link.name.clone(), container, card });
    }
    graph.rules = rules(&graph, &network.mark())?;
    Ok(graph)
}

fn routes(netlink: &Netlink, index: u32, name: &str) -> Result<Vec<String>> {
    let show = |route: netlink::Route| {
        let to = if route.to.prefix() == 0 { "default".to_string() } else { route.to.to_string() };
        let via = route.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        format!("{to}{via} dev {name}")
    };
    Ok(netlink.routes()?.into_iter().filter(|route| route.link == Some(index)).map(show).collect())
}

/// The card number `index` in the network namespace of `pid`.
fn card(pid: u32, index: u32) -> Result<Option<Card>> {
    let netlink = Netlink::inside(File::open(format!("/proc/{pid}/ns/net"))?.as_fd())?;
    let Some(link) = netlink.links()?.into_iter().find(|link| link.index == index) else { return Ok(None) };
    let mac = link.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let (addresses, routes) = (netlink.addresses(index)?, routes(&netlink, index, &link.name)?);
    Ok(Some(Card { name: link.name, mac, addresses, routes }))
}

/// The rules that mention the bridge, the network's mark, a container's, or one of their addresses.
fn rules(graph: &Graph, mark: &str) -> Result<Vec<(String, String)>> {
    let cards = graph.ports.iter().filter_map(|port| port.card.as_ref());
    let bare = |address: &String| address.split('/').next().unwrap_or_default().to_string();
    let mut words: Vec<String> = cards.flat_map(|card| card.addresses.iter().map(bare)).collect();
    words.extend([graph.bridge.clone(), mark.to_string()]);
    let whole = |text: &str, word: &str| {
        text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '/'))
            .any(|part| part == word || part.strip_prefix(word).is_some_and(|rest| rest.starts_with(':')))
    };
    let mentions = |(_, rule): &(String, String)| rule.starts_with("-A") && words.iter().any(|word| whole(rule, word));
    let mut all = iptables_save(Family::V4)?;
    if super::ipv6::has_ipv6() && has_iptables(Family::V6).is_ok() {
        all.extend(iptables_save(Family::V6)?.into_iter().map(|(table, rule)| (format!("{table} (IPv6)"), rule)));
    }
    Ok(all.into_iter().filter(mentions).collect())
}
