//! Reading the log back, across its rotated files and while it grows.

use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line of the log. `time` is RFC 3339 with nanoseconds, UTC.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Line {
    pub log: String,
    pub stream: String,
    pub time: jiff::Timestamp,
}

/// Reads from the oldest file on, and what is appended later.
pub struct Reader {
    path: PathBuf,
    /// The files still to be read, oldest first; the last one grows.
    files: VecDeque<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    torn: Vec<u8>,
}

/// A line of ours is at most 16 KiB of text, six bytes each when escaped; more is a stranger's.
const LONGEST: usize = 256 << 10;

impl Reader {
    pub fn new(folder: &Path) -> Self {
        let path = folder.join("log");
        let older =
            (1..1000).map(|number| path.with_extension(number.to_string())).map_while(|path| File::open(path).ok());
        let mut files: VecDeque<_> = older.map(BufReader::new).collect();
        files = files.into_iter().rev().collect();
        files.extend(File::open(&path).ok().map(BufReader::new));
        Self { path, files, torn: vec![] }
    }

    /// Every line that is there and has not been read.
    pub fn read(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        loop {
            let Some(file) = self.files.front_mut() else {
                match File::open(&self.path) {
                    Ok(file) => self.files.push_back(BufReader::new(file)),
                    Err(_) => return lines,
                }
                continue;
            };
            let size = file.read_until(b'\n', &mut self.torn).unwrap_or(0);
            if self.torn.ends_with(b"\n") {
                // What is no line of ours (a torn write, somebody's editor) is passed over.
                lines.extend(serde_json::from_slice::<Line>(&self.torn).ok());
                self.torn.clear();
            } else if size == 0 || self.torn.len() > LONGEST {
                if self.torn.len() > LONGEST {
                    self.torn.clear();
                }
                if size == 0 && !self.next_file() {
                    return lines;
                }
            }
        }
    }

    /// Goes on to the next file, if this one will not grow any more.
    fn next_file(&mut self) -> bool {
        if self.files.len() > 1 {
            self.files.pop_front();
            self.torn.clear();
            return true;
        }
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino(), metadata.len());
        let (Some(file), Ok(now)) = (self.files.front_mut(), fs::metadata(&self.path)) else { return false };
        let (Ok(ours), Ok(at)) = (file.get_ref().metadata(), std::io::Seek::stream_position(file)) else {
            return false;
        };
        let ((device, number, size), (now_device, now_number, _)) = (inode(ours), inode(now));
        if (device, number) != (now_device, now_number) {
            // Rotated: whatever was still appended before the rename has been read by now.
            let Ok(file) = File::open(&self.path) else { return false };
            // A last look: lines may have come between our end of file and the rename.
            if at < size {
                return true;
            }
            self.files.pop_front();
            self.files.push_back(BufReader::new(file));
            return true;
        }
        if size < at {
            // Emptied in place.
            let _ = std::io::Seek::rewind(file);
            return true;
        }
        false
    }
}
