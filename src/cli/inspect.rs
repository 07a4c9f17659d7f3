//! `mydocker inspect`: docker's document about a container, as far as it has a meaning here.

use super::template::Template;
use super::{Command, Context, flag, print, string, strings, tell};
use crate::container::{Health, Missing, Record, Status, find, read_config, status};
use crate::engine;
use crate::image::Store;
use crate::network; // ch09
use crate::plan::{LogDriver, Restart};
use crate::volume::Volumes;
use anyhow::{Result, bail};
use clap::{Arg, ArgMatches};
use jiff::Timestamp;
use serde_json::{Value, json};

pub const INSPECT: Command = Command {
    name: "inspect",
    about: "Tell everything about containers, images, networks and volumes, as JSON or through a template",
    flags: |command, _| {
        command.args([
            Arg::new("names").value_name("NAME|ID").num_args(1..).required(true),
            Arg::new("format").long("format").short('f').value_name("FORMAT").help("json or a Go template"),
            Arg::new("type").long("type").value_name("TYPE").help("container, image, network or volume"),
            flag("size", "How much each container has written").short('s'),
        ])
    },
    act,
};

fn act(context: &Context<'_>, said: &ArgMatches) -> Result<u8> {
    let kind = string(said, "type").filter(|kind| !kind.is_empty());
    if let Some(unknown) = kind.filter(|kind| !KINDS.contains(kind)) {
        bail!("--type: `{}` is not there: {}", unknown.escape_debug(), KINDS.join(", "));
    }
    let format = string(said, "format").filter(|format| !format.is_empty());
    let template = match format {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let (mut documents, mut status) = (Vec::new(), 0);
    for word in strings(said, "names") {
        match find_document(context, word, kind, said.get_flag("size")) {
            Ok(document) => documents.push(document),
            Err(error) => {
                tell(&engine::words(&error).0);
                status = 1;
            }
        }
    }
    let text = match (template, format) {
        (Some(template), _) => {
            let lines = documents.iter().map(|document| Ok(template.render(document)? + "\n"));
            lines.collect::<Result<String>>()?
        }
        (None, Some(_)) => documents.iter().map(|document| format!("{document}\n")).collect(),
        (None, None) => serde_json::to_string_pretty(&documents)?.replace("\n  ", "\n    ") + "\n",
    };
    print(&text)?;
    Ok(status)
}

/// In docker's order: a name may be that of several things.
const KINDS: [&str; 4] = ["container", "image", "network", "volume"]; // ch09, before: const KINDS: [&str; 3] = ["container", "image", "volume"];

/// What is called `word`, of that kind or of the first that has it.
fn find_document(context: &Context<'_>, word: &str, kind: Option<&str>, size: bool) -> Result<Value> {
    for known in KINDS.iter().filter(|known| kind.is_none_or(|kind| kind == **known)) {
        let found = match *known {
            "container" => document(context, word, size),
            "image" => image(context, word),
            "network" => network::find(&context.dirs, word).map(|seen| super::network::inspect(&seen)), // ch09
            _ => {
                let volumes = Volumes::new(&context.dirs.root);
                volumes.get(word).map(|volume| super::volume::describe(&volumes, &volume))
            }
        };
        match found {
            // Another kind of thing may have the name; a container that two words mean, or that is damaged, is one.
            Err(error) if kind.is_none() && (*known != "container" || is_missing(&error)) => {}
            other => return other,
        }
    }
    bail!("No such object: {}", word.escape_debug())
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Missing::None(_)))
}

fn image(context: &Context<'_>, word: &str) -> Result<Value> {
    if !context.dirs.root.join("images").is_dir() {
        bail!("No such image: {}", word.escape_debug()); // and none is made by asking
    }
    let store = Store::open(&context.dirs.root)?;
    super::inspect_image::describe(&store, &store.get(word)?)
}

fn document(context: &Context<'_>, word: &str, size: bool) -> Result<Value> {
    let id = find(&context.dirs, word)?;
    engine::recover(&context.dirs, &id)?;
    let mut record = Record::read(&context.dirs, &id)?;
    read_config(&mut record)?;
    let status = status(&record);
    let (spec, life, folder) = (&record.spec, record.life(), record.spec.folder());
    let args = spec.process().args().clone().unwrap_or_default();
    let file = |name: &str| folder.join(name).display().to_string();
    let mut document = json!({
        "Id": spec.id,
        "Created": time(Some(record.created)),
        "Path": args.first(),
        "Args": args.get(1..).unwrap_or_default(),
        "State": state(&record, &status),
        "Image": spec.image.reference,
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": if life.log.driver == LogDriver::None { String::new() } else { file("log") },
        "Name": format!("/{}", record.name()),
        "RestartCount": record.rest.restart_count,
        "Driver": "overlay",
        "Platform": "linux",
        "ExecIDs": null,
        "HostConfig": host_config(&record),
        "GraphDriver": {"Name": "overlay", "Data": {
            "LowerDir": spec.image.layers.iter().rev().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":"),
            "UpperDir": file("upper"), "WorkDir": file("work"), "MergedDir": context.dirs.running(&id).join("rootfs"),
        }},
        "Mounts": [],
        "Config": config(&record),
        "NetworkSettings": {"Ports": {}, "Networks": {}},
    });
    for room in context.rooms {
        lay_over(&mut document, room.inspect(spec, status.running().is_some()));
    }
    if size {
        let upper = super::ps::tree_size(&folder.join("upper"));
        let image: u64 = spec.image.layers.iter().map(|layer| super::ps::tree_size(layer)).sum();
        (document["SizeRw"], document["SizeRootFs"]) = (upper.into(), (upper + image).into());
    }
    Ok(document)
}

/// Keys of `part` take the place of those of `document`; objects are merged.
pub(super) fn lay_over(document: &mut Value, part: Value) {
    match (document, part) {
        (_, Value::Null) => {}
        (Value::Object(there), Value::Object(part)) => {
            for (key, value) in part {
                match there.get_mut(&key) {
                    Some(old) if old.is_object() && value.is_object() => lay_over(old, value),
                    _ => drop(there.insert(key, value)),
                }
            }
        }
        (document, part) => *document = part,
    }
}

/// RFC 3339 with nanoseconds; what has not happened is Go's zero time.
fn time(moment: Option<Timestamp>) -> String {
    moment.map_or("0001-01-01T00:00:00Z".to_string(), |moment| format!("{moment:.9}"))
}

fn state(record: &Record, status: &Status) -> Value {
    let (rest, running) = (&record.rest, status.running());
    let mut state = json!({
        "Status": status.word(),
        "Running": running.is_some() || matches!(status, Status::Restarting),
        "Paused": matches!(status, Status::Paused(_)),
        "Restarting": matches!(status, Status::Restarting),
        "OOMKilled": running.is_none() && rest.oom_killed,
        "Dead": false,
        "Pid": running.map_or(0, |running| running.pid),
        "ExitCode": if running.is_some() { 0 } else { rest.exit_code },
        "Error": rest.error,
        "StartedAt": time(running.map(|running| running.started_at).or(rest.started_at)),
        "FinishedAt": time(rest.finished_at),
    });
    if let Some(mut health) = Health::of(&record.spec.dirs, &record.spec.id, record.life()) {
        if running.is_none() && rest.finished_at.is_some() {
            health.status = "unhealthy".to_string(); // docker's word for one that has ended
        }
        state["Health"] = json!(health);
    }
    state
}

fn config(record: &Record) -> Value {
    let (spec, life) = (&record.spec, record.life());
    let process = spec.process();
    let user = match (process.user().uid(), process.user().gid()) {
        (0, 0) => String::new(),
        (uid, gid) => format!("{uid}:{gid}"),
    };
    let words = if spec.command.is_empty() { &spec.image.cmd } else { &spec.command };
    let mut config = json!({
        "Hostname": spec.oci.hostname(),
        "Domainname": spec.oci.domainname().clone().unwrap_or_default(),
        "User": user,
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": spec.terminal(),
        "OpenStdin": life.interactive,
        "StdinOnce": false,
        "Env": process.env(),
        "Cmd": words,
        "Image": spec.image.reference,
        "Volumes": null,
        "WorkingDir": process.cwd().display().to_string(),
        "Entrypoint": if spec.image.entrypoint.is_empty() { Value::Null } else { json!(spec.image.entrypoint) },
        "Labels": life.labels,
        "StopSignal": format!("{}", spec.stop_signal),
        "StopTimeout": life.stop_timeout,
    });
    if let Some(check) = &life.health {
        config["Healthcheck"] = json!(check);
    }
    config
}

fn host_config(record: &Record) -> Value {
    let (spec, life) = (&record.spec, record.life());
    let resources = spec.linux().resources().as_ref();
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let quota = cpu.and_then(|cpu| cpu.quota()).unwrap_or(0);
    let driver = match life.log.driver {
        LogDriver::JsonFile => "json-file",
        LogDriver::Local => "local",
        LogDriver::None => "none",
    };
    let count = if let Restart::OnFailure(count) = life.restart { count } else { 0 };
    json!({
        "Binds": null,
        "LogConfig": {"Type": driver, "Config": life.log.options},
        "NetworkMode": "none",
        "PortBindings": {},
        "RestartPolicy": {"Name": life.restart.name(), "MaximumRetryCount": count},
        "AutoRemove": life.auto_remove,
        "Privileged": false,
        "ReadonlyRootfs": spec.oci.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        "Init": spec.init,
        "Memory": memory.and_then(|memory| memory.limit()).unwrap_or(0),
        "MemoryReservation": memory.and_then(|memory| memory.reservation()).unwrap_or(0),
        "MemorySwap": memory.and_then(|memory| memory.swap()).unwrap_or(0),
        "CpuShares": cpu.and_then(|cpu| cpu.shares()).unwrap_or(0),
        "CpuQuota": quota,
        "CpuPeriod": cpu.and_then(|cpu| cpu.period()).unwrap_or(0),
        "CpusetCpus": cpu.and_then(|cpu| cpu.cpus().clone()).unwrap_or_default(),
        "CpusetMems": cpu.and_then(|cpu| cpu.mems().clone()).unwrap_or_default(),
        "CgroupParent": "",
        "MaskedPaths": spec.linux().masked_paths(),
        "ReadonlyPaths": spec.linux().readonly_paths(),
    })
}
