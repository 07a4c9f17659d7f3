//! The room: what `run` and `create` say about a container's life.

use super::health;
use crate::plan::{Life, LogConfig, LogDriver, Plan, Restart, Room, Spec};
use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches};
use std::collections::BTreeMap;

/// The room.
pub struct Container;

impl Room for Container {
    fn name(&self) -> &'static str {
        "container"
    }

    fn flags(&self, command: clap::Command) -> clap::Command {
        let value = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(value).help(help)
        };
        let list = |arg: Arg| arg.action(ArgAction::Append);
        let command = match command.get_name() {
            "run" => command.args([
                Arg::new("detach")
                    .short('d')
                    .long("detach")
                    .action(ArgAction::SetTrue)
                    .help("Return at once; print the id"),
                value("detach-keys", "KEYS", "Keys that leave it alone, at a terminal (ctrl-p,ctrl-q)"),
            ]),
            _ => command,
        };
        command.args(health::flags()).args([
            list(value("label", "NAME[=VALUE]", "A label, for filters and tools").short('l')),
            list(value("label-file", "FILE", "Read labels from a file")),
            value("restart", "POLICY", "no, always, unless-stopped or on-failure[:MAX]"),
            value("stop-timeout", "SECONDS", "From the stop signal to SIGKILL (10)").allow_negative_numbers(true),
            value("cidfile", "FILE", "Write the container's id to a new file"),
            value("log-driver", "DRIVER", "json-file, local or none"),
            list(value("log-opt", "NAME=VALUE", "max-size=10m, max-file=3")),
        ])
    }

    fn spec(&self, said: &ArgMatches, spec: &mut Spec) -> Result<()> {
        let string = |name| said.get_one::<String>(name).map(String::as_str);
        let strings = |name| said.get_many::<String>(name).into_iter().flatten().map(String::as_str);
        let auto_remove = said.get_flag("rm");
        let restart = string("restart").map(restart).transpose()?.unwrap_or_default();
        if auto_remove && restart != Restart::No {
            bail!("conflicting options: cannot specify both --restart and --rm");
        }
        let stop_timeout = string("stop-timeout").map(|text| seconds("--stop-timeout", text)).transpose()?;
        spec.life = Some(Life {
            auto_remove,
            interactive: said.get_flag("interactive"),
            labels: labels(strings("label"), strings("label-file"))?,
            restart,
            stop_timeout,
            log: log_config(string("log-driver"), strings("log-opt"))?,
            health: health::wanted(said, spec.image.healthcheck.as_ref())?,
            rooms: vec![],
        });
        Ok(())
    }

    fn plan(&self, _spec: &Spec, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }
}

/// `--restart`.
pub fn restart(text: &str) -> Result<Restart> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    match (name, count) {
        ("" | "no", None) => Ok(Restart::No),
        ("always", None) => Ok(Restart::Always),
        ("unless-stopped", None) => Ok(Restart::UnlessStopped),
        ("on-failure", None) => Ok(Restart::OnFailure(0)),
        ("on-failure", Some(count)) => match count.parse::<u32>() {
            Ok(count) => Ok(Restart::OnFailure(count)),
            Err(_) => bail!("--restart: `{}`: maximum retry count must be a number from 0 on", text.escape_debug()),
        },
        ("no" | "always" | "unless-stopped", Some(_)) => {
            bail!("--restart: `{}`: maximum retry count can only be used with 'on-failure'", text.escape_debug())
        }
        _ => bail!(
            "--restart: invalid restart policy: unknown policy '{}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'",
            name.escape_debug()
        ),
    }
}

/// A whole number of seconds; -1 waits for ever.
pub fn seconds(flag: &str, text: &str) -> Result<i64> {
    match text.parse::<i64>() {
        Ok(seconds) if (-1..=i64::from(i32::MAX)).contains(&seconds) => Ok(seconds),
        _ => bail!("{flag}: `{}` is not a number of seconds (-1: without end)", text.escape_debug()),
    }
}

fn labels<'a>(
    said: impl Iterator<Item = &'a str>,
    files: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, String>> {
    let mut lines: Vec<(String, &str)> = Vec::new();
    for file in files {
        let context = || format!("--label-file: cannot read `{}`", file.escape_debug());
        if !std::fs::metadata(file).with_context(context)?.is_file() {
            bail!("--label-file: `{}` is not a regular file", file.escape_debug());
        }
        let text = std::fs::read_to_string(file).with_context(context)?;
        let wanted = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        lines.extend(text.lines().filter(wanted).map(|line| (line.to_string(), "--label-file")));
    }
    lines.extend(said.map(|label| (label.to_string(), "--label")));
    let mut labels = BTreeMap::new();
    for (line, flag) in lines {
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        if name.trim().is_empty() {
            bail!("{flag}: `{}` has no name", line.escape_debug());
        }
        labels.insert(name.to_string(), value.to_string());
    }
    Ok(labels)
}

fn log_config<'a>(driver: Option<&str>, options: impl Iterator<Item = &'a str>) -> Result<LogConfig> {
    let driver = match driver {
        None | Some("json-file") => LogDriver::JsonFile,
        Some("local") => LogDriver::Local,
        Some("none") => LogDriver::None,
        Some(other) => bail!("--log-driver: `{}` is not there: json-file, local or none", other.escape_debug()),
    };
    let mut config = LogConfig { driver, ..LogConfig::default() };
    if config.driver == LogDriver::Local {
        (config.max_size, config.max_file) = (20 << 20, 5);
    }
    for option in options {
        let shown = option.escape_debug();
        let Some((name, value)) = option.split_once('=') else {
            bail!("--log-opt: `{shown}` is not of the form NAME=VALUE")
        };
        match name {
            _ if config.driver == LogDriver::None => bail!("--log-opt: `{shown}`: the driver `none` has no options"),
            "max-size" if value == "-1" => config.max_size = 0,
            "max-size" => match bytes(value) {
                Some(size @ 1..) => config.max_size = size,
                _ => bail!("--log-opt: max-size: `{}` is not a size like 10m", value.escape_debug()),
            },
            "max-file" => match value.parse() {
                Ok(count @ 1..=1000) => config.max_file = count,
                _ => bail!("--log-opt: max-file: `{}` is not a number from 1 to 1000", value.escape_debug()),
            },
            _ => bail!("--log-opt: unknown log opt '{}'", name.escape_debug()),
        }
        config.options.insert(name.to_string(), value.to_string());
    }
    Ok(config)
}

/// `10m` as a number of bytes; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.trim_end_matches('b').trim_end_matches('i');
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match &text[end..] {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    text[..end].parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_dockers() {
        let good = [
            ("no", Restart::No),
            ("always", Restart::Always),
            ("unless-stopped", Restart::UnlessStopped),
            ("on-failure", Restart::OnFailure(0)),
            ("on-failure:3", Restart::OnFailure(3)),
        ];
        for (text, policy) in good {
            assert_eq!(restart(text).unwrap(), policy, "{text}");
        }
        for bad in ["x", "always:3", "on-failure:-1", "on-failure:x", "no:1", "Always"] {
            assert!(restart(bad).unwrap_err().to_string().starts_with("--restart: "), "{bad}");
        }
        assert!(
            Restart::OnFailure(2).wants(1, 1)
                && !Restart::OnFailure(2).wants(1, 2)
                && !Restart::OnFailure(0).wants(0, 0)
        );
    }

    #[test]
    fn log_options_are_checked() {
        let config = log_config(None, ["max-size=1k", "max-file=2"].into_iter()).unwrap();
        assert_eq!((config.max_size, config.max_file), (1024, 2));
        for bad in ["max-size=0", "max-size=x", "max-file=0", "max-file=-1", "nope=1", "max-size"] {
            assert!(log_config(None, [bad].into_iter()).is_err(), "{bad}");
        }
        assert!(log_config(Some("syslog"), [].into_iter()).is_err());
    }
}
