//! What the command writes, one JSON object a line as docker's `json-file` driver has it:
//! `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}`. A line of more than 16 KiB is cut into
//! pieces, of which only the last ends in `\n`. At its size limit the file becomes `log.1`, and a new one begins.

use crate::plan::{LogConfig, LogDriver};
use jiff::Timestamp;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Docker's: the longest piece.
const LONGEST: usize = 16 << 10;

/// Keeps the log. A full disk loses lines, and nothing else.
pub struct LogWriter {
    path: PathBuf,
    config: LogConfig,
    file: Option<File>,
    size: u64,
    /// Lines that have not ended yet, of each stream.
    pending: [Vec<u8>; 2],
}

impl LogWriter {
    /// The same in a folder that is still to be made: the file is opened when there is something to write.
    pub fn later(folder: &Path, config: &LogConfig) -> Self {
        Self { path: folder.join("log"), config: config.clone(), file: None, size: 0, pending: [vec![], vec![]] }
    }

    /// Appends to the log in a container's folder.
    pub fn open(folder: &Path, config: &LogConfig) -> Self {
        let mut log = Self::later(folder, config);
        if config.driver != LogDriver::None {
            log.reopen();
        }
        log
    }

    fn reopen(&mut self) {
        let mut options = File::options();
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        self.file = options.open(&self.path).ok();
        self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
    }

    /// Takes what a stream brought, in pieces of any size.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.config.driver == LogDriver::None {
            return;
        }
        let now = Timestamp::now();
        let mut text = Vec::with_capacity(bytes.len() + bytes.len() / 8 + 128);
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut part = part;
            while pending.len() + part.len() > LONGEST {
                let (head, rest) = part.split_at(LONGEST - pending.len());
                pending.extend_from_slice(head);
                // A character is not cut in two.
                let whole = whole_characters(&pending);
                line(&mut text, stream, &pending[..whole], now);
                pending.drain(..whole);
                part = rest;
            }
            pending.extend_from_slice(part);
            if part.ends_with(b"\n") {
                line(&mut text, stream, &pending, now);
                pending.clear();
            }
        }
        if pending.is_empty() {
            pending = Vec::new();
        }
        self.pending[stream as usize] = pending;
        self.append(&text);
    }

    /// The streams have ended: what lacks a line end is written as it is.
    pub fn finish(&mut self) {
        let mut text = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                line(&mut text, stream, &pending, Timestamp::now());
            }
        }
        self.append(&text);
    }

    fn append(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        if self.file.is_none() {
            self.reopen();
        }
        let Some(file) = &mut self.file else { return };
        match file.write_all(text) {
            Ok(()) => self.size += text.len() as u64,
            // Disk full: no torn line is left behind, and the container goes on.
            Err(_) => drop(file.set_len(self.size)),
        }
        if self.config.max_size > 0 && self.size >= self.config.max_size {
            let _ = self.rotate();
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| self.path.with_extension(number.to_string());
        if self.config.max_file <= 1 {
            self.size = 0;
            return self.file.as_ref().map_or(Ok(()), |file| file.set_len(0));
        }
        for number in (1..self.config.max_file - 1).rev() {
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        fs::rename(&self.path, numbered(1))?;
        self.reopen();
        Ok(())
    }
}

/// How many bytes from the start hold only whole characters; all, if the end is no UTF-8 anyway.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(4)..]) {
        Err(error) if error.error_len().is_none() => bytes.len() - (4.min(bytes.len()) - error.valid_up_to()),
        _ => {
            // The window of four may begin inside a character; then only its end tells.
            let tail = (1..=3.min(bytes.len())).find(|back| bytes[bytes.len() - back] & 0xc0 != 0x80);
            let begins = tail.map(|back| (back, bytes[bytes.len() - back]));
            match begins {
                Some((back, lead)) if lead >= 0xc0 && back < width(lead) && back < bytes.len() => bytes.len() - back,
                _ => bytes.len(),
            }
        }
    }
}

fn width(lead: u8) -> usize {
    match lead {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

fn line(text: &mut Vec<u8>, stream: Stream, bytes: &[u8], now: Timestamp) {
    text.extend_from_slice(b"{\"log\":");
    // Writing to a vector cannot fail. What is not UTF-8 becomes U+FFFD, as docker's does.
    let _ = serde_json::to_writer(&mut *text, &*String::from_utf8_lossy(bytes));
    let _ = writeln!(text, ",\"stream\":\"{}\",\"time\":\"{now:.9}\"}}", stream.name());
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    fn lines(folder: &Path) -> Vec<(String, String)> {
        let mut reader = Reader::new(folder);
        let lines = reader.read();
        lines.into_iter().map(|line| (line.stream, line.log)).collect()
    }

    #[test]
    fn lines_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), &LogConfig::default());
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n\x1b[31m\xff\"\\\nno end");
        log.finish();
        let expected = [
            ("stdout", "one\n"),
            ("stderr", "err\n"),
            ("stdout", "two\n"),
            ("stdout", "\u{1b}[31m\u{fffd}\"\\\n"),
            ("stdout", "no end"),
        ];
        assert_eq!(lines(dir.path()), expected.map(|(stream, log)| (stream.to_string(), log.to_string())));
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path(), &LogConfig::default());
        let text = "€".repeat(20_000) + "\n";
        for piece in text.as_bytes().chunks(1000) {
            log.write(Stream::Stdout, piece);
        }
        let got = lines(dir.path());
        assert!(got.len() >= 4 && got.iter().all(|(_, log)| log.len() <= LONGEST && !log.contains('\u{fffd}')));
        assert_eq!(got.into_iter().map(|(_, log)| log).collect::<String>(), text);
    }

    #[test]
    fn files_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let config = LogConfig { max_size: 1000, max_file: 3, ..LogConfig::default() };
        let mut log = LogWriter::open(dir.path(), &config);
        for number in 0..100 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let got = lines(dir.path());
        assert_eq!(got.last().unwrap().1, "line 99\n");
        let numbers: Vec<u32> = got.iter().map(|(_, log)| log.trim()[5..].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers.len() > 20);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_lost(text in "(a|€|ß|\\n|𝄞){0,300}", size in 1usize..50) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::open(dir.path(), &LogConfig::default());
            text.as_bytes().chunks(size).for_each(|piece| log.write(Stream::Stdout, piece));
            log.finish();
            proptest::prop_assert_eq!(lines(dir.path()).into_iter().map(|(_, log)| log).collect::<String>(), text);
        }
    }
}
