//! Pax records: what the old tar header cannot hold, said before it (POSIX, `pax`, "pax Header Block"). Long names, large
//! numbers, nanoseconds, extended attributes, sparse maps.
//!
//! Try it without us: `tar --format=pax --xattrs -cf x.tar file; strings x.tar | head`

use anyhow::{Context, Result, bail};
use std::ffi::CString;

/// What extended headers say about the next member.
#[derive(Default)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, i64)>,
    pub xattrs: Vec<(CString, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's sparse files in pax clothes: 0.0 and 0.1 list the pieces in records, 1.0 before the data.
#[derive(Default)]
pub struct Sparse {
    pub major: u64,
    pub minor: u64,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub numbers: Vec<u64>,
}

impl Extended {
    /// Records of the form `LENGTH KEY=VALUE\n`, where the length counts all of it: a value may hold any byte.
    pub fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').context("a malformed pax record")?;
            let length = std::str::from_utf8(&records[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let length = length.filter(|length| *length > space + 1 && *length <= records.len());
            let length = length.context("a pax record of a wrong length")?;
            let (record, rest) = records.split_at(length);
            records = rest;
            let record = record[space + 1..].strip_suffix(b"\n").context("a pax record without its end")?;
            let equals = record.iter().position(|byte| *byte == b'=').context("a pax record without `=`")?;
            self.record(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = || std::str::from_utf8(value).ok();
        let number = || text().and_then(|text| text.trim().parse::<u64>().ok()).context("a pax number is none");
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(text().and_then(parse_time).context("a pax time is none")?),
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.minor" => self.sparse.minor = number()?,
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(number()?),
            b"GNU.sparse.map" => {
                let list = text().context("a sparse map is none")?.split(',').map(|number| number.parse::<u64>());
                self.sparse.numbers = list.collect::<Result<_, _>>().context("a sparse map is none")?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.".as_slice()) {
                    let name = CString::new(name).context("an attribute's name holds a NUL")?;
                    if name.to_bytes().len() > 255 || value.len() > 65536 {
                        bail!(
                            "the attribute `{}` is larger than any file system takes",
                            name.to_bytes().escape_ascii()
                        );
                    }
                    self.xattrs.push((name, value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// `1700000000.123456789`, `-1.5`: seconds and nanoseconds, rounded down.
fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds() {
        assert_eq!(parse_time("1700000000.123456789"), Some((1700000000, 123456789)));
        assert_eq!(parse_time("1.5"), Some((1, 500_000_000)));
        assert_eq!(parse_time("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(parse_time("7"), Some((7, 0)));
        assert_eq!(parse_time("x"), None);
        assert_eq!(parse_time("1.x"), None);
    }

    #[test]
    fn records_may_hold_newlines() {
        let mut extended = Extended::default();
        extended.read(b"26 SCHILY.xattr.user.x=\n\n\n12 size=123\n").unwrap();
        assert_eq!(extended.xattrs[0].1, b"\n\n");
        assert_eq!(extended.size, Some(123));
        for bad in [&b"99 a=b\n"[..], b"x", b"5 ab\n", b"0 a=b\n", b"6 a=bc"] {
            assert!(Extended::default().read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
