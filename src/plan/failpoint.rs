//! Faults on purpose: every step of every plan can be told to fail, or to be the last thing that the engine does
//! (`MYDOCKER_FAILPOINT=step:error|kill|panic`), so that the tests can sweep over all of them. Debug builds only.
//!
//! Try it: `MYDOCKER_FAILPOINT=rootfs.pivot:kill target/debug/mydocker run busybox true; target/debug/mydocker ps -a`

use nix::errno::Errno;

/// A place where a test wants us to fail or to die (debug builds only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failpoint {
    /// A step's full name.
    pub step: String,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The step answers EIO without being done.
    Error,
    /// The engine is killed (SIGKILL) when the step would be next.
    Kill,
    /// The engine panics: a defect of ours, which must not spoil the caller's terminal.
    Panic,
}

impl Failpoint {
    /// `name:error`, `name:kill` or `name:panic`.
    pub fn parse(text: &str) -> Option<Self> {
        let (step, fault) = text.rsplit_once(':')?;
        let fault = match fault {
            "error" => Fault::Error,
            "kill" => Fault::Kill,
            "panic" => Fault::Panic,
            _ => return None,
        };
        Some(Self { step: step.to_string(), fault })
    }

    /// What is to happen at the step of this name; `None` in a release build, always.
    pub fn at(point: Option<&Self>, step: &str) -> Option<Fault> {
        if !cfg!(debug_assertions) {
            return None;
        }
        point.filter(|point| point.step == step).map(|point| point.fault)
    }

    /// Dies here, if a test wants that.
    pub fn strike(point: Option<&Self>, step: &str) {
        if let Some(fault) = Self::at(point, step) {
            strike(fault);
        }
    }
}

/// What a failpoint does on the engine's side.
pub(super) fn strike(fault: Fault) -> Errno {
    match fault {
        Fault::Kill => drop(nix::sys::signal::raise(nix::sys::signal::SIGKILL)),
        Fault::Panic => panic!("a failpoint wants it"),
        Fault::Error => {}
    }
    Errno::EIO
}
