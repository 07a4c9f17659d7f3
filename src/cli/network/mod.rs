//! `mydocker network create|ls|inspect|rm|prune|connect|disconnect|repair`, and `mydocker port`.

mod change;
mod graph;
mod list;

pub(super) use change::sweep; // ch10

use super::run::telling_flags;
use super::template::Template;
use super::{Command, Context, print, string, strings};
use crate::engine;
use crate::network::{self, Seen};
use crate::plan::Room;
use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use serde_json::json;

pub const NETWORK: Command = Command { name: "network", about: "Manage networks", flags, act };

pub const PORT: Command = Command {
    name: "port",
    about: "List the published ports of a container",
    flags: |command, _| {
        command
            .arg(Arg::new("container").required(true).value_name("CONTAINER"))
            .arg(Arg::new("port").value_name("PORT[/PROTOCOL]"))
    },
    act: port,
};

fn flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    let list =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value).action(ArgAction::Append);
    let names = |required| Arg::new("names").value_name("NETWORK").num_args(1..).required(required);
    let word = |name: &'static str, about: &'static str| clap::Command::new(name).about(about);
    command.subcommand_required(true).arg_required_else_help(true).subcommands([
        word("create", "Create a network").args(telling_flags()).args([
            Arg::new("driver")
                .long("driver")
                .short('d')
                .value_name("bridge")
                .default_value("bridge")
                .help("Its driver"),
            list("subnet", "CIDR").help("Its addresses; a second time for IPv6"),
            Arg::new("ipv6").long("ipv6").action(ArgAction::SetTrue).help("IPv6 addresses, too"),
            Arg::new("gateway").long("gateway").value_name("IPv4").help("The host's address on it"),
            Arg::new("ip-range").long("ip-range").value_name("CIDR").help("Lease addresses from this part only"),
            list("aux-address", "NAME=IPv4").help("An address that is never leased"),
            Arg::new("internal").long("internal").action(ArgAction::SetTrue).help("Nothing of it goes outside"),
            list("opt", "NAME=VALUE").short('o').help("An option of the driver"),
            list("label", "NAME=VALUE").help("A label"),
            Arg::new("name").value_name("NETWORK").required(true),
        ]),
        word("ls", "List networks").visible_alias("list").args(list::flags()),
        word("inspect", "Show networks as JSON, or as the kernel has them wired").args([
            Arg::new("format").long("format").short('f').value_name("FORMAT").help("json or a Go template"),
            Arg::new("graph").long("graph").action(ArgAction::SetTrue).help("Bridge, ports, cards, routes and rules"),
            Arg::new("output").long("output").short('o').value_name("FILE.svg").requires("graph").help("As a picture"),
            names(true),
        ]),
        word("rm", "Remove networks").visible_alias("remove").arg(names(true)),
        word("prune", "Remove all unused networks")
            .arg(Arg::new("force").short('f').long("force").action(ArgAction::SetTrue).help("Do not ask"))
            .arg(super::rows::filter(&change::FILTERS)),
        word("connect", "Connect a container to a network").args(telling_flags()).args([
            Arg::new("ip").long("ip").value_name("IPv4").help("Address of the container"),
            Arg::new("ip6").long("ip6").value_name("IPv6").help("Its address on a network with IPv6"),
            list("alias", "NAME").help("Another name of the container on that network"),
            Arg::new("network").value_name("NETWORK").required(true),
            super::container(),
        ]),
        word("disconnect", "Disconnect a container from a network")
            .args(telling_flags())
            .args([Arg::new("network").value_name("NETWORK").required(true), super::container()]),
        word("repair", "Make the kernel's bridges and rules be as the networks want them").args(telling_flags()),
    ])
}

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let Some((word, said)) = said.subcommand() else { bail!("network: which command?") };
    let dirs = &context.dirs;
    let dry = said.try_get_one::<bool>("dry-run").ok().flatten().copied().unwrap_or(false);
    let reads = dry || matches!(word, "ls" | "inspect");
    if !reads {
        if !nix::unistd::geteuid().is_root() {
            bail!("networks are made by root: try `sudo mydocker network {word} …`");
        }
        engine::make_ready(dirs)?;
    }
    match word {
        "create" => change::create(context, said),
        "ls" => list::list(context, said),
        "inspect" => inspect_all(context, said),
        "rm" => change::remove(context, said),
        "prune" => change::prune(context, said),
        "connect" => change::connect(context, said),
        "disconnect" => change::disconnect(context, said),
        _ => change::repair(context, said),
    }
}

fn inspect_graph(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let seen = strings(said, "names").map(|name| network::find(&context.dirs, name)).collect::<Result<Vec<_>>>()?;
    let graphs = seen.iter().map(|seen| network::graph(&context.dirs, seen)).collect::<Result<Vec<_>>>()?;
    match (string(said, "output"), &graphs[..]) {
        (None, graphs) => print(&graphs.iter().map(graph::text).collect::<Vec<_>>().join("\n")),
        (Some(path), [one]) => {
            std::fs::write(path, graph::svg(one)).with_context(|| format!("--output: cannot write `{path}`"))?;
            Ok(0)
        }
        (Some(path), _) => bail!("--output: `{path}` can hold the picture of one network"),
    }
}

fn inspect_all(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    if said.get_flag("graph") {
        return inspect_graph(context, said);
    }
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    for name in strings(said, "names") {
        match network::find(&context.dirs, name) {
            Ok(one) => seen.push(inspect(&one)),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let text = match string(said, "format") {
        None | Some("") => format!("{}\n", serde_json::to_string_pretty(&seen)?),
        Some("json") => format!("{}\n", serde_json::to_string(&seen)?),
        Some(format) => {
            let template = Template::parse(format)?;
            seen.iter().map(|one| Ok(template.render(one)? + "\n")).collect::<Result<String>>()?
        }
    };
    if !seen.is_empty() || errors.is_empty() {
        print(&text)?;
    }
    // What is there is shown, as docker does.
    if errors.is_empty() { Ok(0) } else { bail!(errors.join("; ")) }
}

/// The shape of docker's own.
pub(super) fn inspect(seen: &Seen) -> serde_json::Value {
    let Seen { network, leases } = seen;
    let mut config = json!({ "Subnet": network.subnet, "Gateway": network.gateway });
    if let Some(range) = network.ip_range {
        config["IPRange"] = json!(range);
    }
    if !network.aux.is_empty() {
        config["AuxiliaryAddresses"] = json!(network.aux);
    }
    let mut configs = vec![config];
    configs.extend(
        network
            .subnet6
            .zip(network.gateway6())
            .map(|(subnet, gateway)| json!({ "Subnet": subnet, "Gateway": gateway.ip() })),
    );
    let containers = leases.iter().map(|lease| {
        let address = format!("{}/{}", lease.address, network.subnet.prefix());
        let one = json!({ "Name": lease.name, "MacAddress": lease.mac, "IPv4Address": address, "HostLink": lease.link,
                "IPv6Address": lease.cidr6(network) });
        (lease.container.clone(), one)
    });
    json!({
        "Name": network.name, "Id": network.id, "Created": list::created(network), "Scope": "local", "Driver": "bridge", "EnableIPv6": network.subnet6.is_some(),
        "IPAM": { "Driver": "default", "Config": configs },
        "Internal": network.internal, "Bridge": network.bridge, "Mtu": network.mtu,
        "Containers": containers.collect::<serde_json::Map<_, _>>(),
        "Options": network.options, "Labels": network.labels,
    })
}

fn port(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let string = |name: &str| said.get_one::<String>(name).map(String::as_str);
    let container = string("container").unwrap_or_default();
    let all = network::ports(&context.dirs, container)?;
    let Some(wanted) = string("port") else {
        return print(
            &all.iter().fold(String::new(), |text, (inside, outside)| text + &format!("{inside} -> {outside}\n")),
        );
    };
    let wanted = if wanted.contains('/') { wanted.to_string() } else { format!("{wanted}/tcp") };
    let found: Vec<_> =
        all.iter().filter(|(inside, _)| *inside == wanted).map(|(_, outside)| format!("{outside}\n")).collect();
    if found.is_empty() {
        bail!("No public port '{}' published for {}", wanted.escape_debug(), container.escape_debug());
    }
    print(&found.concat())
}
