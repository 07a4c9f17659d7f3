//! `mydocker save|load|import|export`: images and file systems as archives.

use super::arg::{flag, many, string, strings, value};
use super::progress::Progress;
use super::{Command, Context, happened, print};
use crate::container::{Event, tell};
use crate::image::commit::{self, Words};
use crate::image::{self, Container, Format, Reference, Store};
use crate::plan::Room;
use crate::sys::FdPath;
use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgMatches};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub const SAVE: Command = Command { name: "save", about: "Write images to an archive", flags: save_flags, act: save };
pub const LOAD: Command = Command { name: "load", about: "Read images from an archive", flags: load_flags, act: load };
pub const IMPORT: Command =
    Command { name: "import", about: "Make an image of an archive or a folder", flags: import_flags, act: import };
pub const EXPORT: Command =
    Command { name: "export", about: "Write a container's files to an archive", flags: export_flags, act: export };

pub fn save_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        value("output", "FILE", "Write to a file instead of stdout").short('o'),
        value("format", "docker|oci", "docker-archive, or an OCI layout and nothing else").value_parser([
            "docker",
            "docker-archive",
            "oci",
            "oci-archive",
        ]),
        super::arg::words("images", "IMAGE", 1),
    ])
}

pub fn save(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let format = match string(said, "format") {
        Some("oci" | "oci-archive") => Format::Oci,
        _ => Format::Docker,
    };
    let mut images: Vec<(image::Image, Vec<Reference>)> = Vec::new();
    for word in strings(said, "images") {
        let image = store.get(word)?;
        let by_name = Reference::parse(word).ok().filter(|name| image.names.contains(name));
        match images.iter_mut().find(|(other, _)| other.manifest_digest == image.manifest_digest) {
            Some((_, names)) => names.extend(by_name),
            None => images.push((image, by_name.into_iter().collect())),
        }
    }
    let saved = write_to(string(said, "output"), |out| image::save(&store, &images, format, out).map(drop))?;
    images.iter().for_each(|(image, _)| happened::image(context, "save", image.id.as_str(), image.id.as_str()));
    Ok(saved)
}

pub fn load_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        value("input", "FILE", "Read from a file or a folder instead of stdin").short('i'),
        flag("quiet", "Say nothing of the progress").short('q'),
    ])
}

pub fn load(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let progress = progress(said.get_flag("quiet"));
    let loaded = match string(said, "input") {
        Some(path) => image::load(&store, Path::new(path), &progress)?,
        None => {
            if std::io::stdin().is_terminal() {
                bail!("requested load from stdin, but stdin is empty");
            }
            image::load_stream(&store, std::io::stdin().lock(), &progress)?
        }
    };
    let mut text = String::new();
    for image in loaded {
        happened::image(context, "load", image.id.as_str(), image.id.as_str());
        match image.names.is_empty() {
            true => text += &format!("Loaded image ID: {}\n", image.id),
            false => image.names.iter().for_each(|name| text += &format!("Loaded image: {name}\n")),
        }
    }
    print(&text)
}

/// A line for each layer that is done, if somebody looks on.
fn progress(quiet: bool) -> impl Fn(&str) + Sync {
    let told = !quiet && std::io::stderr().is_terminal();
    move |text| {
        if told {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

pub fn import_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        many(
            value("change", "INSTRUCTION", "Change the config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, …")
                .short('c'),
        ),
        value("message", "TEXT", "A comment").short('m'),
        Arg::new("source").value_name("FILE|FOLDER|-").required(true),
        Arg::new("name").value_name("REPOSITORY[:TAG]"),
    ])
}

pub fn import(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let store = Store::open(&context.dirs.root)?;
    let source = string(said, "source").unwrap_or_default();
    let mut words = words(said)?;
    if words.message.is_none() && source != "-" {
        words.message = Some(format!("Imported from {source}"));
    }
    let id = match source {
        "-" => {
            let _progress = Progress::of_time("Importing");
            commit::import(&store, std::io::stdin(), &words)?
        }
        url if url.starts_with("http://") || url.starts_with("https://") => {
            bail!("import: `{}`: fetch it first (curl -L … | mydocker import -)", url.escape_debug())
        }
        folder if Path::new(folder).is_dir() => {
            let _progress = Progress::of_time("Importing");
            commit::import_folder(&store, Path::new(folder), &words)?
        }
        file => {
            let file = File::open(file).with_context(|| format!("cannot open `{file}`"))?;
            let _progress = Progress::of_reading("Importing", &file);
            commit::import(&store, file, &words)?
        }
    };
    if let Some(name) = &words.name {
        happened::image(context, "tag", id.as_str(), &name.to_string());
    }
    happened::image(context, "import", id.as_str(), id.as_str());
    print(&format!("{id}\n"))
}

/// What `commit` and `import` say about the new image.
pub fn words(said: &ArgMatches) -> Result<Words> {
    let name = string(said, "name").map(Reference::parse).transpose()?;
    if name.as_ref().is_some_and(|name| name.digest().is_some()) {
        bail!("the new image's digest cannot be chosen: give REPOSITORY[:TAG]");
    }
    Ok(Words {
        name,
        author: None,
        message: string(said, "message").map(str::to_string),
        changes: strings(said, "change").map(str::to_string).collect(),
    })
}

fn export_flags(command: clap::Command, _: &[&dyn Room]) -> clap::Command {
    command.args([
        value("output", "FILE", "Write to a file instead of stdout").short('o'),
        Arg::new("container").value_name("CONTAINER").required(true),
    ])
}

fn export(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let container = Container::find(&context.dirs.root, string(said, "container").unwrap_or_default())?;
    crate::tree::raise_open_files();
    let written = write_to(string(said, "output"), |out| {
        let mut out = BufWriter::with_capacity(1 << 20, out);
        commit::export(&container, &mut out)?;
        Ok(out.flush()?)
    })?;
    let record = crate::container::Record::read(&context.dirs, &container.id);
    if let Ok(record) = record {
        tell(&context.dirs, &[Event::of(&record.spec, "export")]);
    }
    Ok(written)
}

/// Lets `write` fill `path`, which appears whole or not at all, or stdout, which must not be a terminal.
fn write_to(path: Option<&str>, write: impl FnOnce(&File) -> Result<()>) -> Result<u8> {
    let Some(path) = path.filter(|path| *path != "-") else {
        if std::io::stdout().is_terminal() {
            bail!("cowardly refusing to save to a terminal: use -o, or redirect");
        }
        use std::os::fd::AsFd;
        let out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        write(&out).context("cannot write to stdout")?;
        return Ok(0);
    };
    let path = PathBuf::from(path);
    let context = || format!("cannot write `{}`", path.display());
    // A device or a pipe is written as it is.
    if fs::metadata(&path).is_ok_and(|data| !data.is_file()) {
        let out = File::options().write(true).open(&path).with_context(context)?;
        write(&out).with_context(context)?;
        return Ok(0);
    }
    write_whole(&path, write).map(|()| 0).with_context(context)
}

/// As long as it is not whole the file has no name, so nothing of it is left by whatever ends us (Ctrl-C, SIGKILL): `man
/// 2 open`, O_TMPFILE. A link cannot take the place of a file that is there, so it comes under another name first.
fn write_whole(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let random: String = crate::sys::random::<6>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let hidden = path.with_file_name(format!(".mydocker-{random}"));
    let nameless = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(folder);
    let has_name = nameless.is_err();
    let out = match nameless {
        Ok(out) => out,
        // A file system that has none (vfat, overlay before Linux 6.3).
        Err(_) => File::options().write(true).create_new(true).open(&hidden)?,
    };
    let written = (|| -> Result<()> {
        let progress = Progress::of_writing("Writing", &out);
        write(&out)?;
        drop(progress);
        if !has_name {
            let at = FdPath::new(&out);
            linkat(AT_FDCWD, at.as_c_str(), AT_FDCWD, &hidden, AtFlags::AT_SYMLINK_FOLLOW)?;
        }
        Ok(fs::rename(&hidden, path)?)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    written
}
