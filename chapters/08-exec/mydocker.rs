//! mydocker at the end of chapter 08: one more process joins a container that runs.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, container::Container, layers::Layers, namespaces::Namespaces, process::Process};
use mydocker::{rootfs::Rootfs, security::Security};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Security, &Container];

const COMMANDS: &[Command] = &[
    cli::RUN,
    cli::DOCTOR,
    cli::CREATE,
    cli::START,
    cli::STOP,
    cli::RESTART,
    cli::KILL,
    cli::WAIT,
    cli::RM,
    cli::PS,
    cli::LOGS,
    cli::INSPECT,
    cli::PAUSE,
    cli::UNPAUSE,
    cli::RENAME,
    cli::UPDATE,
    cli::CONTAINER,
    cli::EXEC,
    cli::ATTACH,
    cli::CP,
    cli::TOP,
    cli::STATS,
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
