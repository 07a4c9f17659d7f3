//! mydocker at the end of chapter 02: the process may use only so much.

use mydocker::cgroup::Cgroup;
use mydocker::cli::{self, Command};
use mydocker::namespaces::Namespaces;
use mydocker::plan::Room;
use mydocker::process::Process;
use std::process::ExitCode;

const ROOMS: &[&dyn Room] = &[&Namespaces, &Process, &Cgroup];

const COMMANDS: &[Command] = &[cli::RUN];

fn main() -> ExitCode {
    cli::main(ROOMS, COMMANDS)
}
