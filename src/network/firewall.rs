//! The rules of our networks, all in chains of our own: `MYDOCKER-…`. Each bears the id of its network or container as
//! a comment. What a network needs is a function of the networks on disk and written anew as a whole; a container adds
//! and removes only its own lines.
//!
//! | table | chain | hangs in | holds |
//! |---|---|---|---|
//! | raw | `MYDOCKER-RAW` | PREROUTING, to 127.0.0.0/8 | nobody on a bridge reaches the host's 127.0.0.0/8 (CVE-2020-8558) |
//! | nat | `MYDOCKER-DNAT` | PREROUTING and OUTPUT, to addresses of this host | published ports |
//! | nat | `MYDOCKER-LOCAL` | OUTPUT, to 127.0.0.0/8 | published ports, for the host itself only |
//! | nat | `MYDOCKER-NAT` | POSTROUTING | what leaves a network gets the host's address |
//! | filter | `MYDOCKER-USER` | FORWARD, first | the administrator's; we never write into it |
//! | filter | `MYDOCKER-FORWARD` | FORWARD | what may come into a network, and leave it |
//!
//! The IPv6 tables of a network with IPv6 hold the same, but for what is about 127.0.0.0/8: from ::1 nothing may leave
//! by another card, whatever a rule says, so [`super::relay`] carries that.
//!
//! Look: `iptables-save | grep -i mydocker; ip6tables-save | grep -i mydocker`

use super::publish::{Protocol, Published};
use super::store::Network;
use crate::plan::{Dirs, FOR_IPV6, Family, iptables_restore, iptables_save, table_has};
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// What marks the jumps from the tables' own chains into ours, but for that into the user's, which every packet makes
/// that this host forwards: a comment is looked at like any other condition, and its name says whose it is.
const JUMP: &str = "mydocker:jump";
const USERS: &str = "-j MYDOCKER-USER";

/// Whether a rule as `iptables-save` writes it is one of our jumps.
fn is_jump(line: &str) -> bool {
    line.contains(JUMP) || (line.starts_with("-A FORWARD ") && line.ends_with(USERS))
}

/// Table, chain it hangs in, condition, our chain; in the order in which they are to stand. Where `br_netfilter` is in
/// force every packet between two containers passes raw and FORWARD: a condition is cheaper there than a jump.
const JUMPS: [(&str, &str, &str, &str); 7] = [
    ("raw", "PREROUTING", "-d 127.0.0.0/8 ", "MYDOCKER-RAW"),
    ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL ", "MYDOCKER-DNAT"),
    ("nat", "OUTPUT", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL ", "MYDOCKER-DNAT"),
    ("nat", "OUTPUT", "-d 127.0.0.0/8 ", "MYDOCKER-LOCAL"),
    ("nat", "POSTROUTING", "", "MYDOCKER-NAT"),
    ("filter", "FORWARD", "", "MYDOCKER-USER"),
    ("filter", "FORWARD", "", "MYDOCKER-FORWARD"),
];

/// The same in IPv6.
const JUMPS6: [(&str, &str, &str, &str); 5] = [
    ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL ", "MYDOCKER-DNAT"),
    ("nat", "OUTPUT", "! -d ::1/128 -m addrtype --dst-type LOCAL ", "MYDOCKER-DNAT"),
    ("nat", "POSTROUTING", "", "MYDOCKER-NAT"),
    ("filter", "FORWARD", "", "MYDOCKER-USER"),
    ("filter", "FORWARD", "", "MYDOCKER-FORWARD"),
];

/// Those that are written anew whenever a network comes or goes. The others hold what is not ours to write again.
const REWRITTEN: [&str; 3] = ["MYDOCKER-RAW", "MYDOCKER-NAT", "MYDOCKER-FORWARD"];

/// The rules that all of `networks` need, as the lines of one table.
fn rules(family: Family, table: &str, networks: &[Network]) -> String {
    let mut text = String::new();
    for network in networks {
        let (mark, Network { bridge, subnet, internal, .. }) = (network.mark(), network);
        let subnet6 = network.subnet6.as_ref().filter(|_| family == Family::V6);
        let mut rule = |rule: String| {
            let _ = writeln!(text, "-A {}", rule.replace(" -j ", &format!(" -m comment --comment {mark} -j ")));
        };
        match table {
            "nat" if let Some(subnet) = subnet6 => {
                if !internal {
                    rule(format!("MYDOCKER-NAT -s {subnet} ! -o {bridge} -j MASQUERADE"));
                }
                rule(format!("MYDOCKER-NAT -s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"));
            }
            "raw" => rule(format!("MYDOCKER-RAW -d 127.0.0.0/8 -i {bridge} -j DROP")),
            "nat" => {
                if !internal {
                    rule(format!("MYDOCKER-NAT -s {subnet} ! -o {bridge} -j MASQUERADE"));
                }
                // A container that asks for a port of the host and is sent to a neighbour, or to itself: the answer
                // must come back through here, to be translated back.
                let dnat = "-m conntrack --ctstate DNAT";
                rule(format!("MYDOCKER-NAT -s {subnet} -o {bridge} {dnat} -j MASQUERADE"));
                rule(format!("MYDOCKER-NAT -s 127.0.0.0/8 -o {bridge} {dnat} -j MASQUERADE"));
            }
            _ => {
                rule(format!("MYDOCKER-FORWARD -i {bridge} -o {bridge} -j ACCEPT"));
                rule(format!("MYDOCKER-FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
                if !internal {
                    rule(format!("MYDOCKER-FORWARD -o {bridge} -m conntrack --ctstate DNAT -j ACCEPT"));
                }
                rule(format!("MYDOCKER-FORWARD -o {bridge} -j DROP"));
                let verdict = if *internal { "DROP" } else { "ACCEPT" };
                rule(format!("MYDOCKER-FORWARD -i {bridge} -j {verdict}"));
            }
        }
    }
    text
}

/// One call of `iptables-restore` that makes the chains be as `networks` want them. `there` is what `iptables-save`
/// says: jumps that stand there are moved to the front, chains of the user's are left alone.
fn text(family: Family, networks: &[Network], there: &[(String, String)]) -> String {
    let networks: Vec<Network> = networks.iter().filter(|one| is_for(family, one)).cloned().collect();
    let marks: Vec<_> = networks.iter().map(Network::mark).collect();
    let mut text = String::new();
    for table in tables(family) {
        let _ = writeln!(text, "*{table}");
        let in_table = || there.iter().filter(|(name, _)| name == table).map(|(_, line)| line.as_str());
        let all: &[_] = if family == Family::V6 { &JUMPS6 } else { &JUMPS };
        let jumps = || all.iter().filter(|jump| jump.0 == *table);
        let mut chains: Vec<&str> = jumps().map(|jump| jump.3).collect();
        chains.dedup();
        for chain in chains {
            if REWRITTEN.contains(&chain) || !in_table().any(|line| line.starts_with(&format!(":{chain} "))) {
                let _ = writeln!(text, ":{chain} - [0:0]");
            }
        }
        for line in in_table().filter(|line| is_jump(line)) {
            let _ = writeln!(text, "{}", line.replacen("-A ", "-D ", 1));
        }
        for (_, from, condition, to) in jumps().rev() {
            let mark = if *to == "MYDOCKER-USER" { String::new() } else { format!("-m comment --comment {JUMP} ") };
            let _ = writeln!(text, "-I {from} {condition}{mark}-j {to}");
        }
        let mut lines: Vec<String> = rules(family, table, &networks).lines().map(str::to_string).collect();
        lines.extend(in_table().filter(|line| is_anothers(line, &marks)).map(str::to_string));
        // What leaves a network comes after all that guards the entrances, the other networks' included.
        lines.sort_by_key(|line| !line.contains(" -o "));
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Whether a rule in a chain that we rewrite belongs to a network of another data root that is still up.
fn is_anothers(line: &str, marks: &[String]) -> bool {
    let mut words = line.split(' ').skip_while(|word| *word != "-i" && *word != "-o").skip(1);
    REWRITTEN.iter().any(|chain| line.starts_with(&format!("-A {chain} ")))
        && !marks.iter().any(|mark| line.contains(mark))
        && words.next().is_some_and(|bridge| super::netlink::index(bridge).is_ok())
}

/// What a dry run shows of it.
pub fn preview(networks: &[Network]) -> String {
    text(Family::V4, networks, &[])
}

/// Writes the rules of `networks`; `lock` is the one that all engines of this host share, and is let go.
pub fn install(networks: &[Network], lock: &fs::File) -> io::Result<()> {
    for family in families(networks) {
        let there = iptables_save(family)?;
        iptables_restore(family, &text(family, networks, &there))?;
    }
    lock.unlock()
}

/// The sets of tables that the networks need.
pub fn families(networks: &[Network]) -> impl Iterator<Item = Family> {
    let ipv6 = networks.iter().any(|network| network.subnet6.is_some());
    std::iter::once(Family::V4).chain(ipv6.then_some(Family::V6))
}

fn is_for(family: Family, network: &Network) -> bool {
    family == Family::V4 || network.subnet6.is_some()
}

/// In IPv6 the kernel itself lets nobody reach ::1 over a wire.
fn tables(family: Family) -> &'static [&'static str] {
    if family == Family::V6 { &["nat", "filter"] } else { &["raw", "nat", "filter"] }
}

/// Where a network keeps what takes its rules out again.
pub fn removal_file(dirs: &Dirs, family: Family, network: &Network) -> PathBuf {
    network.folder(dirs).join(if family == Family::V6 { "remove6.rules" } else { "remove.rules" })
}

/// The lines that take the rules of `network` out again, and touch nothing else.
pub fn removal(family: Family, network: &Network) -> String {
    let one = std::slice::from_ref(network);
    let head = if family == Family::V6 { FOR_IPV6 } else { "" };
    tables(family).iter().fold(head.to_string(), |text, table| {
        text + &format!("*{table}\n{}COMMIT\n", rules(family, table, one).replace("-A MYDOCKER", "-D MYDOCKER"))
    })
}

/// Takes all of ours out again: the jumps, then the chains. The user's chain stays if something is in it.
pub fn uninstall(lock: &fs::File) -> io::Result<()> {
    uninstall_from(Family::V4)?;
    if table_has(Family::V6, "filter", &[JUMP.as_bytes()]) {
        uninstall_from(Family::V6)?;
    }
    lock.unlock()
}

fn uninstall_from(family: Family) -> io::Result<()> {
    let there = iptables_save(family)?;
    let mut text = String::new();
    for table in tables(family) {
        let lines = || there.iter().filter(|(name, _)| name == table).map(|(_, line)| line.as_str());
        if !lines().any(|line| line.starts_with(":MYDOCKER-")) {
            continue;
        }
        if lines().any(|line| is_anothers(line, &[])) {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        let user = lines().any(|line| line.starts_with("-A MYDOCKER-USER "));
        for line in lines().filter(|line| is_jump(line) && !(user && line.ends_with(USERS))) {
            let _ = writeln!(text, "{}", line.replacen("-A ", "-D ", 1));
        }
        let chains: Vec<_> = lines().filter_map(|line| line.strip_prefix(":MYDOCKER-")?.split(' ').next()).collect();
        for chain in chains.into_iter().filter(|chain| !(user && *chain == "USER")) {
            let _ = writeln!(text, "-F MYDOCKER-{chain}\n-X MYDOCKER-{chain}");
        }
        text.push_str("COMMIT\n");
    }
    if text.is_empty() { Ok(()) } else { iptables_restore(family, &text) }
}

/// Whether the kernel still has the rules of `network`, in either flavour. Another tool may have flushed them all.
pub fn is_installed(network: &Network) -> bool {
    let mark = network.mark();
    let needles = [JUMP.as_bytes(), mark.as_bytes()];
    let has = |family: Family| {
        tables(family).iter().all(|table| {
            // An internal network has nothing to translate.
            let needles = if family == Family::V6 && *table == "nat" { &needles[..1] } else { &needles };
            table_has(family, table, needles)
        })
    };
    has(Family::V4) && (network.subnet6.is_none() || has(Family::V6))
}

/// The lines that publish those of `ports` that are of this family at the container's `address`. `verb` is `-A` or `-D`. A
/// port that no rule can lead in stands there as a comment: [`super::relay`] does.
pub fn publish(family: Family, verb: &str, mark: &str, address: Option<IpAddr>, ports: &[Published]) -> String {
    let ipv6 = family == Family::V6;
    let mut text = format!("{}*nat\n", if ipv6 { FOR_IPV6 } else { "" });
    for Published { ip, host_port, port, protocol } in ports.iter().filter(|one| one.ip.is_ipv6() == ipv6) {
        let mut rule = |verb: &str, chain: &str, address: IpAddr| {
            // Who comes from a link's own address cannot be sent on over another one.
            let from = if ipv6 { "! -s fe80::/10 " } else { "" };
            let to = if ip.is_unspecified() { String::new() } else { format!("-d {ip} ") };
            let _ = writeln!(
                text,
                "{verb} {chain} {from}{to}-p {protocol} -m {protocol} --dport {host_port} -m comment --comment {mark} \
                 -j DNAT --to-destination {}",
                SocketAddr::new(address, *port)
            );
        };
        match address {
            Some(address) if !(ipv6 && ip.is_loopback()) => {
                // A port on a loopback address has no rule in PREROUTING, where packets of the neighbours pass.
                if !ip.is_loopback() {
                    rule(verb, "MYDOCKER-DNAT", address);
                }
                if !ipv6 && (ip.is_loopback() || ip.is_unspecified()) {
                    rule(verb, "MYDOCKER-LOCAL", address);
                }
            }
            _ => rule("#", "MYDOCKER-DNAT", Ipv6Addr::LOCALHOST.into()),
        }
    }
    text.push_str("COMMIT\n");
    text
}

/// What lines that [`publish`] has made lead in.
pub fn published(text: &str) -> Vec<Published> {
    let ipv6 = text.starts_with(FOR_IPV6);
    let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let one = |line: &str| {
        let after = |flag: &str| line.split(' ').skip_while(|word| *word != flag).nth(1);
        let ip = after("-d").map_or(Some(any), |ip| ip.parse().ok())?;
        let chain = if !ipv6 && ip.is_loopback() { "MYDOCKER-LOCAL" } else { "MYDOCKER-DNAT" };
        let (host_port, protocol) = (after("--dport")?.parse().ok()?, Protocol::parse(after("-p")?)?);
        let port = after("--to-destination")?.rsplit_once(':')?.1.parse().ok()?;
        line.contains(chain).then_some(Published { ip, host_port, port, protocol })
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::store::Wishes;
    use super::*;

    fn network(name: &str, subnet: &str, internal: bool) -> Network {
        let wishes = Wishes { subnet: Some(subnet.parse().unwrap()), internal, ..Wishes::default() };
        let mut network = Network::new(name, wishes, &[], 1500, &[]).unwrap();
        network.id = name.repeat(64)[..64].to_string();
        network.bridge = format!("br-{name}");
        network
    }

    #[test]
    fn entrances_are_guarded_before_anything_may_leave() {
        let text = text(Family::V4, &[network("a", "10.0.0.0/24", false), network("b", "10.0.1.0/24", true)], &[]);
        let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("no `{line}` in\n{text}"));
        let drop_b = at("-A MYDOCKER-FORWARD -o br-b -m comment --comment mydocker:bbbbbbbbbbbb -j DROP");
        assert!(drop_b < at("-A MYDOCKER-FORWARD -i br-a -m comment --comment mydocker:aaaaaaaaaaaa -j ACCEPT"));
        at("-A MYDOCKER-FORWARD -i br-b -m comment --comment mydocker:bbbbbbbbbbbb -j DROP");
        at("-A MYDOCKER-NAT -s 10.0.0.0/24 ! -o br-a -m comment --comment mydocker:aaaaaaaaaaaa -j MASQUERADE");
        assert!(!text.contains("-s 10.0.1.0/24 !"), "an internal network must not be translated");
        assert!(
            at("-I FORWARD -m comment --comment mydocker:jump -j MYDOCKER-FORWARD") < at("-I FORWARD -j MYDOCKER-USER")
        );
    }

    #[test]
    fn what_stands_there_is_moved_and_the_users_chain_is_never_flushed() {
        let line = |table: &str, line: &str| (table.to_string(), line.to_string());
        let there = [
            line("filter", ":MYDOCKER-USER - [0:0]"),
            line("filter", "-A FORWARD -j MYDOCKER-USER"),
            line("filter", "-A FORWARD -m comment --comment \"mydocker:jump\" -j MYDOCKER-FORWARD"),
            line("nat", ":MYDOCKER-DNAT - [0:0]"),
        ];
        let text = text(Family::V4, &[network("a", "10.0.0.0/24", false)], &there);
        assert!(text.contains("-D FORWARD -j MYDOCKER-USER\n"));
        assert!(text.contains("-D FORWARD -m comment --comment \"mydocker:jump\" -j MYDOCKER-FORWARD"));
        assert!(!text.contains(":MYDOCKER-USER"), "that would flush it");
        assert!(!text.contains(":MYDOCKER-DNAT"), "that would take out the containers' ports");
        assert!(text.contains(":MYDOCKER-FORWARD"));
    }

    #[test]
    fn a_port_on_loopback_is_never_looked_up_for_packets_from_outside() {
        let port = |ip: &str| Published { ip: ip.parse().unwrap(), host_port: 8080, port: 80, protocol: Protocol::Tcp };
        let of = |ip| {
            let (family, address) =
                if port(ip).ip.is_ipv6() { (Family::V6, "fd00::2") } else { (Family::V4, "10.0.0.2") };
            publish(family, "-A", "mydocker:x", Some(address.parse().unwrap()), &[port(ip)])
        };
        assert!(!of("127.0.0.1").contains("MYDOCKER-DNAT"));
        assert!(of("127.0.0.1").contains("-A MYDOCKER-LOCAL -d 127.0.0.1 -p tcp"));
        assert_eq!(of("0.0.0.0").matches("-A ").count(), 2);
        assert!(!of("192.0.2.1").contains("MYDOCKER-LOCAL"));
        assert!(of("::").contains("-A MYDOCKER-DNAT ! -s fe80::/10 -p tcp"));
        assert!(of("::").contains("--to-destination [fd00::2]:80"));
        assert!(!of("::1").contains("-A "), "the kernel lets nothing from ::1 leave");
        let narrow = publish(Family::V6, "-A", "mydocker:x", None, &[port("::")]);
        assert!(!narrow.contains("-A "), "a network without IPv6 has no address for it: {narrow}");
        assert_eq!(published(&narrow), [port("::")]);
        for ip in ["127.0.0.1", "0.0.0.0", "192.0.2.1", "::", "::1", "2001:db8::1"] {
            assert_eq!(published(&of(ip)), [port(ip)], "read again");
        }
    }
}
