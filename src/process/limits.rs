//! Resource limits of the process (`man 2 getrlimit`): `--ulimit nofile=1024:2048`.

use crate::plan::{Op, Phase, Plan, Spec};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

const NAMES: [(&str, PosixRlimitType, Resource); 16] = [
    ("as", PosixRlimitType::RlimitAs, Resource::RLIMIT_AS),
    ("core", PosixRlimitType::RlimitCore, Resource::RLIMIT_CORE),
    ("cpu", PosixRlimitType::RlimitCpu, Resource::RLIMIT_CPU),
    ("data", PosixRlimitType::RlimitData, Resource::RLIMIT_DATA),
    ("fsize", PosixRlimitType::RlimitFsize, Resource::RLIMIT_FSIZE),
    ("locks", PosixRlimitType::RlimitLocks, Resource::RLIMIT_LOCKS),
    ("memlock", PosixRlimitType::RlimitMemlock, Resource::RLIMIT_MEMLOCK),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue, Resource::RLIMIT_MSGQUEUE),
    ("nice", PosixRlimitType::RlimitNice, Resource::RLIMIT_NICE),
    ("nofile", PosixRlimitType::RlimitNofile, Resource::RLIMIT_NOFILE),
    ("nproc", PosixRlimitType::RlimitNproc, Resource::RLIMIT_NPROC),
    ("rss", PosixRlimitType::RlimitRss, Resource::RLIMIT_RSS),
    ("rtprio", PosixRlimitType::RlimitRtprio, Resource::RLIMIT_RTPRIO),
    ("rttime", PosixRlimitType::RlimitRttime, Resource::RLIMIT_RTTIME),
    ("sigpending", PosixRlimitType::RlimitSigpending, Resource::RLIMIT_SIGPENDING),
    ("stack", PosixRlimitType::RlimitStack, Resource::RLIMIT_STACK),
];

/// `NAME=SOFT[:HARD]`, each a number or -1 for unlimited; without a hard limit it is the soft one.
pub fn parse(text: &str) -> Result<PosixRlimit> {
    let shown = text.escape_debug();
    let (name, values) =
        text.split_once('=').with_context(|| format!("--ulimit: `{shown}` is not of the form NAME=SOFT[:HARD]"))?;
    let Some((_, kind, _)) = NAMES.iter().find(|(known, ..)| *known == name) else {
        bail!("--ulimit: invalid ulimit type: `{}`", name.escape_debug());
    };
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        text => text.parse::<u64>().ok(),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (Some(soft), Some(hard)) = (number(soft), number(hard)) else {
        bail!("--ulimit: `{shown}`: a limit is a number, or -1 for unlimited");
    };
    if soft > hard {
        bail!("--ulimit: `{shown}`: the soft limit is above the hard limit");
    }
    Ok(PosixRlimitBuilder::default().typ(*kind).soft(soft).hard(hard).build()?)
}

pub fn plan(spec: &Spec, plan: &mut Plan) {
    for limit in spec.process().rlimits().iter().flatten() {
        let Some((name, _, resource)) = NAMES.iter().find(|(_, kind, _)| *kind == limit.typ()) else { continue };
        let (name, resource, soft, hard) = (*name, *resource, limit.soft(), limit.hard());
        let word = |value: u64| if value == u64::MAX { "unlimited".to_string() } else { value.to_string() };
        let shell = format!("prlimit --{name}={}:{} --pid $$", word(soft), word(hard));
        let op = Op::new("prlimit64", [name.to_string(), word(soft), word(hard)], shell, move |_| {
            setrlimit(resource, soft, hard)
        });
        let op = op.hint(move |errno, _| match errno {
            Errno::EPERM => {
                Some(format!("--ulimit: {name}: to raise a hard limit takes CAP_SYS_RESOURCE, which the engine lacks"))
            }
            _ => None,
        });
        plan.add(Phase::Identity, format!("ulimit.{name}"), op)
            .why("A limit of the process itself, inherited by all that it starts.")
            .look("cat /proc/$PID/limits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_parse_or_are_named() {
        let limit = parse("nofile=10:20").unwrap();
        assert_eq!((limit.soft(), limit.hard()), (10, 20));
        let limit = parse("core=-1").unwrap();
        assert_eq!((limit.soft(), limit.hard()), (u64::MAX, u64::MAX));
        for bad in ["nofile", "nofile=", "nofile=x", "nofile=20:10", "nosuch=1", "nofile=-2", "nofile=1:2:3"] {
            assert!(parse(bad).unwrap_err().to_string().starts_with("--ulimit: "), "{bad}");
        }
    }
}
