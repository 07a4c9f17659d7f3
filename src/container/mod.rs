//! A container at rest: a folder named by its id, with the record of what the user asked and how it ended, its log, and
//! a lock. Whether it lives is asked of the kernel: a process is its number *and* the moment it began *and* the boot,
//! because numbers come round again (`man 5 proc`, /proc/PID/stat; `man 2 pidfd_open`).
//!
//! Try it without us: `cat /var/lib/mydocker/containers/*/container.json; cat /run/mydocker/*/state`

mod duration;
mod events;
mod find;
mod health;
mod live;
mod lock;
mod log;
mod logs;
mod names;
mod record;
mod settings;

pub use duration::{Moment, human};
pub use events::{Actor, Event, Events, tell};
pub use find::{Missing, find, list};
pub use health::{Health, Probe};
pub use live::{PAUSED, Running, Status, status};
pub use lock::Lock;
pub use log::{LogWriter, Stream};
pub use logs::{Line, Reader};
pub use names::free_name;
pub use record::{Record, Rest, merge, read_config};
pub use settings::{Container, restart, seconds};
