//! The steps that keep ports of the host for the container and lead packets to it.

use super::attach::Endpoint;
use super::netlink::{self, Netlink};
use super::publish::{self, Publish, Published};
use super::trouble::{Trouble, op};
use super::{firewall, ipam};
use crate::plan::{Dirs, Family, Phase, Plan, Spec, Told, Undo, iptables_restore};
use nix::errno::Errno;
use std::fs;
use std::sync::Arc;

/// Reserves every port; nothing is sent anywhere yet.
pub fn reserve(dirs: &Dirs, ports: &[Publish], endpoint: &Arc<Endpoint>, plan: &mut Plan) {
    for (number, publish) in ports.iter().enumerate() {
        let Publish { ip, host, port, protocol } = publish;
        let fixed = host.and_then(|(first, last)| (first == last).then_some(first));
        let told = fixed.is_none().then(|| Told::new(format!("PORT{number}")));
        let shown = fixed.map_or(format!("$PORT{number}"), |port| port.to_string());
        let shell = format!("# bind {ip}:{shown}/{protocol}, without listening");
        let (wanted, endpoint, teller) = (publish.clone(), Arc::clone(endpoint), told.clone());
        let dirs = dirs.clone();
        let op = op("bind", [ip.to_string(), shown.clone(), protocol.to_string()], shell, move |stage| {
            let taken = |port| ipam::publishes(&dirs, &wanted, port);
            let (host_port, socket) = publish::reserve(&wanted, taken).map_err(|errno| why_not(&wanted, errno))?;
            if let Some(teller) = &teller {
                teller.tell(host_port.to_string());
            }
            let Publish { ip, port, protocol, .. } = wanted;
            endpoint.reserved(Published { ip, host_port, port, protocol });
            stage.kept.push(socket);
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
    let Publish { ip, host, protocol, .. } = publish;
    let port = match host {
        Some((first, last)) if first == last => format!(":{first}"),
        Some((first, last)) => format!(":{first}-{last}"),
        None => String::new(),
    };
    let why = match errno {
        Errno::EADDRINUSE => "port is already allocated".to_string(),
        Errno::EADDRNOTAVAIL => "this host has no such address".to_string(),
        other => other.desc().to_string(),
    };
    Trouble::new(errno, format!("--publish: bind for {ip}{port}/{protocol} failed: {why}"))
}

/// Leads the packets in, when the address is known. Beside the child: starting `iptables-restore` takes milliseconds.
/// `number`: which of the container's addresses it is.
pub fn publish(
    spec: &Spec,
    ports: &[Publish],
    bridge: &str,
    link: &str,
    number: usize,
    endpoint: &Arc<Endpoint>,
    plan: &mut Plan,
) {
    if ports.iter().any(|port| port.ip.is_unspecified() || port.ip.is_loopback()) {
        let path = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
        let op = crate::plan::Op::set(std::path::Path::new(&path), "1");
        plan.add(Phase::Host, "route-localnet", op)
            .why("A packet from 127.0.0.1 may leave by this bridge, and by no other card; MYDOCKER-RAW lets none come back so.")
            .look(format!("cat {path}"));
    }
    let shown: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, one)| {
            let host_port = one
                .host
                .filter(|(first, last)| first == last)
                .map_or(format!("$PORT{number}"), |(port, _)| port.to_string());
            (one, host_port)
        })
        .collect();
    let (name, shell) = (link.to_string(), format!("bridge link set dev {link} hairpin on"));
    let hairpin = op("sendto", ["RTM_NEWLINK", link, "hairpin"], shell, move |_| {
        Ok(Netlink::here()?.set_hairpin(netlink::index(&name)?)?)
    });
    plan.add(Phase::Beside, "hairpin", hairpin)
        .why("A container that asks for its own port by the host's address is answered out of the port it asked by.")
        .look("bridge -d link");
    let mark = super::attach::mark(spec.id.as_str());
    let lines: Vec<_> = shown
        .iter()
        .map(|(one, host_port)| format!("{}:{host_port}/{} -> $ADDRESS:{}", one.ip, one.protocol, one.port))
        .collect();
    let shell = shown.iter().fold(
        String::from("iptables-restore --noflush --wait <<'END'\n*nat\n"),
        |text, (one, host_port)| {
            let to = if one.ip.is_unspecified() { String::new() } else { format!("-d {} ", one.ip) };
            let chain = if one.ip.is_loopback() { "MYDOCKER-LOCAL" } else { "MYDOCKER-DNAT" };
            format!(
                "{text}-A {chain} {to}-p {} --dport {host_port} -m comment --comment {mark} -j DNAT --to $ADDRESS:{}\n",
                one.protocol, one.port
            )
        },
    ) + "COMMIT\nEND";
    let rules = spec.folder().join("published.rules");
    let (endpoint, path) = (Arc::clone(endpoint), rules.clone());
    let op = op("posix_spawn", std::iter::once("iptables-restore".to_string()).chain(lines), shell, move |_| {
        let address = endpoint.address(number).ok_or(Errno::EADDRNOTAVAIL)?;
        let ports = endpoint.published();
        // The way back first.
        fs::write(&path, firewall::publish("-D", &mark, address, &ports))?;
        iptables_restore(Family::V4, &firewall::publish("-A", &mark, address, &ports))?;
        Ok(())
    });
    plan.add(Phase::Beside, "publish", op)
        .why("Packets to the host's port get the container's address as their new destination (DNAT).")
        .look("iptables -t nat -S MYDOCKER-DNAT; conntrack -L")
        .undo(Undo::RemoveRules { rules });
}
