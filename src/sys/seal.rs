//! The engine's own program, out of reach. A process of the engine's that a container can see leads to the file on the
//! host (`/proc/PID/exe`), and who is root in there may write through that link once nobody runs the file any more
//! (CVE-2019-5736).

use super::exec::ExecVector;
use super::{MOUNT_ATTR_RDONLY, check, mount_setattr_recursive, open_tree_clone};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

const OURSELVES: &std::ffi::CStr = c"/proc/self/exe";

/// Begins this program once more, with the same words, from a read-only mount of its file that has no place (Linux
/// 5.12; before, from a sealed copy in memory): through its `/proc/PID/exe` nobody writes, whoever he is. Returns when
/// that is so already.
///
/// # Errors
///
/// EPERM without CAP_SYS_ADMIN; what `execveat` says.
pub fn run_from_read_only() -> Result<(), Errno> {
    if is_sealed()? {
        return Ok(());
    }
    let program = match open_tree_clone(OURSELVES, false)
        .and_then(|tree| mount_setattr_recursive(&tree, MOUNT_ATTR_RDONLY).map(|()| tree))
    {
        Err(Errno::ENOSYS) => sealed_copy()?,
        other => other?,
    };
    let strings = |words: Vec<OsString>| {
        let words = words.into_iter().map(|word| CString::new(word.into_vec()).map_err(|_| Errno::EINVAL));
        words.collect::<Result<Vec<_>, _>>().map(ExecVector::new)
    };
    let argv = strings(std::env::args_os().collect())?;
    let pairs = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let envp = strings(pairs.collect())?;
    // SAFETY: NUL-terminated strings in lists that end in a null pointer, as `ExecVector` promises.
    check(unsafe {
        let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
        libc::syscall(libc::SYS_execveat, program.as_raw_fd(), c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
    })
    .map(drop)
}

/// Whether what runs here lies on a read-only mount, or is such a copy.
fn is_sealed() -> Result<bool, Errno> {
    if statvfs(OURSELVES)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let ours = File::open("/proc/self/exe").map_err(|_| Errno::last())?;
    let seals = fcntl(&ours, FcntlArg::F_GET_SEALS).unwrap_or(0);
    Ok(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE))
}

fn sealed_copy() -> Result<OwnedFd, Errno> {
    let copy = memfd_create(c"mydocker", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let failed = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let mut file = File::from(copy);
    std::io::copy(&mut File::open("/proc/self/exe").map_err(failed)?, &mut file).map_err(failed)?;
    let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_copy_is_whole_and_stays_so() {
        let copy = File::from(sealed_copy().unwrap());
        let size = std::fs::metadata("/proc/self/exe").unwrap().len();
        assert_eq!(copy.metadata().unwrap().len(), size);
        let error = std::os::unix::fs::FileExt::write_at(&copy, b"x", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
