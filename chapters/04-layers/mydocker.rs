//! mydocker at the end of chapter 04: every container writes into a layer of its own.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, layers::Layers, namespaces::Namespaces, process::Process};
use mydocker::{rootfs::Rootfs, security::Security};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Security];

const COMMANDS: &[Command] = &[cli::RUN];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
