//! `-v`, `--mount`, `--volumes-from`: docker's words for mounts, understood before anything is made.

use super::store::{Volumes, volume_name};
use crate::plan::Dirs;
use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Component, Path};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Bind,
    Volume,
    Tmpfs,
}

/// One mount that the user wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub kind: Kind,
    /// A path of the host, a volume's name, nothing.
    pub source: String,
    /// Where in the container: absolute, without `.` and `..`.
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    /// Nobody named this volume.
    #[serde(default)]
    pub anonymous: bool,
    /// It belongs to another container (`--volumes-from`).
    #[serde(default)]
    pub borrowed: bool,
    /// A new volume is filled from the image.
    #[serde(default)]
    pub copy: bool,
    /// A missing source is made.
    #[serde(default)]
    pub make: bool,
    /// Further words of `fstab`: propagation, tmpfs's size.
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

pub(super) const PROPAGATION: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

impl Wanted {
    fn new(kind: Kind, source: &str, target: String) -> Self {
        Self {
            kind,
            source: source.to_string(),
            target,
            read_only: false,
            anonymous: false,
            borrowed: false,
            copy: kind == Kind::Volume,
            make: false,
            options: vec![],
            labels: BTreeMap::new(),
        }
    }

    /// The mount of the OCI document.
    pub fn to_oci(&self, dirs: &Dirs) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(self.target.clone().into());
        let (kind, source, mut options) = match self.kind {
            Kind::Tmpfs => ("tmpfs", "tmpfs".into(), vec!["noexec".to_string(), "nosuid".into(), "nodev".into()]),
            Kind::Bind => ("bind", self.source.clone().into(), vec![]),
            Kind::Volume => ("bind", Volumes::new(&dirs.root).folder(&self.source).join("_data"), vec![]),
        };
        if kind == "bind" {
            let nonrecursive = self.options.iter().any(|option| option == "bind");
            options.push(if nonrecursive { "bind" } else { "rbind" }.to_string());
            if !self.options.iter().any(|option| PROPAGATION.contains(&option.as_str())) {
                options.push("rprivate".to_string());
            }
        }
        options.extend(self.options.iter().filter(|option| *option != "bind").cloned());
        match (self.read_only, self.kind) {
            (true, Kind::Tmpfs) => options.push("ro".to_string()),
            (true, _) => options.push("rro".to_string()),
            (false, _) => {}
        }
        mount.set_typ(Some(kind.to_string())).set_source(Some(source)).set_options(Some(options));
        mount
    }
}

/// All mounts that the flags and the image ask for, outer ones first.
pub fn read(said: &ArgMatches, dirs: &Dirs, image: &[String]) -> Result<Vec<Wanted>> {
    let texts = |flag: &str| said.get_many::<String>(flag).into_iter().flatten();
    let mut all: Vec<Wanted> = Vec::new();
    let mut add = |flag: &str, one: Wanted, strict: bool| -> Result<()> {
        match all.iter_mut().find(|other| other.target == one.target) {
            Some(_) if strict => bail!("{flag}: duplicate mount point: `{}`", one.target),
            Some(_) => {}
            None => all.push(one),
        }
        Ok(())
    };
    for text in texts("volume") {
        add("--volume", short(text)?, true)?;
    }
    for text in texts("mount") {
        add("--mount", long(text)?, true)?;
    }
    for text in texts("volumes-from") {
        for one in borrowed(text, dirs)? {
            add("--volumes-from", one, false)?;
        }
    }
    for target in image {
        let one = Wanted { anonymous: true, ..Wanted::new(Kind::Volume, "", target_path("VOLUME", target)?) };
        add("VOLUME", one, false)?;
    }
    for one in all.iter_mut().filter(|one| one.anonymous && one.source.is_empty()) {
        one.source = crate::plan::Id::random()?.to_string();
    }
    all.sort_by_key(|one| Path::new(&one.target).components().count());
    Ok(all)
}

/// An absolute path in the container, made plain.
fn target_path(flag: &str, text: &str) -> Result<String> {
    let shown: String = text.escape_debug().take(200).collect();
    if !text.starts_with('/') || text.contains('\0') {
        bail!("{flag}: invalid mount path: `{shown}`: mount path must be absolute");
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().context("a path of the container is UTF-8")?),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    let clean = format!("/{}", parts.join("/"));
    if clean == "/" {
        bail!("{flag}: invalid specification: `{shown}`: destination can't be '/'");
    }
    if clean == "/proc" || clean.starts_with("/proc/") || clean == "/dev" {
        bail!("{flag}: `{shown}`: the container's /proc and /dev are its own, nothing can be mounted there");
    }
    Ok(clean)
}

/// `-v [SOURCE:]TARGET[:OPTIONS]`.
pub fn short(text: &str) -> Result<Wanted> {
    let shown: String = text.escape_debug().take(200).collect();
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) || parts.len() > 3 {
        bail!("--volume: invalid volume specification: `{shown}`");
    }
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => bail!("--volume: invalid volume specification: `{shown}`"),
    };
    let target = target_path("--volume", target)?;
    let mut wanted = match source {
        None => Wanted { anonymous: true, ..Wanted::new(Kind::Volume, "", target) },
        Some(path) if path.starts_with('/') || path == "." || path.starts_with("./") || path.starts_with("../") => {
            let path = std::path::absolute(path).with_context(|| format!("--volume: `{shown}`"))?;
            Wanted { make: true, ..Wanted::new(Kind::Bind, &path.display().to_string(), target) }
        }
        Some(name) => {
            volume_name(name).with_context(|| {
                format!("--volume: `{shown}`: if you intended to pass a host directory, use an absolute path")
            })?;
            Wanted::new(Kind::Volume, name, target)
        }
    };
    let mut seen: Vec<&str> = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let group = match option {
            "ro" | "rw" | "rro" => "access",
            "z" | "Z" => "label",
            "nocopy" | "volume-nocopy" => "copy",
            "consistent" | "cached" | "delegated" | "default" => "consistency",
            _ if PROPAGATION.contains(&option) => "propagation",
            _ => bail!("--volume: `{shown}`: invalid mode: {}", option.escape_debug()),
        };
        if seen.contains(&group) {
            bail!("--volume: `{shown}`: invalid mode: {}", options.escape_debug());
        }
        seen.push(group);
        match group {
            "access" => wanted.read_only = option != "rw",
            "copy" => wanted.copy = false,
            "propagation" if wanted.kind == Kind::Bind => wanted.options.push(option.to_string()),
            "propagation" => bail!("--volume: `{shown}`: invalid mode: {option}: only of a host's folder"),
            _ => {}
        }
    }
    Ok(wanted)
}

/// `--mount type=bind,source=…,target=…`.
pub fn long(text: &str) -> Result<Wanted> {
    let shown: String = text.escape_debug().take(200).collect();
    let (mut kind, mut source, mut target) = (Kind::Volume, None, None);
    let (mut read_only, mut copy, mut options, mut labels) = (false, true, Vec::new(), BTreeMap::new());
    for field in text.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let truth = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => bail!("--mount: `{shown}`: invalid value for {name}: {}", value.escape_debug()),
        };
        match name.to_ascii_lowercase().as_str() {
            "type" => {
                kind = match value {
                    "bind" => Kind::Bind,
                    "volume" => Kind::Volume,
                    "tmpfs" => Kind::Tmpfs,
                    _ => bail!("--mount: `{shown}`: mount type unknown: \"{}\"", value.escape_debug()),
                }
            }
            "source" | "src" => source = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => read_only = truth()?,
            "volume-nocopy" => copy = !truth()?,
            "volume-label" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                labels.insert(name.to_string(), value.to_string());
            }
            "volume-driver" if value == "local" => {}
            "consistency" => {}
            "bind-propagation" if PROPAGATION.contains(&value) => options.push(value.to_string()),
            "bind-nonrecursive" if truth()? => options.push("bind".to_string()),
            "bind-nonrecursive" => {}
            "bind-recursive" if matches!(value, "enabled" | "readonly" | "writable") => {}
            "bind-recursive" if value == "disabled" => options.push("bind".to_string()),
            "tmpfs-size" => {
                options.push(format!("size={}", bytes(value).with_context(|| format!("--mount: `{shown}`"))?))
            }
            "tmpfs-mode" if u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777) => {
                options.push(format!("mode={value}"));
            }
            _ => bail!("--mount: `{shown}`: unexpected key or value '{}'", field.escape_debug()),
        }
    }
    let target = target_path("--mount", target.with_context(|| format!("--mount: `{shown}`: target is required"))?)?;
    let source = source.filter(|source| !source.is_empty());
    let own = |option: &String| match kind {
        Kind::Tmpfs => option.starts_with("size=") || option.starts_with("mode="),
        Kind::Bind => !option.contains('='),
        Kind::Volume => false,
    };
    if let Some(other) = options.iter().find(|option| !own(option)) {
        bail!("--mount: `{shown}`: `{other}` does not fit this type of mount");
    }
    let mut wanted = match (kind, source) {
        (Kind::Bind, None) => bail!("--mount: `{shown}`: source is required"),
        (Kind::Bind, Some(path)) if !path.starts_with('/') => {
            bail!("--mount: `{shown}`: invalid mount path: `{}` must be absolute", path.escape_debug())
        }
        (Kind::Bind, Some(path)) => {
            if std::fs::metadata(path).is_err() {
                bail!("--mount: `{shown}`: bind source path does not exist: {}", path.escape_debug());
            }
            Wanted::new(Kind::Bind, path, target)
        }
        (Kind::Volume, None) => Wanted { anonymous: true, ..Wanted::new(Kind::Volume, "", target) },
        (Kind::Volume, Some(name)) => {
            volume_name(name).with_context(|| format!("--mount: `{shown}`"))?;
            Wanted::new(Kind::Volume, name, target)
        }
        (Kind::Tmpfs, Some(_)) => bail!("--mount: `{shown}`: a tmpfs has no source"),
        (Kind::Tmpfs, None) => Wanted::new(Kind::Tmpfs, "", target),
    };
    wanted.copy &= copy;
    (wanted.read_only, wanted.options, wanted.labels) = (read_only, options, labels);
    Ok(wanted)
}

/// `64m`: bytes.
fn bytes(text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => bail!("`{}` is not a size like 64m", text.escape_debug()),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.with_context(|| format!("`{}` is not a size like 64m", text.escape_debug()))
}

/// `--volumes-from CONTAINER[:ro|rw]`: the user's mounts of another container.
fn borrowed(text: &str, dirs: &Dirs) -> Result<Vec<Wanted>> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if !matches!(mode, "ro" | "rw" | "z" | "Z") {
        bail!("--volumes-from: `{}`: invalid mode: {}", text.escape_debug(), mode.escape_debug());
    }
    let note =
        super::store::note_of(dirs, name).with_context(|| format!("--volumes-from: `{}`", text.escape_debug()))?;
    let mut all: Vec<Wanted> = match note {
        Some(note) => serde_json::from_str(&note).context("--volumes-from: the note of its mounts is damaged")?,
        None => vec![],
    };
    all.retain(|one| one.kind != Kind::Tmpfs);
    for one in &mut all {
        one.borrowed = true;
        one.copy = false;
        one.read_only |= mode == "ro";
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_words() {
        let bind = short("/a:/b:ro").unwrap();
        assert_eq!(
            (bind.kind, bind.source.as_str(), bind.target.as_str(), bind.read_only),
            (Kind::Bind, "/a", "/b", true)
        );
        assert!(bind.make);
        let named = short("data:/srv//x/../y/").unwrap();
        assert_eq!((named.kind, named.source.as_str(), named.target.as_str()), (Kind::Volume, "data", "/srv/y"));
        assert!(short("/x").unwrap().anonymous);
        assert!(!short("data:/x:nocopy").unwrap().copy);
        assert_eq!(short("/a:/b:ro,rslave,z").unwrap().options, ["rslave"]);
        for bad in [
            "",
            ":",
            "rel:/x:y",
            "/a:rel",
            "/a:/",
            "/a:/..",
            "/a:/proc",
            "/a:/proc/sys",
            "/a:/dev",
            "/a:/b:ro,rw",
            "/a:/b:x",
            "a/b:/x",
            "-a:/x",
            "/a:/b:ro:rw",
            "a:/x:rshared",
            "/a::ro",
            "rel",
        ] {
            assert!(short(bad).is_err(), "{bad:?} became {:?}", short(bad).unwrap());
        }
    }

    #[test]
    fn long_words() {
        let bind = long("type=bind,source=/etc,target=/b,readonly,bind-propagation=rslave").unwrap();
        assert_eq!((bind.kind, bind.read_only, bind.make), (Kind::Bind, true, false));
        let tmpfs = long("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        assert_eq!(tmpfs.options, ["size=1048576", "mode=1770"]);
        assert_eq!(long("src=vol,dst=/v,volume-label=a=b").unwrap().labels["a"], "b");
        assert!(long("dst=/v").unwrap().anonymous);
        for bad in [
            "",
            "type=bind,target=/x",
            "type=bind,source=/nosuch-source,target=/x",
            "type=bind,source=rel,target=/x",
            "type=x,target=/x",
            "source=v",
            "type=tmpfs,source=x,target=/x",
            "target=/x,foo=bar",
            "target=x",
            "type=bind,source=/etc,target=/x,tmpfs-size=1m",
            "type=tmpfs,target=/x,tmpfs-size=x",
            "target=/x,readonly=maybe",
        ] {
            assert!(long(bad).unwrap_err().to_string().starts_with("--mount: "), "{bad}");
        }
    }
}
