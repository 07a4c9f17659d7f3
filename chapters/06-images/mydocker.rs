//! mydocker at the end of chapter 06: images at rest, and on their way.

use mydocker::cli::{self, Command};
use mydocker::plan::Room;
use mydocker::{cgroup::Cgroup, layers::Layers, namespaces::Namespaces, process::Process};
use mydocker::{image::Images, rootfs::Rootfs, security::Security, volume::Volumed};
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Images, &Security];

const COMMANDS: &[Command] = &[
    cli::RUN,
    cli::VOLUME,
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
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
