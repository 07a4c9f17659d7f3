//! Addresses: a lease is a file `networks/<name>/leases/<ip>`, claimed by an exclusive link, so that of fifty who want
//! the same address one gets it. It names its container; when nobody holds that container's journal locked any more,
//! the address is free again, without anyone having given it back.

use super::join::first_process;
use super::publish::{Protocol, Published, meet};
use super::store::{self, Network};
use crate::plan::{Dirs, Family, Id, has_owner};
use ipnetwork::Ipv6Network;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// What a lease file says: all that others on the network need to know of its owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    pub address: Ipv4Addr,
    /// Its IPv6 address, if that is not the one that goes with `address`; it has a file of its own then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address6: Option<Ipv6Addr>,
    pub container: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    pub mac: String,
    /// The host's end of its veth pair.
    pub link: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub published: Vec<Published>,
    /// `5432/tcp`: what the container says it listens on.
    #[serde(default)]
    pub exposed: Vec<String>,
    /// Its environment, for `--link`.
    #[serde(default)]
    pub env: Vec<String>,
}

impl Lease {
    /// The address in the second subnet of `network`.
    pub fn cidr6(&self, network: &Network) -> Option<Ipv6Network> {
        let prefix = network.subnet6?.prefix();
        self.address6.map_or_else(|| network.address6(self.address), |ip| Ipv6Network::new(ip, prefix).ok())
    }

    /// Where its ports lead, in rules of that family; `None`: it has no such address.
    pub fn target(&self, family: Family, network: &Network) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(self.address.into()),
            Family::V6 => self.cidr6(network).map(|ip6| ip6.ip().into()),
        }
    }

    /// Whether its owner lives: its engine, or, if that was killed, the container alone.
    pub fn is_held(&self, dirs: &Dirs) -> bool {
        Id::parse(&self.container).is_some_and(|id| has_owner(dirs, &id) || first_process(dirs, &id).is_some())
    }
}

/// The leases of `network`, dead ones included, by address.
pub fn leases(dirs: &Dirs, network: &Network) -> Vec<Lease> {
    let folder = network.leases(dirs);
    let mut all: Vec<Lease> =
        names(&folder).iter().filter_map(|address| read(&folder.join(address.to_string())).ok()).collect();
    all.sort_by_key(|lease| lease.address);
    all
}

/// Those whose owner lives.
pub fn living(dirs: &Dirs, network: &Network) -> Vec<Lease> {
    leases(dirs, network).into_iter().filter(|lease| lease.is_held(dirs)).collect()
}

/// The lease of container `id` on `network`, while it is its own: the container's folder keeps a copy.
pub fn of(dirs: &Dirs, network: &Network, id: &Id) -> Option<Lease> {
    let copy = read(&dirs.container(id).join(format!("lease-{}", network.name))).ok()?;
    let lease = read(&network.leases(dirs).join(copy.address.to_string())).ok()?;
    (lease.container == id.as_str()).then_some(lease)
}

/// Whether a container that has lost its engine, and with it the socket that kept the port, still publishes `port` on one
/// of `addresses`.
pub fn publishes(dirs: &Dirs, addresses: &[IpAddr], port: u16, protocol: Protocol) -> bool {
    let same = |one: &Published| {
        (one.host_port, one.protocol) == (port, protocol) && addresses.iter().any(|ip| meet(*ip, one.ip))
    };
    let orphan = |lease: &Lease| {
        let id = Id::parse(&lease.container);
        id.is_some_and(|id| !has_owner(dirs, &id) && first_process(dirs, &id).is_some())
    };
    let networks = store::list(dirs);
    let mut leases = networks.iter().flat_map(|network| leases(dirs, network));
    leases.any(|lease| lease.published.iter().any(same) && orphan(&lease))
}

fn read(path: &Path) -> io::Result<Lease> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Claims an address for `lease`, whose own is filled in: `wanted`, or the first free one. `record` is a file in the
/// container's folder that keeps a copy. ENOSPC: none is left; EADDRINUSE: `wanted` is another's; EADDRNOTAVAIL: the
/// lease's own IPv6 address is.
pub fn claim(
    dirs: &Dirs,
    network: &Network,
    wanted: Option<Ipv4Addr>,
    lease: Lease,
    record: &Path,
    mac: impl Fn(Ipv4Addr) -> String,
) -> Result<Ipv4Addr, Errno> {
    let folder = network.leases(dirs);
    let mut taken = names(&folder);
    let Some(ip6) = lease.address6 else {
        loop {
            let address = claim_first(dirs, network, wanted, lease.clone(), record, &mac, &mut taken)?;
            // Somebody may have asked for the IPv6 address that goes with it: we asked after claiming, as he does.
            match network.address6(address).map(|ip6| read(&folder.join(ip6.ip().to_string()))) {
                Some(Ok(other)) if other.container != lease.container && other.is_held(dirs) => {
                    fs::remove_file(folder.join(address.to_string())).map_err(errno)?;
                    if wanted.is_some() {
                        return Err(Errno::EADDRINUSE);
                    }
                    taken.push(address);
                }
                _ => return Ok(address),
            }
        }
    };
    let address = claim_first(dirs, network, wanted, lease, record, &mac, &mut taken)?;
    let result = claim_ipv6(dirs, network, &folder, record, ip6);
    if result.is_err() {
        fs::remove_file(folder.join(address.to_string())).map_err(errno)?;
    }
    result.map(|()| address)
}

/// A second name for the lease, the IPv6 address that was asked for; under the lock of the network's folder.
fn claim_ipv6(dirs: &Dirs, network: &Network, folder: &Path, record: &Path, ip6: Ipv6Addr) -> Result<(), Errno> {
    let lock = File::open(folder).map_err(errno)?;
    lock.lock().map_err(errno)?;
    let ours = read(record).map_err(errno)?;
    let another = |path: &Path| read(path).is_ok_and(|one| one.container != ours.container && one.is_held(dirs));
    let path = folder.join(ip6.to_string());
    if another(&path) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    replace(folder, record, &ours.container, &path).map_err(errno)?;
    // Or it goes with another's IPv4 address.
    let place = network.subnet6.map_or(0, |subnet| ip6.to_bits() - subnet.network().to_bits());
    let beside = u32::try_from(place).ok().and_then(|place| network.subnet.network().to_bits().checked_add(place));
    let clash = beside
        .map(|bits| folder.join(Ipv4Addr::from_bits(bits).to_string()))
        .filter(|path| read(path).is_ok_and(|one| one.address6.is_none()) && another(path));
    if clash.is_some() {
        fs::remove_file(&path).map_err(errno)?;
        return Err(Errno::EADDRNOTAVAIL);
    }
    Ok(())
}

fn claim_first(
    dirs: &Dirs,
    network: &Network,
    wanted: Option<Ipv4Addr>,
    mut lease: Lease,
    record: &Path,
    mac: &impl Fn(Ipv4Addr) -> String,
    taken: &mut Vec<Ipv4Addr>,
) -> Result<Ipv4Addr, Errno> {
    let folder = network.leases(dirs);
    let mut address = wanted;
    loop {
        let Some(candidate) = address.or_else(|| free(network, taken)) else {
            // Perhaps some are held by the dead.
            return take_over(dirs, network, &folder, &mut lease, record, mac, None);
        };
        (lease.address, lease.mac) = (candidate, mac(candidate));
        write(record, &lease).map_err(errno)?;
        match fs::hard_link(record, folder.join(candidate.to_string())) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(errno(error)),
            Err(_) if wanted.is_some() => {
                return take_over(dirs, network, &folder, &mut lease, record, mac, wanted);
            }
            Err(_) => {
                taken.push(candidate);
                address = None;
            }
        }
    }
}

/// Takes the lease of a dead container, under the lock of the network's folder: the one of `wanted`, or any.
fn take_over(
    dirs: &Dirs,
    network: &Network,
    folder: &Path,
    lease: &mut Lease,
    record: &Path,
    mac: impl Fn(Ipv4Addr) -> String,
    wanted: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Errno> {
    let lock = File::open(folder).map_err(errno)?;
    lock.lock().map_err(errno)?;
    for address in wanted.map_or_else(|| names(folder), |one| vec![one]) {
        let path = folder.join(address.to_string());
        // A file that is no lease of ours is nobody's claim that we could ask about: it stays taken.
        let dead = match read(&path) {
            Ok(there) => network.is_host(address) && !there.is_held(dirs),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if dead {
            (lease.address, lease.mac) = (address, mac(address));
            rewrite(folder, record, lease).map_err(errno)?;
            return Ok(address);
        }
    }
    Err(if wanted.is_some() { Errno::EADDRINUSE } else { Errno::ENOSPC })
}

/// Writes `lease` over what its address's file says.
pub fn rewrite(folder: &Path, record: &Path, lease: &Lease) -> io::Result<()> {
    write(record, lease)?;
    replace(folder, record, &lease.container, &folder.join(lease.address.to_string()))
}

/// Makes `path` another name of `record`, whatever it was, in one move: a second name first, then renamed.
fn replace(folder: &Path, record: &Path, container: &str, path: &Path) -> io::Result<()> {
    let next = folder.join(format!(".{container}"));
    match fs::hard_link(record, &next) {
        // An engine of this container was killed in between.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&next)?;
            fs::hard_link(record, &next)?;
        }
        other => other?,
    }
    fs::rename(&next, path)
}

/// The first address that nobody has.
pub fn free(network: &Network, taken: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let mut taken = taken.to_vec();
    taken.sort();
    let reserved = |ip: &Ipv4Addr| *ip == network.gateway || network.aux.values().any(|aux| aux == ip);
    let range = network.ip_range.unwrap_or(network.subnet);
    range.iter().find(|ip| network.is_host(*ip) && !reserved(ip) && taken.binary_search(ip).is_err())
}

/// The addresses that have a lease file.
pub fn names(folder: &Path) -> Vec<Ipv4Addr> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn write(path: &Path, lease: &Lease) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let text = serde_json::to_vec(lease)?;
    // A new file each time: the old one may be linked as somebody's lease by now.
    let _ = fs::remove_file(path);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    io::Write::write_all(&mut file?, &text)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::super::store::Wishes;
    use super::*;

    fn lease(id: &str) -> Lease {
        let text = format!(r#"{{"address":"0.0.0.0","container":"{id}","mac":"","link":"v"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    /// A root with the network 10.0.0.0/29, whose leases can be claimed by `claim_as`.
    fn place() -> (tempfile::TempDir, Dirs, Network) {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        fs::create_dir_all(dirs.run.join("journal")).unwrap();
        let wishes = Wishes { subnet: Some("10.0.0.0/29".parse().unwrap()), ..Wishes::default() };
        let network = Network::new("x", wishes, &[], 1500, &[]).unwrap();
        network.save_new(&dirs).unwrap();
        (dir, dirs, network)
    }

    /// A living container: its journal is locked as long as the file is open.
    fn live(dirs: &Dirs, id: &str) -> File {
        let file = File::create(dirs.run.join("journal").join(id)).unwrap();
        file.lock().unwrap();
        file
    }

    fn id(number: usize) -> String {
        format!("{number:064x}")
    }

    fn claim_as(dirs: &Dirs, network: &Network, number: usize, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, Errno> {
        let record = dirs.root.join(format!("record-{number}"));
        claim(dirs, network, wanted, lease(&id(number)), &record, |ip| ip.to_string())
    }

    #[test]
    fn a_29_gives_exactly_its_five_and_the_dead_give_back() {
        let (_dir, dirs, network) = place();
        let mut alive: Vec<_> = (0..6).map(|number| live(&dirs, &id(number))).collect();
        let got: Vec<_> = (0..5).map(|number| claim_as(&dirs, &network, number, None).unwrap().octets()[3]).collect();
        assert_eq!(got, [2, 3, 4, 5, 6]);
        assert_eq!(claim_as(&dirs, &network, 5, None), Err(Errno::ENOSPC));
        let third = Some(Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(claim_as(&dirs, &network, 5, third), Err(Errno::EADDRINUSE));
        drop(alive.remove(2));
        // Its engine was killed here once before.
        let half = network.leases(&dirs).join(format!(".{}", id(5)));
        fs::write(&half, "").unwrap();
        assert_eq!(claim_as(&dirs, &network, 5, None).unwrap(), Ipv4Addr::new(10, 0, 0, 4));
        assert!(!half.exists());
        assert_eq!(living(&dirs, &network).len(), 5);
    }

    #[test]
    fn fifty_threads_get_fifty_addresses() {
        let (_dir, dirs, mut network) = place();
        network.subnet = "10.0.0.0/24".parse().unwrap();
        let _alive: Vec<_> = (0..50).map(|number| live(&dirs, &id(number))).collect();
        let mut got: Vec<_> = std::thread::scope(|scope| {
            let one = |number| {
                let (dirs, network) = (&dirs, &network);
                scope.spawn(move || claim_as(dirs, network, number, None).unwrap())
            };
            let threads: Vec<_> = (0..50).map(one).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 50);
    }

    #[test]
    fn a_released_lease_is_only_ours() {
        let (_dir, dirs, network) = place();
        let held = live(&dirs, &id(1));
        let address = claim_as(&dirs, &network, 1, None).unwrap();
        let undo = |number| crate::plan::Undo::ReleaseLease {
            leases: network.leases(&dirs),
            record: dirs.root.join(format!("record-{number}")),
        };
        drop(held);
        let _other = live(&dirs, &id(2));
        assert_eq!(claim_as(&dirs, &network, 2, Some(address)).unwrap(), address);
        undo(1).perform().unwrap();
        assert_eq!(leases(&dirs, &network).len(), 1, "another container's lease was given back");
        undo(2).perform().unwrap();
        undo(2).perform().unwrap();
        assert!(leases(&dirs, &network).is_empty());
    }
}
