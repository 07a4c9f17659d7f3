//! What commands about images, networks and volumes write down for `mydocker events`, in docker's words (20.10): an image
//! goes by its id, and by a name only when it is given one.

use super::Context;
use crate::container::{Event, tell};
use std::collections::BTreeMap;

// ch06
/// To an image; `name` is its id but for `tag`.
pub fn image(context: &Context<'_>, action: &str, id: &str, name: &str) {
    say(context, "image", action, id, &[("name", name)]);
}

// ch09
/// To a network; `container`: who was connected or disconnected.
pub fn network(context: &Context<'_>, action: &str, id: &str, name: &str, container: Option<&str>) {
    let mut about = vec![("name", name), ("type", "bridge")];
    about.extend(container.map(|id| ("container", id)));
    say(context, "network", action, id, &about);
}

pub fn volume(context: &Context<'_>, action: &str, name: &str) {
    say(context, "volume", action, name, &[("driver", "local")]);
}

/// A `prune` of so many bytes.
pub fn pruned(context: &Context<'_>, kind: &str, bytes: u64) {
    say(context, kind, "prune", "", &[("reclaimed", &bytes.to_string())]);
}

fn say(context: &Context<'_>, kind: &str, action: &str, id: &str, about: &[(&str, &str)]) {
    // Images need no run-time folder, and an event is no reason to fail.
    let _ = std::fs::DirBuilder::new().recursive(true).create(&context.dirs.run);
    let about: BTreeMap<_, _> = about.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    tell(&context.dirs, &[Event::about(kind, action, id, about)]);
}
