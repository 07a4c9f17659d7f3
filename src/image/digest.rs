//! Content addresses: a blob is named by the SHA-256 of its bytes, so nobody can change one without changing its name
//! (OCI image spec, "Digests").

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read, Write};

/// `sha256:` and 64 hexadecimal digits. Nothing else fits in, so it may be part of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    pub fn parse(text: &str) -> Result<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix(PREFIX) {
            Some(digits) if digits.len() == 64 && digits.bytes().all(hex) => Ok(Self(text.to_string())),
            _ => bail!("invalid digest `{}`", text.escape_debug().take(100).collect::<String>()),
        }
    }

    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).as_slice())
    }

    fn from_hash(hash: &[u8]) -> Self {
        hash.iter().fold(Self(PREFIX.to_string()), |mut all, byte| {
            use fmt::Write;
            let _ = write!(all.0, "{byte:02x}"); // writing to a string cannot fail
            all
        })
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The first 12 digits, as tables show it.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of a stack of layers: of the lowest alone its diff id, then `SHA256(chain + " " + diff id)` (OCI
    /// image spec, "Layer ChainID"). One per layer.
    pub fn chain(diff_ids: &[Digest]) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = anyhow::Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// Counts and hashes what passes through, on its way from a reader or to a writer.
pub struct Hashing<T> {
    inner: T,
    hash: Sha256,
    pub bytes: u64,
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    pub fn finish(self) -> (Digest, u64, T) {
        (Digest::from_hash(self.hash.finalize().as_slice()), self.bytes, self.inner)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.count(&buffer[..size]);
        Ok(size)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let size = self.inner.write(buffer)?;
        self.count(&buffer[..size]);
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_chains() {
        let empty = Digest::of(b"");
        assert_eq!(empty.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Digest::parse(empty.as_str()).unwrap(), empty);
        for bad in ["", "sha256:", "sha256:../../etc/passwd", &empty.as_str().to_uppercase(), &empty.as_str()[1..]] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
        let chain = Digest::chain(&[empty.clone(), empty.clone()]);
        assert_eq!(chain[0], empty);
        assert_eq!(chain[1], Digest::of(format!("{empty} {empty}").as_bytes()));
        let mut hashing = Hashing::new(&b"abc"[..]);
        io::copy(&mut hashing, &mut io::sink()).unwrap();
        let (digest, size, _) = hashing.finish();
        assert_eq!((digest, size), (Digest::of(b"abc"), 3));
    }
}
