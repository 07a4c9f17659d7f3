//! The command's environment: the image's variables, then the user's, in docker's order.

use crate::plan::Spec;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// What `docker run` sets when neither the image nor the user does.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kernel's limit for one string of `execve` (MAX_ARG_STRLEN, 32 pages), less the NUL.
const LONGEST: usize = 131_071;
/// A file of variables larger than this is a mistake.
const LARGEST_FILE: u64 = 16 << 20;

/// The variables, each `NAME=value`, every name once: a later one takes the earlier one's place.
pub fn variables<'a>(
    spec: &Spec,
    said: impl Iterator<Item = &'a str>,
    files: impl Iterator<Item = &'a str>,
    tty: bool,
    home: &str,
) -> Result<Vec<String>> {
    let mut list = vec![format!("PATH={DEFAULT_PATH}")];
    let hostname = spec.oci.hostname().as_deref().unwrap_or(spec.id.short());
    set(&mut list, format!("HOSTNAME={hostname}"));
    if tty {
        set(&mut list, "TERM=xterm".to_string());
    }
    for variable in &spec.image.env {
        set(&mut list, variable.clone());
    }
    for file in files {
        for line in read_file(file)? {
            take(&mut list, &line, spec, "--env-file")?;
        }
    }
    for variable in said {
        take(&mut list, variable, spec, "--env")?;
    }
    if !list.iter().any(|variable| variable.starts_with("HOME=")) {
        list.push(format!("HOME={home}"));
    }
    Ok(list)
}

/// The variables of one more process in a container whose own are `list`.
pub fn more<'a>(
    mut list: Vec<String>,
    spec: &Spec,
    said: impl Iterator<Item = &'a str>,
    files: impl Iterator<Item = &'a str>,
    tty: bool,
) -> Result<Vec<String>> {
    if tty && !list.iter().any(|variable| variable.starts_with("TERM=")) {
        list.push("TERM=xterm".to_string());
    }
    for file in files {
        for line in read_file(file)? {
            take(&mut list, &line, spec, "--env-file")?;
        }
    }
    for variable in said {
        take(&mut list, variable, spec, "--env")?;
    }
    Ok(list)
}

/// Adds one variable of the user's; a bare name takes the caller's value, and nothing if the caller has none.
fn take(list: &mut Vec<String>, said: &str, spec: &Spec, flag: &str) -> Result<()> {
    let (name, value) = match said.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (said, spec.caller.iter().find(|(name, _)| name == said).map(|(_, value)| value.as_str())),
    };
    if name.is_empty() {
        bail!("{flag}: invalid environment variable: `{}`", shorten(said));
    }
    if said.contains('\0') {
        bail!("{flag}: the variable `{}` contains a NUL byte", shorten(name));
    }
    let Some(value) = value else { return Ok(()) };
    let variable = format!("{name}={value}");
    if variable.len() > LONGEST {
        let (size, name) = (variable.len(), shorten(name));
        bail!("{flag}: the variable `{name}` has {size} bytes; the kernel passes at most {LONGEST}");
    }
    set(list, variable);
    Ok(())
}

fn set(list: &mut Vec<String>, variable: String) {
    let name = &variable[..=variable.find('=').unwrap_or(variable.len() - 1)];
    match list.iter_mut().find(|other| other.starts_with(name)) {
        Some(other) => *other = variable,
        None => list.push(variable),
    }
}

/// `NAME=value` or `NAME` a line; empty lines and lines that begin with `#` are skipped. Never waits on a FIFO.
fn read_file(path: &str) -> Result<Vec<String>> {
    let context = || format!("--env-file: cannot read `{}`", path.escape_debug());
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    let kind = metadata.file_type();
    if kind.is_dir() || kind.is_fifo() || kind.is_socket() || kind.is_block_device() {
        bail!("--env-file: `{}` is not a regular file", path.escape_debug());
    }
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST_FILE + 1).read_to_end(&mut bytes).with_context(context)?;
    if bytes.len() as u64 > LARGEST_FILE {
        bail!("--env-file: `{}` is larger than {} MiB", path.escape_debug(), LARGEST_FILE >> 20);
    }
    let text = String::from_utf8(bytes);
    let Ok(text) = text else { bail!("--env-file: `{}` is not UTF-8 text", path.escape_debug()) };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.contains(char::is_whitespace) || name.is_empty() {
            let (path, number) = (path.escape_debug(), number + 1);
            bail!("--env-file: `{path}` line {number}: `{}` is not a variable's name", shorten(name));
        }
        lines.push(line.to_string());
    }
    Ok(lines)
}

/// At most 40 characters, escaped, for a message.
fn shorten(text: &str) -> String {
    let mut short: String = text.escape_debug().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Dirs, Id, ImageConfig};

    fn spec() -> Spec {
        let image = ImageConfig { env: vec!["LANG=C".into(), "PATH=/bin".into()], ..Default::default() };
        let mut spec = Spec::new(Id::random().unwrap(), Dirs::new(None), image, vec![]);
        spec.oci.set_hostname(Some("box".into()));
        spec.caller = vec![("MINE".into(), "here".into())];
        spec
    }

    #[test]
    fn later_ones_take_the_place_of_earlier_ones() {
        let said = ["LANG=de", "MINE", "NOT_SET", "X=a=b"].into_iter();
        let list = variables(&spec(), said, [].into_iter(), true, "/root").unwrap();
        let expected = ["PATH=/bin", "HOSTNAME=box", "TERM=xterm", "LANG=de", "MINE=here", "X=a=b", "HOME=/root"];
        assert_eq!(list, expected);
    }

    #[test]
    fn bad_variables_are_named() {
        for said in ["", "=x", "A=\0", &format!("BIG={}", "x".repeat(2 << 20))] {
            let error = variables(&spec(), [said].into_iter(), [].into_iter(), false, "/").unwrap_err().to_string();
            assert!(error.starts_with("--env: ") && error.len() < 200, "{error}");
        }
    }

    #[test]
    fn files_are_regular_and_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        std::fs::write(path("good"), "\u{feff}# comment\n\nA=1\n  B=two words\nMINE\n").unwrap();
        std::fs::write(path("binary"), b"A=\xff\xfe").unwrap();
        nix::unistd::mkfifo(path("fifo").as_str(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read_file(&path("good")).unwrap(), ["A=1", "B=two words", "MINE"]);
        for bad in ["binary", "fifo", "missing", "."] {
            assert!(read_file(&path(bad)).unwrap_err().to_string().starts_with("--env-file: "), "{bad}");
        }
    }
}
