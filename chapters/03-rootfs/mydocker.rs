//! mydocker at the end of chapter 03: a root file system of its own, and a root user with fewer powers.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, namespaces::Namespaces, process::Process};
use mydocker::{rootfs::Rootfs, security::Security};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Security];

const COMMANDS: &[Command] = &[cli::RUN];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
