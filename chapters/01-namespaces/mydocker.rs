//! mydocker at the end of chapter 01: a process in namespaces of its own, on the host's files.

use mydocker::cli::{self, Command};
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process];

const COMMANDS: &[Command] = &[cli::RUN];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
