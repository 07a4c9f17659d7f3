//! Files that outlive the container: folders of the host and volumes, bound into its tree. A bind mount shows one
//! place of a file system at another; nothing is copied, and both see every change (`man 8 mount`, "Bind mount
//! operation").
//!
//! Inside, the container sees a folder like every other; `/proc/self/mountinfo` tells where it comes from.
//!
//! Try it without us: `mount --bind /srv/data $ROOT/data; mount -o remount,bind,ro $ROOT/data`

mod flags;
mod show;
mod store;

pub use store::{Volume, Volumes, find_users, volume_name as check_name};

use crate::plan::{Attached, Op, Phase, Plan, Room, Spec, Undo, When, quote};
use crate::tree::{Stack, copy_tree, open_folder};
use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use flags::{Kind, Wanted};
use nix::errno::Errno;
use oci_spec::runtime::Mount;
use std::path::{Path, PathBuf};

/// The room.
pub struct Volumed;

/// In the OCI document's annotations: the user's mounts, as JSON.
pub const MOUNTS: &str = "mydocker.mounts";

impl Room for Volumed {
    fn name(&self) -> &'static str {
        "volume"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        let list = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
        };
        command.args([
            list("volume", "[SOURCE:]TARGET[:OPTIONS]", "Bind a folder, a file or a volume into the container")
                .short('v'),
            list("mount", "type=…,source=…,target=…", "The same in long words: type=bind|volume|tmpfs"),
            list("volumes-from", "CONTAINER[:ro]", "Mount what another container has mounted"),
        ])
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        if spec.rootfs().is_none() {
            return Ok(());
        }
        let wanted = flags::read(said, &spec.dirs, &spec.image.volumes)?;
        for one in &wanted {
            let taken = |mount: &&Mount| mount.destination() == Path::new(&one.target);
            // What docker mounts by itself gives way to the user; two wishes of the user do not.
            if let Some(other) = spec.mounts().iter().find(taken) {
                let ours = other.typ().as_deref() != Some("tmpfs") || one.target.starts_with("/dev/");
                if !ours {
                    bail!("duplicate mount point: `{}`", one.target);
                }
            }
            spec.mounts_mut().retain(|mount| mount.destination() != Path::new(&one.target));
        }
        let mounts = wanted.iter().map(|one| one.to_oci(&spec.dirs));
        let mounts: Vec<Mount> = mounts.collect();
        spec.mounts_mut().extend(mounts);
        if !wanted.is_empty() {
            let notes = spec.oci.annotations_mut().get_or_insert_default();
            notes.insert(MOUNTS.to_string(), serde_json::to_string(&wanted)?);
            spec.own.insert(show::KEY.to_string(), show::note(&wanted));
        }
        Ok(())
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        let note = spec.oci.annotations().as_ref().and_then(|notes| notes.get(MOUNTS));
        let Some(note) = note else { return Ok(()) };
        let wanted: Vec<Wanted> = serde_json::from_str(note).context("the note of the mounts is damaged")?;
        for one in wanted {
            match one.kind {
                Kind::Bind if one.make => make_source(&one, plan),
                Kind::Volume => make_volume(&one, spec, plan),
                _ => {}
            }
        }
        Ok(())
    }

    fn inspect(&self, spec: &Spec, _runs: bool) -> serde_json::Value {
        show::inspect(spec)
    }

    fn attached(&self, spec: &Spec) -> Vec<Attached> {
        show::attached(spec)
    }

    fn columns(&self, spec: &Spec, _runs: bool) -> serde_json::Value {
        show::columns(spec)
    }

    fn view(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        self.plan(spec, plan)
    }
}

fn make_source(one: &Wanted, plan: &mut Plan) {
    let path = PathBuf::from(&one.source);
    if !path.exists() {
        plan.add(Phase::Host, format!("mkdir.{}", one.target), Op::mkdir(&path, 0o755))
            .why("-v makes a folder that is missing on the host, as docker does; --mount would refuse.")
            .look(format!("ls -ld {}", quote(&one.source)));
    }
}

fn make_volume(one: &Wanted, spec: &Spec, plan: &mut Plan) {
    let volumes = Volumes::new(&spec.dirs.root);
    let folder = volumes.folder(&one.source);
    let data = folder.join("_data").display().to_string();
    let shell = format!("mkdir -p {0} && cp -a $IMAGE{1}/. {0}", quote(&data), quote(&one.target));
    let layers = if one.copy { spec.image.layers.clone() } else { vec![] };
    let (name, target, anonymous) = (one.source.clone(), one.target.clone(), one.anonymous);
    let labels = one.labels.clone();
    let op = Op::new("mkdir", [data.clone()], shell, move |_| {
        let fill = |data: &Path| -> Result<()> {
            if layers.is_empty() {
                return Ok(());
            }
            copy_tree(&Stack::open(&layers)?, target.as_bytes(), &open_folder(data)?).map(drop)
        };
        volumes.provide(&name, anonymous, &labels, &fill).map_err(|error| {
            log::warn!("volume `{name}`: {error:#}");
            let errno = error.downcast_ref::<std::io::Error>().and_then(|error| error.raw_os_error());
            errno.map_or(Errno::EIO, Errno::from_raw)
        })
    });
    let step = plan.add(Phase::Host, format!("create.{}", one.target), op);
    step.why("A volume lies beside all containers; a new one is filled with what the image has in its place.")
        .look(format!("ls -la {}", quote(&data)));
    if one.anonymous && !one.borrowed {
        step.undo_when(When::Volumes, Undo::RemoveTree { path: folder });
    }
}
