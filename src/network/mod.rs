//! A wire of its own: a pair of linked network cards, one end in the container's network namespace, the other a port
//! of a bridge; an address, a default route, NAT to the world outside, and ports that lead in (`man 4 veth`, `man 8
//! ip-link`, `man 8 iptables`).
//!
//! Inside there are `lo` and `eth0` and nothing of the host's cards. Outside there is one more port on the bridge.
//!
//! Try it without us: `ip link add v0 type veth peer name eth0 netns $PID; ip link set v0 master br0 up`

mod attach;
mod connect;
mod firewall;
mod graph;
mod ipam;
mod ipv6;
mod join;
mod links;
mod manage;
mod names;
mod netlink;
mod orphans;
mod ports;
mod publish;
mod relay;
mod resolver;
mod setup;
mod show;
mod store;
mod trouble;
mod wish;

use crate::plan::{Attached, Dirs, Fact, Plan, Room, Spec};
use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use wish::{Mode, Wish};

pub use connect::{Connect, plan_connect, plan_disconnect};
pub use graph::{Card, Graph, Port, graph};
pub use manage::{Seen, after_removal, find, list, plan_create, plan_repair, ports, removal, unused};
pub use store::{DEFAULT, Network, Wishes};
pub use wish::{address, domain};

/// The room.
pub struct Net;

impl Room for Net {
    fn name(&self) -> &'static str {
        "network"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        let list = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
        };
        let network = |arg: Arg| {
            arg.value_name("bridge|none|host|container:NAME|NETWORK")
                .value_parser(clap::value_parser!(String))
                .action(ArgAction::Append)
                .help("Connect the container to a network")
        };
        let knows = command.get_arguments().any(|arg| arg.get_id() == "network");
        let command = match knows {
            true => command.mut_arg("network", network),
            false => command.arg(network(Arg::new("network").long("network").alias("net"))),
        };
        command.args([
            list("publish", "[IP:][HOST-PORT:]PORT[/PROTOCOL]", "Publish a port of the container on the host")
                .short('p'),
            Arg::new("publish-all")
                .short('P')
                .long("publish-all")
                .action(ArgAction::SetTrue)
                .help("Publish every exposed port on a free port of the host"),
            list("expose", "PORT[/PROTOCOL]", "Say that the container listens there"),
            list("network-alias", "NAME", "Another name of the container on its network"),
            list("dns", "IP", "Whom the container asks for names"),
            list("dns-search", "DOMAIN", "Where unqualified names are looked for"),
            list("dns-option", "OPTION", "An option of resolv.conf").visible_alias("dns-opt"),
            list("add-host", "NAME:IP", "A line more in /etc/hosts (`host-gateway` is the host)"),
            list("link", "CONTAINER[:ALIAS]", "Know another container by name, address and ports"),
            Arg::new("ip").long("ip").value_name("IPv4").help("Address of the container"),
            Arg::new("ip6").long("ip6").value_name("IPv6").help("Its address on a network with IPv6"),
            Arg::new("mac-address").long("mac-address").value_name("MAC").help("Hardware address of the container"),
        ])
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let wish = Wish::read(said, spec)?;
        let own = |namespace: &oci_spec::runtime::LinuxNamespace| namespace.typ() == Kind::Network;
        if matches!(wish.mode, Mode::Container(_)) {
            // Its parameters are the other container's; and there is one set of them.
            if said.get_many::<String>("sysctl").into_iter().flatten().any(|text| text.starts_with("net.")) {
                bail!("--sysctl: net.* belongs to the container whose network this one joins");
            }
            if let Some(sysctls) = spec.linux_mut().sysctl_mut() {
                sysctls.retain(|name, _| !name.starts_with("net."));
            }
            let pid = join::process(&wish.mode, spec)?;
            for namespace in spec.linux_mut().namespaces_mut().iter_mut().flatten().filter(|one| own(one)) {
                namespace.set_path(Some(format!("/proc/{pid}/ns/net").into()));
            }
        }
        links::environment(&wish, spec)?;
        spec.own.insert("network".into(), serde_json::to_value(&wish)?);
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        let Some(wish) = spec.own.get("network") else { return Ok(()) };
        let wish: Wish = serde_json::from_value(wish.clone())?;
        match &wish.mode {
            Mode::None | Mode::Host => Ok(()),
            Mode::Container(_) => join::plan(spec, &wish.mode, plan),
            Mode::Networks => attach::plan(spec, &wish, plan),
        }
    }

    fn doctor(&self, _dirs: &Dirs) -> Vec<Fact> {
        setup::doctor()
    }

    fn inspect(&self, spec: &Spec, runs: bool) -> serde_json::Value {
        show::inspect(spec, runs)
    }

    fn attached(&self, spec: &Spec) -> Vec<Attached> {
        show::attached(spec)
    }

    fn columns(&self, spec: &Spec, runs: bool) -> serde_json::Value {
        show::columns(spec, runs)
    }
}
