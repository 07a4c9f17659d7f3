//! mydocker at the end of chapter 03: a root file system of its own, and a root user with fewer powers.

use mydocker::cgroup::Cgroup;
use mydocker::cli::{self, Command};
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use mydocker::rootfs::Rootfs;
use mydocker::security::Security;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Security];

const COMMANDS: &[Command] = &[cli::RUN];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
