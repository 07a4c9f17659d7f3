//! An operation: the call as `strace` shows it, the shell words that do the same, and the deed itself, all three made
//! together so that they cannot drift apart.

use super::Stage;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

type Act = Box<dyn Fn(&mut Stage) -> Result<(), Errno> + Send>;
type Hint = Box<dyn Fn(Errno, u64) -> Option<String> + Send>;

/// What a step does.
pub struct Op {
    /// The system call that matters, as `strace` names it.
    pub call: &'static str,
    /// Its decisive arguments, for people and for the test that compares the plan with `strace`.
    pub args: Vec<String>,
    /// The shell words that do the same; begins with `#` where no command exists.
    pub shell: String,
    /// On the child's side it runs between clone and exec: no allocation, no lock, no environment, no panic.
    act: Act,
    hint: Option<Hint>,
}

impl Op {
    pub fn new(
        call: &'static str,
        args: impl IntoIterator<Item = impl Into<String>>,
        shell: impl Into<String>,
        act: impl Fn(&mut Stage) -> Result<(), Errno> + Send + 'static,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { call, args, shell: shell.into(), act: Box::new(act), hint: None }
    }

    /// Says which of a call's documented errors this is, on this machine; asked on the engine's side, after the
    /// failure, with the errno and the step's own detail.
    pub fn hint(mut self, hint: impl Fn(Errno, u64) -> Option<String> + Send + 'static) -> Self {
        self.hint = Some(Box::new(hint));
        self
    }

    pub fn act(&self, stage: &mut Stage) -> Result<(), Errno> {
        (self.act)(stage)
    }

    pub fn explain_failure(&self, errno: Errno, detail: u64) -> Option<String> {
        self.hint.as_ref().and_then(|hint| hint(errno, detail))
    }

    /// `mkdir -p` with `mode` for what is missing (`man 2 mkdir`).
    pub fn mkdir(path: &Path, mode: u32) -> Self {
        let (shown, path) = (path.display().to_string(), path.to_owned());
        Self::new("mkdir", [shown.clone()], format!("mkdir -p -m {mode:o} {}", quote(&shown)), move |_| {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new().mode(mode).create(&path);
            match made {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    io(std::fs::DirBuilder::new().mode(mode).recursive(true).create(&path))
                }
                other => io(other),
            }
        })
    }

    /// Writes a new file of ours, whole (`man 2 open`, `man 2 write`).
    pub fn write_file(path: &Path, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        let (shown, path, content) = (path.display().to_string(), path.to_owned(), content.into());
        let size = content.len();
        let shell = format!("# write {size} bytes to {shown}");
        Self::new("write", [shown], shell, move |_| {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(mode).open(&path);
            io(file.and_then(|mut file| file.write_all(&content)))
        })
    }

    /// The same under another name first, then a rename: whoever sees the file sees all of it.
    pub fn write_whole(path: &Path, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        let (path, new) = (path.to_owned(), path.with_extension("new"));
        let mut op = Self::write_file(&new, content, mode);
        let write = std::mem::replace(&mut op.act, Box::new(|_| Ok(())));
        op.args = vec![path.display().to_string()];
        op.act = Box::new(move |stage| {
            write(stage)?;
            io(std::fs::rename(&new, &path))
        });
        op
    }

    /// Writes one value into a file that the kernel keeps (a cgroup's, a parameter's), in one `write`.
    pub fn set(path: &Path, value: impl Into<String>) -> Self {
        let (shown, value) = (path.display().to_string(), value.into());
        let path = c_string(path.as_os_str().as_bytes());
        let shell = format!("echo {} > {}", quote(&value), quote(&shown));
        Self::new("write", [shown, value.clone()], shell, move |_| set_value(&path, value.as_bytes()))
    }

    /// The same for a file inside the container's root, resolved there.
    pub fn set_in_root(path: &Path, value: impl Into<String>) -> Self {
        let (shown, value) = (path.display().to_string(), value.into());
        let path = c_string(path.as_os_str().as_bytes());
        let shell = format!("echo {} > $ROOT{}", quote(&value), quote(&shown));
        Self::new("write", [shown, value.clone()], shell, move |stage| {
            let Some(root) = &stage.root else { return Err(Errno::EBADF) };
            let file = sys::openat2(root, &path, OFlag::O_WRONLY, Mode::empty(), sys::RESOLVE_IN_ROOT)?;
            nix::unistd::write(&file, value.as_bytes()).map(drop)
        })
    }

    /// `mount` on a path of the current mount namespace (`man 2 mount`).
    pub fn mount(source: &str, target: &str, kind: &str, flags: MsFlags, data: &str) -> Self {
        let shell = mount_words(source, target, kind, flags, data);
        let args = mount_args(source, kind, flags, data);
        let strings = [source, target, kind, data].map(|text| c_string(text.as_bytes()));
        Self::new("mount", args, shell, move |_| {
            let [source, target, kind, data] = &strings;
            mount(some(source), target.as_c_str(), some(kind), flags, some(data))
        })
    }
}

/// One `write` of `value` into the kernel's file `path`; allocates nothing.
fn set_value(path: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = nix::fcntl::openat(AT_FDCWD, path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, value).map(drop)
}

fn io<T>(result: std::io::Result<T>) -> Result<(), Errno> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

fn some(text: &CString) -> Option<&CStr> {
    (!text.is_empty()).then_some(text.as_c_str())
}

/// Text of ours as a C string. What came from a user was refused earlier if it held a NUL; should one be left, the
/// text ends before it, as every C program would read it.
pub fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// `text` as one word of a POSIX shell.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%$".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The arguments of a mount as a plan shows them: source, type, flags, data.
pub fn mount_args(source: &str, kind: &str, flags: MsFlags, data: &str) -> Vec<String> {
    vec![source.to_string(), kind.to_string(), format!("{flags:?}"), data.to_string()]
}

/// The `mount` command that makes the same call.
pub fn mount_words(source: &str, target: &str, kind: &str, flags: MsFlags, data: &str) -> String {
    let target = quote(target);
    let recursive = flags.contains(MsFlags::MS_REC);
    if flags.contains(MsFlags::MS_PRIVATE) {
        return format!("mount --make-{}private {target}", if recursive { "r" } else { "" });
    }
    let mut options: Vec<&str> = Vec::new();
    for (flag, word) in [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_NOSUID, "nosuid"),
        (MsFlags::MS_NODEV, "nodev"),
        (MsFlags::MS_NOEXEC, "noexec"),
        (MsFlags::MS_STRICTATIME, "strictatime"),
        (MsFlags::MS_RELATIME, "relatime"),
        (MsFlags::MS_NOATIME, "noatime"),
    ] {
        if flags.contains(flag) {
            options.push(word);
        }
    }
    if !data.is_empty() {
        options.push(data);
    }
    let options = if options.is_empty() { String::new() } else { format!(" -o {}", quote(&options.join(","))) };
    if flags.contains(MsFlags::MS_REMOUNT) {
        return format!("mount -o remount,bind{} {target}", options.replacen(" -o ", ",", 1));
    }
    if flags.contains(MsFlags::MS_BIND) {
        return format!("mount --{}bind {} {target}", if recursive { "r" } else { "" }, quote(source));
    }
    format!("mount -t {kind}{options} {} {target}", quote(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words_of_mounts() {
        let private = mount_words("", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "");
        assert_eq!(private, "mount --make-rprivate /");
        let tmpfs = mount_words("tmpfs", "/dev", "tmpfs", MsFlags::MS_NOSUID, "mode=755,size=65536k");
        assert_eq!(tmpfs, "mount -t tmpfs -o nosuid,mode=755,size=65536k tmpfs /dev");
        let sealed = mount_words("", "/x", "", MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, "");
        assert_eq!(sealed, "mount -o remount,bind,ro /x");
        assert_eq!(mount_words("/a b", "/x", "", MsFlags::MS_BIND, ""), "mount --bind '/a b' /x");
    }

    #[test]
    fn quoting_survives_a_shell() {
        for text in ["plain", "two words", "it's", "", "a\nb", "$(x)"] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(text))).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
    }
}
