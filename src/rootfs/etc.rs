//! The three files of /etc that belong to the container and not to its image: hosts, hostname, resolv.conf. They lie
//! in the container's folder and are bound over the image's.

use super::mounts;
use crate::plan::{Op, Phase, Plan, Spec};
use oci_spec::runtime::{LinuxNamespaceType, Mount};
use std::fs;
use std::path::Path;

pub const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Where systemd-resolved keeps the servers that its stub at 127.0.0.53 asks.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

pub fn mounts(folder: &Path) -> impl Iterator<Item = Mount> + use<'_> {
    FILES.into_iter().map(|name| mounts::bind(&folder.join(name), &format!("/etc/{name}")))
}

pub fn plan(spec: &Spec, plan: &mut Plan) {
    let own_network = spec.linux().namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::Network);
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hosts = if own_network { HOSTS.to_string() } else { host("/etc/hosts") };
    let hostname = format!("{}\n", spec.oci.hostname().as_deref().unwrap_or(spec.id.short()));
    let resolv = if own_network {
        servers(&host("/etc/resolv.conf"), || host(BEHIND_THE_STUB))
    } else {
        host("/etc/resolv.conf")
    };
    for (name, content) in FILES.into_iter().zip([hosts, hostname, resolv]) {
        plan.add(Phase::Host, format!("etc.{name}"), Op::write_file(&spec.folder().join(name), content, 0o644))
            .why("Names and servers are this container's, not the image's.")
            .look(format!("cat /proc/$PID/root/etc/{name}"));
    }
}

/// The host's resolv.conf without the servers on its loopback, which a network of one's own cannot reach; if no other
/// is left, those behind the host's stub resolver.
fn servers(text: &str, behind_the_stub: impl Fn() -> String) -> String {
    let local = |line: &str| {
        let server = line.trim().strip_prefix("nameserver").map(str::trim);
        server.is_some_and(|server| server.starts_with("127.") || server == "::1")
    };
    let filter =
        |text: &str| text.lines().filter(|line| !local(line)).fold(String::new(), |all, line| all + line + "\n");
    let kept = filter(text);
    if kept.lines().any(|line| line.trim_start().starts_with("nameserver")) || !text.lines().any(local) {
        return kept;
    }
    let behind = filter(&behind_the_stub());
    if behind.is_empty() { kept } else { behind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_the_hosts_loopback_are_left_out() {
        let none = || String::new();
        assert_eq!(servers("nameserver 10.0.0.1\nsearch x\n", none), "nameserver 10.0.0.1\nsearch x\n");
        assert_eq!(servers("nameserver 127.0.0.1\nnameserver 9.9.9.9\n", none), "nameserver 9.9.9.9\n");
        assert_eq!(
            servers("nameserver 127.0.0.53\nsearch x\n", || "nameserver 10.1.1.1\n".into()),
            "nameserver 10.1.1.1\n"
        );
        assert_eq!(servers("nameserver ::1\nsearch x\n", none), "search x\n");
        assert_eq!(servers("", none), "");
    }
}
