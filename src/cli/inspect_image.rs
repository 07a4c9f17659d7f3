//! `image inspect`: all that is known of an image, in docker's fields.

use crate::image::{Image, Store};
use anyhow::Result;
use serde_json::{Value, json};

pub fn describe(store: &Store, image: &Image) -> Result<Value> {
    let config = &image.config;
    let tags: Vec<String> = names(store, image)?;
    let digests: Vec<String> =
        image.names.iter().map(|name| format!("{}@{}", name.repository(), image.manifest_digest)).collect();
    let size = image.size(store);
    let chain = image.chain();
    let upper = chain.last().map(|chain| store.tree(chain).display().to_string()).unwrap_or_default();
    let lower: Vec<String> = chain.iter().rev().skip(1).map(|chain| store.tree(chain).display().to_string()).collect();
    let layers: Vec<&str> = config.rootfs.diff_ids.iter().map(|diff_id| diff_id.as_str()).collect();
    let last = config.history.last();
    let run = &config.config;
    let list = |list: &Vec<String>| if list.is_empty() { Value::Null } else { json!(list) };
    let map = |value: Value, empty: bool| if empty { Value::Null } else { value };
    let mut wanted = json!({
        "User": run.user, "ExposedPorts": map(json!(run.exposed_ports), run.exposed_ports.is_empty()),
        "Env": list(&run.env), "Cmd": list(&run.cmd), "Volumes": map(json!(run.volumes), run.volumes.is_empty()),
        "WorkingDir": run.working_dir, "Entrypoint": list(&run.entrypoint),
        "Labels": map(json!(run.labels), run.labels.is_empty()),
    });
    if let Some(signal) = &run.stop_signal {
        wanted["StopSignal"] = signal.as_str().into();
    }
    for (name, value) in &run.other {
        wanted[name] = value.clone();
    }
    Ok(json!({
        "Id": image.id.as_str(), "RepoTags": tags, "RepoDigests": digests, "Parent": "",
        "Comment": last.and_then(|one| one.comment.clone()).unwrap_or_default(),
        "Created": config.created.clone().unwrap_or_default(), "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.architecture, "Os": config.os, "Size": size, "VirtualSize": size,
        "Config": wanted,
        "GraphDriver": {"Name": "overlay", "Data": {"UpperDir": upper, "LowerDir": lower.join(":")}},
        "RootFS": {"Type": "layers", "Layers": layers},
        "Descriptor": serde_json::to_value(&image.descriptor)?,
    }))
}

/// All names: an image that was found by one of them knows only that one.
fn names(store: &Store, image: &Image) -> Result<Vec<String>> {
    let all = store.list()?;
    let same = all.iter().filter(|other| other.id == image.id).flat_map(|other| &other.names);
    Ok(same.map(|name| name.to_string()).collect())
}
