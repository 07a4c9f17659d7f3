//! What takes a step back. Plain data, because it is written to the journal before the step is done and may be
//! performed by another process, long after ours was killed. Every undo is idempotent: what is gone is passed over.

use super::undo_network; // ch09
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path; // ch02
use std::path::PathBuf;
use std::time::{Duration, Instant}; // ch02

/// When a step is taken back. What ends with the processes can be made again by the next start; what the user would
/// miss stays until he removes the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// When the container's processes have ended.
    #[default]
    End,
    /// When the container is removed together with the volumes that nobody named (`rm -v`, `--rm`).
    Volumes,
    /// When the container is removed.
    Removal,
}

impl When {
    pub const ALL: &[When] = &[When::End, When::Volumes, When::Removal];
}

/// One way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// Delete a folder of ours and what is in it; never through a link, never across a mount.
    RemoveTree { path: PathBuf },
    /// Delete a link, if it still points where we made it point.
    Unlink { path: PathBuf, target: PathBuf },
    /// End what still runs in a cgroup of ours, and remove it.
    RemoveCgroup { path: PathBuf }, // ch02
    /// Remove a folder if nothing is in it (a parent that others may share).
    RemoveEmpty { path: PathBuf },
    /// Make a bridge forget one of its ports. The kernel deletes the link, with its other end, when the container's
    /// network namespace goes; to delete it here would take 30 ms.
    RemoveLink { name: String }, // ch09
    /// Take out rules of ours: the file `rules`, if it is there, holds the lines of `iptables-restore` that do it.
    RemoveRules { rules: PathBuf }, // ch09
    /// Give back the address that `record` names, if it is still that container's in `leases`.
    ReleaseLease { leases: PathBuf, record: PathBuf }, // ch09
    /// Leave every network of which a lease is recorded in the container's folder: those that it has joined while it
    /// ran stand in no journal of its engine's.
    LeaveNetworks { networks: PathBuf, folder: PathBuf }, // ch09
    /// Leave one: delete the pair, give back the address, forget the record.
    LeaveNetwork { leases: PathBuf, record: PathBuf }, // ch09
    /// Delete a bridge whose alias begins with `mark`; with the last of ours, put ip_forward back as it was.
    RemoveBridge { name: String, mark: String }, // ch09
}

impl Undo {
    /// Takes the step back. An error names the path that is still there.
    pub fn perform(&self) -> io::Result<()> {
        match self {
            Undo::RemoveTree { path } => super::remove::remove_tree(path),
            Undo::Unlink { path, target } => match fs::read_link(path) {
                Ok(points_at) if points_at == *target => gone(fs::remove_file(path)),
                _ => Ok(()),
            },
            Undo::RemoveCgroup { path } => remove_cgroup(path), // ch02
            Undo::RemoveEmpty { path } => match fs::remove_dir(path) {
                Err(error) if matches!(raw(&error), Errno::EBUSY | Errno::ENOTEMPTY) => Ok(()),
                other => gone(other),
            },
            // ch09
            Undo::RemoveLink { name } => match crate::sys::silence_bridge_port(name) {
                // EOPNOTSUPP, EINVAL: it is there and no port of a bridge.
                Ok(()) | Err(Errno::ENODEV | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            // ch09
            Undo::RemoveRules { rules } => match fs::read_to_string(rules) {
                Ok(text) => super::iptables::remove_rules(&text),
                Err(error) => gone(Err(error)),
            },
            Undo::ReleaseLease { leases, record } => undo_network::release_lease(leases, record), // ch09
            Undo::LeaveNetworks { networks, folder } => undo_network::leave_all(networks, folder), // ch09
            Undo::LeaveNetwork { leases, record } => undo_network::leave(leases, record, true),   // ch09
            Undo::RemoveBridge { name, mark } => undo_network::remove_bridge(name, mark),         // ch09
        }
    }

    /// The shell words that do the same.
    pub fn shell(&self) -> String {
        match self {
            Undo::RemoveTree { path } => format!("rm -rf --one-file-system {}", path.display()),
            Undo::Unlink { path, .. } => format!("rm -f {}", path.display()),
            Undo::RemoveCgroup { path } => format!("rmdir {}", path.display()), // ch02
            Undo::RemoveEmpty { path } => format!("rmdir {}", path.display()),
            // ch09
            Undo::RemoveLink { name } => format!(
                "bridge link set dev {name} learning off flood off mcast_flood off bcast_flood off   # then with its netns"
            ),
            Undo::RemoveRules { rules } => format!("iptables-restore --noflush --wait < {}", rules.display()), // ch09
            // ch09
            Undo::ReleaseLease { leases, record } => {
                format!("rm {}/$(jq -r .address {})", leases.display(), record.display())
            }
            // ch09
            Undo::LeaveNetworks { networks, folder } => format!(
                "for r in {}/lease-*; do rm {}/${{r#*/lease-}}/leases/$(jq -r .address $r); done",
                folder.display(),
                networks.display()
            ),
            // ch09
            Undo::LeaveNetwork { leases, record } => format!(
                "ip link del $(jq -r .link {0}); rm {1}/$(jq -r .address {0})",
                record.display(),
                leases.display()
            ),
            Undo::RemoveBridge { name, .. } => format!("ip link del {name}"), // ch09
        }
    }
}

fn raw(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// What is not there any more needs no removing.
pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

// ch02
/// Removes a cgroup, first ending whatever is left in it. Only a cgroup that is named by a container's id comes here.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    let patience = Instant::now() + Duration::from_secs(5);
    let mut pause = Duration::from_micros(50);
    loop {
        match fs::remove_dir(path) {
            Err(error) if raw(&error) == Errno::EBUSY && Instant::now() < patience => {}
            other => return gone(other),
        }
        end_processes(path);
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

// ch02
/// `cgroup.kill` where the kernel has it (v2, Linux 5.14), else SIGKILL to each of the processes listed.
fn end_processes(cgroup: &Path) {
    if fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // A cgroup below ours belongs to the container too (it may make some on a writable view).
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            end_processes(&below.path());
            let _ = fs::remove_dir(below.path());
        }
    }
    for line in fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid @ 2..) = line.parse() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_is_idempotent_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        fs::create_dir_all(ours.join("a/b")).unwrap();
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("canary"), "alive").unwrap();
        std::os::unix::fs::symlink(&theirs, ours.join("a/link")).unwrap();
        let undo = Undo::RemoveTree { path: ours.clone() };
        undo.perform().unwrap();
        undo.perform().unwrap();
        assert!(!ours.exists());
        assert_eq!(fs::read_to_string(theirs.join("canary")).unwrap(), "alive");
    }

    #[test]
    fn a_link_that_someone_else_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("web");
        std::os::unix::fs::symlink("id-of-another", &link).unwrap();
        Undo::Unlink { path: link.clone(), target: "id-of-mine".into() }.perform().unwrap();
        assert!(fs::read_link(&link).is_ok());
        Undo::Unlink { path: link.clone(), target: "id-of-another".into() }.perform().unwrap();
        assert!(fs::read_link(&link).is_err());
    }

    #[test]
    fn undos_survive_the_journal() {
        let undo = Undo::RemoveEmpty { path: "/sys/fs/cgroup/x".into() };
        let line = serde_json::to_string(&undo).unwrap();
        assert_eq!(line, r#"{"undo":"remove-empty","path":"/sys/fs/cgroup/x"}"#);
        assert_eq!(serde_json::from_str::<Undo>(&line).unwrap(), undo);
    }
}
