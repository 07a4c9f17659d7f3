//! mydocker at the end of chapter 04: every container writes into a layer of its own.

use mydocker::cgroup::Cgroup;
use mydocker::cli::{self, Command};
use mydocker::layers::Layers;
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use mydocker::rootfs::Rootfs;
use mydocker::security::Security;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup, &Rootfs, &Layers, &Security];

const COMMANDS: &[Command] = &[cli::RUN];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
