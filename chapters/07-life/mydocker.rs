//! mydocker at the end of chapter 07: a container outlives the command that made it, is listed, read, stopped, started
//! again and removed.

use mydocker::cgroup::Cgroup;
use mydocker::cli::{self, Command};
use mydocker::container::Container;
use mydocker::image::Images;
use mydocker::layers::Layers;
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use mydocker::rootfs::Rootfs;
use mydocker::security::Security;
use mydocker::volume::Volumed;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] =
    &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Images, &Security, &Container];

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    cli::RUN,
    cli::VOLUME,
    cli::IMAGES, cli::IMAGE, cli::TAG, cli::RMI, cli::HISTORY, cli::COMMIT, cli::DIFF, cli::EXPORT,
    cli::IMPORT, cli::SAVE, cli::LOAD,
    cli::DOCTOR, cli::CREATE, cli::START, cli::STOP, cli::RESTART, cli::KILL, cli::WAIT, cli::RM, cli::PS,
    cli::LOGS, cli::INSPECT, cli::PAUSE, cli::UNPAUSE, cli::RENAME, cli::UPDATE, cli::CONTAINER, cli::EVENTS,
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
