//! Volumes at rest: `volumes/<name>/_data`, and beside it `volume.json`.

use super::MOUNTS;
use super::flags::{Kind, Wanted};
use crate::plan::{Dirs, Name, Undo};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One volume, as docker shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    pub name: String,
    pub created_at: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Nobody named it.
    #[serde(default)]
    pub anonymous: bool,
}

/// All of them.
#[derive(Clone)]
pub struct Volumes {
    folder: PathBuf,
}

/// Docker's rule; 255 bytes are what a file system takes.
pub fn volume_name(text: &str) -> Result<()> {
    let fits = Name::parse(text).is_ok() || text.len() <= 255 && text.len() > 128 && Name::parse(&text[..2]).is_ok();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !fits || !plain {
        let shown: String = text.escape_debug().take(100).collect();
        bail!(
            "\"{shown}\" includes invalid characters for a local volume name: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        );
    }
    Ok(())
}

impl Volumes {
    pub fn new(root: &Path) -> Self {
        Self { folder: root.join("volumes") }
    }

    /// `name` has passed [`volume_name`].
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn get(&self, name: &str) -> Result<Volume> {
        let missing = || format!("get {}: no such volume", name.escape_debug());
        volume_name(name).with_context(missing)?;
        let bytes = fs::read(self.folder(name).join("volume.json")).ok().with_context(missing)?;
        serde_json::from_slice(&bytes).with_context(|| format!("volume `{name}`: its volume.json is damaged"))
    }

    pub fn list(&self) -> Vec<Volume> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_string));
        let mut all: Vec<Volume> = names.filter_map(|name| self.get(&name).ok()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Makes the volume if it is not there, and lets `fill` put the image's content into one that holds nothing yet.
    pub fn provide(
        &self,
        name: &str,
        anonymous: bool,
        labels: &BTreeMap<String, String>,
        fill: &dyn Fn(&Path) -> Result<()>,
    ) -> Result<()> {
        let _lock = self.lock()?;
        let folder = self.folder(name);
        let data = folder.join("_data");
        if folder.join("volume.json").exists() {
            let empty = fs::read_dir(&data).map(|mut entries| entries.next().is_none()).unwrap_or(false);
            return if empty { fill(&data) } else { Ok(()) };
        }
        // Made whole under another name first: a crash leaves nothing that looks like a volume.
        let making = self.folder.join(format!(".{name}"));
        if making.exists() {
            Undo::RemoveTree { path: making.clone() }.perform()?;
        }
        let made = (|| -> Result<()> {
            DirBuilder::new().mode(0o700).create(&making)?;
            let new = making.join("_data");
            DirBuilder::new().mode(0o755).create(&new)?;
            // Whatever the umask.
            fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            fill(&new)?;
            let volume = Volume {
                name: name.to_string(),
                created_at: jiff::Timestamp::now().to_string(),
                labels: labels.clone(),
                anonymous,
            };
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(making.join("volume.json"))?;
            file.write_all(&serde_json::to_vec_pretty(&volume)?)?;
            Ok(fs::rename(&making, &folder)?)
        })();
        if made.is_err() {
            let _ = Undo::RemoveTree { path: making }.perform();
        }
        made
    }

    fn lock(&self) -> Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.folder.join(".lock");
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.lock().with_context(|| format!("cannot lock `{}`", path.display()))?;
        Ok(file)
    }

    /// Deletes a volume that no container has.
    pub fn remove(&self, name: &str, users: &HashMap<String, Vec<String>>) -> Result<()> {
        self.get(name)?;
        if let Some(users) = users.get(name) {
            bail!("remove {name}: volume is in use - [{}]", users.join(", "));
        }
        let _lock = self.lock()?;
        Undo::RemoveTree { path: self.folder(name) }.perform().with_context(|| format!("remove {name}"))
    }

    /// The bytes of a volume's files.
    pub fn size(&self, name: &str) -> u64 {
        fn below(path: &Path) -> u64 {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let one = |entry: fs::DirEntry| match entry.metadata() {
                Ok(data) if data.is_dir() => below(&entry.path()),
                Ok(data) => data.len(),
                Err(_) => 0,
            };
            entries.map(one).sum()
        }
        below(&self.folder(name).join("_data"))
    }
}

/// Which containers have which volume.
pub fn find_users(dirs: &Dirs) -> HashMap<String, Vec<String>> {
    let mut users: HashMap<String, Vec<String>> = HashMap::new();
    for entry in fs::read_dir(dirs.root.join("containers")).into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().map(str::to_string) else { continue };
        let Ok(Some(note)) = read_note(&entry.path()) else { continue };
        let wanted: Vec<Wanted> = serde_json::from_str(&note).unwrap_or_default();
        for one in wanted.iter().filter(|one| one.kind == Kind::Volume) {
            users.entry(one.source.clone()).or_default().push(id.clone());
        }
    }
    users
}

/// What the container called `name`, or whose id begins so, notes of its mounts.
pub fn note_of(dirs: &Dirs, name: &str) -> Result<Option<String>> {
    let missing = || format!("No such container: {}", name.escape_debug());
    let plain = !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.');
    anyhow::ensure!(plain, missing());
    let containers = dirs.root.join("containers");
    let linked = fs::read_link(dirs.root.join("names").join(name)).ok();
    let id = linked.and_then(|target| Some(target.file_name()?.to_str()?.to_string()));
    let id = id.or_else(|| {
        let entries = fs::read_dir(&containers).into_iter().flatten().flatten();
        let mut ids =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|id| id.starts_with(name));
        ids.next().filter(|_| ids.next().is_none())
    });
    read_note(&containers.join(id.with_context(missing)?)).with_context(missing)
}

fn read_note(folder: &Path) -> Result<Option<String>> {
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    Ok(spec["annotations"][MOUNTS].as_str().map(str::to_string))
}
