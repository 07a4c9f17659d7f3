//! What images are called: `[domain/]path[:tag][@digest]`, by the grammar and the defaults of
//! github.com/distribution/reference. A [`Reference`] is valid once it exists.

use super::Digest;
use anyhow::{Result, bail};
use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Of the name without tag and digest.
const LONGEST_NAME: usize = 255;

/// A name of an image, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    domain: String,
    /// `library/busybox`.
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The reference that a user means by `text`; without tag and digest it is `:latest`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reference = Self::parse_name(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_string());
        }
        Ok(reference)
    }

    /// The same, leaving a missing tag missing.
    pub fn parse_name(text: &str) -> Result<Self> {
        let shown: String = text.escape_debug().take(80).collect();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            bail!("invalid repository name ({shown}): cannot be 64 hexadecimal digits, which is an image's id");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            bail!("invalid reference format: `{shown}`: `{}` is not a tag", tag.escape_debug());
        }
        if name.len() > LONGEST_NAME {
            bail!(
                "invalid reference format: `{shown}…`: repository name must not be more than {LONGEST_NAME} characters"
            );
        }
        let (domain, path) = split_domain(name);
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) && is_path(&path.to_ascii_lowercase()) {
            bail!("invalid reference format: repository name (`{shown}`) must be lowercase");
        }
        if !is_domain(&domain) || !is_path(&path) {
            bail!("invalid reference format: `{shown}`");
        }
        Ok(Self { domain, path, tag: tag.map(str::to_string), digest })
    }

    /// The name without tag and digest, as people write it: `busybox`, `localhost:5000/x`.
    pub fn repository(&self) -> String {
        match (self.domain.as_str(), self.path.strip_prefix(OFFICIAL)) {
            (DEFAULT_DOMAIN, Some(short)) if !short.contains('/') => short.to_string(),
            (DEFAULT_DOMAIN, _) => self.path.clone(),
            (domain, _) => format!("{domain}/{}", self.path),
        }
    }

    /// With nothing left out: `docker.io/library/busybox:latest`.
    pub fn full(&self) -> String {
        let tag = self.tag.as_ref().map_or_else(String::new, |tag| format!(":{tag}"));
        let digest = self.digest.as_ref().map_or_else(String::new, |digest| format!("@{digest}"));
        format!("{}/{}{tag}{digest}", self.domain, self.path)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

/// As people write it: without `docker.io/library/`.
impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.repository())?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

/// A first part that looks like a host is one; everything else is docker.io's.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    (domain.to_string(), if official { format!("{OFFICIAL}{path}") } else { path.to_string() })
}

fn is_domain(text: &str) -> bool {
    let host = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => {
            if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return false;
            }
            host
        }
        _ => text,
    };
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|part| {
        let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        plain && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    })
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or dashes; such parts joined by `/`.
fn is_path(text: &str) -> bool {
    text.split('/').all(|part| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = part.as_bytes();
        if !bytes.first().is_some_and(|byte| plain(*byte)) || !bytes.last().is_some_and(|byte| plain(*byte)) {
            return false;
        }
        let separators = part.split(|c: char| c.is_ascii() && plain(c as u8)).filter(|separator| !separator.is_empty());
        separators.into_iter().all(|one| matches!(one, "." | "_" | "__") || one.bytes().all(|byte| byte == b'-'))
    })
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = text.bytes().next().is_some_and(word);
    first && text.len() <= 128 && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_dockers_defaults() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("busybox", "docker.io/library/busybox", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox", "busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox", "busybox:latest"),
            ("docker.io/library/busybox", "docker.io/library/busybox", "busybox:latest"),
            ("index.docker.io/library/x", "docker.io/library/x", "x:latest"),
            ("me/app:v1", "docker.io/me/app", "me/app:v1"),
            ("localhost/x", "localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x", "localhost:5000/x:y"),
            ("a.b-c.d/x__y/z--w.v", "a.b-c.d/x__y/z--w.v", "a.b-c.d/x__y/z--w.v:latest"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Uppercase.io/x", "Uppercase.io/x", "Uppercase.io/x:latest"),
        ];
        for (text, full, familiar) in cases {
            let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(format!("{}/{}", reference.domain, reference.path), full, "{text}");
            assert_eq!(reference.to_string(), familiar, "{text}");
            assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference, "{text}");
        }
        let both = Reference::parse(&format!("x:y@{digest}")).unwrap();
        assert_eq!((both.tag(), both.to_string()), (Some("y"), format!("x:y@{digest}")));
        assert_eq!(Reference::parse(&format!("x@{digest}")).unwrap().tag(), None);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "x".repeat(300);
        let tag = format!("x:{}", "t".repeat(129));
        let id = "a".repeat(64);
        for bad in [
            "",
            "UPPER",
            "a//b",
            "/a",
            "a/",
            ":x",
            "x:",
            "x:-a",
            "x:a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a b",
            "a\n",
            "a\0",
            "../x",
            "x@sha256:12",
            "x@md5:aa",
            "x@",
            "http://x/y",
            "x:y:z",
            "é",
            &long,
            &tag,
            &id,
            "a/./b",
            "host:port/x",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} became {}", Reference::parse(bad).unwrap());
        }
    }
}
