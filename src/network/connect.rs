//! `network connect` and `network disconnect`: a container that runs gets one more card, or loses one; one at rest will
//! have it at its next start. What it has joined is one more lease file, so its resolver and its end know of it.
//!
//! Try it without us: `ip link add v1 type veth peer name eth1 netns $PID`; `nsenter -t $PID -n ip addr add …`

use super::attach::{self, Endpoint, check_address};
use super::ipam::{self, Lease};
use super::publish::{Publish, Published};
use super::store::{DEFAULT, Network};
use super::trouble::op;
use super::wish::{Attachment, Mode, Wish};
use super::{firewall, join, manage, names, ports, setup};
use crate::plan::{Child, Dirs, Family, Id, Phase, Plan, Spec, Undo};
use crate::sys;
use anyhow::{Result, bail};
use nix::errno::Errno;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// What the user says of one more network.
#[derive(Clone, Debug, Default)]
pub struct Connect {
    pub network: String,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub aliases: Vec<String>,
}

/// The wish of a container that may be on several networks.
fn wish(spec: &Spec) -> Result<Wish> {
    let Some(wish) = spec.own.get("network") else { bail!("the container was made without the network room") };
    let wish: Wish = serde_json::from_value(wish.clone())?;
    match wish.mode {
        Mode::Networks => Ok(wish),
        Mode::Host => bail!("container cannot be connected to or disconnected from a network: it has the host's"),
        Mode::None => bail!("container cannot be connected to or disconnected from a network: it was made with none"),
        Mode::Container(_) => bail!(
            "container sharing network namespace with another container or host cannot be connected to any other network"
        ),
    }
}

/// The network, and whether it is on disk: the default one comes with its first container.
fn find(dirs: &Dirs, name: &str) -> Result<(Network, bool)> {
    match name {
        DEFAULT | "default" => setup::find(dirs, DEFAULT),
        name => manage::find(dirs, name).map(|seen| (seen.network, true)),
    }
}

fn keep(spec: &mut Spec, wish: &Wish) -> Result<()> {
    spec.own.insert("network".into(), serde_json::to_value(wish)?);
    Ok(())
}

/// The networks on which the container is now, with its leases.
fn leases(spec: &Spec) -> Vec<(Network, Lease)> {
    names::joined(&spec.dirs, &spec.id)
}

/// One more network. `runs`: it runs, and gets its card now.
pub fn plan_connect(spec: &mut Spec, runs: bool, wanted: &Connect) -> Result<Plan> {
    let mut wish = wish(spec)?;
    let (network, on_disk) = find(&spec.dirs, &wanted.network)?;
    let who = spec.name.as_ref().map_or(spec.id.short(), |name| name.as_str()).to_string();
    if wish.attachments.iter().any(|one| one.network == network.name) {
        bail!("endpoint with name {who} already exists in network {}", network.name);
    }
    if network.name == DEFAULT && !wanted.aliases.is_empty() {
        bail!("--alias: aliases are for networks that were made with `mydocker network create`");
    }
    let aliases = wanted.aliases.clone();
    let attachment = Attachment { network: network.name.clone(), ip: wanted.ip, ip6: wanted.ip6, mac: None, aliases };
    check_address(&attachment, &network)?;
    if wish.attachments.len() >= 16 {
        bail!("a container can be on 16 networks at most");
    }
    wish.attachments.push(attachment.clone());
    keep(spec, &wish)?;
    let spec = &*spec;
    Plan::on_host("network", |plan| {
        if !runs {
            return Ok(());
        }
        let there = leases(spec);
        enter(spec, plan);
        setup::plan(&spec.dirs, &network, on_disk, false, plan);
        let number = free_number(&there, spec.id.as_str());
        // Ports that were published and whose network was left lead here now.
        let carried = there.iter().any(|(_, lease)| !lease.published.is_empty());
        let kept = if carried || network.internal { vec![] } else { kept_ports(&spec.folder()) };
        let endpoint = Arc::new(Endpoint::again(kept.clone()));
        let (leases, record) = (network.leases(&spec.dirs), attach::record(spec, &network.name));
        let step = attach::lease(spec, &wish, &network, &attachment, number, !kept.is_empty(), &endpoint, plan);
        step.undo = Some(Undo::LeaveNetwork { leases, record });
        attach::inside(&endpoint, plan);
        attach::pair(spec, &network, number, &attachment, &endpoint, plan);
        if !network.internal {
            attach::route(&network, true, &endpoint, plan);
        }
        if !kept.is_empty() {
            let link = attach::link_names(spec.id.as_str(), number).0;
            let ports: Vec<_> = kept.iter().map(wanted_again).collect();
            ports::publish(spec, &ports, &network, &link, number, &endpoint, plan);
        }
        let mut networks: Vec<_> = there.into_iter().map(|(network, _)| network).collect();
        networks.push(network.clone());
        names::resolv_conf(spec, &wish, &networks, plan);
        attach::hosts(spec, &wish, number..number + 1, &endpoint, plan)
    })
}

/// One network less.
pub fn plan_disconnect(spec: &mut Spec, runs: bool, name: &str) -> Result<Plan> {
    let mut wish = wish(spec)?;
    let (network, _) = find(&spec.dirs, name)?;
    let who = spec.name.as_ref().map_or(spec.id.short(), |name| name.as_str()).to_string();
    if !wish.attachments.iter().any(|one| one.network == network.name) {
        bail!("container {who} is not connected to the network {}", network.name);
    }
    wish.attachments.retain(|one| one.network != network.name);
    keep(spec, &wish)?;
    let spec = &*spec;
    Plan::on_host("network", |plan| {
        let (gone, rest): (Vec<_>, Vec<_>) =
            leases(spec).into_iter().partition(|(other, _)| other.name == network.name);
        if !runs {
            return Ok(());
        }
        enter(spec, plan);
        let published = match gone.first() {
            Some((_, lease)) => lease.published.clone(),
            // We were interrupted after it had left: its ports may lead nowhere.
            None if rest.iter().all(|(_, lease)| lease.published.is_empty()) => kept_ports(&spec.folder()),
            None => vec![],
        };
        if let Some((_, lease)) = gone.first() {
            leave(spec, &network, lease, plan);
        }
        if let Some((next, its)) = rest.iter().find(|(network, _)| !network.internal) {
            take_over(spec, next, its, published, plan);
        }
        let networks: Vec<_> = rest.into_iter().map(|(network, _)| network).collect();
        names::resolv_conf(spec, &wish, &networks, plan);
        Ok(())
    })
}

/// Out of `network`. What can be done twice comes first: whoever is interrupted begins again.
fn leave(spec: &Spec, network: &Network, lease: &Lease, plan: &mut Plan) {
    for (name, family) in [("unpublish", Family::V4), ("unpublish6", Family::V6)] {
        let rules = ports::rules(&spec.folder(), family);
        if !lease.published.is_empty() && rules.exists() {
            perform(name, "Its ports lead here no more.", Undo::RemoveRules { rules }, plan);
        }
    }
    forget_in_hosts(spec, lease.address, plan);
    let (leases, record) = (network.leases(&spec.dirs), attach::record(spec, &network.name));
    let undo = Undo::LeaveNetwork { leases, record };
    perform(&format!("leave.{}", network.name), "The pair goes, and the address is free.", undo, plan);
}

/// The way out, and what was published, lead over the network `next` from now on.
fn take_over(spec: &Spec, next: &Network, its: &Lease, published: Vec<Published>, plan: &mut Plan) {
    let number = number_of(its, spec.id.as_str()).unwrap_or(0);
    let endpoint = Arc::new(Endpoint::again(published.clone()));
    endpoint.learn(number, its.address, its.address6);
    attach::inside(&endpoint, plan);
    attach::route(next, true, &endpoint, plan);
    if published.is_empty() {
        return;
    }
    let ports: Vec<_> = published.iter().map(wanted_again).collect();
    ports::publish(spec, &ports, next, &its.link, number, &endpoint, plan);
    let (dirs, network, id, record) =
        (spec.dirs.clone(), next.clone(), spec.id.clone(), attach::record(spec, &next.name));
    let shell = format!("# {}: what is published", record.display());
    let op = op("rename", [record.display().to_string()], shell, move |_| {
        let lease = ipam::of(&dirs, &network, &id).ok_or(Errno::ENOENT)?;
        Ok(ipam::rewrite(&network.leases(&dirs), &record, &Lease { published: published.clone(), ..lease })?)
    });
    plan.add(Phase::Beside, "lease", op).why("Others read here which of its ports are published.");
}

/// A descriptor of the running container's network namespace, for the steps that follow.
fn enter(spec: &Spec, plan: &mut Plan) {
    let (dirs, id): (_, Id) = (spec.dirs.clone(), spec.id.clone());
    let shown = join::first_process(&dirs, &id).map_or("$PID".to_string(), |pid| pid.to_string());
    let path = format!("/proc/{shown}/ns/net");
    let op = op("openat", [path.clone()], format!("PID={shown}; exec 9< {path}"), move |stage| {
        let pid = join::first_process(&dirs, &id).ok_or(Errno::ESRCH)?;
        let pidfd = sys::pidfd_open(pid as i32)?;
        let network = fs::File::open(format!("/proc/{pid}/ns/net"))?.into();
        // Looked at again, now that we hold it: the number is still the container's.
        join::first_process(&dirs, &id).filter(|again| *again == pid).ok_or(Errno::ESRCH)?;
        stage.child = Some(Child { pid: nix::unistd::Pid::from_raw(pid as i32), pidfd, network });
        Ok(())
    });
    plan.add(Phase::Claim, "enter", op)
        .why("The container's network namespace, held by a descriptor: it can never become another one's.")
        .look(format!("ls -l {path}"));
}

/// A step that is another one's way back.
fn perform(name: &str, why: &'static str, undo: Undo, plan: &mut Plan) {
    let shell = undo.shell();
    let op = op("unlinkat", [""; 0], shell, move |_| Ok(undo.perform()?));
    plan.add(Phase::Host, name, op).why(why);
}

/// What the container's start has published: the sockets that keep the ports are still its engine's.
fn kept_ports(folder: &Path) -> Vec<Published> {
    let read =
        |family| fs::read_to_string(ports::rules(folder, family)).map_or(vec![], |text| firewall::published(&text));
    [Family::V4, Family::V6].into_iter().flat_map(read).collect()
}

fn wanted_again(one: &Published) -> Publish {
    let Published { ip, host_port, port, protocol } = one.clone();
    Publish { ip: Some(ip), host: Some((host_port, host_port)), port, protocol }
}

/// Which of the container's cards the lease is about: the last digit of the link's name.
fn number_of(lease: &Lease, id: &str) -> Option<usize> {
    usize::from_str_radix(lease.link.strip_prefix("ve")?.strip_prefix(id.get(..12)?)?, 16).ok()
}

fn free_number(there: &[(Network, Lease)], id: &str) -> usize {
    let taken: Vec<_> = there.iter().filter_map(|(_, lease)| number_of(lease, id)).collect();
    (0..16).find(|number| !taken.contains(number)).unwrap_or(15)
}

/// In place: the file is bound into the container by its inode.
fn forget_in_hosts(spec: &Spec, address: Ipv4Addr, plan: &mut Plan) {
    let path = spec.folder().join("hosts");
    let shell = format!("sed -i --follow-symlinks '/^{address}\\t/d' {}", path.display());
    let op = op("write", [path.display().to_string()], shell, move |_| {
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let own = |line: &&str| line.split_whitespace().next() != Some(&address.to_string());
        let kept: String = text.lines().filter(own).map(|line| format!("{line}\n")).collect();
        Ok(fs::write(&path, kept)?)
    });
    plan.add(Phase::Host, "hosts", op).why("Its name has that address no more.");
}
