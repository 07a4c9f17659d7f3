//! Which container a word means: an id, a name, or the beginning of one id.

use super::Record;
use crate::plan::{Dirs, Id, Name};
use std::fs;

/// Why it means none.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("No such container: {0}")]
    None(String),
    #[error("multiple IDs found with provided prefix: {prefix}: {matches}")]
    Many { prefix: String, matches: String },
}

/// The container that `word` means: a whole id, then a name, then a prefix that only one id has.
pub fn find(dirs: &Dirs, word: &str) -> Result<Id, Missing> {
    if let Some(id) = Id::parse(word).filter(|id| dirs.container(id).is_dir()) {
        return Ok(id);
    }
    let bare = word.strip_prefix('/').unwrap_or(word);
    if let Ok(name) = Name::parse(bare) {
        let target = fs::read_link(dirs.root.join("names").join(name.as_str())).ok();
        let id = target.and_then(|target| Id::parse(target.file_name()?.to_str()?));
        if let Some(id) = id.filter(|id| dirs.container(id).is_dir()) {
            return Ok(id);
        }
    }
    let prefix = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut matches: Vec<Id> =
        if prefix { ids(dirs).filter(|id| id.as_str().starts_with(word)).collect() } else { vec![] };
    match matches.len() {
        0 => Err(Missing::None(word.escape_debug().to_string())),
        1 => Ok(matches.remove(0)),
        _ => {
            matches.sort();
            let matches: Vec<_> = matches.iter().map(Id::short).collect();
            Err(Missing::Many { prefix: word.to_string(), matches: matches.join(", ") })
        }
    }
}

fn ids(dirs: &Dirs) -> impl Iterator<Item = Id> + use<> {
    let entries = fs::read_dir(dirs.root.join("containers"));
    entries.into_iter().flatten().filter_map(|entry| Id::parse(entry.ok()?.file_name().to_str()?))
}

/// Every container that has a record, youngest first. A record that cannot be read is told of and passed over.
pub fn list(dirs: &Dirs) -> Vec<Record> {
    let mut records = Vec::new();
    for id in ids(dirs) {
        match Record::read(dirs, &id) {
            Ok(record) => records.push(record),
            // It is being made, or was removed meanwhile.
            Err(error) if error.is::<Missing>() => {}
            Err(error) => log::warn!("{error:#}"),
        }
    }
    records.sort_by(|one, two| two.created.cmp(&one.created).then(one.spec.id.cmp(&two.spec.id)));
    records
}
