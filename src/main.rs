//! The door: which rooms there are, which commands, and the exit status.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, container::Container, layers::Layers, namespaces::Namespaces, network::Net};
use mydocker::{image::Images, process::Process, rootfs::Rootfs, security::Security, volume::Volumed};
use std::process::ExitCode;

/// Every capability, in the order of the chapters.
const ROOMS: &[&dyn Room] =
    &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Images, &Security, &Net, &Container];

const COMMANDS: &[Command] = &[
    cli::RUN,
    cli::CREATE,
    cli::START,
    cli::STOP,
    cli::RESTART,
    cli::KILL,
    cli::WAIT,
    cli::RM,
    cli::PS,
    cli::LOGS,
    cli::EVENTS,
    cli::INSPECT,
    cli::EXEC,
    cli::ATTACH,
    cli::CP,
    cli::TOP,
    cli::STATS,
    cli::PAUSE,
    cli::UNPAUSE,
    cli::RENAME,
    cli::UPDATE,
    cli::PORT,
    cli::CONTAINER,
    cli::IMAGES,
    cli::IMAGE,
    cli::TAG,
    cli::RMI,
    cli::HISTORY,
    cli::COMMIT,
    cli::DIFF,
    cli::EXPORT,
    cli::IMPORT,
    cli::SAVE,
    cli::LOAD,
    cli::VOLUME,
    cli::NETWORK,
    cli::SYSTEM,
    cli::DOCTOR,
    cli::DEMO,
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
