//! The command: which words, where it begins, and `execve` along `$PATH`, inside the container's root.

use crate::plan::{ImageConfig, Op, Phase, Plan, Spec, c_string, quote};
use crate::sys::{self, ExecVector, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};
use std::ffi::{CStr, CString};

/// The image's entrypoint and command, with what the user put in their place (OCI image spec, `Entrypoint`, `Cmd`).
pub fn words(entrypoint: Option<&str>, image: &ImageConfig, typed: &[String]) -> Result<Vec<String>> {
    let mut words = match entrypoint {
        Some("") => vec![],
        Some(program) => vec![program.to_string()],
        None => image.entrypoint.clone(),
    };
    match typed {
        // Another entrypoint makes the image's command meaningless.
        [] if entrypoint.is_none() => words.extend(image.cmd.iter().cloned()),
        typed => words.extend(typed.iter().cloned()),
    }
    if words.is_empty() {
        bail!("no command specified");
    }
    Ok(words)
}

/// Changes into `dir` inside the container's root, making it first if it is missing. A link like `/proc/self/fd/9`
/// is refused (CVE-2024-21626), and so is a place that cannot be reached from `/`.
pub fn change_dir(dir: &str) -> Op {
    let path = c_string(dir.as_bytes());
    let parents: Vec<CString> =
        dir.match_indices('/').skip(1).map(|(end, _)| c_string(&dir.as_bytes()[..end])).collect();
    let shown = dir.to_string();
    let op = Op::new("chdir", [dir], format!("mkdir -p {0} && cd {0}", quote(dir)), move |_| {
        let root = nix::fcntl::open(c"/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        let opened = match sys::openat2(&root, &path, flags, Mode::empty(), resolve) {
            Err(Errno::ENOENT) => {
                for folder in parents.iter().chain([&path]) {
                    // The container's root is ours by now: a link in it leads only to places inside.
                    let _ = nix::unistd::mkdir(folder.as_c_str(), Mode::from_bits_truncate(0o755));
                }
                sys::openat2(&root, &path, flags, Mode::empty(), resolve)
            }
            other => other,
        };
        nix::unistd::fchdir(opened?)?;
        reachable()
    });
    op.hint(move |errno, _| match errno {
        Errno::ENOTDIR => Some(format!("--workdir: `{shown}` is not a folder")),
        Errno::ELOOP => Some(format!("--workdir: `{shown}` is a link out of the container, or a loop of links")),
        Errno::ENOENT => Some(format!("--workdir: `{shown}` does not exist and cannot be made")),
        _ => None,
    })
}

/// ELOOP if the kernel says that the working directory lies outside of our root.
fn reachable() -> Result<(), Errno> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // The C library's `getcwd` would hide what the kernel says, so its answer must begin with a slash.
    match sys::getcwd(&mut buffer)?.first() {
        Some(b'/') => Ok(()),
        _ => Err(Errno::ELOOP),
    }
}

/// In the detail of a failed exec: the file stands there, but cannot be run for this reason.
const INTERPRETER_MISSING: u64 = 1;
const NOT_A_PROGRAM: u64 = 2;
const OTHER_MACHINE: u64 = 3;
const IS_FOLDER: u64 = 4;
/// The detail says that the command as a whole was not found, or cannot be run: exit status 127 or 126.
const FLAG: u64 = 1 << 32;

/// The exit status for a failed `exec` step, by the shell's and docker's rule: 127 not there, 126 cannot be run.
pub fn exit_status(errno: Errno) -> u8 {
    if errno == Errno::ENOENT { 127 } else { 126 }
}

pub fn plan(spec: &Spec, plan: &mut Plan) {
    let args = spec.process().args().clone().unwrap_or_default();
    let env = spec.process().env().clone().unwrap_or_default();
    let command = args.first().cloned().unwrap_or_default();
    let candidates = candidates(&command, &env);
    let list = |strings: &[String]| ExecVector::new(strings.iter().map(|text| c_string(text.as_bytes())).collect());
    let (argv, envp) = (list(&args), list(&env));
    let shell = format!("exec {}", args.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    let op = Op::new("execve", args.clone(), shell, move |stage| {
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        sys::default_signals()?;
        sys::cloexec_from(3)?;
        let mut failure = Errno::ENOENT;
        for path in &candidates {
            // An `execve` that finds nothing has laid out a new address space first; a look is a tenth of the price.
            let there = || faccessat(AT_FDCWD, path.as_c_str(), AccessFlags::F_OK, AtFlags::empty());
            if candidates.len() > 1 && matches!(there(), Err(Errno::ENOENT | Errno::ENOTDIR)) {
                continue;
            }
            let errno = sys::execve(path, &argv, &envp);
            let (errno, detail) = look_closer(path, errno);
            match errno {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES if detail & !FLAG != IS_FOLDER => failure = Errno::EACCES,
                Errno::EACCES if candidates.len() > 1 => {}
                _ => {
                    stage.detail = detail;
                    return Err(errno);
                }
            }
        }
        Err(failure)
    });
    let name = command.clone();
    let op = op.hint(move |errno, detail| Some(why_not(&name, errno, detail)));
    plan.add(Phase::Exec, "exec", op)
        .why("The child, by now in its own world, becomes the command.")
        .look("tr '\\0' ' ' < /proc/$PID/cmdline; grep -E 'Cap|NoNewPrivs|Seccomp' /proc/$PID/status");
}

/// The paths that are tried, in order: the word itself if it has a slash, else one per folder of `$PATH`.
fn candidates(command: &str, env: &[String]) -> Vec<CString> {
    if command.contains('/') {
        return vec![c_string(command.as_bytes())];
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let path = path.unwrap_or(super::env::DEFAULT_PATH);
    let join = |dir: &str| match dir {
        "" => c_string(format!("./{command}").as_bytes()),
        dir => c_string(format!("{}/{command}", dir.trim_end_matches('/')).as_bytes()),
    };
    if command.is_empty() { vec![] } else { path.split(':').map(join).collect() }
}

/// `execve` answers ENOENT for a missing file and for a missing interpreter alike; the file itself tells which.
fn look_closer(path: &CStr, errno: Errno) -> (Errno, u64) {
    let exists = faccessat(AT_FDCWD, path, AccessFlags::F_OK, AtFlags::empty()).is_ok();
    match errno {
        Errno::ENOENT if exists => (Errno::ENOEXEC, FLAG | INTERPRETER_MISSING),
        Errno::EACCES => {
            let folder = nix::sys::stat::stat(path).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
            (errno, if folder { FLAG | IS_FOLDER } else { 0 })
        }
        Errno::ENOEXEC => (errno, FLAG | if is_elf(path) { OTHER_MACHINE } else { NOT_A_PROGRAM }),
        other => (other, 0),
    }
}

fn is_elf(path: &CStr) -> bool {
    let mut magic = [0u8; 4];
    let file = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
    file.is_ok_and(|file| nix::unistd::read(&file, &mut magic).is_ok()) && magic == *b"\x7fELF"
}

fn why_not(command: &str, errno: Errno, detail: u64) -> String {
    let command = command.escape_debug();
    match (errno, detail & !FLAG) {
        (Errno::ENOENT, _) if command.to_string().contains('/') => {
            format!("exec: \"{command}\": no such file or directory")
        }
        (Errno::ENOENT, _) => format!("exec: \"{command}\": executable file not found in $PATH"),
        (Errno::ENOEXEC, INTERPRETER_MISSING) => {
            format!("exec: \"{command}\": the file is there, but the interpreter or loader that it names is not")
        }
        (Errno::ENOEXEC, OTHER_MACHINE) => {
            let here = std::env::consts::ARCH;
            format!("exec: \"{command}\": exec format error: a program for another architecture than {here}")
        }
        (Errno::ENOEXEC, _) => format!("exec: \"{command}\": exec format error: neither a program nor a #! script"),
        (Errno::EACCES, IS_FOLDER) => format!("exec: \"{command}\": is a directory: permission denied"),
        (Errno::EACCES, _) => format!("exec: \"{command}\": permission denied"),
        (Errno::E2BIG, _) => format!("exec: \"{command}\": arguments and environment are too long for the kernel"),
        (errno, _) => format!("exec: \"{command}\": {}", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrypoint_and_command_combine_as_dockers() {
        let strings = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let image = |entrypoint: &[&str], cmd: &[&str]| ImageConfig {
            entrypoint: strings(entrypoint),
            cmd: strings(cmd),
            ..Default::default()
        };
        type Case<'a> = (Option<&'a str>, ImageConfig, &'a [&'a str], &'a [&'a str]);
        let cases: [Case; 6] = [
            (None, image(&[], &["sh"]), &[], &["sh"]),
            (None, image(&[], &["sh"]), &["echo", "hi"], &["echo", "hi"]),
            (None, image(&["tini"], &["sh"]), &[], &["tini", "sh"]),
            (None, image(&["tini"], &["sh"]), &["ls"], &["tini", "ls"]),
            (Some("ls"), image(&["tini"], &["sh"]), &[], &["ls"]),
            (Some(""), image(&["tini"], &["sh"]), &["ps"], &["ps"]),
        ];
        for (entrypoint, image, typed, expected) in cases {
            assert_eq!(words(entrypoint, &image, &strings(typed)).unwrap(), strings(expected));
        }
        assert!(words(None, &image(&[], &[]), &[]).is_err());
    }

    #[test]
    fn path_is_walked_in_order() {
        let env = ["A=1".to_string(), "PATH=/x:/y/:".to_string()];
        assert_eq!(candidates("ls", &env), [c"/x/ls".into(), c"/y/ls".into(), c"./ls".into()] as [CString; 3]);
        assert_eq!(candidates("./ls", &env), [CString::from(c"./ls")]);
        assert!(candidates("", &env).is_empty());
    }
}
