//! The keys with which a caller leaves a container's terminal without ending what runs on it (`--detach-keys`). They are
//! looked for in what he types, byte by byte, because a terminal may send one key in two pieces or two in one.
//!
//! The command on the terminal never sees them; a beginning that turns out to be something else it sees in full.
//!
//! Try it without us: `screen`, then ctrl-a d

use anyhow::{Context, Result};

/// Docker's: ^P ^Q.
pub const DETACH: [u8; 2] = [16, 17];

/// What is looked for, and how much of it has come.
#[derive(Clone, Debug)]
pub struct Keys {
    wanted: Vec<u8>,
    seen: usize,
}

impl Keys {
    /// None at all: nothing is ever found.
    pub fn new(wanted: Vec<u8>) -> Self {
        Self { wanted, seen: 0 }
    }

    /// Passes what was typed on to `out`; a beginning of the keys is held back until it is clear what it is. True: all of
    /// them have come, and what was typed after them is dropped.
    pub fn take(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.wanted.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.wanted.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.wanted[..self.seen]);
            self.seen = usize::from(self.wanted.first() == Some(byte));
            if self.seen == 0 {
                out.push(*byte);
            } else if self.wanted.len() == 1 {
                return true;
            }
        }
        false
    }
}

/// `ctrl-a,x` as bytes; docker's grammar.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
        (Some(letter), _) if letter.len() == 1 => match letter.as_bytes()[0] {
            letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
            letter @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_') => Some(letter & 0x1f),
            _ => None,
        },
        (None, b"DEL") => Some(127),
        (None, [byte]) => Some(*byte),
        _ => None,
    };
    let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
    keys.with_context(|| format!("--detach-keys: `{}` is not a list like ctrl-p,ctrl-q", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_wherever_they_are_cut() {
        let mut keys = Keys::new(DETACH.to_vec());
        let mut out = Vec::new();
        assert!(!keys.take(&[b'a', 16], &mut out) && out == b"a");
        assert!(!keys.take(b"b", &mut out) && out == [b'a', 16, b'b']);
        assert!(!keys.take(&[16, 16], &mut out) && keys.take(&[17], &mut out));
        assert!(Keys::new(vec![b'x']).take(b"ax", &mut out));
        assert!(!Keys::new(vec![]).take(b"abc", &mut out));
    }

    #[test]
    fn keys_are_written_as_docker_has_them() {
        assert_eq!(detach_keys("ctrl-a,x").unwrap(), [1, b'x']);
        assert_eq!(detach_keys("DEL,ctrl-@").unwrap(), [127, 0]);
        assert!(detach_keys("ctrl-").is_err() && detach_keys("").is_err() && detach_keys("ab").is_err());
    }
}
