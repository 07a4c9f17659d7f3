//! A host of one's own for the calling thread: namespaces belong to threads, and what a thread starts inherits them.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The thread's own mounts (all of them shared, as systemd has it), network and host name. The folder of the test is bound onto
/// itself: every process that the test starts has that mount in its table, and can be told by it.
pub struct PrivateHost {
    folder: PathBuf,
    /// Where the folder lies, as the machine sees it: [`PrivateHost::protect`] makes it read-only for us.
    parent: fs::File,
}

impl PrivateHost {
    /// Or why this machine cannot.
    pub fn enter() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can make containers".to_string());
        }
        // What an engine leaves behind becomes a child of ours, and not a stranger's.
        nix::sys::prctl::set_child_subreaper(true).map_err(|errno| format!("PR_SET_CHILD_SUBREAPER: {errno}"))?;
        let parent = std::env::temp_dir();
        let parent = fs::File::open(&parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        // A program that forgets its UTS namespace renames this host, and not the machine.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
            .map_err(|errno| format!("no private host: unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS): {errno}"))?;
        let change = |flags| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | flags, None::<&str>);
        // First out of the machine's own peer groups, then into new ones.
        change(MsFlags::MS_PRIVATE).and_then(|()| change(MsFlags::MS_SHARED)).map_err(|errno| format!("/: {errno}"))?;
        let folder = tempfile::Builder::new().prefix("mydocker-test-").tempdir().map_err(|error| error.to_string())?;
        let folder = folder.keep();
        mount(Some(&folder), &folder, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| format!("{}: {errno}", folder.display()))?;
        // As on every host. Without `ip` it stays down, which is a host too.
        let _ = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        Ok(Self { folder, parent })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the machine's own files read-only in here, all but the test's folder: a binary that has no walls yet, or a
    /// broken one, then does no harm, whatever a check tells its container to do.
    pub fn protect(&self) -> Result<(), String> {
        let own = self.folder.display().to_string();
        let kernels = ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "binfmt_misc"];
        // iptables has its lock in there.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| format!("/run: {errno}"))?;
        for found in super::kernel::mounts("thread-self") {
            if kernels.contains(&found.kind.as_str()) || found.at.starts_with(&own) || found.at == "/run" {
                continue;
            }
            let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            for (word, flag) in
                [("nosuid", MsFlags::MS_NOSUID), ("nodev", MsFlags::MS_NODEV), ("noexec", MsFlags::MS_NOEXEC)]
            {
                flags.set(flag, found.options.iter().any(|option| option == word));
            }
            // What another mount covers cannot be reached by anybody.
            let changed = mount(None::<&str>, found.at.as_str(), None::<&str>, flags, None::<&str>);
            changed.or_else(|errno| match errno {
                nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT if found.at != "/" => Ok(()),
                errno => Err(format!("{}: {errno}", found.at)),
            })?;
        }
        match fs::write("/etc/mydocker-test", "") {
            Err(_) => Ok(()),
            Ok(()) => {
                let _ = fs::remove_file("/etc/mydocker-test");
                Err("/etc can still be written to".to_string())
            }
        }
    }
}

impl Drop for PrivateHost {
    fn drop(&mut self) {
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        let name = self.folder.file_name().unwrap_or_default();
        let there = Path::new("/proc/thread-self/fd").join(self.parent.as_raw_fd().to_string()).join(name);
        let _ = fs::remove_dir_all(there);
    }
}

/// Says on the real stderr, past the harness, that a test was not run, and why.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    // On a line of its own, also behind the harness's `test NAME ... `; in one write, so that none comes between.
    let line = format!("\nskipped: {}: {why}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
