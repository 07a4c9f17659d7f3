//! The engine while the container runs: signals passed on, bytes relayed, the terminal kept in step, until the first
//! process ends. Then everything that it wrote is delivered before its status is told.

use super::health::Pulse; // ch07
use super::relay::{Relay, Sink};
use super::terminal::{self, Farewell, RawMode, Terminal, follow_window};
use crate::plan::Room; // ch07
use crate::plan::{Failpoint, Launched};
use crate::sys::{self, SignalFd};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::os::fd::AsFd;

/// So many SIGINT or SIGTERM in a row mean it: PID 1 ignores what it has no handler for.
pub(super) const PATIENCE: u32 = 3;
pub(super) const ORDERS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// What ends a program by default and is sent to say so.
pub(super) const ENDS_US: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// How it came to an end for the caller.
pub enum Outcome {
    /// The exit status.
    Ended(u8),
    /// He has pressed the detach keys; it runs.
    Left(Launched), // ch07
}

/// Waits for the end of the container, or for the caller to leave it.
pub fn until_the_end(
    mut launched: Launched,
    signals: SignalFd,
    mut relays: Vec<Relay>,
    served: Option<Terminal>,
    mut pulse: Option<(Pulse, &[&dyn Room])>, // ch07
    failpoint: Option<&Failpoint>,
) -> Result<Outcome> {
    let (mut raw, mut farewell) = (None, None);
    // A child that something killed before it made its terminal has handed none up.
    if let (Some(served), Some(master)) = (served, &launched.handed_up) {
        follow_window(master);
        let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
        let output = Relay::new("stdout", master.try_clone()?, Sink::callers(stdout));
        let output = output.kept_in(served.log.as_ref()); // ch07
        relays.push(output);
        if served.interactive {
            raw = RawMode::enter();
            let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
            let input = Relay::new("stdin", stdin, Sink::ours(master.try_clone()?)?);
            let input = input.left_by(served.keys.filter(|_| raw.is_some())); // ch07
            relays.push(input);
            farewell = Some(Farewell::new(master)?);
        }
    }
    Failpoint::strike(failpoint, "engine.wait");
    let mut asked = 0;
    loop {
        let over = relays.iter().any(|relay| relay.stream == "stdin" && relay.is_over());
        if over && raw.is_some() && terminal::hung_up() {
            // The caller's window is closed, so the container's is too.
            launched.handed_up.iter().for_each(terminal::hang_up);
            relays.clear();
            (farewell, launched.handed_up) = (None, None);
        }
        let goodbye = farewell.as_mut().filter(|_| over);
        let pause = goodbye.map(Farewell::say);
        let events = wait(
            &launched,
            &signals,
            &relays,
            pause,
            pulse.as_ref().map(|(pulse, _)| pulse), // ch07
        )?;
        // ch07
        if let Some((pulse, rooms)) = &mut pulse {
            pulse.turn(rooms);
        }
        for number in events.relays {
            relays[number].turn();
        }
        // ch07
        if relays.iter().any(|relay| relay.left) {
            drop(raw);
            return Ok(Outcome::Left(launched));
        }
        while let Some(signal) = signals.read() {
            asked += u32::from(ORDERS.contains(&signal));
            pass_on(signal, &launched, raw.as_ref(), asked);
        }
        if events.ended {
            break;
        }
    }
    let status = sys::wait_pidfd(&launched.pidfd).context("cannot wait for the container")?;
    drain(&mut relays, &signals)?;
    drop(raw);
    if let Some((stream, errno)) = relays.iter().find_map(|relay| Some((relay.stream, relay.lost?))) {
        bail!("{stream}: what the command wrote is lost: {}", errno.desc());
    }
    Ok(Outcome::Ended(status as u8))
}

/// What has happened.
struct Events {
    ended: bool,
    relays: Vec<usize>,
}

fn wait(
    launched: &Launched,
    signals: &SignalFd,
    relays: &[Relay],
    pause: Option<PollTimeout>,
    pulse: Option<&Pulse>, // ch07
) -> Result<Events> {
    let mut fds =
        vec![PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let interested: Vec<_> =
        relays.iter().enumerate().filter_map(|(number, relay)| Some((number, relay.interest()?))).collect();
    fds.extend(interested.iter().map(|(_, (fd, flags))| PollFd::new(*fd, *flags)));
    let looks = pulse.and_then(Pulse::fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)); // ch07
    fds.extend(looks); // ch07
    // NONE is -1, which as a number without a sign is the largest.
    let times = [
        pause,
        pulse.map(Pulse::timeout), // ch07
    ];
    let soonest = times.into_iter().flatten().min_by_key(|time| i32::from(*time) as u32);
    match poll(&mut fds, soonest.unwrap_or(PollTimeout::NONE)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => bail!("cannot wait for the container: {}", errno.desc()),
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    let relays = interested.iter().zip(&fds[2..]).filter(|(_, fd)| ready(fd)).map(|((number, _), _)| *number).collect();
    Ok(Events { ended: ready(&fds[0]), relays })
}

/// The processes are gone; what they wrote is still in the pipes. Input that nobody will read is dropped. Whoever is to
/// read may be stuck, so a signal that would end us still does.
fn drain(relays: &mut [Relay], signals: &SignalFd) -> Result<()> {
    for relay in relays.iter_mut().filter(|relay| relay.stream != "stdin") {
        while let Some((fd, flags)) = relay.interest() {
            let reading = flags == PollFlags::POLLIN;
            let mut fds = [PollFd::new(fd, flags), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, if reading { PollTimeout::ZERO } else { PollTimeout::NONE }) {
                Err(Errno::EINTR) => continue,
                Err(errno) => bail!("{}: cannot wait for its reader: {}", relay.stream, errno.desc()),
                Ok(_) => {}
            }
            let ready = fds[0].any().unwrap_or(false);
            if std::iter::from_fn(|| signals.read()).any(|signal| ENDS_US.contains(&signal)) {
                bail!("{}: what the command wrote is lost: its reader is stuck, and we were told to end", relay.stream);
            }
            match ready {
                true => relay.turn(),
                // Nothing to read, and no writer left that could send more: another holder of the same pipe outside.
                false if reading => break,
                false => {}
            }
        }
    }
    Ok(())
}

/// A signal of ours becomes the container's (`--sig-proxy`), but for those that are about the engine itself.
fn pass_on(signal: i32, launched: &Launched, raw: Option<&RawMode>, asked: u32) {
    match signal {
        libc::SIGWINCH => {
            launched.handed_up.iter().for_each(follow_window);
        }
        libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
        // Somebody stopped us, and the shell took its terminal back meanwhile.
        libc::SIGCONT => raw.into_iter().for_each(RawMode::again),
        _ if asked >= PATIENCE => {
            log::warn!("asked {PATIENCE} times: killing the container");
            let _ = sys::pidfd_send_signal(&launched.pidfd, Signal::SIGKILL as i32);
        }
        _ => {
            let _ = sys::pidfd_send_signal(&launched.pidfd, signal);
        }
    }
}
