//! A network in the kernel: its bridge with the gateway's address, forwarding, its rules. Made on first use, found
//! again by every later start, and mended if another tool or a reboot has taken something away.

use super::firewall;
use super::netlink::{self, Netlink, Route};
use super::store::{self, DEFAULT, Network, Wishes};
use super::trouble::{Trouble, op};
use crate::plan::{Dirs, Phase, Plan};
use anyhow::{Context, Result, bail};
use ipnetwork::Ipv4Network;
use nix::errno::Errno;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The network `name`, and whether it is on disk already. The default one is thought out on first use.
pub fn find(dirs: &Dirs, name: &str) -> Result<(Network, bool)> {
    let known = match store::load(dirs, name) {
        // An ordinary user's dry run cannot look.
        Err(error) if !nix::unistd::geteuid().is_root() => {
            log::debug!("{error:#}");
            None
        }
        other => other?,
    };
    match known {
        Some(network) => Ok((network, true)),
        None if name == DEFAULT => Ok((draft(dirs, DEFAULT, Wishes::default())?, false)),
        None => match store::list(dirs)
            .into_iter()
            .filter(|one| name.len() >= 4 && one.id.starts_with(name))
            .collect::<Vec<_>>()
        {
            mut found if found.len() == 1 => Ok((found.remove(0), true)),
            _ => bail!("--network: network `{name}` not found\nhint: mydocker network ls"),
        },
    }
}

/// A network that is not there yet: a subnet that no route of the host uses, the MTU of the default route.
pub fn draft(dirs: &Dirs, name: &str, wishes: Wishes) -> Result<Network> {
    let netlink = Netlink::here().context("cannot ask the kernel for its routes")?;
    let links = netlink.links().context("cannot ask the kernel for its links")?;
    let routes = netlink.routes().context("cannot ask the kernel for its routes")?;
    let link = |route: &Route| links.iter().find(|link| Some(link.index) == route.link);
    let way_out = routes.iter().find(|route| route.to.prefix() == 0).and_then(link);
    let mtu = way_out.map_or(1500, |link| link.mtu);
    let named = |route: &Route| (route.clone(), link(route).map(|link| link.name.clone()).unwrap_or_default());
    let routes: Vec<_> = routes.iter().map(named).collect();
    Network::new(name, wishes, &routes, mtu, &store::list(dirs))
}

/// The steps that make `network` be there; none, if it is.
pub fn plan(dirs: &Dirs, network: &Network, on_disk: bool, plan: &mut Plan) {
    let name = &network.name;
    if !on_disk {
        let (path, drafted, dirs) = (network.folder(dirs).join("network.json"), network.clone(), dirs.clone());
        let shell = format!("mkdir -p {}   # and its network.json", network.leases(&dirs).display());
        let op = op("linkat", [path.display().to_string()], shell, move |_| match drafted.save_new(&dirs) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => same(&drafted, &dirs),
            other => other.map_err(Trouble::from),
        });
        plan.add(Phase::Host, format!("create.{name}"), op)
            .why(format!("The network's first use: {} is a subnet that no route of this host uses.", network.subnet))
            .look("mydocker network inspect bridge");
    }
    if !is_up(network) {
        bridge(network, plan);
    }
    if !network.internal && fs::read_to_string(FORWARD).is_ok_and(|value| value.trim() == "0") {
        let note = dirs.root.join("networks/ip_forward");
        let op = op("write", [FORWARD, "1"], format!("echo 1 > {FORWARD}"), move |_| Ok(forward(&note)?));
        plan.add(Phase::Host, format!("forward.{name}"), op)
            .why("A machine hands packets from one card to another only if it is told to; the last network puts it back.")
            .look("sysctl net.ipv4.ip_forward");
    }
    if !firewall::is_installed(network) {
        rules(dirs, network, plan);
    }
}

/// Two first starts at once have had the same thought, or one of them must think again.
fn same(drafted: &Network, dirs: &Dirs) -> Result<(), Trouble> {
    match store::load(dirs, &drafted.name) {
        Ok(Some(there)) if there.subnet == drafted.subnet && there.bridge == drafted.bridge => Ok(()),
        _ => Err(Trouble::new(
            Errno::EEXIST,
            format!("the network `{}` was just made by another; try again", drafted.name),
        )),
    }
}

/// Whether its bridge is up with its address: the kernel then has a route for the subnet over it.
pub fn is_up(network: &Network) -> bool {
    let number = |ip: std::net::Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(ip.octets()));
    let (to, mask) = (number(network.subnet.network()), number(network.subnet.mask()));
    fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default().lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 7 && fields[0] == network.bridge && fields[1] == to && fields[7] == mask
    })
}

fn bridge(network: &Network, plan: &mut Plan) {
    let Network { name, bridge, mtu, .. } = network;
    let mac = mac_text(network.bridge_mac());
    let shell = format!("ip link add {bridge} address {mac} mtu {mtu} up type bridge");
    let this = network.clone();
    let op1 = op("sendto", ["RTM_NEWLINK".into(), bridge.clone(), "bridge".into(), mac], shell, move |_| make(&this));
    plan.add(Phase::Host, format!("bridge.{name}"), op1)
        .why("A switch made of software: every container of the network is plugged into it.")
        .look(format!("ip -d link show {bridge}"));
    let alias = network.mark();
    let (link, text) = (bridge.clone(), alias.clone());
    let op2 = op("sendto", ["RTM_SETLINK", bridge, &alias], format!("ip link set {bridge} alias {alias}"), move |_| {
        Ok(Netlink::here()?.set_alias(netlink::index(&link)?, &text)?)
    });
    plan.add(Phase::Host, format!("bridge-alias.{name}"), op2).why("Whoever finds it can see whose it is.");
    let gateway = Ipv4Network::new(network.gateway, network.subnet.prefix()).unwrap_or(network.subnet);
    let (link, shell) = (bridge.clone(), format!("ip addr add {gateway} dev {bridge}"));
    let op3 = op("sendto", ["RTM_NEWADDR".to_string(), bridge.clone(), gateway.to_string()], shell, move |_| {
        match Netlink::here()?.add_address(netlink::index(&link)?, gateway) {
            Err(Errno::EEXIST) => Ok(()),
            other => Ok(other?),
        }
    });
    plan.add(Phase::Host, format!("gateway.{name}"), op3)
        .why("The host's own address on that switch: the containers' way out, and the host's way in.")
        .look(format!("ip addr show {bridge}"));
}

/// Makes the bridge. One that is there and has our hardware address is ours, half made; any other is a stranger's.
pub fn make(network: &Network) -> Result<(), Trouble> {
    let netlink = Netlink::here()?;
    match netlink.add_bridge(&network.bridge, network.mtu, network.bridge_mac()) {
        Err(Errno::EEXIST) => {}
        other => return Ok(other?),
    }
    let there = netlink.links()?.into_iter().find(|link| link.name == network.bridge);
    match there {
        Some(link) if link.kind == "bridge" && link.mac == network.bridge_mac() => Ok(netlink.set_up(link.index)?),
        Some(link) => {
            let kind = if link.kind.is_empty() { "card" } else { &link.kind };
            let words = format!(
                "the name of the bridge of network `{}` is taken: `{}` is a {kind} that is not ours",
                network.name, link.name
            );
            Err(Trouble::new(Errno::EEXIST, words))
        }
        None => Err(Errno::ENODEV.into()),
    }
}

/// Switches forwarding on; the note says that it was off, and is there before.
pub fn forward(note: &PathBuf) -> std::io::Result<()> {
    fs::write(note, "0\n")?;
    fs::write(FORWARD, "1")
}

/// Switches forwarding on, unless it is.
pub fn forward_if_off(dirs: &Dirs) -> std::io::Result<()> {
    match fs::read_to_string(FORWARD)?.trim() {
        "0" => forward(&dirs.root.join("networks/ip_forward")),
        _ => Ok(()),
    }
}

/// Puts forwarding back as it was, if it was we who switched it on.
pub fn forward_back(dirs: &Dirs) -> std::io::Result<()> {
    let note = dirs.root.join("networks/ip_forward");
    if note.exists() {
        fs::write(FORWARD, "0")?;
        fs::remove_file(note)?;
    }
    Ok(())
}

/// The lock under which this root's engines read the tables and write them again.
pub fn firewall_lock(dirs: &Dirs) -> std::io::Result<fs::File> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&dirs.run)?;
    let path = dirs.run.join("firewall.lock");
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn rules(dirs: &Dirs, network: &Network, plan: &mut Plan) {
    let mut all: Vec<_> = store::list(dirs).into_iter().filter(|one| one.name != network.name).collect();
    all.push(network.clone());
    let shell = format!("iptables-restore --noflush --wait <<'END'\n{}END", firewall::preview(&all));
    let (dirs, this) = (dirs.clone(), network.clone());
    let op = op("execve", ["iptables-restore", "--noflush", "--wait"], shell, move |_| {
        let mut all = store::list(&dirs);
        if !all.iter().any(|one| one.name == this.name) {
            all.push(this.clone());
        }
        Ok(mend(&dirs, &all)?)
    });
    plan.add(Phase::Host, format!("rules.{}", network.name), op)
        .why("What leaves gets the host's address; what comes in does so only as an answer, or by a published port.")
        .look("iptables-save | grep MYDOCKER");
}

/// Writes the rules of all networks that are up, and the ports of all living containers that have lost theirs.
pub fn mend(dirs: &Dirs, networks: &[Network]) -> std::io::Result<()> {
    firewall::install(networks, &firewall_lock(dirs)?)?;
    let there = crate::plan::iptables_save()?;
    for network in networks {
        for lease in super::ipam::living(dirs, network).into_iter().filter(|lease| !lease.published.is_empty()) {
            let mark = super::attach::mark(&lease.container);
            if !there.iter().any(|(_, line)| line.contains(&mark)) {
                crate::plan::iptables_restore(&firewall::publish("-A", &mark, lease.address, &lease.published))?;
            }
        }
    }
    Ok(())
}

pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
