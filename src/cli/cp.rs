//! `mydocker cp`.

use super::human::size;
use super::run::{telling, telling_flags};
use super::watch::Teller;
use super::{Command, Context, flag, string};
use crate::container::find;
use crate::engine::{Copier, Copying};
use anyhow::{Result, bail};
use clap::Arg;
use std::io::{BufWriter, IsTerminal, Write};

pub const CP: Command = Command {
    name: "cp",
    about: "Copy files between a container and here (`-`: a tar archive on stdin or stdout)",
    flags: |command, _| {
        command
            .override_usage("mydocker cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       mydocker cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH")
            .args([
                flag("archive", "Owners, set-user-ID bits and extended attributes, too").short('a'),
                flag("follow-link", "Follow a link at the end of SRC_PATH").short('L'),
                flag("quiet", "Do not tell how much it was").short('q'),
            ])
            .args(telling_flags().into_iter().filter(|arg| arg.get_id() != "dry-run"))
            .args([
                Arg::new("from").value_name("SRC_PATH").required(true).allow_hyphen_values(true),
                Arg::new("to").value_name("DEST_PATH").required(true).allow_hyphen_values(true),
            ])
    },
    act,
};

/// One end of a copy.
enum End<'a> {
    /// A tar stream.
    Stream,
    Here(&'a str),
    Container(&'a str, &'a str),
}

/// Docker's: a path that begins with `/` or `.` is one of the host's, whatever colons are in it.
fn end(text: &str) -> End<'_> {
    match text.split_once(':') {
        _ if text == "-" => End::Stream,
        Some((container, path)) if !text.starts_with(['/', '.']) && !container.is_empty() => {
            End::Container(container, path)
        }
        _ => End::Here(text),
    }
}

fn act(context: &Context<'_>, said: &clap::ArgMatches) -> Result<u8> {
    let (from, to) = (string(said, "from").unwrap_or_default(), string(said, "to").unwrap_or_default());
    for (name, path) in [("SRC_PATH", from), ("DEST_PATH", to)] {
        if path.is_empty() {
            bail!("{name} is empty: a path is wanted");
        }
    }
    let how = Copying { follow: said.get_flag("follow-link"), archive: said.get_flag("archive") };
    let (rooms, dirs) = (context.rooms, &context.dirs);
    let mut teller = Teller::new(telling(said));
    let tells = !said.get_flag("quiet") && std::io::stdout().is_terminal();
    let done = |bytes: u64, to: &str| {
        if tells {
            let _ = writeln!(std::io::stderr(), "Successfully copied {} to {to}", size(bytes, 3));
        }
    };
    match (end(from), end(to)) {
        (End::Container(container, path), End::Here(here)) => {
            let here = absolute(here)?;
            let id = &find(dirs, container)?;
            let bytes = Copier { rooms, dirs, id, how }.take(path.as_bytes(), here.as_bytes(), &mut teller)?;
            done(bytes, here.trim_end_matches('/'));
        }
        (End::Here(here), End::Container(container, path)) => {
            let here = absolute(here)?;
            let id = &find(dirs, container)?;
            let bytes = Copier { rooms, dirs, id, how }.put(here.as_bytes(), path.as_bytes(), &mut teller)?;
            done(bytes, to);
        }
        (End::Container(container, path), End::Stream) => {
            if std::io::stdout().is_terminal() {
                bail!("cowardly refusing to write an archive to a terminal (hint: mydocker cp … - | tar -t)");
            }
            let id = &find(dirs, container)?;
            let out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            Copier { rooms, dirs, id, how }.pack(path.as_bytes(), out, &mut teller)?;
        }
        (End::Stream, End::Container(container, path)) => {
            let id = &find(dirs, container)?;
            Copier { rooms, dirs, id, how }.unpack(std::io::stdin().lock(), path.as_bytes(), &mut teller)?;
        }
        (End::Container(..), End::Container(..)) => bail!("copying between containers is not supported"),
        _ => bail!("must specify at least one container source"),
    }
    Ok(0)
}

/// From the root on; what the end of a path says (`/`, `/.`) stays.
fn absolute(path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path.to_string());
    }
    let here = std::env::current_dir()?;
    match here.to_str() {
        Some(here) => Ok(format!("{}/{path}", here.trim_end_matches('/'))),
        None => bail!("the working directory `{}` is not UTF-8 (hint: give a whole path)", here.display()),
    }
}
