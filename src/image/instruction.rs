//! The few instructions of a Dockerfile that only change an image's config: `commit -c 'ENV A=b'`, `import -c …`.

use super::Execution;
use crate::plan::parse_duration;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Obeys one line.
pub fn apply(config: &mut Execution, line: &str) -> Result<()> {
    let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    let rest = rest.trim();
    let shown = line.escape_debug().take(80).collect::<String>();
    let wrong = |what: &str| anyhow::anyhow!("--change: `{shown}`: {what}");
    if rest.is_empty() {
        bail!(wrong("an instruction and its arguments are wanted"));
    }
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => {
            config.entrypoint = command(rest);
        }
        "ENV" => {
            for (name, value) in pairs(rest).with_context(|| wrong("NAME=VALUE is wanted").to_string())? {
                let prefix = format!("{name}=");
                config.env.retain(|variable| !variable.starts_with(&prefix));
                config.env.push(prefix + &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).with_context(|| wrong("NAME=VALUE is wanted").to_string())?),
        "USER" => config.user = rest.to_string(),
        "WORKDIR" if rest.starts_with('/') => config.working_dir = rest.to_string(),
        "WORKDIR" => {
            config.working_dir = format!("{}/{rest}", config.working_dir.trim_end_matches('/'));
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                if number.parse::<u16>().is_err() || !["tcp", "udp", "sctp"].contains(&protocol) {
                    bail!(wrong("it is not a port"));
                }
                config.exposed_ports.insert(format!("{number}/{protocol}"), json!({}));
            }
        }
        "VOLUME" => {
            let list = serde_json::from_str::<Vec<String>>(rest);
            let list = list.unwrap_or_else(|_| rest.split_whitespace().map(str::to_string).collect());
            for path in list {
                config.volumes.insert(path, json!({}));
            }
        }
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_string()),
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if ["ONBUILD", "FROM", "MAINTAINER"].contains(&trigger.as_str()) {
                bail!(wrong(&format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            let list = config.other.entry("OnBuild").or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(rest.into());
            }
        }
        "HEALTHCHECK" => {
            let check = healthcheck(rest).map_err(|error| wrong(&error.to_string()))?;
            config.other.insert("Healthcheck".to_string(), check);
        }
        _ => bail!(wrong("is not a valid change command")),
    }
    Ok(())
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

/// The JSON form is the command itself; anything else is a line for a shell.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| vec!["/bin/sh".to_string(), "-c".to_string(), text.to_string()])
}

/// `A=b C="d e"`, or of old `A b`. A backslash takes the next character as it is.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    if !words.first()?.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_string(), value.trim().to_string())]);
    }
    let split = |word: &String| word.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()));
    let pairs: Option<Vec<_>> = words.iter().map(split).collect();
    pairs.filter(|pairs| pairs.iter().all(|(name, _)| !name.is_empty()))
}

fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.push(characters.next()?),
            ('"' | '\'', None) => (quote, open) = (Some(c), true),
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (c, _) => word.push(c),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_config() {
        let mut config = Execution { env: vec!["A=old".into(), "PATH=/bin".into()], ..Execution::default() };
        for line in [
            r#"CMD ["sh","-c","a b"]"#,
            "ENTRYPOINT echo x",
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
        assert_eq!(config.env, ["PATH=/bin", "A=new", "B=two words", "C=d e", "OLD=form of it"]);
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
