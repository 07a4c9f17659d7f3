//! `--link CONTAINER:ALIAS`, as the older docker tutorials use it: the other container's address in /etc/hosts, and its
//! ports and variables in the environment (`DB_PORT_5432_TCP_ADDR`).

use super::ipam::{self, Lease};
use super::wish::Wish;
use super::{join, store};
use crate::plan::{Dirs, Spec};
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;

/// The living lease of `container` on one of the networks that `wish` joins.
fn find(dirs: &Dirs, wish: &Wish, container: &str) -> Result<Lease> {
    let Ok(id) = join::find(dirs, container) else {
        bail!("--link: could not get container for {container}: No such container: {container}");
    };
    let networks = wish.attachments.iter().filter_map(|one| store::load(dirs, &one.network).ok().flatten());
    let mut leases = networks.flat_map(|network| ipam::living(dirs, &network));
    leases.find(|lease| lease.container == id.as_str()).with_context(|| {
        format!("--link: cannot link to `{container}`: it is not running on a network of this container")
    })
}

/// Address and names of every link.
pub fn hosts(wish: &Wish, spec: &Spec) -> Result<Vec<(Ipv4Addr, Vec<String>)>> {
    let one = |(container, alias): &(String, String)| {
        let lease = find(&spec.dirs, wish, container)?;
        let mut names = vec![alias.clone(), lease.container[..12].to_string()];
        names.extend(lease.name.filter(|name| name != alias));
        Ok((lease.address, names))
    };
    wish.links.iter().map(one).collect()
}

/// Adds docker's variables for every link; what the user has set stays.
pub fn environment(wish: &Wish, spec: &mut Spec) -> Result<()> {
    let own = spec.name.as_ref().map_or(spec.id.short(), |name| name.as_str()).to_string();
    let mut env = spec.process().env().clone().unwrap_or_default();
    for (container, alias) in &wish.links {
        let lease = find(&spec.dirs, wish, container)?;
        for (name, value) in variables(&lease, alias, &own) {
            if !env.iter().any(|text| text.split_once('=').is_some_and(|(there, _)| there == name)) {
                env.push(format!("{name}={value}"));
            }
        }
    }
    if !wish.links.is_empty() {
        spec.process_mut().set_env(Some(env));
    }
    Ok(())
}

fn variables(lease: &Lease, alias: &str, own: &str) -> Vec<(String, String)> {
    let prefix = alias.to_ascii_uppercase().replace(['-', '.'], "_");
    let ip = lease.address;
    let mut all = vec![(format!("{prefix}_NAME"), format!("/{own}/{alias}"))];
    let ports: Vec<(&str, &str)> = lease.exposed.iter().filter_map(|text| text.split_once('/')).collect();
    if let Some((port, protocol)) = ports.first() {
        all.push((format!("{prefix}_PORT"), format!("{protocol}://{ip}:{port}")));
    }
    for (port, protocol) in ports {
        let base = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
        all.push((base.clone(), format!("{protocol}://{ip}:{port}")));
        all.push((format!("{base}_ADDR"), ip.to_string()));
        all.push((format!("{base}_PORT"), port.to_string()));
        all.push((format!("{base}_PROTO"), protocol.to_string()));
    }
    let inherited = lease.env.iter().filter_map(|text| text.split_once('='));
    let kept = inherited.filter(|(name, _)| !matches!(*name, "PATH" | "HOSTNAME" | "HOME" | "TERM"));
    all.extend(kept.map(|(name, value)| (format!("{prefix}_ENV_{name}"), value.to_string())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_as_docker_names_them() {
        let text = r#"{"address":"172.17.0.5","container":"x","mac":"","link":"v","exposed":["5432/tcp"],"env":["A=1","PATH=x"]}"#;
        let lease: Lease = serde_json::from_str(text).unwrap();
        let lines: Vec<_> =
            variables(&lease, "my-db", "web").iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            lines,
            [
                "MY_DB_NAME=/web/my-db",
                "MY_DB_PORT=tcp://172.17.0.5:5432",
                "MY_DB_PORT_5432_TCP=tcp://172.17.0.5:5432",
                "MY_DB_PORT_5432_TCP_ADDR=172.17.0.5",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_ENV_A=1",
            ]
        );
    }
}
