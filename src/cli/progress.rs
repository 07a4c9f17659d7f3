//! How far a long command is: one line on a terminal's stderr, drawn again and again by a thread beside the work, which
//! only looks at how large a file has become or how far one was read. Who looks at no terminal gets none of it.

use super::human;
use std::fs::File;
use std::io::{IsTerminal, Seek, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is quicker than this says nothing.
const PATIENCE: Duration = Duration::from_millis(300);
const PACE: Duration = Duration::from_millis(100);

/// Draws until it is dropped, and then takes its line away.
pub struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// `what` says what is done; `done` tells how many bytes of it.
    fn start(what: &str, total: Option<u64>, done: impl Fn() -> Option<u64> + Send + 'static) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (what, (send, stop)) = (what.to_string(), channel());
        let draw = move || {
            let since = Instant::now();
            let mut wait = PATIENCE;
            while stop.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = PACE;
                let amount = match (done(), total) {
                    (Some(bytes), Some(total)) => {
                        format!("{} of {}", human::size(bytes.min(total), 3), human::size(total, 3))
                    }
                    (Some(bytes), None) => human::size(bytes, 3),
                    (None, _) => format!("{:.1} s", since.elapsed().as_secs_f32()),
                };
                let _ = write!(std::io::stderr(), "\r\x1b[K{what}: {amount}");
            }
            if wait == PACE {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
        };
        // Without a thread there is no line; the work goes on.
        let thread = std::thread::Builder::new().spawn(draw).ok();
        Self(thread.map(|thread| (send, thread)))
    }

    /// By how far `file` was read; both share their place in it.
    pub fn of_reading(what: &str, file: &File) -> Self {
        let total = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
        match file.try_clone() {
            Ok(file) if total.is_some() => Self::start(what, total, move || (&file).stream_position().ok()),
            _ => Self::of_time(what),
        }
    }

    /// By how large `file` has become.
    pub fn of_writing(what: &str, file: &File) -> Self {
        match (file.try_clone(), file.metadata()) {
            (Ok(file), Ok(data)) if data.is_file() => {
                Self::start(what, None, move || file.metadata().ok().map(|data| data.len()))
            }
            _ => Self::of_time(what),
        }
    }

    /// By the seconds that it takes.
    pub fn of_time(what: &str) -> Self {
        Self::start(what, None, || None)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((send, thread)) = self.0.take() {
            drop(send);
            let _ = thread.join();
        }
    }
}
