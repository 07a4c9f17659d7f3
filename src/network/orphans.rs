//! Bridges whose data root is gone: somebody has deleted the folder with all that was in it, and the kernel does not know.
//! A bridge of ours says in its alias where its network is written down; one whose root is not there any more, and into
//! which nothing is plugged, is nobody's.
//!
//! Look: `ip -d link show type bridge`

use super::netlink::{Link, Netlink};
use super::store::Network;
use super::trouble::op;
use crate::plan::{Dirs, FORWARD_WAS_OFF, FORWARD6_WAS_OFF, MARK, Phase, Plan, Undo};
use std::path::Path;

const ROOT: &str = " root=";
/// What the kernel keeps of an alias (IFALIASZ), less what we add later.
const LONGEST: usize = 200;

/// The alias of a network's bridge: its mark, and its data root.
pub fn alias(dirs: &Dirs, network: &Network) -> String {
    let whole = format!("{}{ROOT}{}", network.mark(), dirs.root.display());
    if whole.len() > LONGEST { network.mark() } else { whole }
}

fn root(alias: &str) -> Option<&str> {
    let rest = alias.strip_prefix(MARK)?.split_once(ROOT)?.1;
    let end = [FORWARD_WAS_OFF, FORWARD6_WAS_OFF].iter().filter_map(|note| rest.find(note)).min();
    Some(&rest[..end.unwrap_or(rest.len())])
}

/// The bridges of which that can be proved.
pub fn names(links: &[Link]) -> Vec<String> {
    let gone = |link: &&Link| {
        let root = root(&link.alias).map(Path::new).filter(|root| root.is_absolute());
        link.kind == "bridge" && root.is_some_and(|root| !root.exists())
    };
    let empty = |link: &&Link| !links.iter().any(|other| other.master == Some(link.index));
    links.iter().filter(gone).filter(empty).map(|link| link.name.clone()).collect()
}

/// The steps that remove them. Their rules go with the next writing of ours.
pub fn plan(plan: &mut Plan) {
    let Ok(links) = Netlink::here().and_then(|netlink| netlink.links()) else { return };
    for name in names(&links) {
        let undo = Undo::RemoveBridge { name: name.clone(), mark: MARK.to_string() };
        if plan.steps().iter().any(|step| step.name.ends_with(&format!("orphan.{name}"))) {
            continue;
        }
        let op = op("sendto", ["RTM_DELLINK", &name], undo.shell(), move |_| Ok(undo.perform()?));
        plan.add(Phase::Host, format!("orphan.{name}"), op)
            .why("Its data root was deleted, and nothing is plugged into it.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_bridge_without_a_root_is_nobodys() {
        let link = |index: u32, name: &str, kind: &str, alias: &str, master| Link {
            index,
            name: name.into(),
            kind: kind.into(),
            mac: vec![],
            mtu: 1500,
            alias: alias.into(),
            master,
            peer: None,
            up: true,
        };
        let links = [
            link(1, "gone", "bridge", "mydocker:a root=/nonexistent/x ip_forward=0", None),
            link(2, "plugged", "bridge", "mydocker:b root=/nonexistent/x", None),
            link(3, "ve", "veth", "mydocker:c", Some(2)),
            link(4, "here", "bridge", "mydocker:d root=/tmp ip_forward=0", None),
            link(5, "old", "bridge", "mydocker:e ip_forward=0", None),
            link(6, "foreign", "bridge", "x root=/nonexistent/x", None),
            link(7, "relative", "bridge", "mydocker:f root=nonexistent", None),
        ];
        assert_eq!(names(&links), ["gone"]);
    }
}
