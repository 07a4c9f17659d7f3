//! What `inspect` and `ps` tell of a container's network, in docker's shapes: from its wish, and, while it runs, from the
//! leases that it holds.
//!
//! Look: `mydocker inspect -f '{{json .NetworkSettings}}' web`; `mydocker ps --format '{{.Names}} {{.Ports}}'`

use super::ipam::{self, Lease};
use super::publish::{Published, bracketed};
use super::store::{self, Network};
use super::wish::{Mode, Wish};
use crate::plan::{Attached, Spec};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One network of a container: its name, the network if it is still there, the lease while it is held.
struct Endpoint {
    name: String,
    network: Option<Network>,
    lease: Option<Lease>,
}

fn wish(spec: &Spec) -> Option<Wish> {
    serde_json::from_value(spec.own.get("network")?.clone()).ok()
}

fn endpoints(spec: &Spec, wish: &Wish, runs: bool) -> Vec<Endpoint> {
    let one = |name: &String| {
        let network = store::load(&spec.dirs, name).ok().flatten();
        let lease = network.as_ref().filter(|_| runs).and_then(|network| ipam::of(&spec.dirs, network, &spec.id));
        Endpoint { name: name.clone(), network, lease }
    };
    wish.attachments.iter().map(|attachment| one(&attachment.network)).collect()
}

/// Docker's word for the mode (`HostConfig.NetworkMode`).
fn mode(wish: &Wish) -> String {
    match &wish.mode {
        Mode::None => "none".to_string(),
        Mode::Host => "host".to_string(),
        Mode::Container(name) => format!("container:{name}"),
        Mode::Networks => wish.attachments.first().map_or("none".to_string(), |first| first.network.clone()),
    }
}

pub fn inspect(spec: &Spec, runs: bool) -> Value {
    let Some(wish) = wish(spec) else { return Value::Null };
    let all = endpoints(spec, &wish, runs);
    let shown = all.iter().zip(&wish.attachments).map(|(one, wanted)| {
        let mut shown = addresses(one);
        shown["IPAMConfig"] = match (wanted.ip, wanted.ip6) {
            (None, None) => Value::Null,
            (Some(ip), None) => json!({ "IPv4Address": ip }),
            (None, Some(ip)) => json!({ "IPv6Address": ip }),
            (Some(ip), Some(ip6)) => json!({ "IPv4Address": ip, "IPv6Address": ip6 }),
        };
        shown["Aliases"] = if wanted.aliases.is_empty() { Value::Null } else { json!(wanted.aliases) };
        shown["Links"] = Value::Null;
        shown["DriverOpts"] = Value::Null;
        shown["NetworkID"] = json!(one.network.as_ref().map_or("", |network| &network.id));
        shown["DNSNames"] = if one.name == store::DEFAULT { Value::Null } else { json!(names(spec, &wanted.aliases)) };
        (one.name.clone(), shown)
    });
    let mut networks: Map<_, _> = shown.collect();
    if matches!(wish.mode, Mode::None | Mode::Host) {
        networks.insert(mode(&wish), addresses(&Endpoint { name: mode(&wish), network: None, lease: None }));
    }
    // At the top docker tells of the default network alone.
    let default = all.iter().find(|one| one.name == store::DEFAULT);
    let mut settings =
        default.map_or_else(|| addresses(&Endpoint { name: String::new(), network: None, lease: None }), addresses);
    settings["Ports"] = ports(&wish, &all, runs);
    settings["Networks"] = networks.into();
    let exposed: Map<_, _> =
        wish.exposed.iter().map(|(port, protocol)| (format!("{port}/{protocol}"), json!({}))).collect();
    let mut part = json!({ "NetworkSettings": settings, "HostConfig": host_config(&wish) });
    if !exposed.is_empty() {
        part["Config"] = json!({ "ExposedPorts": exposed });
    }
    part
}

/// The networks that it is connected to.
pub fn attached(spec: &Spec) -> Vec<Attached> {
    let Some(wish) = wish(spec).filter(|wish| wish.mode == Mode::Networks) else { return vec![] };
    let one = |one: Endpoint| {
        let about = || vec![("name", one.name.clone()), ("type", "bridge".to_string())];
        let id = one.network.as_ref().map(|network| network.id.clone())?;
        Some(Attached { kind: "network", id, comes: ("connect", about()), goes: ("disconnect", about()) })
    };
    endpoints(spec, &wish, false).into_iter().filter_map(one).collect()
}

/// The names under which others on a network find it.
fn names(spec: &Spec, aliases: &[String]) -> Vec<String> {
    let mut names: Vec<String> = spec.name.iter().map(|name| name.as_str().to_string()).collect();
    names.extend(aliases.iter().cloned());
    names.push(spec.id.short().to_string());
    names
}

fn addresses(one: &Endpoint) -> Value {
    let (network, lease) = (one.network.as_ref().filter(|_| one.lease.is_some()), one.lease.as_ref());
    let ip6 = network.zip(lease).and_then(|(network, lease)| lease.cidr6(network));
    json!({
        "EndpointID": lease.map_or("", |lease| &lease.link),
        "Gateway": network.map_or(String::new(), |network| network.gateway.to_string()),
        "IPAddress": lease.map_or(String::new(), |lease| lease.address.to_string()),
        "IPPrefixLen": network.map_or(0, |network| network.subnet.prefix()),
        "MacAddress": lease.map_or("", |lease| &lease.mac),
        "IPv6Gateway": network.and_then(Network::gateway6).map_or(String::new(), |gateway| gateway.ip().to_string()),
        "GlobalIPv6Address": ip6.map_or(String::new(), |ip| ip.ip().to_string()),
        "GlobalIPv6PrefixLen": ip6.map_or(0, |ip| ip.prefix()),
    })
}

/// What is published, and what is only exposed (`null`); of a container at rest nothing is.
fn ports(wish: &Wish, all: &[Endpoint], runs: bool) -> Value {
    let mut ports: BTreeMap<String, Value> = BTreeMap::new();
    if runs && wish.mode == Mode::Networks {
        ports.extend(wish.exposed.iter().map(|(port, protocol)| (format!("{port}/{protocol}"), Value::Null)));
    }
    for one in published(all) {
        let list = ports.entry(format!("{}/{}", one.port, one.protocol)).or_default();
        let binding = json!({ "HostIp": one.ip, "HostPort": one.host_port.to_string() });
        match list.as_array_mut() {
            Some(list) => list.push(binding),
            None => *list = json!([binding]),
        }
    }
    json!(ports)
}

fn published(all: &[Endpoint]) -> impl Iterator<Item = &Published> {
    all.iter().filter_map(|one| one.lease.as_ref()).flat_map(|lease| &lease.published)
}

fn host_config(wish: &Wish) -> Value {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for one in &wish.publish {
        let ip = one.ip.map_or(String::new(), |ip| ip.to_string());
        let port = match one.host {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let binding = json!({ "HostIp": ip, "HostPort": port });
        bindings.entry(format!("{}/{}", one.port, one.protocol)).or_default().push(binding);
    }
    let hosts = wish.hosts.iter().map(|(name, ip)| match ip {
        Some(ip) => format!("{name}:{ip}"),
        None => format!("{name}:host-gateway"),
    });
    let links = wish.links.iter().map(|(container, alias)| format!("/{container}:{alias}"));
    json!({
        "NetworkMode": mode(wish), "PortBindings": bindings,
        "Dns": wish.dns, "DnsSearch": wish.dns_search, "DnsOptions": wish.dns_options,
        "ExtraHosts": hosts.collect::<Vec<_>>(), "Links": links.collect::<Vec<_>>(),
    })
}

pub fn columns(spec: &Spec, runs: bool) -> Value {
    let Some(wish) = wish(spec) else { return Value::Null };
    let networks = match wish.mode {
        Mode::Networks => wish.attachments.iter().map(|one| one.network.as_str()).collect::<Vec<_>>().join(","),
        _ => mode(&wish),
    };
    if !runs || wish.mode != Mode::Networks || wish.exposed.is_empty() {
        return json!({ "Networks": networks });
    }
    let all = endpoints(spec, &wish, runs);
    let published: Vec<&Published> = published(&all).collect();
    let mut list: Vec<Shown> =
        published.iter().map(|one| (one.port, bracketed(one.ip), one.host_port, one.protocol.to_string())).collect();
    let only = wish
        .exposed
        .iter()
        .filter(|(port, protocol)| !published.iter().any(|one| one.port == *port && one.protocol == *protocol));
    list.extend(only.map(|(port, protocol)| (*port, String::new(), 0, protocol.to_string())));
    list.sort();
    json!({ "Networks": networks, "Ports": folded(&list) })
}

/// The container's port, the host's address (empty: not published) and port, the protocol.
type Shown = (u16, String, u16, String);

/// Docker's PORTS: runs of ports that are the same inside and outside are folded, and come first.
fn folded(ports: &[Shown]) -> String {
    let mut text: Vec<String> = Vec::new();
    let mut single: Vec<String> = Vec::new();
    let mut groups: Vec<(&str, &str, u16, u16)> = Vec::new();
    let show = |ip: &str, protocol: &str, first: u16, last: u16| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if ip.is_empty() { format!("{range}/{protocol}") } else { format!("{ip}:{range}->{range}/{protocol}") }
    };
    for (port, ip, host_port, protocol) in ports {
        if !ip.is_empty() && host_port != port {
            single.push(format!("{ip}:{host_port}->{port}/{protocol}"));
            continue;
        }
        match groups.iter_mut().find(|group| (group.0, group.1) == (ip.as_str(), protocol.as_str())) {
            None => groups.push((ip, protocol, *port, *port)),
            Some(group) if *port == group.3 + 1 => group.3 = *port,
            Some(group) => {
                text.push(show(ip, protocol, group.2, group.3));
                (group.2, group.3) = (*port, *port);
            }
        }
    }
    text.extend(groups.iter().map(|(ip, protocol, first, last)| show(ip, protocol, *first, *last)));
    text.extend(single);
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_folded_as_docker_does() {
        let port = |port: u16, ip: &str, host: u16, protocol: &str| (port, ip.to_string(), host, protocol.to_string());
        let cases = [
            (vec![port(80, "0.0.0.0", 8080, "tcp")], "0.0.0.0:8080->80/tcp"),
            (vec![port(80, "0.0.0.0", 8080, "tcp"), port(9988, "", 0, "tcp")], "9988/tcp, 0.0.0.0:8080->80/tcp"),
            ((80..83).map(|n| port(n, "0.0.0.0", n, "tcp")).collect(), "0.0.0.0:80-82->80-82/tcp"),
            (vec![port(80, "", 0, "tcp"), port(81, "", 0, "tcp"), port(90, "", 0, "tcp")], "80-81/tcp, 90/tcp"),
            (vec![port(80, "", 0, "udp"), port(81, "", 0, "tcp")], "80/udp, 81/tcp"),
            (
                vec![port(80, "0.0.0.0", 8080, "tcp"), port(80, "[::]", 8080, "tcp")],
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (vec![], ""),
        ];
        for (ports, text) in cases {
            assert_eq!(folded(&ports), text);
        }
    }
}
