//! What `inspect` and `ps` tell of a container's mounts, in docker's shapes.
//!
//! Look: `mydocker inspect -f '{{range .Mounts}}{{println .Source .Destination .RW}}{{end}}' web`

use super::MOUNTS;
use super::flags::{Kind, Wanted};
use super::store::Volumes;
use crate::plan::{Attached, Spec};
use serde_json::{Value, json};

/// What the record keeps of the mounts, so that a list of containers need not read all their OCI documents: names of
/// volumes, paths of folders.
pub const KEY: &str = "volume";

pub fn note(wanted: &[Wanted]) -> Value {
    let sources = wanted.iter().filter(|one| one.kind != Kind::Tmpfs);
    sources.map(|one| json!({"type": one.kind, "source": one.source, "target": one.target})).collect()
}

/// The mounts of a container whose OCI document has been read.
pub fn inspect(spec: &Spec) -> Value {
    let note = spec.oci.annotations().as_ref().and_then(|notes| notes.get(MOUNTS));
    let wanted: Vec<Wanted> = note.and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default();
    let propagation = |one: &Wanted| {
        let said = one.options.iter().find(|option| super::flags::PROPAGATION.contains(&option.as_str()));
        said.cloned().unwrap_or_else(|| "rprivate".to_string())
    };
    let shown = wanted.iter().filter(|one| one.kind != Kind::Tmpfs).map(|one| {
        let mut shown = json!({
            "Type": one.kind, "Source": one.source, "Destination": one.target,
            "Mode": if one.read_only { "ro" } else { "" }, "RW": !one.read_only, "Propagation": propagation(one),
        });
        if one.kind == Kind::Volume {
            let data = Volumes::new(&spec.dirs.root).folder(&one.source).join("_data");
            (shown["Name"], shown["Source"]) = (json!(one.source), json!(data.display().to_string()));
            (shown["Driver"], shown["Propagation"]) = (json!("local"), json!(""));
        }
        shown
    });
    let binds = wanted.iter().filter(|one| one.kind != Kind::Tmpfs && !one.anonymous && !one.borrowed);
    let binds: Vec<String> =
        binds.map(|one| format!("{}:{}{}", one.source, one.target, if one.read_only { ":ro" } else { "" })).collect();
    json!({
        "Mounts": shown.collect::<Value>(),
        "HostConfig": { "Binds": if binds.is_empty() { Value::Null } else { json!(binds) } },
    })
}

/// The volumes that it has mounted.
pub fn attached(spec: &Spec) -> Vec<Attached> {
    let note = spec.oci.annotations().as_ref().and_then(|notes| notes.get(MOUNTS));
    let wanted: Vec<Wanted> = note.and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default();
    let driver = || ("driver", "local".to_string());
    let one = |one: Wanted| Attached {
        kind: "volume",
        id: one.source,
        comes: (
            "mount",
            vec![
                driver(),
                ("destination", one.target),
                ("propagation", String::new()),
                ("read/write", (!one.read_only).to_string()),
            ],
        ),
        goes: ("unmount", vec![driver()]),
    };
    wanted.into_iter().filter(|one| one.kind == Kind::Volume).map(one).collect()
}

/// The words of `ps`: `Mounts`, `LocalVolumes`.
pub fn columns(spec: &Spec) -> Value {
    let Some(Value::Array(all)) = spec.own.get(KEY) else { return Value::Null };
    let sources: Vec<&str> = all.iter().filter_map(|one| one["source"].as_str()).collect();
    let volumes = all.iter().filter(|one| one["type"] == "volume").count();
    json!({ "Mounts": sources.join(","), "LocalVolumes": volumes.to_string() })
}
