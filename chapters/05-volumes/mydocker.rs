//! mydocker at the end of chapter 05: files that outlive the container.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, layers::Layers, namespaces::Namespaces, process::Process};
use mydocker::{rootfs::Rootfs, security::Security, volume::Volumed};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Security];

const COMMANDS: &[Command] = &[cli::RUN, cli::VOLUME];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
