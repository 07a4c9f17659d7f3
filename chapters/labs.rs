//! The program of the break-it labs: mydocker with every room, and faults that `MYDOCKER_LAB` switches on
//! (`src/plan/labs.rs`; only with the cargo feature `labs`).

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, container::Container, layers::Layers, namespaces::Namespaces, network::Net};
use mydocker::{image::Images, process::Process, rootfs::Rootfs, security::Security, volume::Volumed};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] =
    &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Images, &Security, &Net, &Container];

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    cli::RUN, cli::VOLUME, cli::IMAGES, cli::RMI, cli::COMMIT, cli::STOP, cli::RM, cli::PS, cli::LOGS, cli::INSPECT,
    cli::EXEC, cli::NETWORK, cli::DOCTOR, cli::CP, cli::DIFF, cli::PAUSE, cli::UNPAUSE, cli::PORT, cli::UPDATE, cli::DEMO,
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
