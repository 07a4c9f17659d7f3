//! mydocker at the end of chapter 09: a wire of its own, and ports that lead in.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, container::Container, layers::Layers, namespaces::Namespaces, network::Net};
use mydocker::{process::Process, rootfs::Rootfs, security::Security};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Security, &Net, &Container];

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
    cli::NETWORK,
    cli::PORT,
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
