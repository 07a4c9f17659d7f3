//! A network at rest: `networks/<name>/network.json`, and one lease file per address beside it. What is alive of it,
//! bridge, addresses, rules, is asked of the kernel.

use super::netlink::Route;
use crate::plan::Dirs;
use anyhow::{Context, Result, bail};
use ipnetwork::{Ipv4Network, Ipv6Network};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The network that containers join if nobody says otherwise.
pub const DEFAULT: &str = "bridge";

/// Its bridge: `mydocker0` on most hosts.
pub fn default_bridge(number: u32) -> String {
    format!("mydocker{number}")
}

/// A network. Unknown fields of a newer version survive in `rest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    /// 64 hexadecimal digits, as a container's.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The link that is its switch.
    pub bridge: String,
    pub subnet: Ipv4Network,
    pub gateway: Ipv4Addr,
    /// A second subnet (`--ipv6`): every IPv4 address of the first has its own in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subnet6: Option<Ipv6Network>,
    /// Leases are taken from here, if not from the whole subnet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ip_range: Option<Ipv4Network>,
    /// Addresses of other machines on it, never leased.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub aux: BTreeMap<String, Ipv4Addr>,
    pub mtu: u32,
    /// Nothing of it goes out.
    #[serde(default)]
    pub internal: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub options: BTreeMap<String, String>,
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// What of a network the user may choose.
#[derive(Default)]
pub struct Wishes {
    pub subnet: Option<Ipv4Network>,
    pub gateway: Option<Ipv4Addr>,
    pub ipv6: bool,
    pub subnet6: Option<Ipv6Network>,
    pub ip_range: Option<Ipv4Network>,
    pub aux: BTreeMap<String, Ipv4Addr>,
    pub internal: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

impl Network {
    /// Thinks one out; touches nothing. `routes` are those of the host, `others` the networks that there are.
    pub fn new(name: &str, wishes: Wishes, routes: &[(Route, String)], mtu: u32, others: &[Network]) -> Result<Self> {
        let subnet = match wishes.subnet {
            Some(subnet) => {
                check_free(subnet, routes, others)?;
                subnet
            }
            None => pool().find(|subnet| check_free(*subnet, routes, others).is_ok()).context(
                "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the \
                 network; name one with --subnet",
            )?,
        };
        let id = crate::plan::Id::random()?.to_string();
        let bridge = match (name, wishes.options.get("com.docker.network.bridge.name")) {
            (_, Some(bridge)) => link_name(bridge)?,
            (DEFAULT, None) => default_bridge(0),
            _ => format!("md-{}", &id[..12]),
        };
        let mtu = match wishes.options.get("com.docker.network.driver.mtu") {
            Some(text) => text.parse().ok().filter(|mtu| (68..=65535).contains(mtu)).with_context(|| {
                format!("-o com.docker.network.driver.mtu: `{}` is not an MTU (68 to 65535)", text.escape_debug())
            })?,
            None => mtu,
        };
        let gateway = wishes.gateway.or_else(|| subnet.nth(1)).unwrap_or(subnet.ip());
        let created =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let subnet6 = match wishes.subnet6 {
            None if wishes.ipv6 => Some(unique_local(&id)?),
            other => other,
        };
        let Wishes { ip_range, aux, internal, labels, options, .. } = wishes;
        let rest = serde_json::Map::new();
        let name = name.to_string();
        let network = Self {
            name,
            id,
            created,
            bridge,
            subnet,
            gateway,
            subnet6,
            ip_range,
            aux,
            mtu,
            internal,
            labels,
            options,
            rest,
        };
        network.check()?;
        Ok(network)
    }

    fn check(&self) -> Result<()> {
        let subnet = self.subnet;
        if subnet.network() != subnet.ip() {
            bail!("--subnet: `{subnet}` has host bits set; say `{}/{}`", subnet.network(), subnet.prefix());
        }
        if subnet.prefix() > 30 || subnet.prefix() < 8 {
            bail!("--subnet: `{subnet}`: the prefix must be between 8 and 30");
        }
        if let Some(subnet6) = self.subnet6 {
            if subnet6.network() != subnet6.ip() {
                bail!("--subnet: `{subnet6}` has host bits set; say `{}/{}`", subnet6.network(), subnet6.prefix());
            }
            if 128 - subnet6.prefix() < 32 - subnet.prefix() {
                bail!("--subnet: `{subnet6}` is too small: every address of `{subnet}` has one in it");
            }
        }
        let inside = |flag: &str, ip: Ipv4Addr| match self.is_host(ip) {
            true => Ok(()),
            false => bail!("{flag}: `{ip}` is not an address for a host in `{subnet}`"),
        };
        inside("--gateway", self.gateway)?;
        self.aux.values().try_for_each(|ip| inside("--aux-address", *ip))?;
        match self.ip_range {
            Some(range) if !subnet.contains(range.network()) || range.prefix() < subnet.prefix() => {
                bail!("--ip-range: `{range}` is not a part of `{subnet}`")
            }
            _ => Ok(()),
        }
    }

    /// The IPv6 address that goes with `ip`: the same place in the second subnet.
    pub fn address6(&self, ip: Ipv4Addr) -> Option<Ipv6Network> {
        let place = u128::from(ip.to_bits() - self.subnet.network().to_bits());
        let subnet6 = self.subnet6?;
        Ipv6Network::new((subnet6.network().to_bits() + place).into(), subnet6.prefix()).ok()
    }

    /// The host's address in the second subnet.
    pub fn gateway6(&self) -> Option<Ipv6Network> {
        self.address6(self.gateway)
    }

    /// Whether `ip` can be a host's: inside the subnet, and neither its name nor its broadcast address.
    pub fn is_host(&self, ip: Ipv4Addr) -> bool {
        self.subnet.contains(ip) && ip != self.subnet.network() && ip != self.subnet.broadcast()
    }

    /// The hardware address of its bridge: 02:42 and the gateway's address, by which we know it again.
    pub fn bridge_mac(&self) -> [u8; 6] {
        mac_of(self.gateway)
    }

    /// What its rules bear as a comment.
    pub fn mark(&self) -> String {
        format!("mydocker:{}", &self.id[..12])
    }

    pub fn folder(&self, dirs: &Dirs) -> PathBuf {
        folder(dirs, &self.name)
    }

    pub fn leases(&self, dirs: &Dirs) -> PathBuf {
        self.folder(dirs).join("leases")
    }

    /// Writes it down, whole and once. EEXIST comes as an error of kind `AlreadyExists`.
    pub fn save_new(&self, dirs: &Dirs) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.leases(dirs))?;
        let text = serde_json::to_vec_pretty(self)?;
        let dir = open(&self.folder(dirs), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let fill = |mut file: &fs::File| file.write_all(&text).map_err(|_| nix::errno::Errno::last());
        crate::sys::open_tmpfile_and_link(dir, c"network.json", Mode::from_bits_truncate(0o600), fill)?;
        Ok(())
    }

    /// Writes it over what was there.
    pub fn replace(&self, dirs: &Dirs) -> std::io::Result<()> {
        let path = self.folder(dirs).join("network.json");
        let new = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?
            .write_all(&serde_json::to_vec_pretty(self)?)?;
        fs::rename(new, path)
    }
}

/// A hardware address that says its IP address; locally administered, as docker's were.
pub fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [2, 0x42, a, b, c, d]
}

pub fn folder(dirs: &Dirs, name: &str) -> PathBuf {
    dirs.root.join("networks").join(name)
}

/// The network `name`; `None` if there is none. `name` is a [`crate::plan::Name`]'s text, or a word of ours.
pub fn load(dirs: &Dirs, name: &str) -> Result<Option<Network>> {
    let path = folder(dirs, name).join("network.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let network = serde_json::from_slice(&bytes);
            network.map(Some).with_context(|| format!("`{}` is not a network of ours", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Keeps a network from being removed while somebody joins it. ENOENT: it has been removed, and perhaps another was made
/// that is called the same.
pub fn hold(dirs: &Dirs, network: &Network) -> std::io::Result<fs::File> {
    let folder = fs::File::open(network.folder(dirs))?;
    folder.lock_shared()?;
    let there = load(dirs, &network.name).ok().flatten();
    match there.filter(|there| (&there.bridge, there.subnet) == (&network.bridge, network.subnet)) {
        Some(_) => Ok(folder),
        None => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// Keeps everybody from joining `network` while it is removed.
pub fn seize(dirs: &Dirs, network: &Network) -> Result<fs::File> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let name = &network.name;
    let folder = fs::File::open(network.folder(dirs)).with_context(|| format!("network {name} not found"))?;
    let end = Instant::now() + PATIENCE;
    while folder.try_lock().is_err() {
        if Instant::now() > end {
            bail!("network {name} is being joined or removed by another engine");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // The one who had it before us may have removed it.
    match load(dirs, name)?.filter(|there| there.id == network.id) {
        Some(_) => Ok(folder),
        None => bail!("network {name} not found"),
    }
}

/// All networks, by name. What cannot be read as one is passed over.
pub fn list(dirs: &Dirs) -> Vec<Network> {
    let entries = fs::read_dir(dirs.root.join("networks")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.iter().filter_map(|name| load(dirs, name).ok().flatten()).collect()
}

/// Docker's pools: fifteen of 65,534 addresses, then sixteen of 4,094.
fn pool() -> impl Iterator<Item = Ipv4Network> {
    let large = (17..32).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..16).map(|third| (Ipv4Addr::new(192, 168, third * 16, 0), 20));
    large.chain(small).filter_map(|(ip, prefix)| Ipv4Network::new(ip, prefix).ok())
}

/// A subnet of one's own (RFC 4193): `fd`, forty random bits, 0.
fn unique_local(id: &str) -> Result<Ipv6Network> {
    let text = format!("fd{}:{}:{}::/64", &id[..2], &id[2..6], &id[6..10]);
    Ok(text.parse()?)
}

/// Refuses a subnet that a route of the host or another network uses, and says which.
fn check_free(subnet: Ipv4Network, routes: &[(Route, String)], others: &[Network]) -> Result<()> {
    if let Some(other) = others.iter().find(|other| other.subnet.overlaps(subnet)) {
        bail!("--subnet: `{subnet}` overlaps with `{}` of the network `{}`", other.subnet, other.name);
    }
    // A default route is everybody's, and so are its two halves, which VPNs prefer to set.
    let real = |route: &&(Route, String)| route.0.to.prefix() > 1;
    match routes.iter().filter(real).find(|(route, _)| route.to.overlaps(subnet)) {
        Some((route, link)) => bail!("--subnet: `{subnet}` overlaps with the host's route `{} dev {link}`", route.to),
        None => Ok(()),
    }
}

/// The name of a link, as the kernel takes it (IFNAMSIZ).
fn link_name(text: &str) -> Result<String> {
    let good = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if text.is_empty() || text.len() > 15 || !good || text.starts_with(['.', '-']) {
        bail!("`{}` is not the name of a link: at most 15 letters, digits, `-`, `_` and `.`", text.escape_debug());
    }
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Network {
        text.parse().unwrap()
    }

    fn route(text: &str) -> (Route, String) {
        (Route { to: net(text), gateway: None, link: None }, "eth0".into())
    }

    #[test]
    fn a_subnet_that_nobody_uses_is_chosen() {
        let new = |routes: &[_], others: &[Network]| Network::new("x", Wishes::default(), routes, 1500, others);
        let first = new(&[route("0.0.0.0/0"), route("0.0.0.0/1")], &[]).unwrap();
        assert_eq!((first.subnet, first.gateway), (net("172.17.0.0/16"), Ipv4Addr::new(172, 17, 0, 1)));
        assert_eq!(new(&[route("172.17.3.0/24")], &[]).unwrap().subnet, net("172.18.0.0/16"));
        assert_eq!(new(&[route("172.16.0.0/12")], &[first]).unwrap().subnet, net("192.168.0.0/20"));
        let mut all: Vec<Network> = vec![];
        for number in 0..31 {
            let next = new(&[], &all).unwrap_or_else(|error| panic!("{number}: {error}"));
            all.push(next);
        }
        assert!(new(&[], &all).unwrap_err().to_string().contains("non-overlapping IPv4 address pool"));
    }

    #[test]
    fn what_cannot_be_a_network_is_named() {
        let with = |change: fn(&mut Wishes)| {
            let mut wishes = Wishes { subnet: Some(net("10.1.2.0/24")), ..Wishes::default() };
            change(&mut wishes);
            Network::new("x", wishes, &[route("10.9.0.0/16")], 1500, &[]).map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| ()).unwrap().gateway, Ipv4Addr::new(10, 1, 2, 1));
        type Change = fn(&mut Wishes);
        let cases: [(Change, &str); 7] = [
            (
                |w| w.subnet = Some("10.9.1.0/24".parse().unwrap()),
                "overlaps with the host's route `10.9.0.0/16 dev eth0`",
            ),
            (|w| w.subnet = Some("10.1.2.3/24".parse().unwrap()), "host bits"),
            (|w| w.subnet = Some("10.1.2.0/31".parse().unwrap()), "between 8 and 30"),
            (|w| w.gateway = Some(Ipv4Addr::new(10, 1, 3, 1)), "--gateway: `10.1.3.1`"),
            (|w| w.gateway = Some(Ipv4Addr::new(10, 1, 2, 255)), "--gateway: `10.1.2.255`"),
            (|w| w.ip_range = Some("10.1.0.0/16".parse().unwrap()), "--ip-range"),
            (|w| drop(w.options.insert("com.docker.network.driver.mtu".into(), "9".into())), "driver.mtu: `9`"),
        ];
        for (change, word) in cases {
            let error = with(change).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
