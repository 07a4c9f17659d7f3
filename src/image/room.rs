//! The room: which image the words after `run` mean, and what a container notes of it. The start reads three small
//! files of the store (index, manifest, config), and no layer.

use super::changes::{IMAGE_CONFIG, IMAGE_ID, LAYERS};
use super::commit::{Words, import_folder};
use super::{Execution, Image, Reference, Store, layer};
use crate::plan::{Dirs, ImageConfig, Plan, Room, Spec};
use crate::rootfs;
use anyhow::{Result, bail};
use clap::ArgMatches;

/// The room.
pub struct Images;

/// Made from the host's static busybox on first use.
const DEFAULT: &str = "busybox:latest";

impl Room for Images {
    fn name(&self) -> &'static str {
        "image"
    }

    fn image(&self, dirs: &Dirs, words: &[String], dry: bool) -> Result<Option<(ImageConfig, usize)>> {
        if dry && !dirs.root.join("images/index.json").exists() {
            return Ok(None); // nothing is made: the rooms below know what it would be
        }
        let store = Store::open(&dirs.root)?;
        let named = match words.first() {
            Some(word) => find(&store, word)?,
            None => None,
        };
        let rest = words.len() - usize::from(named.is_some());
        let image = match named {
            Some(image) => image,
            None => match default_image(&store, words.first(), dry)? {
                Some((image, named)) => return finish(&store, image, words.len() - usize::from(named), DEFAULT, dry),
                None => return Ok(None),
            },
        };
        finish(&store, image, rest, words.first().map_or(DEFAULT, String::as_str), dry)
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        if spec.image.id.is_empty() {
            return Ok(());
        }
        let layers: Vec<String> = spec.image.layers.iter().map(|path| path.display().to_string()).collect();
        let config = serde_json::to_string(&overlaid(said, spec))?;
        let notes = spec.oci.annotations_mut().get_or_insert_default();
        notes.insert(IMAGE_ID.to_string(), spec.image.id.clone());
        notes.insert("mydocker.image.name".to_string(), spec.image.reference.clone());
        notes.insert(LAYERS.to_string(), layers.join("\n"));
        notes.insert(IMAGE_CONFIG.to_string(), config);
        Ok(())
    }

    fn plan(&self, _spec: &Spec, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
}

/// A word that is no reference is no image; it may still be a command.
fn find(store: &Store, word: &str) -> Result<Option<Image>> {
    match store.find(word) {
        Err(_) if Reference::parse(word).is_err() => Ok(None),
        other => other,
    }
}

/// The default image, if `word` names it, or is a command in it; made if need be. The second: whether `word` named it.
fn default_image(store: &Store, word: Option<&String>, dry: bool) -> Result<Option<(Image, bool)>> {
    let name = Reference::parse(DEFAULT)?;
    let named = word.is_some_and(|word| Reference::parse(word).is_ok_and(|word| word == name));
    let image = match store.find(DEFAULT)? {
        Some(image) => image,
        None if dry => return Ok(None),
        None => make_default(store, name)?,
    };
    if let Some(word) = word.filter(|_| !named) {
        let trees = layer::ensure(store, &image)?;
        let top = trees.last().map(|tree| tree.as_path());
        if !top.is_some_and(|tree| rootfs::has_command(tree, word)) {
            let shown = Reference::parse(word).map_or_else(|_| word.clone(), |name| name.to_string());
            bail!("Unable to find image '{}' locally", shown.escape_debug());
        }
    }
    Ok(Some((image, named)))
}

fn make_default(store: &Store, name: Reference) -> Result<Image> {
    let change = super::Change::begin(store)?;
    let tree = change.path("busybox");
    rootfs::make_default(&tree)?;
    let words = Words {
        name: Some(name),
        message: Some("the host's static busybox".to_string()),
        changes: vec![r#"CMD ["sh"]"#.to_string()],
        ..Words::default()
    };
    import_folder(store, &tree, &words)?;
    store.get(DEFAULT)
}

fn finish(store: &Store, image: Image, rest: usize, name: &str, dry: bool) -> Result<Option<(ImageConfig, usize)>> {
    if let Some(why) = image.config.foreign() {
        log::warn!("the image `{name}` may not run: {why}");
    }
    let layers = match dry {
        true => image.chain().iter().map(|chain| store.tree(chain)).collect(),
        false => layer::ensure(store, &image)?,
    };
    let reference = Reference::parse(name).map_or_else(|_| name.to_string(), |name| name.to_string());
    let Execution { user, env, entrypoint, cmd, volumes, working_dir, stop_signal, exposed_ports, labels, other } =
        image.config.config;
    let config = ImageConfig {
        reference,
        id: image.id.to_string(),
        layers,
        env,
        entrypoint,
        cmd,
        user,
        working_dir,
        stop_signal,
        volumes: volumes.into_keys().collect(),
        exposed_ports: exposed_ports.into_keys().collect(),
        labels,
        // One that is no healthcheck in docker's form asks nothing.
        healthcheck: other.get("Healthcheck").and_then(|check| serde_json::from_value(check.clone()).ok()),
    };
    Ok(Some((config, rest)))
}

/// The image's config with what this `run` says differently: what `commit` writes into the new image.
fn overlaid(said: &ArgMatches, spec: &Spec) -> Execution {
    let image = &spec.image;
    let string = |name: &str| said.try_get_one::<String>(name).ok().flatten().cloned();
    let strings = |name: &str| said.try_get_many::<String>(name).ok().flatten().into_iter().flatten().cloned();
    let entrypoint = string("entrypoint");
    let mut config = Execution {
        user: string("user").unwrap_or_else(|| image.user.clone()),
        env: image.env.clone(),
        working_dir: string("workdir").unwrap_or_else(|| image.working_dir.clone()),
        labels: image.labels.clone(),
        stop_signal: string("stop-signal").or_else(|| image.stop_signal.clone()),
        ..Execution::default()
    };
    let empty = || serde_json::Value::Object(serde_json::Map::new());
    config.volumes = image.volumes.iter().map(|path| (path.clone(), empty())).collect();
    config.exposed_ports = image.exposed_ports.iter().map(|port| (port.clone(), empty())).collect();
    for variable in strings("env").filter(|variable| variable.contains('=')) {
        let prefix = format!("{}=", variable.split('=').next().unwrap_or_default());
        config.env.retain(|other| !other.starts_with(&prefix));
        config.env.push(variable);
    }
    for label in strings("label") {
        let (name, value) = label.split_once('=').unwrap_or((&label, ""));
        config.labels.insert(name.to_string(), value.to_string());
    }
    config.cmd = match (&entrypoint, spec.command.is_empty()) {
        (_, false) => spec.command.clone(),
        (Some(_), true) => vec![],
        (None, true) => image.cmd.clone(),
    };
    config.entrypoint = match entrypoint.as_deref() {
        None => image.entrypoint.clone(),
        Some("") => vec![],
        Some(program) => vec![program.to_string()],
    };
    config
}
