//! The steps that keep ports of the host for the container and lead packets to it.

use super::attach::Endpoint;
use super::netlink::{self, Netlink};
use super::publish::{self, Publish, Published, bracketed};
use super::relay::Guard;
use super::store::Network;
use super::trouble::{Trouble, op};
use super::{firewall, ipam};
use crate::plan::{Dirs, Family, Op, Phase, Plan, Spec, Told, Undo, has_iptables, iptables_restore};
use nix::errno::Errno;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reserves every port; nothing is sent anywhere yet. `ipv6`: the network has IPv6.
pub fn reserve(dirs: &Dirs, ports: &[Publish], ipv6: bool, endpoint: &Arc<Endpoint>, plan: &mut Plan) {
    for (number, publish) in ports.iter().enumerate() {
        let Publish { host, port, protocol, .. } = publish;
        let addresses = publish.addresses(ipv6);
        let fixed = host.and_then(|(first, last)| (first == last).then_some(first));
        let told = fixed.is_none().then(|| Told::new(format!("PORT{number}")));
        let shown = fixed.map_or(format!("$PORT{number}"), |port| port.to_string());
        let ips = addresses.iter().map(|ip| bracketed(*ip)).collect::<Vec<_>>().join(" and ");
        let shell = format!("# bind {ips}:{shown}/{protocol}, without listening");
        let (wanted, endpoint, teller) = (publish.clone(), Arc::clone(endpoint), told.clone());
        let dirs = dirs.clone();
        let op = op("bind", [ips, shown.clone(), protocol.to_string()], shell, move |stage| {
            let Publish { port, protocol, .. } = wanted;
            let taken = |port| ipam::publishes(&dirs, &addresses, port, protocol);
            let reserved = publish::reserve(&wanted, &addresses, taken);
            let (host_port, sockets) = reserved.map_err(|errno| why_not(&wanted, errno))?;
            if let Some(teller) = &teller {
                teller.tell(host_port.to_string());
            }
            for (ip, socket) in addresses.iter().zip(sockets) {
                let published = Published { ip: *ip, host_port, port, protocol };
                endpoint.reserved(published.clone());
                match ip {
                    IpAddr::V4(_) => stage.kept.push(Box::new(socket)),
                    IpAddr::V6(_) => {
                        endpoint.relay.add(published, socket);
                        stage.kept.push(Box::new(Guard(Arc::clone(&endpoint.relay))));
                    }
                }
            }
            Ok(())
        });
        let step = plan.add(Phase::Host, format!("reserve.{number}.{port}/{protocol}"), op);
        step.why("Bound by us, the port is nobody else's: a second container or a server of the host is refused.")
            .look(format!("ss -lna | grep {shown}"));
        if let Some(told) = &told {
            step.tells(told);
        }
    }
}

fn why_not(publish: &Publish, errno: Errno) -> Trouble {
    let Publish { host, protocol, .. } = publish;
    let ip = bracketed(publish.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
    let port = match host {
        Some((first, last)) if first == last => format!(":{first}"),
        Some((first, last)) => format!(":{first}-{last}"),
        None => String::new(),
    };
    let why = match errno {
        Errno::EADDRINUSE => "port is already allocated".to_string(),
        Errno::EAFNOSUPPORT => "this kernel has no IPv6".to_string(),
        Errno::EADDRNOTAVAIL if publish.ip.is_some_and(|ip| ip.is_ipv6()) => {
            "this host has no such address (`ip -6 addr`; `sysctl net.ipv6.conf.all.disable_ipv6`)".to_string()
        }
        Errno::EADDRNOTAVAIL => "this host has no such address".to_string(),
        other => other.desc().to_string(),
    };
    Trouble::new(errno, format!("--publish: bind for {ip}{port}/{protocol} failed: {why}"))
}

/// What is published in one family, as the plan shows it: the address, the port on the host, what was wished.
fn shown(ports: &[Publish], family: Family, ipv6: bool) -> Vec<(IpAddr, String, &Publish)> {
    let mut all = Vec::new();
    for (number, one) in ports.iter().enumerate() {
        let fixed = one.host.filter(|(first, last)| first == last);
        let port = fixed.map_or(format!("$PORT{number}"), |(port, _)| port.to_string());
        let ips = one.addresses(ipv6).into_iter().filter(|ip| ip.is_ipv6() == (family == Family::V6));
        all.extend(ips.map(|ip| (ip, port.clone(), one)));
    }
    all
}

/// The files that say what is published in either family, and take its rules out again.
pub fn rules(folder: &Path, family: Family) -> PathBuf {
    folder.join(if family == Family::V6 { "published6.rules" } else { "published.rules" })
}

/// Leads the packets in, when the address is known. Beside the child: starting `iptables-restore` takes milliseconds.
/// `number`: which of the container's addresses it is.
pub fn publish(
    spec: &Spec,
    ports: &[Publish],
    network: &Network,
    link: &str,
    number: usize,
    endpoint: &Arc<Endpoint>,
    plan: &mut Plan,
) {
    let ipv6 = network.subnet6.is_some();
    if shown(ports, Family::V4, ipv6).iter().any(|(ip, ..)| ip.is_unspecified() || ip.is_loopback()) {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", network.bridge);
        plan.add(Phase::Host, "route-localnet", Op::set(Path::new(&path), "1"))
            .why("A packet from 127.0.0.1 may leave by this bridge, and by no other card; MYDOCKER-RAW lets none come back so.")
            .look(format!("cat {path}"));
    }
    let (name, shell) = (link.to_string(), format!("bridge link set dev {link} hairpin on"));
    let hairpin = op("sendto", ["RTM_NEWLINK", link, "hairpin"], shell, move |_| {
        Ok(Netlink::here()?.set_hairpin(netlink::index(&name)?)?)
    });
    plan.add(Phase::Beside, "hairpin", hairpin)
        .why("A container that asks for its own port by the host's address is answered out of the port it asked by.")
        .look("bridge -d link");
    for family in [Family::V4, Family::V6] {
        let shown = shown(ports, family, ipv6);
        if !shown.is_empty() {
            lead_in(spec, &shown, family, network, number, endpoint, plan);
        }
    }
}

fn lead_in(
    spec: &Spec,
    shown: &[(IpAddr, String, &Publish)],
    family: Family,
    network: &Network,
    number: usize,
    endpoint: &Arc<Endpoint>,
    plan: &mut Plan,
) {
    let ipv6 = family == Family::V6;
    let (program, variable) = if ipv6 { ("ip6tables", "[$ADDRESS6]") } else { ("iptables", "$ADDRESS") };
    let mark = super::attach::mark(spec.id.as_str());
    let lines = shown.iter().map(|(ip, host_port, one)| {
        format!("{}:{host_port}/{} -> {variable}:{}", bracketed(*ip), one.protocol, one.port)
    });
    let mut shell = format!("{program}-restore --noflush --wait <<'END'\n*nat\n");
    for (ip, host_port, one) in shown {
        let to = if ip.is_unspecified() { String::new() } else { format!("-d {ip} ") };
        let (verb, chain) = match ip.is_loopback() {
            true if ipv6 => ("#", "carried on by the engine: "),
            true => ("-A", "MYDOCKER-LOCAL "),
            false => ("-A", "MYDOCKER-DNAT "),
        };
        shell += &format!(
            "{verb} {chain}{to}-p {} --dport {host_port} -m comment --comment {mark} -j DNAT --to {variable}:{}\n",
            one.protocol, one.port
        );
    }
    shell += "COMMIT\nEND";
    let rules = rules(&spec.folder(), family);
    let (endpoint, path, this) = (Arc::clone(endpoint), rules.clone(), network.clone());
    let words = std::iter::once(format!("{program}-restore")).chain(lines);
    let op = op("posix_spawn", words, shell, move |_| {
        let address = endpoint.address_in(family, number, &this);
        if !ipv6 && address.is_none() {
            return Err(Errno::EADDRNOTAVAIL.into());
        }
        let ports = endpoint.published();
        // The way back first.
        fs::write(&path, firewall::publish(family, "-D", &mark, address, &ports))?;
        let text = firewall::publish(family, "-A", &mark, address, &ports);
        if text.contains("\n-A ") {
            has_iptables(family)?;
            iptables_restore(family, &text)?;
        }
        Ok(())
    });
    plan.add(Phase::Beside, if ipv6 { "publish6" } else { "publish" }, op)
        .why("Packets to the host's port get the container's address as their new destination (DNAT).")
        .look(format!("{program} -t nat -S MYDOCKER-DNAT; conntrack -L"))
        .undo(Undo::RemoveRules { rules });
}

/// Listens where no rule can lead in: on ::1, and for a network that has no IPv6.
pub fn relay(spec: &Spec, ports: &[Publish], ipv6: bool, endpoint: &Arc<Endpoint>, plan: &mut Plan) {
    let Some((ip, port, _)) = shown(ports, Family::V6, ipv6).into_iter().next() else { return };
    let (dirs, id, endpoint) = (spec.dirs.clone(), spec.id.clone(), Arc::clone(endpoint));
    let shell = format!("# listen at {}:{port}, and carry on what comes", bracketed(ip));
    let op = op("listen", [bracketed(ip), port.clone()], shell, move |_| Ok(endpoint.relay.start(&dirs, &id)?));
    plan.add(Phase::Beside, "relay", op)
        .why("From ::1 no packet may leave by another card, whatever a rule says: the engine carries these on itself.")
        .look(format!("ss -lntu6 | grep {port}"));
}
