//! What an image says about itself: the OCI image config, with what docker adds to it. Our own structs, because
//! `oci-spec` drops docker's `Healthcheck`, `OnBuild` and `Shell`; what even these do not know is kept in `other`.

use super::Digest;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The document whose digest is the image's id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: Execution,
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The `config` of the config: what a container of it runs, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Which layers, lowest first, by the digests of their uncompressed archives.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// How a layer came about, or a line that made none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Docker writes `null` for what is not there.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// More layers than overlay can stack.
const MOST_LAYERS: usize = 500;

impl Config {
    /// An image of nothing yet.
    pub fn new() -> Self {
        Self {
            architecture: host_architecture().to_string(),
            os: "linux".to_string(),
            rootfs: RootFs { kind: "layers".to_string(), diff_ids: vec![] },
            ..Self::default()
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let config: Config = serde_json::from_slice(bytes).context("the image's config is not one")?;
        if config.rootfs.kind != "layers" {
            bail!("the image's config has rootfs.type `{}`, not `layers`", config.rootfs.kind.escape_debug());
        }
        if config.rootfs.diff_ids.len() > MOST_LAYERS {
            bail!("the image has {} layers; overlay stacks at most {MOST_LAYERS}", config.rootfs.diff_ids.len());
        }
        Ok(config)
    }

    /// Adds a layer on top, and how it came about.
    pub fn add_layer(&mut self, diff_id: Digest, history: History) {
        self.created = history.created.clone();
        self.rootfs.diff_ids.push(diff_id);
        self.history.push(history);
    }

    /// Why this machine cannot run it, if it cannot.
    pub fn foreign(&self) -> Option<String> {
        let here = host_architecture();
        let fits =
            (self.architecture.is_empty() || self.architecture == here) && (self.os.is_empty() || self.os == "linux");
        (!fits).then(|| format!("it is for {}/{}, and this machine is linux/{here}", self.os, self.architecture))
    }
}

/// As the OCI documents spell it (Go's GOARCH).
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_do_not_know_survives() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Entrypoint":null,
            "Healthcheck":{"Test":["CMD","true"]},"OnBuild":null},"rootfs":{"type":"layers","diff_ids":[]},
            "history":null,"docker_version":"28.2"}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back["docker_version"], "28.2");
        assert_eq!(back["config"]["Healthcheck"]["Test"][1], "true");
        for bad in ["", "[]", "{}", r#"{"rootfs":{"type":"x"}}"#, r#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#] {
            assert!(Config::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
