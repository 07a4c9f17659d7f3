//! A network in the kernel: its bridge with the gateway's address, forwarding, its rules. Made on first use, found
//! again by every later start, and mended if another tool or a reboot has taken something away.

use super::firewall;
use super::ipv6::{self, has_ipv6};
use super::netlink::{self, Link, Netlink, Route};
use super::orphans;
use super::store::{self, DEFAULT, Network, Wishes};
use super::trouble::{Trouble, op};
use crate::plan::{Dirs, FORWARD_WAS_OFF, Fact, Family, MARK, Phase, Plan, Undo};
use crate::plan::{firewall_patience, has_iptables};
use anyhow::{Context, Result, bail};
use ipnetwork::Ipv4Network;
use nix::errno::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

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
        // Its addresses were chosen for it; while it was down another data root, or a VPN, may have come to use them.
        Some(network) if name == DEFAULT && !is_up(&network) && !fits(dirs, &network) => {
            Ok((Network { id: network.id, ..draft(dirs, DEFAULT, Wishes::default())? }, false))
        }
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

/// A network that is not there yet: a subnet that no route of the host uses, the MTU of the default route, and a bridge
/// whose name no other data root has.
pub fn draft(dirs: &Dirs, name: &str, wishes: Wishes) -> Result<Network> {
    let (links, routes) = host()?;
    let link = |route: &Route| links.iter().find(|link| Some(link.index) == route.link);
    let way_out = routes.iter().find(|route| route.to.prefix() == 0).and_then(link);
    let mtu = way_out.map_or(1500, |link| link.mtu);
    let named = |route: &Route| (route.clone(), link(route).map(|link| link.name.clone()).unwrap_or_default());
    // What leads to a bridge that is nobody's any more is in nobody's way.
    let orphans = orphans::names(&links);
    let routes: Vec<_> = routes.iter().map(named).filter(|(_, link)| !orphans.contains(link)).collect();
    let others: Vec<_> = store::list(dirs).into_iter().filter(|other| other.name != name).collect();
    if let Some(subnet) = wishes.subnet6 {
        let routes = netlink::routes6().context("cannot ask the kernel for its routes")?;
        if let Some(used) = routes.iter().find(|route| route.prefix() > 3 && route.overlaps(subnet)) {
            bail!("--subnet: `{subnet}` overlaps with the host's route `{used}`");
        }
    }
    let mut network = Network::new(name, wishes, &routes, mtu, &others)?;
    if network.subnet6.is_some() && !has_ipv6() {
        bail!("--ipv6: this kernel has no IPv6 (it was started with ipv6.disable=1, or built without)");
    }
    if name == DEFAULT {
        // The default network of a second data root is beside the first one's: `mydocker1`.
        let another = |name: &String| {
            links.iter().any(|link| link.name == *name && is_anothers(link, &network)) && !orphans.contains(name)
        };
        let free = (0..1000).map(store::default_bridge).find(|name| !another(name));
        network.bridge = free.context("every name from mydocker0 to mydocker999 is the bridge of another data root")?;
    }
    Ok(network)
}

fn host() -> Result<(Vec<Link>, Vec<Route>)> {
    let netlink = Netlink::here().context("cannot ask the kernel for its routes")?;
    let links = netlink.links().context("cannot ask the kernel for its links")?;
    let routes = netlink.routes().context("cannot ask the kernel for its routes")?;
    Ok((links, routes))
}

/// Whether this link is the bridge of a network of ours, and not of this one.
fn is_anothers(link: &Link, network: &Network) -> bool {
    link.kind == "bridge" && link.alias.starts_with(MARK) && !link.alias.starts_with(&network.mark())
}

/// Whether the kernel could have `network` as it is on disk.
fn fits(dirs: &Dirs, network: &Network) -> bool {
    let Ok((links, routes)) = host() else { return true };
    let name_is_free = !links.iter().any(|link| link.name == network.bridge && is_anothers(link, network));
    let own = links.iter().find(|link| link.name == network.bridge).map(|link| link.index);
    let used = |route: &&Route| route.link != own && route.to.prefix() > 1 && route.to.overlaps(network.subnet);
    // Containers that live keep their addresses.
    name_is_free && routes.iter().find(used).is_none() || !super::ipam::living(dirs, network).is_empty()
}

/// The steps that make `network` be there; none, if it is. `undone`: whoever asks wants it gone again if a later step
/// fails (`network create`); what a container has made on its way stays.
pub fn plan(dirs: &Dirs, network: &Network, on_disk: bool, undone: bool, plan: &mut Plan) {
    let name = &network.name;
    let undo = |undo: Undo| Some(undo).filter(|_| undone);
    let needs_rules = !on_disk || !firewall::is_installed(network);
    let up = is_up(network);
    if needs_rules {
        let ipv6 = network.subnet6.is_some();
        let op = op("access", ["iptables-restore"], "command -v iptables-restore", move |_| {
            has_iptables(Family::V4)?;
            if ipv6 {
                has_iptables(Family::V6)?;
            }
            Ok(())
        });
        plan.add(Phase::Host, format!("firewall.{name}"), op)
            .why("Without a firewall nothing of a network would be closed to the outside: then there is none.");
    }
    if !on_disk {
        orphans::plan(plan);
        let (path, drafted) = (network.folder(dirs).join("network.json"), network.clone());
        let shell = format!("mkdir -p {}   # and its network.json", network.leases(dirs).display());
        let root = dirs.clone();
        let op = op("linkat", [path.display().to_string()], shell, move |_| match drafted.save_new(&root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !undone => replaced(&drafted, &root),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Trouble::new(Errno::EEXIST, format!("network with name {} already exists", drafted.name)))
            }
            other => other.map_err(Trouble::from),
        });
        let step = plan.add(Phase::Host, format!("create.{name}"), op);
        step.why(format!("The network's first use: {} is a subnet that no route of this host uses.", network.subnet))
            .look(format!("mydocker network inspect {name}"));
        step.undo = undo(Undo::RemoveTree { path: network.folder(dirs) });
    }
    if !up {
        bridge(dirs, network, undone, plan);
    }
    if !network.internal && forwarding_is_off() {
        let (root, this) = (dirs.clone(), network.clone());
        let alias = format!("ip link set {} alias '{}{FORWARD_WAS_OFF}'", network.bridge, network.mark());
        let op = op("write", [FORWARD, "1"], format!("{alias}; echo 1 > {FORWARD}"), move |_| forward(&root, &this));
        plan.add(Phase::Host, format!("forward.{name}"), op)
            .why("A machine hands packets from one card to another only if it is told to; the last network puts it back.")
            .look("sysctl net.ipv4.ip_forward");
    }
    if !up {
        ipv6::network(dirs, network, undone, plan);
    }
    if needs_rules {
        let step = rules(dirs, network, plan);
        step.undo = undo(Undo::RemoveRules { rules: firewall::removal_file(dirs, Family::V4, network) });
    }
}

fn forwarding_is_off() -> bool {
    fs::read_to_string(FORWARD).is_ok_and(|value| value.trim() == "0")
}

/// Somebody has written it down before us: two first starts at once have had the same thought, or one of them must think
/// again. A network that no longer fits gives way.
fn replaced(drafted: &Network, dirs: &Dirs) -> Result<(), Trouble> {
    match store::load(dirs, &drafted.name) {
        Ok(Some(there)) if there.subnet == drafted.subnet && there.bridge == drafted.bridge => Ok(()),
        Ok(Some(there)) if !is_up(&there) && !fits(dirs, &there) => Ok(drafted.replace(dirs)?),
        _ => Err(Trouble::new(
            Errno::EEXIST,
            format!("the network `{}` was just made by another; try again", drafted.name),
        )),
    }
}

/// Whether its bridge is there with its mark, and up with its address: the kernel then has a route for the subnet over it.
pub fn is_up(network: &Network) -> bool {
    if !crate::sys::named_link(&network.bridge).is_ok_and(|link| link.alias.starts_with(&network.mark())) {
        return false;
    }
    let number = |ip: std::net::Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(ip.octets()));
    let (to, mask) = (number(network.subnet.network()), number(network.subnet.mask()));
    fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default().lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 7 && fields[0] == network.bridge && fields[1] == to && fields[7] == mask
    })
}

fn bridge(dirs: &Dirs, network: &Network, undone: bool, plan: &mut Plan) {
    let Network { name, bridge, mtu, .. } = network;
    let mac = mac_text(network.bridge_mac());
    let shell = format!(
        "ip link add {bridge} address {mac} mtu {mtu} up type bridge; ip link set {bridge} alias {}",
        network.mark()
    );
    let (root, this) = (dirs.clone(), network.clone());
    let op1 =
        op("sendto", ["RTM_NEWLINK".into(), bridge.clone(), "bridge".into(), mac], shell, move |_| make(&root, &this));
    let step = plan.add(Phase::Host, format!("bridge.{name}"), op1);
    step.why(
        "A switch made of software: every container of the network is plugged into it. Its alias says whose it is.",
    )
    .look(format!("ip -d link show {bridge}"));
    step.undo = undone.then(|| Undo::RemoveBridge { name: bridge.clone(), mark: network.mark() });
    let gateway = Ipv4Network::new(network.gateway, network.subnet.prefix()).unwrap_or(network.subnet);
    let (link, shell) = (bridge.clone(), format!("ip addr add {gateway} dev {bridge}"));
    let (root, this) = (dirs.clone(), network.clone());
    let op3 = op("sendto", ["RTM_NEWADDR".to_string(), bridge.clone(), gateway.to_string()], shell, move |_| {
        let _held = held(&root, &this)?;
        // Two data roots may have thought of the same subnet at the same moment.
        let _lock = firewall_lock()?;
        still_free(&this)?;
        match Netlink::here()?.add_address(netlink::index(&link)?, gateway) {
            Err(Errno::EEXIST) => Ok(()),
            other => Ok(other?),
        }
    });
    plan.add(Phase::Host, format!("gateway.{name}"), op3)
        .why("The host's own address on that switch: the containers' way out, and the host's way in.")
        .look(format!("ip addr show {bridge}"));
}

/// Nobody removes the network as long as this is open; an error if somebody has, between our look at it and now.
pub fn held(dirs: &Dirs, network: &Network) -> Result<fs::File, Trouble> {
    store::hold(dirs, network).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Trouble::new(Errno::ENOENT, format!("network {} was just removed", network.name)),
        _ => error.into(),
    })
}

/// Makes the bridge. One that is there and has our mark, or our hardware address and no mark, is ours, half made; any
/// other is a stranger's.
fn make(dirs: &Dirs, network: &Network) -> Result<(), Trouble> {
    let _held = held(dirs, network)?;
    // Another data root must not see it before it has its mark.
    let _lock = firewall_lock()?;
    let netlink = Netlink::here()?;
    match netlink.add_bridge(&network.bridge, network.mtu, network.bridge_mac()) {
        Ok(()) => return Ok(netlink.set_alias(netlink::index(&network.bridge)?, &orphans::alias(dirs, network))?),
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let there = netlink.links()?.into_iter().find(|link| link.name == network.bridge);
    let half_made = |link: &Link| link.alias.is_empty() && link.mac == network.bridge_mac();
    match there {
        Some(link) if link.kind == "bridge" && (link.alias.starts_with(&network.mark()) || half_made(&link)) => {
            if link.alias.is_empty() {
                netlink.set_alias(link.index, &orphans::alias(dirs, network))?;
            }
            Ok(netlink.set_up(link.index)?)
        }
        Some(link) if is_anothers(&link, network) => Err(Trouble::new(
            Errno::EEXIST,
            format!("the bridge `{}` was just made by another data root; try again", link.name),
        )),
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

fn still_free(network: &Network) -> Result<(), Trouble> {
    let netlink = Netlink::here()?;
    let (routes, own) = (netlink.routes()?, netlink::index(&network.bridge).ok());
    let used = |route: &&Route| route.link != own && route.to.prefix() > 1 && route.to.overlaps(network.subnet);
    match routes.iter().find(used) {
        None => Ok(()),
        Some(route) => Err(Trouble::new(
            Errno::EADDRINUSE,
            format!(
                "`{}` of network `{}` has come into use on this host (`{}`); try again",
                network.subnet, network.name, route.to
            ),
        )),
    }
}

/// Switches forwarding on; the bridge's alias says before that it was off.
fn forward(dirs: &Dirs, network: &Network) -> Result<(), Trouble> {
    let _held = held(dirs, network)?;
    if forwarding_is_off() {
        let alias = format!("{}{FORWARD_WAS_OFF}", crate::sys::named_link(&network.bridge)?.alias);
        Netlink::here()?.set_alias(netlink::index(&network.bridge)?, &alias)?;
        fs::write(FORWARD, "1")?;
    }
    Ok(())
}

/// What the room needs of this machine.
pub fn doctor() -> Vec<Fact> {
    let version = crate::plan::iptables_version();
    let found = version.as_ref().map_or("not found".to_string(), Clone::clone);
    let ipv6 = if has_ipv6() { "yes" } else { "no: only IPv4 networks" };
    let forward = if forwarding_is_off() { "off, until there is a network" } else { "on" };
    vec![
        Fact::need("iptables", found, version.is_ok(), "install iptables; until then: --network none"),
        Fact::met("ip_forward", forward),
        Fact::met("IPv6", ipv6),
    ]
}

/// The lock under which engines of all data roots read the tables and write them again: the tables are the host's.
pub fn firewall_lock() -> io::Result<fs::File> {
    const PATH: &str = "/run/mydocker-firewall.lock";
    // Whoever holds it may be waiting for another program's lock himself.
    let patience = 3 * firewall_patience();
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(PATH)?;
    let end = Instant::now() + Duration::from_secs(patience);
    while file.try_lock().is_err() {
        if Instant::now() > end {
            return Err(io::Error::other(format!(
                "another engine has held `{PATH}` for {patience} seconds (`fuser {PATH}` names it)"
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(file)
}

fn rules<'a>(dirs: &Dirs, network: &Network, plan: &'a mut Plan) -> &'a mut crate::plan::Step {
    let mut all: Vec<_> = store::list(dirs).into_iter().filter(|one| one.name != network.name).collect();
    all.push(network.clone());
    let shell = format!("iptables-restore --noflush --wait <<'END'\n{}END", firewall::preview(&all));
    let (dirs, this) = (dirs.clone(), network.clone());
    let op = op("posix_spawn", ["iptables-restore", "--noflush", "--wait"], shell, move |_| {
        let mut all = store::list(&dirs);
        if !all.iter().any(|one| one.name == this.name) {
            all.push(this.clone());
        }
        let _held = held(&dirs, &this)?;
        for family in [Family::V4, Family::V6] {
            fs::write(firewall::removal_file(&dirs, family, &this), firewall::removal(family, &this))?;
        }
        Ok(mend(&dirs, &all)?)
    });
    plan.add(Phase::Host, format!("rules.{}", network.name), op)
        .why("What leaves gets the host's address; what comes in does so only as an answer, or by a published port.")
        .look("iptables-save | grep MYDOCKER")
}

/// Writes the rules of all networks that are up, and the ports of all living containers that have lost theirs.
pub fn mend(dirs: &Dirs, networks: &[Network]) -> io::Result<()> {
    firewall::install(networks, &firewall_lock()?)?;
    for family in firewall::families(networks) {
        let mut wanted = Vec::new();
        for network in networks {
            for lease in super::ipam::living(dirs, network) {
                let mark = super::attach::mark(&lease.container);
                let rules = firewall::publish(family, "-A", &mark, lease.target(family, network), &lease.published);
                wanted.extend(rules.contains("\n-A ").then_some((mark, rules)));
            }
        }
        // To ask for what stands there is a program more: mostly nobody has published anything.
        let there = if wanted.is_empty() { vec![] } else { crate::plan::iptables_save(family)? };
        for (_, rules) in wanted.iter().filter(|(mark, _)| !there.iter().any(|(_, line)| line.contains(mark))) {
            crate::plan::iptables_restore(family, rules)?;
        }
    }
    Ok(())
}

pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
