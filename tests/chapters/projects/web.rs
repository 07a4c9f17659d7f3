//! Project 1: a web server that a neighbour reaches, with its page in a volume.

use super::{Demand, HOST, Site, strangers};
use crate::check::{Finding, expect, random, same, wrong};
use crate::support::kernel;

pub const DEMANDS: &[Demand] = &[
    Demand { name: "it comes up", ask: Site::up },
    Demand { name: "the neighbour reaches it", ask: reached },
    Demand { name: "the host reaches it by localhost", ask: localhost },
    Demand { name: "the page is in the volume", ask: in_volume },
    Demand { name: "a network of its own", ask: own_network },
    Demand { name: "a restart keeps the page", ask: restart },
    Demand { name: "a new container finds the page", ask: again },
];

fn reached(site: &Site) -> Finding {
    let answer = site.until(Option::is_some);
    let port = site.port;
    expect(answer.is_some(), || match site.host() {
        Some(_) => {
            format!("published for the host alone: 127.0.0.1:{port} answers, {HOST}:{port} does not answer a neighbour")
        }
        None => format!("nobody answers at port {port}, neither the neighbour nor the host"),
    })
}

fn localhost(site: &Site) -> Finding {
    expect(site.host().is_some(), || format!("nobody answers the host at 127.0.0.1:{}", site.port))
}

/// Another container writes a random page into the volume; the neighbour must read that.
fn in_volume(site: &Site) -> Finding {
    let mark = format!("page-{:x}", random(0, u64::MAX));
    site.mark.replace(mark.clone());
    let script = format!("echo {mark} > /p/index.html");
    site.mydocker(&["run", "--rm", "--network", "none", "-v", "pages:/p", "busybox", "sh", "-c", &script])?;
    let answer = site.until(|answer| answer.as_deref() == Some(&mark));
    expect(answer.as_deref() == Some(&mark), || {
        format!("`index.html` in the volume `pages` says {mark}, and the server {:?}", answer.unwrap_or_default())
    })
}

/// A process that has the volume mounted: its root shows the random page below a mount of its own.
fn server(site: &Site) -> Option<u32> {
    let mark = site.mark.borrow();
    let shows = |pid: u32, at: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/root{at}/index.html"));
        text.is_ok_and(|text| !mark.is_empty() && text.trim() == *mark)
    };
    strangers().find(|pid| kernel::mounts(pid).iter().any(|mount| mount.at != "/" && shows(*pid, &mount.at)))
}

fn own_network(site: &Site) -> Finding {
    let Some(pid) = server(site) else { return wrong("no container has the volume `pages` mounted") };
    let (theirs, ours) = (kernel::namespace(pid, "net"), super::own("net"));
    expect(theirs != ours, || format!("process {pid}, the server, is in the host's network: every port of it is open"))
}

fn restart(site: &Site) -> Finding {
    let before = server(site);
    site.mydocker(&["restart", "-t", "2", "web"])?;
    let mark = site.mark.borrow().clone();
    let answer = site.until(|answer| answer.as_deref() == Some(&mark));
    same("the page after `restart web`", answer.as_deref(), Some(mark.as_str()))?;
    expect(server(site) != before, || "`restart web` has left the same process running".to_string())
}

fn again(site: &Site) -> Finding {
    site.remove(&["web"])?;
    site.up()?;
    let mark = site.mark.borrow().clone();
    let answer = site.until(|answer| answer.as_deref() == Some(&mark));
    same("the page after `rm -f web` and `./up`", answer.as_deref(), Some(mark.as_str()))
}
