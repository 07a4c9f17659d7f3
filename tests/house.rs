//! The house rules that text can show: arrows between rooms point down only, `unsafe` stays in `sys`, only `cli`
//! prints, no file is too long, every file says what it is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the top; a room may know what is on a lower floor, and nothing else. Rooms of one floor do not
/// know each other.
const FLOORS: &[&[&str]] = &[
    &["main", "lib"],
    &["cli", "daemon", "compose", "oci"],
    &["engine"],
    &["build", "registry"],
    &["container"],
    &["image"],
    &["process", "namespaces", "cgroup", "rootfs", "layers", "volume", "network", "security"],
    &["plan"],
    &["tree"],
    &["sys"],
];

const LONGEST_FILE: usize = 400;

/// A word or a mark of Rust's text, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// Words and marks, without comments; a string or character is one token, `"`.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut list, mut index, mut line) = (Vec::new(), 0, 1);
    while index < chars.len() {
        let start = index;
        let mut token = None;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => index = end_of_comment(&chars, index),
            '"' => (index, token) = (end_of_string(&chars, index), Some("\"".to_string())),
            // A character, not a lifetime.
            '\'' if at(index + 1) == '\\' || at(index + 2) == '\'' => {
                index += if at(index + 1) == '\\' { 3 } else { 2 };
                while at(index) != '\'' && index < chars.len() {
                    index += 1;
                }
                (index, token) = (index + 1, Some("\"".to_string()));
            }
            c if word(c) => {
                while word(at(index)) {
                    index += 1;
                }
                let text: String = chars[start..index].iter().collect();
                let hashes = chars[index.min(chars.len())..].iter().take_while(|c| **c == '#').count();
                if matches!(text.as_str(), "r" | "br" | "cr") && at(index + hashes) == '"' {
                    (index, token) = (end_of_raw_string(&chars, index, hashes), Some("\"".to_string()));
                } else {
                    token = Some(text);
                }
            }
            ':' if at(index + 1) == ':' => (index, token) = (index + 2, Some("::".to_string())),
            c if c.is_whitespace() => index += 1,
            c => (index, token) = (index + 1, Some(c.to_string())),
        }
        list.extend(token.map(|text| Token { text, line }));
        line += chars[start..index.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    list
}

fn end_of_comment(chars: &[char], mut index: usize) -> usize {
    let mut depth = 0;
    while index < chars.len() {
        match (chars[index], chars.get(index + 1)) {
            ('/', Some('*')) => (depth, index) = (depth + 1, index + 2),
            ('*', Some('/')) => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index
}

fn end_of_string(chars: &[char], mut index: usize) -> usize {
    index += 1;
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

fn end_of_raw_string(chars: &[char], mut index: usize, hashes: usize) -> usize {
    index += hashes + 1;
    while index < chars.len() {
        let closed =
            chars[index] == '"' && chars[index + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        index += 1;
        if closed {
            return index + hashes;
        }
    }
    index
}

/// Where a file of `src` stands: `src/plan/op.rs` is `[plan, op]`, `src/plan/mod.rs` and `src/plan.rs` are `[plan]`.
fn module(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Every room that the text names, with the line: `crate::room`, `mydocker::room` and `super::room`, inline and in the
/// braces of a `use`. `*` is the whole house.
fn rooms_named(module: &[String], text: &str) -> Vec<(usize, String)> {
    let tokens = tokens(text);
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    // Inside of `mod x { … }` one `super` more is needed to leave the file.
    let mut inner: Vec<bool> = Vec::new();
    let top = module.len() == 1 && matches!(module[0].as_str(), "lib" | "main");
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        match text(index) {
            "{" => inner.push(index >= 2 && text(index - 2) == "mod"),
            "}" => drop(inner.pop()),
            _ => {}
        }
        let follows = index > 0 && text(index - 1) == "::";
        let house = match text(index) {
            "crate" | "mydocker" if !follows => Some(index + 1),
            "super" if !follows => {
                let (mut ups, mut next) = (1, index + 1);
                while text(next) == "::" && text(next + 1) == "super" {
                    (ups, next) = (ups + 1, next + 2);
                }
                let depth = inner.iter().filter(|inner| **inner).count() + if top { 0 } else { module.len() };
                (ups >= depth).then_some(next)
            }
            _ => None,
        };
        if let Some(next) = house
            && text(next) == "::"
        {
            found.extend(first_words(&tokens, next + 1));
        }
        index += 1;
    }
    found
}

/// What stands at `index`: one word, or the first word of each path in braces.
fn first_words(tokens: &[Token], index: usize) -> Vec<(usize, String)> {
    let Some(token) = tokens.get(index) else { return Vec::new() };
    if token.text != "{" {
        return vec![(token.line, token.text.clone())];
    }
    let (mut depth, mut first, mut found) = (0, true, Vec::new());
    for token in &tokens[index..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => first = true,
            word if depth == 1 && first => {
                found.push((token.line, word.to_string()));
                first = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// What is wrong with a file's arrows, one line each.
fn bad_arrows(path: &Path, text: &str) -> Vec<String> {
    let module = module(path);
    let room = module[0].as_str();
    let Some(own) = floor(room) else {
        return vec![format!("{}: the room `{room}` has no floor: give it one in tests/house.rs", path.display())];
    };
    let judge = |(line, other): (usize, String)| {
        let place = format!("{}:{line}: {room} -> {other}", path.display());
        match floor(&other) {
            _ if other == room || own == 0 => None,
            Some(floor) if floor > own => None,
            Some(floor) if floor == own => Some(format!("{place}: rooms of one floor do not know each other")),
            Some(_) => Some(format!("{place}: an arrow that runs up the house")),
            None if other == "*" => Some(format!("{place}: the whole house at once")),
            None => Some(format!("{place}: `{other}` is no room with a floor")),
        }
    };
    rooms_named(&module, text).into_iter().filter_map(judge).collect()
}

/// Words that only one room may use.
fn bad_words(path: &Path, text: &str) -> Vec<String> {
    let room = module(path)[0].clone();
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let calls = tokens.get(index + 1).is_some_and(|next| next.text == "!");
        let prints = matches!(token.text.as_str(), "println" | "print" | "eprintln" | "eprint" | "dbg") && calls;
        if prints && room != "cli" {
            found.push(format!("{}:{}: {}!: only cli prints", path.display(), token.line, token.text));
        }
        if matches!(token.text.as_str(), "unsafe" | "unsafe_code") && room != "sys" {
            found.push(format!("{}:{}: {} outside of sys", path.display(), token.line, token.text));
        }
    }
    found
}

/// Length and heading.
fn bad_shape(path: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let long = (lines > LONGEST_FILE).then(|| format!("{}: {lines} lines, more than {LONGEST_FILE}", path.display()));
    let mute = (!text.starts_with("//! ")).then(|| format!("{}: does not begin with `//!`", path.display()));
    long.into_iter().chain(mute).collect()
}

/// Every file of `src`, with its path below it.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut open, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push((path.strip_prefix(&root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 10, "where are the sources?");
    files
}

fn all(rule: fn(&Path, &str) -> Vec<String>) {
    let bad: Vec<String> = sources().iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn arrows_point_down() {
    all(bad_arrows);
}

#[test]
fn unsafe_stays_in_sys_and_only_cli_prints() {
    all(bad_words);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    all(bad_shape);
}

/// The rules can fail: each of these lines is caught, at its line.
#[test]
fn a_bad_arrow_is_caught() {
    let cases = [
        ("plan/op.rs", "use crate::cgroup::Cgroup;", "plan -> cgroup: an arrow that runs up"),
        (
            "rootfs/mod.rs",
            "use crate::{plan::{Op, Step}, sys, network::Bridge};",
            "rootfs -> network: rooms of one floor",
        ),
        ("cgroup/mod.rs", "fn f() { let x = crate::rootfs::dev::NODES; }", "cgroup -> rootfs: rooms of one floor"),
        ("sys/mod.rs", "pub(crate) use crate::plan as other;", "sys -> plan: an arrow that runs up"),
        ("namespaces.rs", "use super::engine;", "namespaces -> engine: an arrow that runs up"),
        ("rootfs/dev.rs", "use super::super::layers::Layers;", "rootfs -> layers: rooms of one floor"),
        ("layers.rs", "mod tests {\n use super::super::cli;\n}", "layers.rs:2: layers -> cli: an arrow that runs up"),
        ("plan/mod.rs", "use crate::*;", "plan -> *: the whole house"),
        ("plan/mod.rs", "// a\n/* b\n */\nuse\n  crate ::\n  { sys, engine };", "plan/mod.rs:6: plan -> engine"),
        ("attic/mod.rs", "", "the room `attic` has no floor"),
        ("image/mod.rs", "use crate::container::Record;", "image -> container: an arrow that runs up"),
        ("security.rs", "let x = \"crate::plan\"; mydocker::process::run()", "security -> process: rooms of one floor"),
    ];
    for (path, text, expected) in cases {
        let bad = bad_arrows(Path::new(path), text);
        assert!(bad.len() == 1 && bad[0].contains(expected), "{path}: {text}\n  found {bad:?}\n  expected {expected}");
    }
}

#[test]
fn good_arrows_pass() {
    let cases = [
        ("engine/mod.rs", "use crate::plan::Plan; use crate::sys; use crate::network::Network; use super::engine::x;"),
        ("cli/run.rs", "use super::{Command, Context}; use crate::engine::{self, Request};"),
        ("plan/op.rs", "use super::Stage; use crate::sys; // crate::engine\nconst X: &str = \"crate::cli\";"),
        (
            "plan/op.rs",
            "const X: &str = r#\"crate::cli \" crate::cli\"#; const Q: char = '\"'; fn f<'a>(x: &'a str) {}",
        ),
        ("plan/op.rs", "mod tests { use super::*; use super::super::Step; }"),
        ("main.rs", "use mydocker::{cli, plan::Room, cgroup::Cgroup};"),
        ("namespaces.rs", "use super::plan; mod tests { use super::*; }"),
    ];
    for (path, text) in cases {
        assert_eq!(bad_arrows(Path::new(path), text), [""; 0], "{text}");
    }
}

#[test]
fn bad_words_and_shapes_are_caught() {
    let caught = |path: &str, text: &str| bad_words(Path::new(path), text).len();
    assert_eq!(caught("plan/op.rs", "fn f() { println!(\"x\"); eprintln !(\"y\") }"), 2);
    assert_eq!(caught("plan/op.rs", "#![allow(unsafe_code)] fn f() { unsafe { g() } }"), 2);
    assert_eq!(caught("plan/op.rs", "// unsafe println!\nconst X: &str = \"unsafe println!()\"; let print = 1;"), 0);
    assert_eq!(caught("cli/mod.rs", "println!()") + caught("sys/mod.rs", "unsafe { x() }"), 0);
    let long = format!("//! x\n{}", "\n".repeat(400));
    assert_eq!(bad_shape(Path::new("plan/op.rs"), &long).len(), 1);
    assert_eq!(bad_shape(Path::new("plan/op.rs"), "use x;\n").len(), 1);
    assert_eq!(bad_shape(Path::new("plan/op.rs"), "//! x\n").len(), 0);
}

/// `// ch07`, `// ch07, before: CODE`, `// before ch07: CODE`: what a chapter's branch leaves out (scripts/courselib).
#[test]
fn marks_of_chapters_are_well_formed_and_few() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let Some((_, comment)) = line.split_once("// ") else { continue };
            let rest = comment.strip_prefix("before ch").or_else(|| comment.strip_prefix("ch"));
            let Some(rest) = rest.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) else { continue };
            let (chapter, then) = rest.split_at(2.min(rest.len()));
            let early = comment.starts_with("before");
            let said = if early { then.starts_with(": ") } else { then.is_empty() || then.starts_with(", before: ") };
            // 10 is the product, after the last chapter.
            if !said || !chapter.parse().is_ok_and(|chapter| (2..=10).contains(&chapter)) {
                wrong.push(format!("{}:{}: `// {comment}`", name.display(), number + 1));
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count < 220, "{count} marks: move what a later chapter adds into a file of its own instead");
}
