//! `mydocker doctor`.

use super::{Command, Context};
use anyhow::Result;
use clap::ArgMatches;

pub const DOCTOR: Command =
    Command { name: "doctor", about: "Tell what of this machine the chapters need", flags: |command, _| command, act };

fn act(_context: &Context<'_>, _said: &ArgMatches) -> Result<u8> {
    Ok(0)
}
