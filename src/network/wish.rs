//! What the user wants of the network, as data: read from the flags once, kept in the spec, turned into steps.

use super::publish::{self, Protocol, Publish};
use super::store::DEFAULT;
use crate::plan::{Name, Spec};
use anyhow::{Result, bail};
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A network namespace with `lo` only.
    None,
    /// The host's own.
    Host,
    /// The one of another container.
    Container(String),
    /// Its own, connected to these.
    Networks,
}

/// One network that the container joins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network: String,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<[u8; 6]>,
    pub aliases: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub mode: Mode,
    pub attachments: Vec<Attachment>,
    pub publish: Vec<Publish>,
    /// Ports that the container says it listens on; with `-P` they are in `publish` too.
    pub exposed: Vec<(u16, Protocol)>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Name and address for /etc/hosts; without an address it is the host's.
    pub hosts: Vec<(String, Option<IpAddr>)>,
    /// Container and alias.
    pub links: Vec<(String, String)>,
}

impl Wish {
    pub fn read(said: &ArgMatches, spec: &Spec) -> Result<Self> {
        let strings = |name| said.get_many::<String>(name).into_iter().flatten().map(String::as_str);
        let string = |name| said.get_one::<String>(name).map(String::as_str);
        // What a class, or a machine without a firewall, wants everywhere.
        let usual = spec.caller.iter().find(|(name, _)| name == "MYDOCKER_NETWORK").map(|(_, value)| value.as_str());
        let words: Vec<&str> = strings("network").collect();
        let usual = usual.unwrap_or(DEFAULT);
        if usual == "host" || usual.starts_with("container:") {
            bail!("MYDOCKER_NETWORK: `{}` has to be said with --network, container by container", usual.escape_debug());
        }
        let words = if words.is_empty() { vec![usual] } else { words };
        let (mode, mut attachments) = networks(words)?;
        let mut publish = Vec::new();
        for text in strings("publish") {
            publish.extend(publish::parse(text)?);
        }
        let mut exposed = Vec::new();
        for text in strings("expose") {
            exposed.extend(publish::exposed(text)?);
        }
        // What an image says is no command: a port of its that is none is passed over.
        exposed.extend(spec.image.exposed_ports.iter().filter_map(|text| publish::exposed(text).ok()).flatten());
        if said.get_flag("publish-all") {
            for (port, protocol) in &exposed {
                let already = |one: &Publish| one.port == *port && one.protocol == *protocol;
                if !publish.iter().any(already) {
                    publish.push(Publish { ip: None, host: None, port: *port, protocol: *protocol });
                }
            }
        }
        exposed.extend(publish.iter().map(|one| (one.port, one.protocol)));
        exposed.sort_by_key(|(port, protocol)| (*port, *protocol as u8));
        exposed.dedup();
        match attachments.first_mut() {
            Some(first) => {
                first.ip = string("ip").map(|text| address("--ip", "IPv4", text)).transpose()?;
                first.ip6 = string("ip6").map(|text| address("--ip6", "IPv6", text)).transpose()?;
                first.mac = string("mac-address").map(mac).transpose()?;
            }
            None => {
                for flag in ["ip", "ip6", "mac-address"] {
                    if string(flag).is_some() {
                        bail!("--{flag}: the container has no network of its own to have an address on");
                    }
                }
                if !publish.is_empty() && matches!(mode, Mode::Container(_)) {
                    bail!("--publish: ports belong to the container whose network this one joins");
                }
                if !publish.is_empty() {
                    log::warn!("published ports are discarded: the container has no network of its own");
                    publish.clear();
                }
            }
        }
        let aliases =
            strings("network-alias").map(|text| domain("--network-alias", text)).collect::<Result<Vec<_>>>()?;
        match attachments.iter_mut().find(|one| one.network != DEFAULT) {
            Some(named) => named.aliases = aliases,
            None if aliases.is_empty() => {}
            None => bail!("--network-alias: aliases are for networks that were made with `mydocker network create`"),
        }
        let dns = strings("dns").map(|text| ip("--dns", text)).collect::<Result<_>>()?;
        let dns_search = strings("dns-search").map(|text| domain("--dns-search", text)).collect::<Result<_>>()?;
        let dns_options = strings("dns-option").map(|text| plain("--dns-option", text)).collect::<Result<_>>()?;
        let hosts = strings("add-host").map(host).collect::<Result<_>>()?;
        let links: Vec<_> = strings("link").map(link).collect::<Result<_>>()?;
        if !links.is_empty() && mode != Mode::Networks {
            bail!("--link: the container has no network of its own");
        }
        Ok(Self { mode, attachments, publish, exposed, dns, dns_search, dns_options, hosts, links })
    }
}

/// The words after `--network`, of which only names of networks may be several.
fn networks(words: Vec<&str>) -> Result<(Mode, Vec<Attachment>)> {
    let words = if words.is_empty() { vec![DEFAULT] } else { words };
    let mut attachments: Vec<Attachment> = Vec::new();
    for word in &words {
        let alone = match *word {
            "none" => Some(Mode::None),
            "host" => Some(Mode::Host),
            word => word.strip_prefix("container:").map(|name| Mode::Container(name.to_string())),
        };
        match alone {
            Some(mode) if words.len() == 1 => return Ok((mode, vec![])),
            Some(_) => bail!("--network: `{}` cannot be combined with other networks", word.escape_debug()),
            None => {}
        }
        let network = if *word == "default" { DEFAULT } else { word };
        if Name::parse(network).is_err() {
            bail!("--network: `{}` is not the name of a network", word.escape_debug());
        }
        if attachments.iter().any(|other| other.network == network) {
            bail!("--network: `{network}` is named twice");
        }
        attachments.push(Attachment { network: network.to_string(), ..Attachment::default() });
    }
    if attachments.len() > 16 {
        bail!("--network: more than 16 networks");
    }
    Ok((Mode::Networks, attachments))
}

fn ip(flag: &str, text: &str) -> Result<IpAddr> {
    match text.parse() {
        Ok(ip) => Ok(ip),
        Err(_) => bail!("{flag}: `{}` is not an IP address", text.escape_debug()),
    }
}

/// A word for a line of resolv.conf or hosts: nothing in it may begin another.
fn plain(flag: &str, text: &str) -> Result<String> {
    if text.is_empty() || text.len() > 255 || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        bail!("{flag}: `{}` is not one plain word", text.escape_debug());
    }
    Ok(text.to_string())
}

/// A name of a container, or a domain.
pub fn domain(flag: &str, text: &str) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !text.bytes().all(good) {
        bail!("{flag}: `{}` is not a name of letters, digits, `-`, `_` and `.`", text.escape_debug());
    }
    plain(flag, text)
}

/// `NAME:IP`, `NAME=IP`, `NAME:host-gateway`.
fn host(text: &str) -> Result<(String, Option<IpAddr>)> {
    let Some((name, address)) = text.split_once(['=', ':']) else {
        bail!("--add-host: `{}` is not of the form NAME:IP", text.escape_debug())
    };
    let address = match address {
        "host-gateway" => None,
        other => Some(ip("--add-host", other.trim_start_matches('[').trim_end_matches(']'))?),
    };
    Ok((domain("--add-host", name)?, address))
}

fn link(text: &str) -> Result<(String, String)> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    if Name::parse(container).is_err() {
        bail!("--link: `{}` does not name a container", text.escape_debug());
    }
    Ok((container.to_string(), domain("--link", alias)?))
}

/// An address of one kind (`IPv4`), or an error that says that it is none.
pub fn address<T: std::str::FromStr>(flag: &str, kind: &str, text: &str) -> Result<T> {
    match text.parse() {
        Ok(ip) => Ok(ip),
        Err(_) => bail!("{flag}: `{}` is not an {kind} address", text.escape_debug()),
    }
}

/// Six bytes in hexadecimal, of one card (not a group's).
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<_> =
        text.split([':', '-']).map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    match bytes[..] {
        [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)]
            if a & 1 == 0 && (a, b, c, d, e, f) != (0, 0, 0, 0, 0, 0) =>
        {
            Ok([a, b, c, d, e, f])
        }
        _ => bail!("--mac-address: `{}` is not a hardware address like 02:42:ac:11:00:02", text.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_after_network() {
        assert_eq!(networks(vec![]).unwrap().1[0].network, "bridge");
        assert_eq!(networks(vec!["container:web"]).unwrap().0, Mode::Container("web".into()));
        assert_eq!(networks(vec!["aa", "bb"]).unwrap().1.len(), 2);
        for bad in [vec!["none", "aa"], vec!["aa", "aa"], vec!["../x"], vec![""], vec!["host", "host"]] {
            assert!(networks(bad.clone()).unwrap_err().to_string().starts_with("--network: "), "{bad:?}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("02:42:ac:11:00:02").unwrap(), [2, 0x42, 0xac, 0x11, 0, 2]);
        for bad in
            ["", "02:42:ac:11:00", "01:42:ac:11:00:02", "00:00:00:00:00:00", "2:42:ac:11:0:2", "zz:42:ac:11:00:02"]
        {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }
}
