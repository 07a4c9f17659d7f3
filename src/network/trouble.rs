//! What goes wrong in a step beyond an errno: the words of another program, or which address was meant.

use crate::plan::{Op, Stage};
use nix::errno::Errno;
use std::io;
use std::sync::{Arc, Mutex};

/// Why a step of ours failed.
pub struct Trouble {
    errno: Errno,
    words: Option<String>,
}

impl Trouble {
    pub fn new(errno: Errno, words: impl Into<String>) -> Self {
        Self { errno, words: Some(words.into()) }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.words.as_deref().unwrap_or(self.errno.desc()))
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self { errno, words: None }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Errno::from_raw(number).into(),
            None => Self::new(Errno::EIO, error.to_string()),
        }
    }
}

/// An operation of the engine's side whose failure says more than a number.
pub fn op(
    call: &'static str,
    args: impl IntoIterator<Item = impl Into<String>>,
    shell: impl Into<String>,
    act: impl Fn(&mut Stage) -> Result<(), Trouble> + Send + 'static,
) -> Op {
    let said: Arc<Mutex<Option<String>>> = Arc::default();
    let asked = Arc::clone(&said);
    Op::new(call, args, shell, move |stage| {
        act(stage).map_err(|trouble| {
            if let Ok(mut said) = said.lock() {
                *said = trouble.words;
            }
            trouble.errno
        })
    })
    .hint(move |errno, _| {
        let words = asked.lock().ok().and_then(|mut said| said.take());
        words.or_else(|| match errno {
            Errno::EPERM => Some("networks need CAP_NET_ADMIN: run as root, or through sudo".to_string()),
            Errno::EOPNOTSUPP => Some("this kernel lacks bridges or veth pairs: modprobe bridge veth".to_string()),
            _ => None,
        })
    })
}
