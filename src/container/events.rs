//! What happens to containers, images, networks and volumes, for whoever wants to know (`mydocker events`): lines in docker's form, appended to
//! `run/events`. There is no daemon that could tell, and nobody can be told of the past by watching files; so whoever
//! does something writes it down. One `write` with O_APPEND is whole among those of others (`man 2 open`), and takes a
//! few microseconds, after the command has begun or ended.
//!
//! At its size limit the file becomes `events.1`; a reboot takes both, as it takes a daemon's memory.
//!
//! Try it without us: `tail -f /run/mydocker/events`

use crate::plan::{Dirs, Spec};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Docker keeps 256 events; these are some ten thousand.
const LARGEST: u64 = 4 << 20;

/// Who it happened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name, its image, its labels, and what there is to say about this event.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// One event, as docker's API has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Of old, for containers and images only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    pub scope: String,
    /// Seconds and nanoseconds since 1970.
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub nanos: i64,
}

impl Event {
    /// `action` has just happened to the container of `spec`.
    pub fn of(spec: &Spec, action: &str) -> Self {
        let labels = spec.life.as_ref().map(|life| life.labels.clone()); // ch06, before: let labels = None::<BTreeMap<_, _>>;
        let mut attributes = labels.unwrap_or_default();
        attributes.insert("image".to_string(), spec.image.reference.clone());
        let name = spec.name.as_ref().map_or(spec.id.short(), |name| name.as_str());
        attributes.insert("name".to_string(), name.to_string());
        let image = spec.image.reference.clone();
        Self { from: image, ..Self::about("container", action, spec.id.as_str(), attributes) }
    }

    /// `action` has just happened to the image, network or volume `id`.
    pub fn about(kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) -> Self {
        let now = Timestamp::now();
        let of_old = matches!(kind, "container" | "image");
        Self {
            status: if of_old { action.to_string() } else { String::new() },
            id: if of_old { id.to_string() } else { String::new() },
            from: String::new(),
            kind: kind.to_string(),
            action: action.to_string(),
            actor: Actor { id: id.to_string(), attributes },
            scope: "local".to_string(),
            time: now.as_second(),
            nanos: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        }
    }

    /// With one more thing to say about it.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.actor.attributes.insert(name.to_string(), value.to_string());
        self
    }
}

/// Writes events down. What cannot be written (a full disk) is lost, and nothing else.
pub fn tell(dirs: &Dirs, events: &[Event]) {
    let lines = events.iter().filter_map(|event| serde_json::to_string(event).ok());
    let text = lines.fold(String::new(), |text, line| text + &line + "\n");
    if let Err(error) = append(&dirs.run.join("events"), text.as_bytes()) {
        log::debug!("an event is lost: {error}");
    }
}

fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    if file.stream_position()? > LARGEST {
        let (ours, now) = (file.metadata()?, fs::symlink_metadata(path)?);
        // Another one may have done it a moment ago.
        if (ours.dev(), ours.ino()) == (now.dev(), now.ino()) {
            fs::rename(path, path.with_extension("1"))?;
        }
    }
    Ok(())
}

/// Reads events, the oldest first, and later those that have come since.
pub struct Events {
    path: PathBuf,
    /// The last one grows.
    files: VecDeque<BufReader<File>>,
    torn: Vec<u8>,
}

impl Events {
    pub fn open(dirs: &Dirs) -> Self {
        let path = dirs.run.join("events");
        let files = [path.with_extension("1"), path.clone()];
        let files = files.iter().filter_map(|path| File::open(path).ok()).map(BufReader::new).collect();
        Self { path, files, torn: vec![] }
    }

    /// To the next file, if this one will not grow any more.
    fn go_on(&mut self) -> bool {
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        if self.files.len() == 1 {
            let ours = self.files[0].get_ref().metadata().map(place);
            match (ours, fs::metadata(&self.path).map(place)) {
                (Ok(ours), Ok(now)) if ours != now => {
                    let Ok(file) = File::open(&self.path) else { return false };
                    self.files.push_back(BufReader::new(file));
                    // Once more this one: something may have come before it was put aside.
                    return true;
                }
                _ => return false,
            }
        }
        self.files.pop_front();
        self.torn.clear();
        true
    }
}

/// What there is; `None`: nothing more, for now.
impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let Some(file) = self.files.front_mut() else {
                self.files.push_back(BufReader::new(File::open(&self.path).ok()?));
                continue;
            };
            let size = file.read_until(b'\n', &mut self.torn).unwrap_or(0);
            if self.torn.ends_with(b"\n") {
                let event = serde_json::from_slice(&self.torn);
                self.torn.clear();
                // What is no event (somebody's editor) is passed over.
                if let Ok(event) = event {
                    return Some(event);
                }
            } else if size == 0 && !self.go_on() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Id, ImageConfig};

    #[test]
    fn events_are_read_across_a_change_of_files() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(home.path()));
        fs::create_dir_all(&dirs.run).unwrap();
        let spec = Spec::new(Id::random().unwrap(), dirs.clone(), ImageConfig::default(), vec![]);
        let say = |number: usize| tell(&dirs, &[Event::of(&spec, "start").with("number", number)]);
        let mut early = Events::open(&dirs);
        assert_eq!(early.next(), None);
        let padding = "x".repeat(100_000);
        let mut numbers = Vec::new();
        for number in 0..60 {
            tell(&dirs, &[Event::of(&spec, "noise").with("text", &padding)]);
            say(number);
            if number % 7 == 0 {
                let events = early.by_ref().filter(|event| event.action == "start");
                numbers.extend(events.map(|event| event.actor.attributes["number"].parse::<usize>().unwrap()));
            }
        }
        let rest = early.by_ref().filter(|event| event.action == "start");
        numbers.extend(rest.map(|event| event.actor.attributes["number"].parse::<usize>().unwrap()));
        assert_eq!(numbers, (0..60).collect::<Vec<_>>());
        assert!(dirs.run.join("events.1").exists());
        assert!(fs::metadata(dirs.run.join("events")).unwrap().len() < LARGEST);
        assert!(Events::open(&dirs).count() > 40);
    }
}
