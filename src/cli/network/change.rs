//! `mydocker network create|rm|prune|connect|disconnect|repair`: each a plan, told or shown like every other.

use super::super::run::telling;
use super::super::watch::Teller;
use super::super::{Context, each, happened, print, rows, string, strings};
use crate::container::{Moment, find};
use crate::engine;
use crate::network::{self, Connect, Network, Seen, Wishes};
use crate::plan::{Plan, dry_run_on_host};
use anyhow::{Result, bail};
use clap::ArgMatches;
use std::collections::BTreeMap;

/// Performs a plan of the host's, or prints it (`--dry-run`).
fn perform(context: &Context<'_>, said: &ArgMatches, plan: &Plan, word: &str) -> Result<u8> {
    if said.get_flag("dry-run") {
        return print(&dry_run_on_host(plan));
    }
    let mut teller = Teller::new(telling(said));
    engine::operate(&context.dirs, plan, &mut teller, context.failpoint.clone(), || Ok(()))?;
    print(word)
}

pub fn create(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let name = string(said, "name").unwrap_or_default();
    let (plan, id) = network::plan_create(&context.dirs, name, wishes(said)?)?;
    let done = perform(context, said, &plan, &format!("{id}\n"))?;
    if !said.get_flag("dry-run") {
        happened::network(context, "create", &id, name, None);
    }
    Ok(done)
}

fn wishes(said: &ArgMatches) -> Result<Wishes> {
    let string = |name: &str| said.get_one::<String>(name).map(String::as_str);
    if let Some(driver) = string("driver").filter(|driver| *driver != "bridge") {
        bail!("--driver: could not find plugin `{}`: there is only bridge", driver.escape_debug());
    }
    fn parsed<T: std::str::FromStr>(flag: &str, text: Option<&str>) -> Result<Option<T>> {
        match text.map(str::parse) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => bail!("--{flag}: `{}` is not one", text.unwrap_or_default().escape_debug()),
        }
    }
    let pairs = |name: &str| -> Result<BTreeMap<String, String>> {
        let mut pairs = BTreeMap::new();
        for text in said.get_many::<String>(name).into_iter().flatten() {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                bail!("--{name}: `{}` is not of the form NAME=VALUE", text.escape_debug());
            }
            pairs.insert(key.to_string(), value.to_string());
        }
        Ok(pairs)
    };
    let mut aux = BTreeMap::new();
    for (name, ip) in pairs("aux-address")? {
        aux.extend(parsed("aux-address", Some(&ip))?.map(|ip| (name, ip)));
    }
    let cidr = |flag: &str, text: Option<&str>| -> Result<Option<ipnetwork::Ipv4Network>> {
        // `10.0.0.0` alone would be read as a /32.
        match text {
            Some(text) if !text.contains('/') => {
                bail!("--{flag}: `{}` is not a subnet like 10.1.0.0/24", text.escape_debug())
            }
            text => parsed(flag, text),
        }
    };
    let (wide, subnets): (Vec<_>, Vec<_>) = strings(said, "subnet").partition(|text| text.contains(':'));
    let ipv6 = said.get_flag("ipv6");
    match (&subnets[..], &wide[..]) {
        ([] | [_], []) => {}
        ([] | [_], [_]) if ipv6 => {}
        ([] | [_], [one]) => bail!("--subnet: `{}` is for --ipv6", one.escape_debug()),
        _ => bail!("--subnet: one of each kind at most"),
    }
    Ok(Wishes {
        subnet: cidr("subnet", subnets.first().copied())?,
        ipv6,
        subnet6: parsed("subnet", wide.first().copied())?,
        gateway: parsed("gateway", string("gateway"))?,
        ip_range: cidr("ip-range", string("ip-range"))?,
        aux,
        internal: said.get_flag("internal"),
        labels: pairs("label")?,
        options: pairs("opt")?,
    })
}

pub fn remove(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    Ok(each(strings(said, "names"), |name| {
        take_away(context, &network::find(&context.dirs, name)?)?;
        print(&format!("{name}\n")).map(drop)
    }))
}

fn take_away(context: &Context<'_>, seen: &Seen) -> Result<()> {
    let dirs = &context.dirs;
    let (lock, entries) = network::removal(dirs, seen)?;
    engine::take_away(dirs, entries, context.failpoint.as_ref())?;
    drop(lock);
    happened::network(context, "destroy", &seen.network.id, &seen.network.name, None);
    network::after_removal(dirs, seen)
}

pub fn prune(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let filters = filters(said)?;
    let question = "WARNING! This will remove all custom networks not used by at least one container.";
    if !said.get_flag("force") && !rows::sure(question) {
        return Ok(0);
    }
    let names = sweep_those(context, |network| filters.iter().all(|fits| fits(network)))?;
    print(&if names.is_empty() { String::new() } else { format!("Deleted Networks:\n{}\n\n", names.join("\n")) })
}

/// What `prune` may be told to look at.
pub const FILTERS: [&str; 3] = ["label", "label!", "until"];

type Fits = Box<dyn Fn(&Network) -> bool>;

/// What `--filter` lets through: all of them must.
fn filters(said: &ArgMatches) -> Result<Vec<Fits>> {
    let one = |(name, value): (String, String)| -> Result<Fits> {
        Ok(match name.as_str() {
            "label" => Box::new(move |network| rows::has_label(&network.labels, &value)),
            "label!" => Box::new(move |network| !rows::has_label(&network.labels, &value)),
            _ => {
                let limit = Moment::parse("--filter: until", &value)?.0;
                Box::new(move |network| super::list::created(network) < limit)
            }
        })
    };
    rows::filters(said, &FILTERS)?.into_iter().map(one).collect()
}

// ch10
/// Removes every network of the user's that nobody is on: their names.
pub fn sweep(context: &Context<'_>) -> Result<Vec<String>> {
    sweep_those(context, |_| true)
}

fn sweep_those(context: &Context<'_>, fits: impl Fn(&Network) -> bool) -> Result<Vec<String>> {
    let unused: Vec<Seen> = network::unused(&context.dirs).into_iter().filter(|seen| fits(&seen.network)).collect();
    let mut names = Vec::new();
    for seen in unused {
        match take_away(context, &seen) {
            Ok(()) => names.push(seen.network.name),
            // Somebody has joined it, or removed it, meanwhile.
            Err(error) if network::find(&context.dirs, &seen.network.id).is_ok_and(|again| again.leases.is_empty()) => {
                return Err(error);
            }
            Err(error) => log::info!("{error:#}"),
        }
    }
    happened::pruned(context, "network", 0);
    Ok(names)
}

pub fn connect(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let ip = string(said, "ip").map(|text| network::address("--ip", "IPv4", text)).transpose()?;
    let ip6 = string(said, "ip6").map(|text| network::address("--ip6", "IPv6", text)).transpose()?;
    let aliases = strings(said, "alias").map(|text| network::domain("--alias", text)).collect::<Result<_>>()?;
    let wanted = Connect { network: word(said), ip, ip6, aliases };
    alter(context, said, "connect", |spec, runs| network::plan_connect(spec, runs, &wanted))
}

pub fn disconnect(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let name = word(said);
    alter(context, said, "disconnect", |spec, runs| network::plan_disconnect(spec, runs, &name))
}

fn word(said: &ArgMatches) -> String {
    string(said, "network").unwrap_or_default().to_string()
}

fn alter(
    context: &Context<'_>,
    said: &ArgMatches,
    action: &str,
    draw: impl FnOnce(&mut crate::plan::Spec, bool) -> Result<Plan>,
) -> Result<u8> {
    let dirs = &context.dirs;
    let id = find(dirs, string(said, "container").unwrap_or_default())?;
    if said.get_flag("dry-run") {
        return print(&dry_run_on_host(&engine::alter(dirs, &id, None, draw)?));
    }
    let mut teller = Teller::new(telling(said));
    engine::alter(dirs, &id, Some((&mut teller, context.failpoint.clone())), draw)?;
    if let Ok(seen) = network::find(dirs, &word(said)) {
        happened::network(context, action, &seen.network.id, &seen.network.name, Some(id.as_str()));
    }
    Ok(0)
}

pub fn repair(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let (plan, done) = network::plan_repair(&context.dirs)?;
    perform(context, said, &plan, &done.iter().fold(String::new(), |text, line| text + line + "\n"))
}
