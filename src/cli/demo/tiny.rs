//! The smallest program that makes a system call: an ELF header, the call's numbers, and an exit whose status is the
//! kernel's answer. A shell cannot call `ptrace` or `open_by_handle_at`; these few bytes can, in any image, with no
//! library (`man 5 elf`, `man 2 syscall`).
//!
//! It stops at the first call that fails. Status 0: all were allowed; 1 to 133: the errno of the last; 200 + n: call n,
//! one of those that were to prepare it, failed already.

/// An argument: a number, or bytes that the call is given the address of.
pub enum Word<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}

/// One system call: its number and up to six arguments.
pub struct Call<'a> {
    pub number: i64,
    pub words: Vec<Word<'a>>,
}

/// Where the file is mapped.
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// The program, for this processor; `None`: we do not speak its language.
pub fn program(calls: &[Call<'_>]) -> Option<Vec<u8>> {
    // The code's length does not depend on the addresses in it, so it is made twice: to measure, and in earnest.
    let mut data = Vec::new();
    let length = code(calls, 0, &mut data)?.len() as u64;
    data.clear();
    let code = code(calls, BASE + HEADERS + length, &mut data)?;
    let mut file = header(HEADERS + length + data.len() as u64);
    file.extend(code);
    file.extend(data);
    Some(file)
}

fn header(size: u64) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, machine].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([BASE + HEADERS, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // One segment, readable and executable: the whole file.
    file.extend([1u32, 5].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([0, BASE, BASE, size, size, 0x1000].iter().flat_map(|word: &u64| word.to_le_bytes()));
    file
}

/// The instructions; what they point at goes to `data`, which lies at address `at`.
fn code(calls: &[Call<'_>], at: u64, data: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut code = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let last = index + 1 == calls.len();
        let mut values = Vec::new();
        for word in &call.words {
            values.push(match word {
                Word::Number(number) => *number as u64,
                Word::Bytes(bytes) => {
                    data.resize(data.len().next_multiple_of(8), 0);
                    let address = at + data.len() as u64;
                    data.extend_from_slice(bytes);
                    address
                }
            });
        }
        machine::call(&mut code, call.number as u64, &values);
        machine::exit_if_failed(&mut code, (!last).then_some(201 + index as u32));
    }
    machine::exit(&mut code);
    machine::KNOWN.then_some(code)
}

#[cfg(target_arch = "x86_64")]
mod machine {
    pub const KNOWN: bool = true;

    /// `movabs $value, register` for rdi rsi rdx r10 r8 r9, then rax; `syscall`.
    pub fn call(code: &mut Vec<u8>, number: u64, values: &[u64]) {
        let registers: [[u8; 2]; 6] =
            [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8], [0x49, 0xb9]];
        for (register, value) in registers.iter().zip(values).chain([(&[0x48, 0xb8], &number)]) {
            code.extend(register);
            code.extend(value.to_le_bytes());
        }
        code.extend([0x0f, 0x05]);
    }

    /// A negative answer is an errno: exit with it, or with `status`.
    pub fn exit_if_failed(code: &mut Vec<u8>, status: Option<u32>) {
        // test %rax,%rax; jns over what follows
        code.extend([0x48, 0x85, 0xc0, 0x79, 0x0e]);
        match status {
            // mov $status,%edi; nop
            Some(status) => {
                code.push(0xbf);
                code.extend(status.to_le_bytes());
            }
            // mov %eax,%edi; neg %edi; nop
            None => code.extend([0x89, 0xc7, 0xf7, 0xdf, 0x90]),
        }
        // mov $60,%eax; syscall; nop; nop: 14 bytes in all
        code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90]);
    }

    /// xor %edi,%edi; mov $60,%eax; syscall
    pub fn exit(code: &mut Vec<u8>) {
        code.extend([0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod machine {
    pub const KNOWN: bool = false;

    pub fn call(_code: &mut Vec<u8>, _number: u64, _values: &[u64]) {}

    pub fn exit_if_failed(_code: &mut Vec<u8>, _status: Option<u32>) {}

    pub fn exit(_code: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Runs it on the host: its exit status.
    fn status(calls: &[Call<'_>]) -> Option<i32> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny");
        std::fs::write(&path, program(calls)?).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::process::Command::new(&path).status().unwrap().code()
    }

    fn access(path: &[u8]) -> Call<'_> {
        Call { number: libc::SYS_faccessat, words: vec![Word::Number(-100), Word::Bytes(path), Word::Number(0)] }
    }

    #[test]
    fn the_exit_status_is_the_kernels_answer() {
        if !machine::KNOWN {
            return;
        }
        assert_eq!(status(&[access(b"/\0")]), Some(0));
        assert_eq!(status(&[access(b"/no/such\0")]), Some(2), "ENOENT");
        assert_eq!(status(&[access(b"/\0"), access(b"/proc/self/exe/x\0")]), Some(20), "ENOTDIR");
        assert_eq!(status(&[access(b"/no/such\0"), access(b"/\0")]), Some(201), "the first of two");
    }
}
