//! The functions that a template may call: Go's own, and those that docker adds.

use serde_json::Value;
use std::cmp::Ordering;

const NAMES: [&str; 27] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "println", "printf",
    "html", "urlquery", "json", "join", "split", "upper", "lower", "title", "pad", "truncate", "js", "call",
];

/// More padding than any line is wide.
const WIDEST: i64 = 10_000;

pub fn known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Go's truth: not false, 0, empty or nil.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as Go's `%v` prints it.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{key}:{}", print(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("wrong number or type of args for {name}");
    let string = |at: usize| arguments.get(at).and_then(Value::as_str).ok_or_else(wrong);
    let number = |at: usize| arguments.get(at).and_then(Value::as_i64).ok_or_else(wrong);
    let first = || arguments.first().ok_or_else(wrong);
    Ok(match name {
        "and" => arguments.iter().find(|value| !truth(value)).or(arguments.last()).ok_or_else(wrong)?.clone(),
        "or" => arguments.iter().find(|value| truth(value)).or(arguments.last()).ok_or_else(wrong)?.clone(),
        "not" => (!truth(first()?)).into(),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => compare(name, arguments)?.into(),
        "len" => length(first()?).ok_or_else(wrong)?.into(),
        "index" => index(first()?, &arguments[1..])?,
        "slice" => {
            let end = if arguments.len() > 2 { number(2)? } else { string(0)?.len() as i64 };
            let part = string(0)?.get(number(1).unwrap_or(0).max(0) as usize..end.max(0) as usize);
            part.ok_or("slice: index out of range")?.into()
        }
        "print" => print_all(arguments).into(),
        "println" => (arguments.iter().map(print).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(string(0)?, &arguments[1..])?.into(),
        "html" => print(first()?).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").into(),
        "json" => serde_json::to_string(first()?).map_err(|error| error.to_string())?.into(),
        "join" => {
            let list = first()?.as_array().map(Vec::as_slice).or(first()?.is_null().then_some(&[]));
            list.ok_or_else(wrong)?.iter().map(print).collect::<Vec<_>>().join(string(1)?).into()
        }
        "split" => string(0)?.split(string(1)?).collect::<Vec<_>>().into(),
        "upper" => string(0)?.to_uppercase().into(),
        "lower" => string(0)?.to_lowercase().into(),
        "title" => title(string(0)?).into(),
        "pad" => {
            let (left, right) = (number(1)?, number(2)?);
            if !(0..=WIDEST).contains(&left) || !(0..=WIDEST).contains(&right) {
                return Err(wrong());
            }
            let text = string(0)?;
            if text.is_empty() { "".into() } else { (spaces(left) + text + &spaces(right)).into() }
        }
        "truncate" => {
            let size = usize::try_from(number(1)?).map_err(|_| wrong())?;
            string(0)?.chars().take(size).collect::<String>().into()
        }
        _ => return Err(format!("function \"{name}\" is not supported")),
    })
}

fn spaces(count: i64) -> String {
    " ".repeat(count.max(0) as usize)
}

fn title(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.len()),
        Value::Array(list) => Some(list.len()),
        Value::Object(map) => Some(map.len()),
        _ => None,
    }
}

/// Go puts a space between two operands of which neither is a string.
fn print_all(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in arguments.iter().enumerate() {
        if at > 0 && !value.is_string() && !arguments[at - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&print(value));
    }
    out
}

fn compare(name: &str, arguments: &[Value]) -> Result<bool, String> {
    let [first, rest @ ..] = arguments else { return Err("missing argument for comparison".to_string()) };
    let second = rest.first().ok_or("missing argument for comparison")?;
    let order = || -> Result<Ordering, String> {
        let order = match (first, second) {
            (Value::Number(one), Value::Number(two)) => one.as_f64().partial_cmp(&two.as_f64()),
            (Value::String(one), Value::String(two)) => Some(one.cmp(two)),
            _ => None,
        };
        order.ok_or("incompatible types for comparison".to_string())
    };
    Ok(match name {
        "eq" => rest.iter().any(|other| same(first, other)),
        "ne" => !same(first, second),
        "lt" => order()?.is_lt(),
        "le" => order()?.is_le(),
        "gt" => order()?.is_gt(),
        _ => order()?.is_ge(),
    })
}

fn same(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => one.as_f64() == two.as_f64(),
        _ => one == two,
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Array(list), key) => {
                let at = key.as_i64().and_then(|at| usize::try_from(at).ok());
                let item = at.and_then(|at| list.get(at));
                item.ok_or(format!("error calling index: index out of range: {}", print(key)))?.clone()
            }
            // Go answers with the zero value of the map's type; docker's maps hold strings or structs.
            (Value::Object(map), Value::String(key)) => map.get(key).cloned().unwrap_or_else(|| "".into()),
            (other, _) => return Err(format!("error calling index: can't index `{}`", print(other))),
        };
    }
    Ok(value)
}

/// `%s %d %v %q %x %t %f %%` with flags `-`, `0` and a width.
fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = characters.next_if(|c| "-+ #0".contains(*c)) {
            flags.push(flag);
        }
        let mut size = String::new();
        while let Some(digit) = characters.next_if(|c| c.is_ascii_digit() || *c == '.') {
            size.push(digit);
        }
        let (width, precision) = size.split_once('.').unwrap_or((&size, ""));
        let width: i64 = if width.is_empty() { 0 } else { width.parse().map_err(|_| "printf: bad width")? };
        if width > WIDEST || precision.len() > 3 {
            return Err("printf: the width is too large".to_string());
        }
        let verb = characters.next().ok_or("printf: the format ends in %")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let text = verb_of(verb, value, precision);
        let pad = width - text.chars().count() as i64;
        match (flags.contains('-'), flags.contains('0') && value.is_number()) {
            (true, _) => out.push_str(&(text + &spaces(pad))),
            (_, true) => out.push_str(&("0".repeat(pad.max(0) as usize) + &text)),
            _ => out.push_str(&(spaces(pad) + &text)),
        }
    }
    Ok(out)
}

fn verb_of(verb: char, value: &Value, precision: &str) -> String {
    match (verb, value) {
        ('x', Value::Number(number)) => format!("{:x}", number.as_i64().unwrap_or(0)),
        ('x', value) => print(value).bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('q', value) => serde_json::to_string(&print(value)).unwrap_or_default(),
        ('f', value) => format!("{:.*}", precision.parse().unwrap_or(6), value.as_f64().unwrap_or(0.0)),
        ('s', value) if !precision.is_empty() => {
            print(value).chars().take(precision.parse().unwrap_or(usize::MAX)).collect()
        }
        ('s' | 'd' | 'v' | 't', value) => print(value),
        (verb, value) => format!("%!{verb}({})", print(value)),
    }
}
