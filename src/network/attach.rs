//! A container's own wire, as steps: ports reserved, an address leased, then, beside the waiting child, the veth pair,
//! the address, the route, the rules.

use super::ipam::{self, Lease};
use super::netlink::{self, Netlink, Veth};
use super::publish::Published;
use super::relay::Relay;
use super::setup::mac_text;
use super::store::{self, Network};
use super::trouble::{Trouble, op};
use super::wish::{Attachment, Wish};
use super::{ipv6, links, names, ports, setup};
use crate::plan::{Family, Phase, Plan, Spec, Step, Told, Undo};
use anyhow::{Result, bail};
use ipnetwork::Ipv4Network;
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// What the steps find out and the later ones need.
#[derive(Default)]
pub struct Endpoint {
    addresses: Mutex<Vec<(usize, Ipv4Addr)>>,
    /// Addresses of the second subnet that do not go with those.
    said6: Mutex<Vec<(usize, Ipv6Addr)>>,
    ports: Mutex<Vec<Published>>,
    pub relay: Arc<Relay>,
    /// Ports of a container that runs, which its engine keeps.
    kept: Vec<Published>,
    inside: OnceLock<Netlink>,
}

impl Endpoint {
    /// Of a container that runs, and has published `kept`.
    pub fn again(kept: Vec<Published>) -> Self {
        Self { kept, ..Self::default() }
    }

    pub fn learn(&self, number: usize, address: Ipv4Addr, said6: Option<Ipv6Addr>) {
        if let Ok(mut addresses) = self.addresses.lock() {
            addresses.push((number, address));
        }
        if let Ok(mut all) = self.said6.lock() {
            all.extend(said6.map(|ip6| (number, ip6)));
        }
    }

    pub fn address(&self, number: usize) -> Option<Ipv4Addr> {
        self.addresses.lock().ok()?.iter().find(|one| one.0 == number).map(|one| one.1)
    }

    /// The one in that family: the container's ports lead there.
    pub fn address_in(&self, family: Family, number: usize, network: &Network) -> Option<IpAddr> {
        let address = self.address(number)?;
        match family {
            Family::V4 => Some(address.into()),
            Family::V6 => {
                let said =
                    self.said6.lock().ok().and_then(|all| all.iter().find(|one| one.0 == number).map(|one| one.1));
                said.or_else(|| network.address6(address).map(|ip6| ip6.ip())).map(IpAddr::from)
            }
        }
    }

    /// A port that a socket of the engine keeps.
    pub fn reserved(&self, port: Published) {
        if let Ok(mut ports) = self.ports.lock() {
            ports.push(port);
        }
    }

    pub fn published(&self) -> Vec<Published> {
        let reserved = self.ports.lock().map(|ports| ports.clone());
        reserved.unwrap_or_default().into_iter().chain(self.kept.iter().cloned()).collect()
    }

    pub fn inside(&self) -> Result<&Netlink, Errno> {
        self.inside.get().ok_or(Errno::EBADF)
    }
}

/// What is not there any more needs no removing.
fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// What the rules of a container bear as a comment, and its links as an alias.
pub fn mark(id: &str) -> String {
    format!("mydocker:{}", id.get(..12).unwrap_or(id))
}

/// The names of one pair: the host's end bears the container's id, and a digit per network.
pub fn link_names(id: &str, number: usize) -> (String, String) {
    (format!("ve{}{number:x}", id.get(..12).unwrap_or(id)), format!("eth{number}"))
}

pub fn plan(spec: &Spec, wish: &Wish, plan: &mut Plan) -> Result<()> {
    let endpoint = Arc::new(Endpoint::default());
    let mut networks = Vec::new();
    for attachment in &wish.attachments {
        let (network, on_disk) = setup::find(&spec.dirs, &attachment.network)?;
        check_address(attachment, &network)?;
        setup::plan(&spec.dirs, &network, on_disk, false, plan);
        networks.push(network);
    }
    // A network that goes nowhere has no ports on the host either.
    let way_out = networks.iter().position(|network| !network.internal);
    let publish: &[_] = if way_out.is_some() { &wish.publish } else { &[] };
    let ipv6 = way_out.is_some_and(|number| networks[number].subnet6.is_some());
    ports::reserve(&spec.dirs, publish, ipv6, &endpoint, plan);
    for (number, (network, attachment)) in networks.iter().zip(&wish.attachments).enumerate() {
        lease(spec, wish, network, attachment, number, way_out == Some(number), &endpoint, plan);
    }
    hosts(spec, wish, 0..networks.len(), &endpoint, plan)?;
    inside(&endpoint, plan)
        .undo(Undo::LeaveNetworks { networks: spec.dirs.root.join("networks"), folder: spec.folder() });
    for (number, network) in networks.iter().enumerate() {
        pair(spec, network, number, &wish.attachments[number], &endpoint, plan);
    }
    names::plan(spec, wish, &networks, plan);
    if let Some(number) = way_out {
        route(&networks[number], false, &endpoint, plan);
        if !publish.is_empty() {
            let link = link_names(spec.id.as_str(), number).0;
            ports::publish(spec, publish, &networks[number], &link, number, &endpoint, plan);
            ports::relay(spec, publish, ipv6, &endpoint, plan);
        }
    }
    Ok(())
}

/// The container's own copy of a lease.
pub fn record(spec: &Spec, network: &str) -> PathBuf {
    spec.folder().join(format!("lease-{network}"))
}

pub fn check_address(attachment: &Attachment, network: &Network) -> Result<()> {
    ipv6::check(attachment, network)?;
    let Some(ip) = attachment.ip else { return Ok(()) };
    if !network.is_host(ip) {
        bail!("--ip: `{ip}` is not an address for a host in `{}` of network `{}`", network.subnet, network.name);
    }
    if ip == network.gateway {
        bail!("--ip: `{ip}` is the gateway of network `{}`", network.name);
    }
    Ok(())
}

/// `$ADDRESS`, and `$ADDRESS1` on the second network.
pub fn word(number: usize) -> String {
    if number == 0 { "ADDRESS".to_string() } else { format!("ADDRESS{number}") }
}

/// Leases an address. `carries`: the container's published ports lead over this network.
#[expect(clippy::too_many_arguments, reason = "each is one fact about the endpoint")]
pub fn lease<'a>(
    spec: &Spec,
    wish: &Wish,
    network: &Network,
    attachment: &Attachment,
    number: usize,
    carries: bool,
    endpoint: &Arc<Endpoint>,
    plan: &'a mut Plan,
) -> &'a mut Step {
    let leases = network.leases(&spec.dirs);
    let record = record(spec, &network.name);
    let told = Told::new(word(number));
    let guess = attachment.ip.or_else(|| ipam::free(network, &ipam::names(&leases)));
    let guess = guess.map_or("none is free".to_string(), |ip| ip.to_string());
    let shell = format!("{}={guess}; ln {} {}/", told.name(), record.display(), leases.display());
    let new = Lease {
        address: Ipv4Addr::UNSPECIFIED,
        address6: attachment.ip6,
        container: spec.id.to_string(),
        name: spec.name.as_ref().map(|name| name.as_str().to_string()),
        hostname: spec.oci.hostname().clone(),
        mac: String::new(),
        link: link_names(spec.id.as_str(), number).0,
        aliases: attachment.aliases.clone(),
        published: vec![],
        exposed: wish.exposed.iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect(),
        env: spec.process().env().clone().unwrap_or_default(),
    };
    let (dirs, network_, endpoint, teller) =
        (spec.dirs.clone(), network.clone(), Arc::clone(endpoint), Arc::clone(&told));
    let (wanted, ip6, mac, path) = (attachment.ip, attachment.ip6, attachment.mac, record.clone());
    let op = op("linkat", [format!("{}/${}", leases.display(), told.name())], shell, move |_| {
        let mut new = new.clone();
        new.published = if carries { endpoint.published() } else { vec![] };
        let mac = |ip| mac_text(mac.unwrap_or_else(|| store::mac_of(ip)));
        let _held = setup::held(&dirs, &network_)?;
        let address = ipam::claim(&dirs, &network_, wanted, new, &path, mac);
        let address = address.map_err(|errno| no_address(errno, &network_, wanted, ip6))?;
        teller.tell(address.to_string());
        endpoint.learn(number, address, ip6);
        Ok(())
    });
    plan.add(Phase::Host, format!("lease.{}", network.name), op)
        .why("An address is a file that can be made only once: of fifty who want it, one gets it.")
        .look(format!("ls {}", leases.display()))
        .tells(&told)
        .undo(Undo::ReleaseLease { leases, record })
}

fn no_address(errno: Errno, network: &Network, wanted: Option<Ipv4Addr>, ip6: Option<Ipv6Addr>) -> Trouble {
    match (errno, wanted) {
        (Errno::EADDRNOTAVAIL, _) if let Some(ip) = ip6 => {
            Trouble::new(errno, format!("--ip6: `{ip}` is in use on network `{}`", network.name))
        }
        (Errno::EADDRINUSE, Some(ip)) => {
            Trouble::new(errno, format!("--ip: `{ip}` is in use on network `{}`", network.name))
        }
        (Errno::ENOSPC, _) => {
            Trouble::new(errno, format!("no address is left in `{}` of network `{}`", network.subnet, network.name))
        }
        _ => errno.into(),
    }
}

/// `/etc/hosts` gets a line per address, as the container's own name for itself.
pub fn hosts(spec: &Spec, wish: &Wish, numbers: Range<usize>, endpoint: &Arc<Endpoint>, plan: &mut Plan) -> Result<()> {
    if spec.rootfs().is_none() {
        return Ok(());
    }
    // What the user has said stands there since the start.
    let extra = if numbers.start == 0 { said_hosts(spec, wish)? } else { String::new() };
    let path = spec.folder().join("hosts");
    let hostname = spec.oci.hostname().clone().unwrap_or_else(|| spec.id.short().to_string());
    let names = match spec.oci.domainname() {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => hostname,
    };
    let shell = format!("echo \"$ADDRESS {names}\" >> {}", path.display());
    let (endpoint, file) = (Arc::clone(endpoint), path.clone());
    let op = op("write", [path.display().to_string()], shell, move |_| {
        use std::io::Write;
        let lines = numbers.clone().filter_map(|number| endpoint.address(number)).map(|ip| format!("{ip}\t{names}\n"));
        let mut hosts = std::fs::OpenOptions::new().append(true).open(&file)?;
        Ok(hosts.write_all((extra.clone() + &lines.collect::<String>()).as_bytes())?)
    });
    plan.add(Phase::Host, "hosts", op)
        .why("The container can find its own name without asking anybody.")
        .look("cat /proc/$PID/root/etc/hosts");
    Ok(())
}

/// The lines of `--add-host` and `--link`.
fn said_hosts(spec: &Spec, wish: &Wish) -> Result<String> {
    let mut text = String::new();
    let gateway = || Some(setup::find(&spec.dirs, &wish.attachments.first()?.network).ok()?.0.gateway.into());
    for (name, address) in &wish.hosts {
        if let Some(address) = address.or_else(gateway) {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    for (address, names) in links::hosts(wish, spec)? {
        text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    Ok(text)
}

/// A netlink socket belongs to the network namespace in which it was opened.
pub fn inside<'a>(endpoint: &Arc<Endpoint>, plan: &'a mut Plan) -> &'a mut Step {
    let endpoint = Arc::clone(endpoint);
    let op =
        op("setns", ["/proc/$PID/ns/net", "CLONE_NEWNET"], "nsenter -t $PID -n sh   # for $IP below", move |stage| {
            let child = stage.child.as_ref().ok_or(Errno::ECHILD)?;
            let _ = endpoint.inside.set(Netlink::inside(child.network.as_fd())?);
            Ok(())
        });
    plan.add(Phase::Beside, "inside", op)
        .why("Into the container's network namespace for a moment, to open a netlink socket that stays there.")
        .look("ls -l /proc/$PID/ns/net")
}

/// The pair, its host end as a port of the bridge, and the container's end with its address.
pub fn pair(
    spec: &Spec,
    network: &Network,
    number: usize,
    attachment: &Attachment,
    endpoint: &Arc<Endpoint>,
    plan: &mut Plan,
) {
    let mac = attachment.mac;
    let (link, eth) = link_names(spec.id.as_str(), number);
    let Network { name, bridge, mtu, .. } = network.clone();
    let (address, prefix) = (word(number), network.subnet.prefix());
    let shell = format!(
        "ip link add {link} mtu {mtu} master {bridge} up type veth peer name {eth} mtu {mtu} address {} netns $PID",
        mac.map_or_else(|| format!("$(printf 02:42:%02x:%02x:%02x:%02x $(echo ${address} | tr . ' '))"), mac_text)
    );
    let (shared, ours, theirs, switch) = (Arc::clone(endpoint), link.clone(), eth.clone(), bridge.clone());
    let op1 = op("sendto", ["RTM_NEWLINK", &link, "veth", &eth, &bridge], shell, move |stage| {
        let pid = stage.child.as_ref().ok_or(Errno::ECHILD)?.pid.as_raw() as u32;
        let mac = mac.or_else(|| shared.address(number).map(store::mac_of)).ok_or(Errno::EADDRNOTAVAIL)?;
        let veth = Veth { name: &ours, mtu, bridge: &switch, peer: &theirs, mac, pid };
        match Netlink::here()?.add_veth(&veth) {
            // The card of its last life, whose network namespace the kernel has not taken apart yet: the name is the id's.
            Err(Errno::EEXIST) => {
                gone(netlink::index(&ours).and_then(|old| Netlink::here()?.delete(old)))?;
                Ok(Netlink::here()?.add_veth(&veth)?)
            }
            other => Ok(other?),
        }
    });
    plan.add(Phase::Beside, format!("veth.{name}"), op1)
        .why("Two cards and a cable between them: one end is born as a port of the bridge, the other in the container.")
        .look(format!("ip -d link show {link}; nsenter -t $PID -n ip link"))
        .undo(Undo::RemoveLink { name: link.clone() });
    let alias = mark(spec.id.as_str());
    let (ours, text) = (link.clone(), alias.clone());
    let op2 = op("sendto", ["RTM_SETLINK", &link, &alias], format!("ip link set {link} alias {alias}"), move |_| {
        Ok(Netlink::here()?.set_alias(netlink::index(&ours)?, &text)?)
    });
    plan.add(Phase::Beside, format!("alias.{name}"), op2).why("Whoever finds the port can see whose it is.");
    address_steps(&name, &eth, number, prefix, endpoint, plan);
    ipv6::address(network, &eth, number, attachment.ip6, endpoint, plan);
}

fn address_steps(name: &str, eth: &str, number: usize, prefix: u8, endpoint: &Arc<Endpoint>, plan: &mut Plan) {
    let index: Arc<OnceLock<u32>> = Arc::default();
    let address = word(number);
    let (shared, found, card) = (Arc::clone(endpoint), Arc::clone(&index), eth.to_string());
    let shell = format!("nsenter -t $PID -n ip addr add ${address}/{prefix} dev {eth}");
    let op1 = op("sendto", ["RTM_NEWADDR", eth, &format!("${address}/{prefix}")], shell, move |stage| {
        let child = stage.child.as_ref().ok_or(Errno::ECHILD)?;
        let index = netlink::within(child.network.as_fd(), || netlink::index(&card))?;
        let _ = found.set(index);
        let ip = shared.address(number).ok_or(Errno::EADDRNOTAVAIL)?;
        let address = Ipv4Network::new(ip, prefix).map_err(|_| Errno::EINVAL)?;
        Ok(shared.inside()?.add_address(index, address)?)
    });
    plan.add(Phase::Beside, format!("address.{name}"), op1)
        .why("The address that was leased, and with its prefix a route to everybody on the same bridge.")
        .look("nsenter -t $PID -n ip addr");
    let shared = Arc::clone(endpoint);
    let shell = format!("nsenter -t $PID -n ip link set {eth} up");
    let op2 = op("sendto", ["RTM_SETLINK", eth, "IFF_UP"], shell, move |_| {
        Ok(shared.inside()?.set_up(*index.get().ok_or(Errno::ENODEV)?)?)
    });
    plan.add(Phase::Beside, format!("up.{name}"), op2)
        .why("A card is born down; with both ends up there is carrier.")
        .look("nsenter -t $PID -n ip -br link");
}

/// `another`: it may have a way out already, which stays.
pub fn route(network: &Network, another: bool, endpoint: &Arc<Endpoint>, plan: &mut Plan) {
    let (gateway, shared) = (network.gateway, Arc::clone(endpoint));
    let shell = format!("nsenter -t $PID -n ip route add default via {gateway}");
    let op =
        op("sendto", ["RTM_NEWROUTE".to_string(), "default".into(), gateway.to_string()], shell, move |_| match shared
            .inside()?
            .add_default_route(gateway)
        {
            Err(Errno::EEXIST) if another => Ok(()),
            other => Ok(other?),
        });
    plan.add(Phase::Beside, "route", op)
        .why("Everything that is not on the bridge goes to the host, which knows the way.")
        .look("nsenter -t $PID -n ip route");
}
