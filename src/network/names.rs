//! Names: containers on a network of the user's making find each other through a resolver at 127.0.0.11, port 53. Its
//! sockets are bound in the container's network namespace and served by a thread of the container's engine; who is on
//! the network is read from the lease files, so there is nothing to keep in step.
//!
//! Look: `nsenter -t $PID -n nslookup web 127.0.0.11`

use super::ipam::{self, Lease};
use super::netlink;
use super::resolver::{ADDRESS, Resolver};
use super::store::{self, DEFAULT, Network};
use super::trouble::op;
use super::wish::Wish;
use crate::plan::{Dirs, Id, Phase, Plan, Spec};
use crate::sys;
use nix::errno::Errno;
use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

/// The step that starts the resolver, and resolv.conf. Whoever is on the default network alone asks the host's servers;
/// should he join another one later, the resolver is there.
pub fn plan(spec: &Spec, wish: &Wish, networks: &[Network], plan: &mut Plan) {
    let said = !wish.dns.is_empty() || !wish.dns_search.is_empty() || !wish.dns_options.is_empty();
    if said || named(networks) {
        resolv_conf(spec, wish, networks, plan);
    }
    let (dirs, id, dns) = (spec.dirs.clone(), spec.id.clone(), wish.dns.clone());
    let resolver = Arc::new(Resolver { dirs, id, dns });
    let shell = format!("# serve {ADDRESS}:53 in the container's network namespace");
    let op = op("bind", [ADDRESS.to_string(), "53".into()], shell, move |stage| {
        let child = stage.child.as_ref().ok_or(Errno::ECHILD)?;
        let sockets = netlink::within(child.network.as_fd(), || {
            sys::loopback_up()?;
            let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            Ok((UdpSocket::bind((ADDRESS, 53)).map_err(io)?, TcpListener::bind((ADDRESS, 53)).map_err(io)?))
        })?;
        let (resolver, ended) = (Arc::clone(&resolver), child.pidfd.try_clone()?);
        let work = move || resolver.serve(&Arc::new(sockets.0), &sockets.1, &ended);
        std::thread::Builder::new().name("names".into()).stack_size(128 << 10).spawn(work)?;
        Ok(())
    });
    plan.add(Phase::Beside, "names", op)
        .why("On a network of the user's containers have names; whoever asks is answered from the lease files.")
        .look("nsenter -t $PID -n ss -lntu");
}

/// Whether any of them has names.
fn named(networks: &[Network]) -> bool {
    networks.iter().any(|network| network.name != DEFAULT)
}

/// The networks on which container `id` is now, with its leases.
pub fn joined(dirs: &Dirs, id: &Id) -> Vec<(Network, Lease)> {
    let entries = fs::read_dir(dirs.container(id)).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("lease-").map(str::to_string)).collect();
    names.sort();
    let networks = names.iter().filter_map(|name| store::load(dirs, name).ok().flatten());
    networks.filter_map(|network| ipam::of(dirs, &network, id).map(|lease| (network, lease))).collect()
}

pub fn resolv_conf(spec: &Spec, wish: &Wish, networks: &[Network], plan: &mut Plan) {
    if spec.rootfs().is_none() {
        return;
    }
    let resolver = named(networks);
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let of_host = |word: &str| {
        let line = host.lines().rev().find_map(|line| line.trim().strip_prefix(word));
        line.map(|rest| rest.split_whitespace().map(str::to_string).collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut text = String::new();
    let servers = match (resolver, wish.dns.is_empty()) {
        (true, _) => vec![IpAddr::V4(ADDRESS)],
        (false, false) => wish.dns.clone(),
        (false, true) => host_servers().into_iter().filter(|server| !server.is_loopback()).collect(),
    };
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = if wish.dns_search.is_empty() { of_host("search") } else { wish.dns_search.clone() };
    // `--dns-search .`: none.
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = if wish.dns_options.is_empty() { of_host("options") } else { wish.dns_options.clone() };
    if resolver && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_string());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    plan.add(Phase::Host, "resolv.conf", crate::plan::Op::write_file(&spec.folder().join("resolv.conf"), text, 0o644))
        .why("Whom the container asks for names.")
        .look("cat /proc/$PID/root/etc/resolv.conf");
}

pub fn host_servers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}
