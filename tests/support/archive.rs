//! Archives byte by byte, as no packer would write them.
#![allow(clippy::unwrap_used)]

use std::process::Command;

/// One member: type flag, name, link, content, pax records.
#[derive(Clone)]
pub struct Member {
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    pub pax: Vec<(String, Vec<u8>)>,
    pub mode: u32,
    pub device: (u32, u32),
}

pub fn member(kind: u8, name: &str) -> Member {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    Member { kind, name: name.into(), link: vec![], content: vec![], pax: vec![], mode, device: (0, 0) }
}

pub fn file(name: &str, content: &str) -> Member {
    Member { content: content.into(), ..member(b'0', name) }
}

pub fn dir(name: &str) -> Member {
    member(b'5', name)
}

pub fn link(name: &str, target: &str) -> Member {
    Member { link: target.into(), ..member(b'2', name) }
}

pub fn hard(name: &str, target: &str) -> Member {
    Member { link: target.into(), ..member(b'1', name) }
}

pub fn node(kind: u8, name: &str, device: (u32, u32)) -> Member {
    Member { device, ..member(kind, name) }
}

impl Member {
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.into(), value.into()));
        self
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut pax = self.pax.clone();
        if self.name.len() > 100 {
            pax.push(("path".into(), self.name.clone()));
        }
        if self.link.len() > 100 {
            pax.push(("linkpath".into(), self.link.clone()));
        }
        if !pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in pax {
                let rest = key.len() + value.len() + 3;
                let length =
                    (1..10).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(&value);
                records.push(b'\n');
            }
            Member { content: records, kind: b'x', name: b"pax".to_vec(), pax: vec![], ..self.clone() }.write_one(out);
        }
        self.write_one(out);
    }

    fn write_one(&self, out: &mut Vec<u8>) {
        let mut header = tar::Header::new_ustar();
        let (name, target) = (self.name.len().min(100), self.link.len().min(100));
        header.as_old_mut().name[..name].copy_from_slice(&self.name[..name]);
        header.as_old_mut().linkname[..target].copy_from_slice(&self.link[..target]);
        header.set_entry_type(tar::EntryType::new(self.kind));
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(self.content.len() as u64);
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    members.iter().for_each(|member| member.write(&mut out));
    out.resize(out.len() + 1024, 0);
    out
}

pub fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_string()
}

/// A docker-archive of these layers, called `case:latest`.
pub fn image(layers: &[Vec<Member>]) -> Vec<u8> {
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| archive(layer)).collect();
    let ids: Vec<String> = blobs.iter().map(|blob| format!("\"sha256:{}\"", sha256(blob))).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let names: Vec<String> = (0..blobs.len()).map(|number| format!("\"{number}/layer.tar\"")).collect();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["case:latest"],"Layers":[{}]}}]"#, names.join(","));
    let mut members = vec![file("config.json", &config), file("manifest.json", &manifest)];
    for (number, blob) in blobs.into_iter().enumerate() {
        members.push(Member { content: blob, ..file(&format!("{number}/layer.tar"), "") });
    }
    archive(&members)
}
