//! mydocker at the end of chapter 05: files that outlive the container.

use mydocker::cgroup::Cgroup;
use mydocker::cli::{self, Command};
use mydocker::layers::Layers;
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use mydocker::rootfs::Rootfs;
use mydocker::security::Security;
use mydocker::volume::Volumed;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Volumed, &Security];

const COMMANDS: &[Command] = &[cli::RUN, cli::VOLUME];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
