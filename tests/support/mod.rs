//! What the black-box tests share: a private host, a driver for the binary, the host guard, and readers of `/proc`.
//!
//! ```ignore
//! let Some(engine) = Engine::open() else { return };          // prints why not, if this machine cannot
//! let guard = Guard::new(engine.root());
//! let done = engine.run(["run", "--rm", "busybox", "sh", "-c", "exit 3"]);
//! assert_eq!(done.status, 3);
//! guard.check();                                              // panics with what has changed
//! ```
//!
//! `Engine::open` takes the calling thread into a **private host**: a mount namespace in which every mount is shared,
//! as systemd has it (the strictest place for an engine to be), and a network namespace of its own. What appears in
//! there is the test's own doing, so the guard's answer is exact although other tests run beside it. Start engines only
//! from the test's own thread, or from one that it has spawned.

#![allow(dead_code, unused_imports, reason = "every test binary uses its own part")]

use std::time::Duration;

pub mod archive;
pub mod debian;
mod engine;
mod guard;
mod host;
pub mod kernel;
pub mod lab;
pub mod life;
mod programs;
pub mod terminal;
pub mod tree;

pub use engine::{Done, Engine, Running};
pub use guard::Guard;
pub use host::{PrivateHost, skip};
pub use programs::{build, examples};

/// How long to wait at most. On a machine that is slow as a whole (an emulated one) `MYDOCKER_TEST_SLOW` says how many
/// times slower it is; what a test measures stays what it is.
pub fn slow(patience: Duration) -> Duration {
    let times = std::env::var("MYDOCKER_TEST_SLOW").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    patience * times
}

/// The pause between two looks at what is waited for. A slow machine is asked far less often: it has enough to do.
pub fn nap(pause: Duration) {
    std::thread::sleep(slow(slow(pause)));
}
