//! mydocker at the end of chapter 06: images at rest, and on their way.

use mydocker::cgroup::Cgroup;
use mydocker::cli::{self, Command};
use mydocker::image::Images;
use mydocker::layers::Layers;
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use mydocker::rootfs::Rootfs;
use mydocker::security::Security;
use mydocker::volume::Volumed;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Images, &Security];

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    cli::RUN,
    cli::VOLUME,
    cli::IMAGES, cli::IMAGE, cli::TAG, cli::RMI, cli::HISTORY, cli::COMMIT, cli::DIFF, cli::EXPORT,
    cli::IMPORT, cli::SAVE, cli::LOAD,
];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
