//! The thread between the engine and its unborn container: a pair of sequenced-packet sockets. The child reports
//! what it did and hands up descriptors (SCM_RIGHTS, `man 7 unix`); the engine may hold it back step by step.

use super::check;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One report of the child: which step, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The step's place in the plan.
    pub step: u32,
    /// 0: done. Otherwise an errno.
    pub errno: i32,
    /// What the step itself wants the engine to know; its meaning is the step's.
    pub detail: u64,
}

/// One end.
pub struct Channel(OwnedFd);

const SIZE: usize = 16;

impl Channel {
    pub fn pair() -> Result<(Channel, Channel), Errno> {
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel(here), Channel(there)))
    }

    pub fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Sends a report, with a descriptor if there is one.
    pub fn send(&self, message: Message, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut bytes = [0u8; SIZE];
        bytes[0..4].copy_from_slice(&message.step.to_ne_bytes());
        bytes[4..8].copy_from_slice(&message.errno.to_ne_bytes());
        bytes[8..16].copy_from_slice(&message.detail.to_ne_bytes());
        let Some(fd) = fd else {
            return send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).map(drop);
        };
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: SIZE };
        let mut control = ControlBuffer::default();
        let mut header = control.header(&mut part);
        // SAFETY: the header describes `part` and `control`, both alive; CMSG_FIRSTHDR is not null because the control
        // buffer has room for one descriptor.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size_of::<i32>() as u32) as _;
            libc::CMSG_DATA(first).cast::<i32>().write_unaligned(fd.as_raw_fd());
            header.msg_controllen = libc::CMSG_SPACE(size_of::<i32>() as u32) as _;
            check(libc::sendmsg(self.0.as_raw_fd(), &header, libc::MSG_NOSIGNAL) as libc::c_long).map(drop)
        }
    }

    /// The next report; `None` when the other end is closed: the child has exec'ed or died.
    pub fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>, Errno> {
        let mut bytes = [0u8; SIZE];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: SIZE };
        let mut control = ControlBuffer::default();
        let mut header = control.header(&mut part);
        let size = loop {
            // SAFETY: the header describes `part` and `control`, both alive and writable.
            match check(
                unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) } as libc::c_long
            ) {
                Err(Errno::EINTR) => continue,
                other => break other?,
            }
        };
        if size != SIZE as libc::c_long {
            return Ok(None);
        }
        // SAFETY: the kernel has filled `control` as the header says; a descriptor in it is ours alone.
        let fd = unsafe {
            let first = libc::CMSG_FIRSTHDR(&header);
            let carries =
                !first.is_null() && (*first).cmsg_level == libc::SOL_SOCKET && (*first).cmsg_type == libc::SCM_RIGHTS;
            carries.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<i32>().read_unaligned()))
        };
        let word = |from: usize| [bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]];
        let mut detail = [0u8; 8];
        detail.copy_from_slice(&bytes[8..16]);
        let message = Message {
            step: u32::from_ne_bytes(word(0)),
            errno: i32::from_ne_bytes(word(4)),
            detail: u64::from_ne_bytes(detail),
        };
        Ok(Some((message, fd)))
    }

    /// Lets the child go on.
    pub fn go(&self) -> Result<(), Errno> {
        send(self.0.as_raw_fd(), b"g", MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// Waits for [`Channel::go`]. ECONNRESET: the engine is gone.
    pub fn wait(&self) -> Result<(), Errno> {
        let mut byte = [0u8; 1];
        loop {
            match recv(self.0.as_raw_fd(), &mut byte, MsgFlags::empty()) {
                Ok(0) => return Err(Errno::ECONNRESET),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// The next caller of a listening socket, in non-blocking mode (`man 2 accept4`). EAGAIN: nobody calls.
pub fn accept(listener: impl std::os::fd::AsFd) -> Result<OwnedFd, Errno> {
    use nix::sys::socket::accept4;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_fd().as_raw_fd(), flags)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the other end of the socket with this number is closed, without waiting.
pub fn hung_up(socket: i32) -> bool {
    let mut poll = libc::pollfd { fd: socket, events: 0, revents: 0 };
    // SAFETY: one pollfd, alive across the call; a wrong number answers POLLNVAL.
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents & libc::POLLHUP != 0
}

/// Room for the ancillary data of one descriptor, aligned as the kernel wants it.
#[derive(Default)]
#[repr(align(8))]
struct ControlBuffer([u8; 32]);

impl ControlBuffer {
    fn header(&mut self, part: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: a zeroed msghdr is valid: no address, no parts.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = self.0.len() as _;
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_report_and_a_descriptor_arrive() {
        let (here, there) = Channel::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let sent = Message { step: 7, errno: 22, detail: u64::MAX };
        there.send(sent, Some(file.as_fd())).unwrap();
        there.send(Message { step: 8, ..sent }, None).unwrap();
        let (got, fd) = here.receive().unwrap().unwrap();
        assert_eq!((got, fd.is_some()), (sent, true));
        let (got, fd) = here.receive().unwrap().unwrap();
        assert_eq!((got.step, fd.is_some()), (8, false));
        assert!(!hung_up(here.as_raw_fd()));
        drop(there);
        assert!(hung_up(here.as_raw_fd()));
        assert!(here.receive().unwrap().is_none());
    }
}
