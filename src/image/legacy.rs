//! Archives of docker before 1.10 (2016): no `manifest.json`, but `repositories` (name → tag → topmost layer), and for
//! each layer a folder with its archive and a `json` that names its parent. The config is made of the topmost `json`.

use super::change::Change;
use super::digest::Hashing;
use super::layer::{Packing, inflate, sniff};
use super::load::{Found, Job, Loaded, Progress, fill};
use super::parts::Source;
use super::{Config, Digest, Execution, History, Image, Reference};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;

/// More parents than an image has layers.
const MOST_PARENTS: usize = 500;

/// One layer's `json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Json {
    parent: Option<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    architecture: String,
    os: String,
    config: Option<Execution>,
    container_config: Option<Execution>,
}

/// Loads every image that `repositories` names.
pub fn load(change: &mut Change<'_>, source: &Source, known: &[Image], progress: &Progress<'_>) -> Result<Vec<Found>> {
    let document = source.document("repositories")?;
    let repositories: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(&document).context("`repositories` is not one")?;
    let mut tops: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            tops.entry(id).or_default().push(Reference::parse(&format!("{repository}:{tag}"))?);
        }
    }
    tops.into_iter().map(|(id, names)| image(change, source, &id, names, known, progress)).collect()
}

fn image(
    change: &mut Change<'_>,
    source: &Source,
    top: &str,
    names: Vec<Reference>,
    known: &[Image],
    progress: &Progress<'_>,
) -> Result<Found> {
    let mut chain: Vec<(String, Json)> = Vec::new();
    let mut next = Some(top.to_string());
    while let Some(id) = next {
        if chain.len() == MOST_PARENTS {
            bail!("the layer `{}` has more than {MOST_PARENTS} parents", top.escape_debug());
        }
        let name = format!("{id}/json");
        let json: Json = serde_json::from_slice(&source.document(&name)?)
            .with_context(|| format!("`{}` is not one", name.escape_debug()))?;
        next = json.parent.clone().filter(|parent| !parent.is_empty());
        chain.push((id, json));
    }
    chain.reverse();
    let mut config = Config::new();
    let mut jobs = Vec::new();
    for (id, json) in &mut chain {
        let path = format!("{id}/layer.tar");
        let by = json.container_config.take().map(|config| config.cmd.join(" "));
        let history = History {
            created: json.created.clone(),
            author: json.author.clone(),
            created_by: by,
            comment: json.comment.take().filter(|comment| !comment.is_empty()),
            ..History::default()
        };
        config.add_layer(diff_id(source, &path)?, history);
        jobs.push(Job { path, line: None });
    }
    if let Some((_, json)) = chain.pop() {
        (config.architecture, config.os) = (json.architecture, json.os);
        (config.author, config.config) = (json.author, json.config.unwrap_or_default());
    }
    let lines = fill(change, source, &config, jobs, known, progress)?;
    let (id, line) = change.add_image(&config, lines)?;
    Ok(Found { loaded: Loaded { id, names }, line })
}

/// The digest of a layer's archive, which these archives do not tell.
fn diff_id(source: &Source, path: &str) -> Result<Digest> {
    let (start, input) = sniff(source.open(path)?)?;
    let mut plain = Hashing::new(inflate(Packing::of(&start)?, input)?);
    io::copy(&mut plain, &mut io::sink()).with_context(|| format!("cannot read `{}`", path.escape_debug()))?;
    Ok(plain.finish().0)
}
