//! Rows of a table, as `--format` wants them: docker's own columns, `table …`, `json`, or a Go template.

use super::table::align;
use super::template::Template;
use anyhow::Result;
use serde_json::{Map, Value};

/// The text of `rows`. `columns` is the default template; `headings` says what stands above which field.
pub fn show(rows: &[Value], format: Option<&str>, columns: &str, headings: &[(&str, &str)]) -> Result<String> {
    let format = format.unwrap_or("table");
    if format == "json" {
        return Ok(rows.iter().fold(String::new(), |all, row| all + &row.to_string() + "\n"));
    }
    let table = format.strip_prefix("table").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\\', '{']));
    let template = match table {
        Some(rest) if rest.trim().is_empty() => columns,
        Some(rest) => rest.trim_start(),
        None => format,
    };
    let template = Template::parse(template)?;
    let mut text = String::new();
    if table.is_some() {
        let heads: Map<String, Value> =
            headings.iter().map(|(field, heading)| (field.to_string(), Value::from(*heading))).collect();
        text += &(template.render(&Value::Object(heads))? + "\n");
    }
    for row in rows {
        text += &(template.render(row)? + "\n");
    }
    Ok(if table.is_some() { align(&text) } else { text })
}

/// `--filter NAME=VALUE`, as often as one likes. What is not of that form is refused with the command line (125); a name
/// that is not in `known` by the command (1), as docker's daemon does.
pub fn filter(known: &[&str]) -> clap::Arg {
    let pair = |text: &str| match text.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_ascii_lowercase(), value.trim().to_string())),
        None => Err("bad format of filter (expected name=value)"),
    };
    let arg = clap::Arg::new("filter").long("filter").value_name("NAME=VALUE").action(clap::ArgAction::Append);
    arg.value_parser(pair).help(format!("Only those that match: {}", known.join(" ")))
}

/// What was said with [`filter`], in that order.
pub fn filters(said: &clap::ArgMatches, known: &[&str]) -> Result<Vec<(String, String)>> {
    let all: Vec<_> = said.get_many::<(String, String)>("filter").into_iter().flatten().cloned().collect();
    match all.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(all),
        Some((name, _)) => {
            anyhow::bail!("--filter: invalid filter '{}': there are {}", name.escape_debug(), known.join(", "))
        }
    }
}

/// Whether `labels` has what a filter `label=NAME[=VALUE]` asks for.
pub fn has_label(labels: &std::collections::BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

/// The boolean of a filter, in Go's spellings.
pub fn truth(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "true" | "True" | "TRUE" | "T" => Ok(true),
        "0" | "f" | "false" | "False" | "FALSE" | "F" => Ok(false),
        _ => anyhow::bail!("--filter: invalid filter '{name}=[{}]'", value.escape_debug()),
    }
}

/// Asks on the terminal; anything but `y` is no.
pub fn sure(question: &str) -> bool {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{question}\nAre you sure you want to continue? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    answer.trim().eq_ignore_ascii_case("y")
}
