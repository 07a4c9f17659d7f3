//! What the container **is**: the OCI runtime document (`config.json` of the runtime spec), and the little for which
//! OCI has no word. Rooms read and write their own part of it.

use super::{Healthcheck, Life}; // ch06
use anyhow::{Result, bail};
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A container's identity: 64 hexadecimal digits, of which people see 12.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(String);

impl TryFrom<String> for Id {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Id::parse(&text).ok_or_else(|| format!("`{}` is not a container's id", text.escape_debug()))
    }
}

impl Id {
    /// A new one, of the kernel's randomness.
    pub fn random() -> Result<Self> {
        let bytes = crate::sys::random::<32>()?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The id that `text` is; anything else than 64 lower-case hexadecimal digits is none.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the link of its name says, in `names/`.
    pub fn link_target(&self) -> PathBuf {
        Path::new("../containers").join(&self.0)
    }

    /// The first 12 digits: the default host name, and what tables show.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 128 bytes; it can hold no `/` and is never `..`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl TryFrom<String> for Name {
    type Error = anyhow::Error;
    fn try_from(text: String) -> Result<Self> {
        Name::parse(&text)
    }
}

impl Name {
    pub fn parse(text: &str) -> Result<Self> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !(first && rest && (2..=128).contains(&text.len())) {
            bail!("invalid container name `{}`: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", text.escape_debug());
        }
        Ok(Self(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where everything lies: `--root` moves the whole tree.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// What survives a reboot: `/var/lib/mydocker`.
    pub root: PathBuf,
    /// What does not: `/run/mydocker`, or `run/` below a root of the user's choice.
    pub run: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Dirs {
    pub fn new(root: Option<&Path>) -> Self {
        match root {
            Some(root) => Self { root: root.to_owned(), run: root.join("run") },
            None => Self { root: "/var/lib/mydocker".into(), run: "/run/mydocker".into() },
        }
    }

    pub fn container(&self, id: &Id) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// What is kept of a container while it runs.
    pub fn running(&self, id: &Id) -> PathBuf {
        self.run.join(id.as_str())
    }
}

/// What an image says about the command it wants (the `config` of the OCI image spec).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// What the user called it.
    pub reference: String,
    /// `sha256:…`; empty if it is not one of the image store.
    pub id: String,
    /// The trees of its layers, lowest first. Empty: there is no image, the container shares the host's root.
    pub layers: Vec<PathBuf>,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub stop_signal: Option<String>,
    /// Where it wants volumes.
    pub volumes: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// How a container of it is asked whether it is well.
    pub healthcheck: Option<Healthcheck>, // ch06
}

/// What the container is. A container at rest keeps it in two files: the OCI document in `config.json`, everything else
/// in its record; what only matters to one start is not kept.
#[derive(Serialize, Deserialize)]
pub struct Spec {
    /// The OCI runtime document; written as the container's `config.json`.
    #[serde(skip)]
    pub oci: oci::Spec,
    pub id: Id,
    pub name: Option<Name>,
    #[serde(skip)]
    pub dirs: Dirs,
    pub image: ImageConfig,
    /// The command and its arguments, as typed after the image.
    pub command: Vec<String>,
    /// The root gets a layer of its own to write in (overlay); without one it is the image itself, read-only.
    pub writable_layer: bool,
    /// The caller's environment, for `-e NAME`.
    #[serde(skip)]
    pub caller: Vec<(String, String)>,
    /// Rows and columns of the caller's terminal, if it has one.
    #[serde(skip)]
    pub window: Option<(u16, u16)>,
    /// It outlives the engine that makes it: a monitor stays with it (`-d`).
    #[serde(skip)]
    pub detached: bool,
    /// A process of ours is PID 1 and reaps (`--init`).
    pub init: bool,
    /// The signal that asks the command to end (`--stop-signal`), as a number.
    pub stop_signal: i32,
    /// How it lives on; `None`: it is gone when it ends, and nothing is kept of it.
    #[serde(default)]
    pub life: Option<Life>, // ch06
    /// What rooms keep of their own, under their names: wishes for which OCI has no word, and which `plan` needs.
    #[serde(default)]
    pub own: serde_json::Map<String, serde_json::Value>,
}

impl Spec {
    /// A spec that says nothing yet: no namespaces, no mounts, no limits.
    pub fn new(id: Id, dirs: Dirs, image: ImageConfig, command: Vec<String>) -> Self {
        let mut process = oci::Process::default();
        process.set_args(None).set_env(None).set_capabilities(None).set_rlimits(None).set_no_new_privileges(None);
        let mut linux = oci::Linux::default();
        linux.set_namespaces(Some(vec![])).set_resources(None).set_masked_paths(None).set_readonly_paths(None);
        let mut oci = oci::Spec::default();
        // The oldest that has all of it (but for `domainname`): crun 1.8 refuses a document of a newer one.
        oci.set_version("1.0.2".to_string()).set_root(None).set_mounts(Some(vec![])).set_hostname(None);
        oci.set_process(Some(process)).set_linux(Some(linux));
        let stop_signal = libc::SIGTERM;
        Self {
            oci,
            id,
            name: None,
            dirs,
            image,
            command,
            writable_layer: false,
            caller: vec![],
            window: None,
            detached: false,
            init: false,
            stop_signal,
            life: None, // ch06
            own: serde_json::Map::new(),
        }
    }

    pub fn process(&self) -> &oci::Process {
        self.oci.process().as_ref().expect("Spec::new sets it, and nobody takes it away")
    }

    pub fn process_mut(&mut self) -> &mut oci::Process {
        self.oci.process_mut().get_or_insert_default()
    }

    pub fn linux(&self) -> &oci::Linux {
        self.oci.linux().as_ref().expect("Spec::new sets it, and nobody takes it away")
    }

    pub fn linux_mut(&mut self) -> &mut oci::Linux {
        self.oci.linux_mut().get_or_insert_default()
    }

    pub fn mounts(&self) -> &[oci::Mount] {
        self.oci.mounts().as_deref().unwrap_or_default()
    }

    pub fn mounts_mut(&mut self) -> &mut Vec<oci::Mount> {
        self.oci.mounts_mut().get_or_insert_default()
    }

    /// Whether the command gets a terminal of its own (`-t`).
    pub fn terminal(&self) -> bool {
        self.process().terminal().unwrap_or(false)
    }

    /// The folder of this container.
    pub fn folder(&self) -> PathBuf {
        self.dirs.container(&self.id)
    }

    /// Where the container's root is mounted, in its own mount namespace; `None` while it shares the host's.
    pub fn rootfs(&self) -> Option<&Path> {
        self.oci.root().as_ref().map(|root| root.path().as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_folder() {
        for good in ["web", "a1", "A_b.c-d", &"x".repeat(128)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "../x", "-x", ".x", "a/b", "a b", "a\n", "ä1", "a\0b", &"x".repeat(129)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_64_hexadecimal_digits() {
        let id = Id::random().unwrap();
        assert_eq!(Id::parse(id.as_str()).unwrap().short(), &id.as_str()[..12]);
        assert!(Id::parse("../../etc").is_none());
        assert!(Id::parse(&"A".repeat(64)).is_none());
        assert_ne!(Id::random().unwrap().as_str(), id.as_str());
    }
}
