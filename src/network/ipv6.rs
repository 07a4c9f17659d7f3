//! The second address: every IPv4 address of a network with IPv6 has its own in the second subnet (`man 7 ipv6`). Nothing
//! is translated inside; only what leaves gets the host's address, and what was published finds its way in.
//!
//! Try it without us: `echo 0 > /proc/sys/net/ipv6/conf/br0/disable_ipv6; ip -6 addr add fd00:7::1/64 dev br0 nodad`

use super::attach::{Endpoint, word};
use super::netlink::{self, Netlink};
use super::store::Network;
use super::trouble::op;
use super::wish::Attachment;
use super::{firewall, netlink::within, setup};
use crate::plan::{Dirs, FORWARD6_WAS_OFF, Family, Phase, Plan, Undo};
use anyhow::{Result, bail};
use ipnetwork::Ipv6Network;
use nix::errno::Errno;
use std::fs;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::Arc;

const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Whether the kernel has IPv6 (`ipv6.disable=1` takes it away).
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6/conf").exists()
}

/// Refuses an address that cannot be the container's, and a network that the kernel cannot have any more.
pub fn check(attachment: &Attachment, network: &Network) -> Result<()> {
    let name = &network.name;
    if network.subnet6.is_some() && !has_ipv6() {
        bail!(
            "network `{name}` has IPv6, and this kernel has none (it was started with ipv6.disable=1, or built without)"
        );
    }
    let Some(ip) = attachment.ip6 else { return Ok(()) };
    let Some(subnet) = network.subnet6 else {
        bail!("--ip6: `{ip}`: network `{name}` has no IPv6 (`mydocker network create --ipv6`)");
    };
    if !subnet.contains(ip) || ip == subnet.network() {
        bail!("--ip6: `{ip}` is not an address for a host in `{subnet}` of network `{name}`");
    }
    if network.gateway6().is_some_and(|gateway| gateway.ip() == ip) {
        bail!("--ip6: `{ip}` is the gateway of network `{name}`");
    }
    Ok(())
}

/// The steps that give a network its second subnet: the bridge's address, and forwarding.
pub fn network(dirs: &Dirs, network: &Network, undone: bool, plan: &mut Plan) {
    let (Network { name, bridge, .. }, Some(gateway)) = (network, network.gateway6()) else { return };
    let path = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
    let (root, this) = (dirs.clone(), network.clone());
    let (link, shell) = (bridge.clone(), format!("echo 0 > {path}; ip addr add {gateway} dev {bridge} nodad"));
    let op1 = op("sendto", ["RTM_NEWADDR".to_string(), bridge.clone(), gateway.to_string()], shell, move |_| {
        let _held = setup::held(&root, &this)?;
        fs::write(&path, "0")?;
        match Netlink::here()?.add_address6(netlink::index(&link)?, gateway) {
            Err(Errno::EEXIST) => Ok(()),
            other => Ok(other?),
        }
    });
    let step = plan.add(Phase::Host, format!("gateway6.{name}"), op1);
    step.why("The host's IPv6 address on that switch.").look(format!("ip -6 addr show {bridge}"));
    step.undo = undone.then(|| Undo::RemoveRules { rules: firewall::removal_file(dirs, Family::V6, network) });
    if network.internal || fs::read_to_string(FORWARD6).is_ok_and(|value| value.trim() == "1") {
        return;
    }
    let (root, this) = (dirs.clone(), network.clone());
    let op2 = op("write", [FORWARD6, "1"], format!("echo 1 > {FORWARD6}"), move |_| {
        let _held = setup::held(&root, &this)?;
        let alias = crate::sys::named_link(&this.bridge)?.alias;
        Netlink::here()?.set_alias(netlink::index(&this.bridge)?, &format!("{alias}{FORWARD6_WAS_OFF}"))?;
        Ok(fs::write(FORWARD6, "1")?)
    });
    plan.add(Phase::Host, format!("forward6.{name}"), op2)
        .why("The same in IPv6. A host that forwards no longer takes routes from routers by itself, but for accept_ra=2.")
        .look("sysctl net.ipv6.conf.all.forwarding");
}

/// The container's address in the second subnet, `said` or the one that goes with its IPv4 address, and the way out there.
pub fn address(
    network: &Network,
    eth: &str,
    number: usize,
    said: Option<Ipv6Addr>,
    endpoint: &Arc<Endpoint>,
    plan: &mut Plan,
) {
    let Some(subnet) = network.subnet6 else { return };
    let (this, card, shared) = (network.clone(), eth.to_string(), Arc::clone(endpoint));
    let shown = said.map_or(format!("${}6", word(number)), |ip| format!("{ip}/{}", subnet.prefix()));
    let shell = format!("nsenter -t $PID -n ip -6 addr add {shown} dev {eth} nodad");
    let op1 = op("sendto", ["RTM_NEWADDR", eth, "AF_INET6"], shell, move |stage| {
        let child = stage.child.as_ref().ok_or(Errno::ECHILD)?;
        let address = match said {
            Some(ip) => Ipv6Network::new(ip, subnet.prefix()).ok(),
            None => shared.address(number).and_then(|ip| this.address6(ip)),
        };
        let index = within(child.network.as_fd(), || {
            let off = format!("/proc/sys/net/ipv6/conf/{card}/disable_ipv6");
            fs::write(off, "0").map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
            netlink::index(&card)
        })?;
        let inside = shared.inside()?;
        inside.add_address6(index, address.ok_or(Errno::EADDRNOTAVAIL)?)?;
        match this.gateway6().filter(|_| !this.internal).map(|gateway| inside.add_default_route6(gateway.ip())) {
            Some(Err(errno)) if errno != Errno::EEXIST => Err(errno.into()),
            _ => Ok(()),
        }
    });
    plan.add(Phase::Beside, format!("address6.{}", network.name), op1)
        .why("The same place in the network's IPv6 subnet, and the host's address there as the way out.")
        .look("nsenter -t $PID -n ip -6 addr; nsenter -t $PID -n ip -6 route");
}
