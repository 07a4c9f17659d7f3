//! What root may still do in there. Root's power is forty-odd capabilities (`man 7 capabilities`); a container's root
//! keeps docker's fourteen, in the bounding set too, so that no program in the image can win one back. Inheritable and
//! ambient stay empty (CVE-2022-24769).
//!
//! Inside, `mount`, `reboot` or loading a module answer EPERM although `id` says root.
//!
//! Try it without us: `capsh --drop=cap_chown -- -c 'touch /tmp/x; chown 1 /tmp/x'`

use crate::plan::{Dirs, Fact, Op, Phase, Plan, Room, Spec, Target};
use crate::sys;
use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches};
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The room.
pub struct Security;

/// Docker's default set: enough for a distribution's packages to install and its daemons to drop privileges. Number
/// (`linux/capability.h`) and the OCI name.
const DEFAULT: [(u8, Capability); 14] = [
    (0, Capability::Chown),
    (1, Capability::DacOverride),
    (3, Capability::Fowner),
    (4, Capability::Fsetid),
    (5, Capability::Kill),
    (6, Capability::Setgid),
    (7, Capability::Setuid),
    (8, Capability::Setpcap),
    (10, Capability::NetBindService),
    (13, Capability::NetRaw),
    (18, Capability::SysChroot),
    (27, Capability::Mknod),
    (29, Capability::AuditWrite),
    (31, Capability::Setfcap),
];

/// All that kernels know, by number, for `exec --privileged`. What a newer one adds nobody gets.
const ALL: [Capability; 41] = {
    use Capability::*;
    [
        Chown,
        DacOverride,
        DacReadSearch,
        Fowner,
        Fsetid,
        Kill,
        Setgid,
        Setuid,
        Setpcap,
        LinuxImmutable,
        NetBindService,
        NetBroadcast,
        NetAdmin,
        NetRaw,
        IpcLock,
        IpcOwner,
        SysModule,
        SysRawio,
        SysChroot,
        SysPtrace,
        SysPacct,
        SysAdmin,
        SysBoot,
        SysNice,
        SysResource,
        SysTime,
        SysTtyConfig,
        Mknod,
        Lease,
        AuditWrite,
        AuditControl,
        Setfcap,
        MacOverride,
        MacAdmin,
        Syslog,
        WakeAlarm,
        BlockSuspend,
        AuditRead,
        Perfmon,
        Bpf,
        CheckpointRestore,
    ]
};

/// No kernel has had more.
const LAST_POSSIBLE: u8 = 63;

impl Room for Security {
    fn name(&self) -> &'static str {
        "security"
    }

    fn doctor(&self, _dirs: &Dirs) -> Vec<Fact> {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        let known = last.trim().parse::<u32>().map_or(0, |last| last + 1);
        vec![Fact::met("capabilities", format!("this kernel has {known}; a container's root keeps {}", DEFAULT.len()))]
    }

    fn spec(&self, _said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let set: Capabilities = DEFAULT.iter().map(|(_, capability)| *capability).collect();
        // Another user than root holds none; it may still gain these by a set-user-ID program.
        let held = if spec.process().user().uid() == 0 { set.clone() } else { Capabilities::new() };
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(set)).set_effective(Some(held.clone())).set_permitted(Some(held));
        sets.set_inheritable(Some(Capabilities::new())).set_ambient(Some(Capabilities::new()));
        spec.process_mut().set_capabilities(Some(sets));
        Ok(())
    }

    fn exec_flags(&self, command: clap::Command) -> clap::Command {
        let help = "Every capability that the engine has; the devices stay the container's";
        command.arg(Arg::new("privileged").long("privileged").action(ArgAction::SetTrue).help(help))
    }

    fn exec_spec(&self, said: &ArgMatches, spec: &mut Spec, _target: &Target) -> Result<()> {
        let Some(mut sets) = spec.process().capabilities().clone() else { return Ok(()) };
        if said.get_flag("privileged") {
            let ours = own("CapBnd") & own("CapPrm");
            let held = ALL.into_iter().enumerate().filter(|(number, _)| ours & 1 << number != 0);
            sets.set_bounding(Some(held.map(|(_, capability)| capability).collect()));
        }
        let none = spec.process().user().uid() != 0;
        let held = if none { Some(Capabilities::new()) } else { sets.bounding().clone() };
        sets.set_effective(held.clone()).set_permitted(held);
        spec.process_mut().set_capabilities(Some(sets));
        Ok(())
    }

    fn join(&self, spec: &Spec, _target: &Target, plan: &mut Plan) -> Result<()> {
        self.plan(spec, plan)
    }

    fn plan(&self, spec: &Spec, plan: &mut Plan) -> Result<()> {
        let Some(sets) = spec.process().capabilities() else { return Ok(()) };
        let bounding = mask(sets.bounding());
        let held = mask(sets.permitted());
        let shell = "capsh --drop=…   # all but the fourteen, from the bounding set";
        let op =
            Op::new("prctl", ["PR_CAPBSET_DROP".to_string(), format!("all but {bounding:#x}")], shell, move |_| {
                for number in (0..=LAST_POSSIBLE).filter(|number| bounding & 1 << number == 0) {
                    match sys::capbset_drop(number) {
                        // The first number that this kernel does not know: there are no more.
                        Err(Errno::EINVAL) => break,
                        other => other?,
                    }
                }
                Ok(())
            });
        plan.add(Phase::Bound, "bounding", op)
            .why("What is not in the bounding set can never be gained again, not even by a set-user-ID program.")
            .look("grep CapBnd /proc/$PID/status");
        let op = Op::new("capset", [format!("{held:#x}"), "0".to_string()], "capsh --caps=…", move |_| {
            match sys::clear_ambient() {
                // Before Linux 4.3 there is no ambient set to clear.
                Err(Errno::EINVAL) => {}
                other => other?,
            }
            sys::capset(held, held, 0)
        });
        plan.add(Phase::Confine, "capabilities", op)
            .why("Effective and permitted are docker's fourteen; inheritable and ambient are empty.")
            .look("grep Cap /proc/$PID/status; capsh --decode=$(awk '/CapEff/ {print $2}' /proc/$PID/status)");
        Ok(())
    }
}

/// One of our own sets, as the kernel's bit mask (`/proc/self/status`).
fn own(set: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A set as the kernel's bit mask.
fn mask(set: &Option<Capabilities>) -> u64 {
    let Some(set) = set else { return 0 };
    ALL.iter().enumerate().filter(|(_, known)| set.contains(known)).fold(0, |mask, (number, _)| mask | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(mask(&Some(DEFAULT.iter().map(|(_, capability)| *capability).collect())), 0xa80425fb);
        assert_eq!(mask(&None), 0);
        assert_eq!(mask(&Some(ALL.into_iter().collect())), (1 << 41) - 1);
        assert!(DEFAULT.iter().all(|(number, capability)| ALL[usize::from(*number)] == *capability));
    }
}
