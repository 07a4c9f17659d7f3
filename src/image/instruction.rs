//! The few instructions of a Dockerfile that only change an image's config: `commit -c 'ENV A=b'`, `import -c …`. Which
//! ones, and what each means, is docker's (moby's `validCommitCommands`; STOPSIGNAL is one of the newer ones, which 20.10
//! still refuses).

use super::Execution;
use super::expand::{expand, split};
use crate::plan::parse_duration;
use crate::process::signal_number;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Obeys what was said, as if it were the lines of a Dockerfile.
pub fn apply(config: &mut Execution, said: &[String]) -> Result<()> {
    let before = (config.entrypoint.clone(), config.cmd.clone());
    let mut has_cmd = false;
    for text in said {
        let lines = lines(text);
        let shown = |line: &str| line.escape_debug().take(80).collect::<String>();
        anyhow::ensure!(!lines.is_empty(), "--change: `{}`: {WANTED}", shown(text));
        for line in lines {
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
            obey(config, &word.to_ascii_uppercase(), rest.trim(), &mut has_cmd)
                .map_err(|error| anyhow::anyhow!("--change: `{}`: {error:#}", shown(&line)))?;
        }
    }
    // What was left empty is the container's.
    if !said.is_empty() && config.entrypoint.is_empty() && config.cmd.is_empty() {
        config.cmd = before.1;
    }
    Ok(())
}

const WANTED: &str = "an instruction and its arguments are wanted";

/// The lines that say something; one that ends in a backslash goes on in the next.
fn lines(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('#')) {
        let (part, goes_on) = part.strip_suffix('\\').map_or((part, false), |part| (part, true));
        if let Some(line) = lines.last_mut() {
            line.push_str(part);
        }
        if !goes_on {
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.trim().is_empty());
    lines
}

/// One instruction. `has_cmd`: one of those before was CMD.
fn obey(config: &mut Execution, word: &str, rest: &str, has_cmd: &mut bool) -> Result<()> {
    const KNOWN: [&str; 11] = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "LABEL",
        "USER",
        "WORKDIR",
        "EXPOSE",
        "VOLUME",
        "STOPSIGNAL",
        "ONBUILD",
        "HEALTHCHECK",
    ];
    if !KNOWN.contains(&word) {
        bail!("{} is not a valid change command", word.to_lowercase().escape_debug());
    }
    if rest.is_empty() {
        bail!(WANTED);
    }
    let env = config.env.clone();
    let meant = |text: &str| expand(text, &env);
    match word {
        "CMD" => {
            config.cmd = command(config, rest);
            *has_cmd = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = command(config, rest);
            // The command was made for another entrypoint.
            if !*has_cmd {
                config.cmd.clear();
            }
        }
        "ENV" => {
            for (name, value) in pairs(rest, &env)? {
                let prefix = format!("{name}=");
                match config.env.iter_mut().find(|variable| variable.starts_with(&prefix)) {
                    Some(variable) => *variable = prefix + &value,
                    None => config.env.push(prefix + &value),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, &env)?),
        "USER" => config.user = meant(rest)?,
        "WORKDIR" => config.working_dir = folder(&config.working_dir, &meant(rest)?)?,
        "EXPOSE" => {
            for text in split(rest) {
                let (numbers, protocol) = ports(&meant(&text)?).context("it is not a port")?;
                let ports = numbers.map(|number| (format!("{number}/{protocol}"), json!({})));
                config.exposed_ports.extend(ports);
            }
        }
        "VOLUME" => {
            let list = serde_json::from_str::<Vec<String>>(rest);
            let list = list.unwrap_or_else(|_| rest.split_whitespace().map(str::to_string).collect());
            anyhow::ensure!(!list.is_empty(), WANTED);
            for path in list {
                config.volumes.insert(meant(&path)?, json!({}));
            }
        }
        "STOPSIGNAL" => {
            let signal = meant(rest)?;
            signal_number(&signal)?;
            config.stop_signal = Some(signal);
        }
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if ["ONBUILD", "FROM", "MAINTAINER"].contains(&trigger.as_str()) {
                bail!("{trigger} isn't allowed as an ONBUILD trigger");
            }
            let list = config.other.entry("OnBuild").or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(rest.into());
            }
        }
        _ => drop(config.other.insert("Healthcheck".to_string(), healthcheck(rest)?)),
    }
    Ok(())
}

/// `path`, or what it is from `from` on: without `.` and `..` then, as docker keeps it.
fn folder(from: &str, path: &str) -> Result<String> {
    match path {
        "" => bail!("it is empty"),
        absolute if absolute.starts_with('/') => Ok(absolute.to_string()),
        relative => {
            let mut parts: Vec<&str> = Vec::new();
            for part in from.split('/').chain(relative.split('/')) {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()),
                    part => parts.push(part),
                }
            }
            Ok(format!("/{}", parts.join("/")))
        }
    }
}

/// `80`, `53/udp`, `8000-8002/tcp`.
fn ports(text: &str) -> Option<(std::ops::RangeInclusive<u16>, String)> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (first, last, protocol) = (first.parse().ok()?, last.parse().ok()?, protocol.to_ascii_lowercase());
    (first <= last && ["tcp", "udp", "sctp"].contains(&protocol.as_str())).then_some((first..=last, protocol))
}

/// `[--interval=30s …] CMD …`, or `NONE`, in docker's form.
fn healthcheck(text: &str) -> Result<Value> {
    let (mut rest, mut check) = (text, json!({}));
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) =
            flag.split_once(char::is_whitespace).context("HEALTHCHECK requires at least one argument")?;
        let (name, value) = flag.split_once('=').with_context(|| format!("--{flag} has no value"))?;
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => "Retries",
            _ => bail!("Unknown flag: {name}"),
        };
        check[key] = match name {
            "retries" => match value.parse::<u32>() {
                Ok(count @ 1..) => count.into(),
                _ => bail!("--retries must be at least 1 (not {value})"),
            },
            _ => time(value).with_context(|| format!("--{name}: `{value}` is no time of 1ms or more"))?.into(),
        };
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match (word.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") => json!(["NONE"]),
        ("NONE", _) => bail!("HEALTHCHECK NONE takes no arguments"),
        ("CMD", "") => bail!("Missing command after HEALTHCHECK CMD"),
        ("CMD", line) => match serde_json::from_str::<Vec<String>>(line) {
            Ok(words) => json!([vec!["CMD".to_string()], words].concat()),
            Err(_) => json!(["CMD-SHELL", line]),
        },
        _ => bail!("Unknown type \"{word}\" in HEALTHCHECK (try CMD)"),
    };
    check["Test"] = test;
    Ok(check)
}

/// In nanoseconds; a millisecond at least.
fn time(text: &str) -> Option<i64> {
    let time = parse_duration(text)?.as_nanos();
    i64::try_from(time).ok().filter(|time| *time >= 1_000_000)
}

/// The JSON form is the command itself; anything else is a line for a shell, the image's own if it names one.
fn command(config: &Execution, text: &str) -> Vec<String> {
    let shell = config.other.get("Shell").and_then(|shell| serde_json::from_value::<Vec<String>>(shell.clone()).ok());
    let shell = shell.filter(|shell| !shell.is_empty()).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    serde_json::from_str(text).unwrap_or_else(|_| [shell, vec![text.to_string()]].concat())
}

/// `A=b C="d e"`, or of old `A b`.
fn pairs(text: &str, env: &[String]) -> Result<Vec<(String, String)>> {
    const PAIR: &str = "NAME=VALUE is wanted";
    let words = split(text);
    let pairs: Option<Vec<(&str, &str)>> = match words.first() {
        Some(first) if first.contains('=') => words.iter().map(|word| word.split_once('=')).collect(),
        _ => text.split_once(char::is_whitespace).map(|(name, value)| vec![(name, value.trim())]),
    };
    let mut meant = Vec::new();
    for (name, value) in pairs.context(PAIR)? {
        anyhow::ensure!(!name.is_empty(), PAIR);
        meant.push((expand(name, env)?, expand(value, env)?));
    }
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_config() {
        let mut config = Execution { env: vec!["A=old".into(), "PATH=/bin".into()], ..Execution::default() };
        let apply = |config: &mut Execution, line: &str| super::apply(config, &[line.to_string()]);
        for line in [
            "ENTRYPOINT echo x",
            r#"CMD ["sh","-c","a b"]"#,
            r#"ENV A=new B="two words" C=d\ e"#,
            "LABEL a=b",
            "USER 33",
            "WORKDIR /srv",
            "WORKDIR data",
            "EXPOSE 80 53/udp",
            "VOLUME /v /w",
            "STOPSIGNAL SIGINT",
            "env OLD form of it",
        ] {
            apply(&mut config, line).unwrap();
        }
        assert_eq!(config.cmd, ["sh", "-c", "a b"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "echo x"]);
        assert_eq!(config.env, ["A=new", "PATH=/bin", "B=two words", "C=d e", "OLD=form of it"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("33", "/srv/data"));
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        apply(&mut config, "HEALTHCHECK --interval=1m30s --retries=2 CMD wget x").unwrap();
        let check = json!({"Test": ["CMD-SHELL", "wget x"], "Interval": 90_000_000_000i64, "Retries": 2});
        assert_eq!(config.other["Healthcheck"], check);
        apply(&mut config, r#"HEALTHCHECK --timeout=500ms CMD ["a", "b"]"#).unwrap();
        assert_eq!(config.other["Healthcheck"], json!({"Test": ["CMD", "a", "b"], "Timeout": 500_000_000}));
        apply(&mut config, "healthcheck none").unwrap();
        assert_eq!(config.other["Healthcheck"], json!({"Test": ["NONE"]}));
        for bad in [
            "HEALTHCHECK",
            "HEALTHCHECK RUN x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK NONE x",
            "HEALTHCHECK --foo=1 CMD x",
            "HEALTHCHECK --interval=x CMD a",
            "HEALTHCHECK --interval=0s CMD a",
            "HEALTHCHECK --interval=1us CMD a",
            "HEALTHCHECK --retries=0 CMD a",
            "HEALTHCHECK --interval=1s",
            "ONBUILD ONBUILD x",
            "ONBUILD FROM x",
            "SHELL [\"x\"]",
            "ARG x",
            "MAINTAINER me",
        ] {
            assert!(apply(&mut config, bad).unwrap_err().to_string().starts_with("--change: "), "{bad}");
        }
        for bad in ["", "CMD", "RUN x", "FROM y", "EXPOSE x", "ENV =x", "EXPOSE 99999", "ENV \"a"] {
            assert!(apply(&mut config, bad).unwrap_err().to_string().starts_with("--change: "), "{bad}");
        }
    }
}
