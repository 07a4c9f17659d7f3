//! `container.json`: what the user asked, how it last ended, and what `rm` takes away. Written whole, under the lock.
//! A field that we do not know (a newer version's, a user's) survives.

use super::Missing;
use crate::plan::{Dirs, Entry, Id, Life, Spec};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[derive(Serialize, Deserialize)]
pub struct Record {
    pub created: Timestamp,
    pub spec: Spec,
    /// What it runs, so that a list of containers need not read all their OCI documents.
    pub args: Vec<String>,
    /// What its removal takes away, in the order in which it was made.
    pub undo: Vec<Entry>,
    #[serde(default)]
    pub rest: Rest,
}

/// What is left of a life when it is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rest {
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Why it could not be started.
    pub error: String,
    pub restart_count: u32,
    /// A start whose end is not written down: after a power cut that is all there is to tell that it ran.
    pub begun: bool,
    /// The user stopped it: no policy starts it again, but `always` at boot.
    pub stopped: bool,
}

/// Larger than any record; a foreign file is not read whole.
const LARGEST: u64 = 32 << 20;

impl Record {
    /// The record of container `id`, with its OCI document.
    pub fn read(dirs: &Dirs, id: &Id) -> Result<Self> {
        // At one stroke: `ps` of five hundred reads as many.
        let bytes = read_file(&dirs.container(id).join("container.json"), id)?;
        Self::of(serde_json::from_slice(&bytes), dirs, id)
    }

    fn of(parsed: serde_json::Result<Self>, dirs: &Dirs, id: &Id) -> Result<Self> {
        let torn =
            || format!("the record of container {} is damaged (hint: mydocker rm -f {})", id.short(), id.short());
        let mut record = parsed.with_context(torn)?;
        if record.spec.id != *id {
            bail!("{}: it is the record of another container", torn());
        }
        record.spec.dirs = dirs.clone();
        record.spec.life.get_or_insert_default();
        Ok(record)
    }

    /// Reads, changes and rewrites the record; the caller holds the lock.
    pub fn update(dirs: &Dirs, id: &Id, change: impl FnOnce(&mut Self)) -> Result<Self> {
        let path = dirs.container(id).join("container.json");
        let old = read_json(&path, id)?;
        let mut record = Self::of(Self::deserialize(&old), dirs, id)?;
        change(&mut record);
        let mut value = old;
        merge(&mut value, serde_json::to_value(&record)?);
        write_whole(&path, &serde_json::to_vec_pretty(&value)?)?;
        Ok(record)
    }

    pub fn life(&self) -> &Life {
        self.spec.life.as_ref().expect("`Record::of` sees to it")
    }

    /// The command as `ps` shows it: a word with a space in it between single quotes.
    pub fn command_line(&self) -> String {
        let word = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
        let (first, rest) = match self.args.split_first() {
            Some((first, rest)) => (first.clone(), rest),
            None => (String::new(), &self.args[..]),
        };
        rest.iter().fold(first, |line, argument| line + " " + &word(argument))
    }

    /// The name, if it has one, else its short id.
    pub fn name(&self) -> &str {
        self.spec.name.as_ref().map_or(self.spec.id.short(), |name| name.as_str())
    }
}

/// The OCI document of a container at rest.
pub fn read_config(record: &mut Record) -> Result<()> {
    let path = record.spec.folder().join("config.json");
    let damaged = || format!("`{}` is damaged", path.display());
    let config: oci_spec::runtime::Spec =
        serde_json::from_value(read_json(&path, &record.spec.id)?).with_context(damaged)?;
    if config.process().is_none() || config.linux().is_none() {
        bail!("{}: it has no process", damaged());
    }
    record.spec.oci = config;
    Ok(())
}

fn read_json(path: &Path, id: &Id) -> Result<Value> {
    serde_json::from_slice(&read_file(path, id)?).with_context(|| format!("`{}` is damaged", path.display()))
}

fn read_file(path: &Path, id: &Id) -> Result<Vec<u8>> {
    use std::io::Read;
    let context = || format!("cannot read `{}`", path.display());
    let mut options = fs::File::options();
    let file = match options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // A folder without a record: its making was cut short, or the record is lost.
            return Err(anyhow::Error::new(Missing::None(id.short().to_string())));
        }
        other => other.with_context(context)?,
    };
    let metadata = file.metadata().with_context(context)?;
    if !metadata.is_file() {
        bail!("`{}` is not a regular file", path.display());
    }
    let size = metadata.len();
    // With room for all of it one `read` suffices, and one that says that there is no more.
    let mut bytes = Vec::with_capacity(size.min(LARGEST) as usize + 1);
    file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(context)?;
    if bytes.len() as u64 > LARGEST {
        bail!("`{}` is larger than {} MiB", path.display(), LARGEST >> 20);
    }
    Ok(bytes)
}

/// A temporary file beside it, then a rename: whoever reads sees the old or the new, whole.
fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let context = || format!("cannot write `{}`", path.display());
    let new = path.with_extension("json.new");
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&new).with_context(context)?;
    file.write_all(content).with_context(context)?;
    fs::rename(&new, path).with_context(context)
}

/// Puts `new` over `old`, key by key; what `new` does not speak of stays.
pub fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_survive() {
        let mut old = json!({"a": 1, "theirs": {"x": 1}, "deep": {"ours": 1, "theirs": [1]}});
        merge(&mut old, json!({"a": 2, "deep": {"ours": null}, "new": true}));
        let expected = json!({"a": 2, "theirs": {"x": 1}, "deep": {"ours": null, "theirs": [1]}, "new": true});
        assert_eq!(old, expected);
    }
}
