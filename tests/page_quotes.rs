//! What a page of the course quotes stands in the code: each ```` ```rust ```` block of `chapters/*/README.md`, line by
//! line and in that order, in the last source file that the page has named before it; and every path that it names is
//! there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// `src/…` and the like between backticks.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let known = |word: &&str| ["src/", "chapters/", "tests/", "scripts/"].iter().any(|top| word.starts_with(top));
    line.split('`').skip(1).step_by(2).filter(known).filter(|word| !word.contains([' ', '*']))
}

/// What is wrong with the page, one line each.
fn faults(page: &Path, repository: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let shown = page.strip_prefix(repository).unwrap().display();
    let (mut faults, mut source, mut quote) = (Vec::new(), PathBuf::new(), None::<(Vec<String>, usize)>);
    for (number, line) in text.lines().enumerate() {
        let place = format!("{shown}:{}", number + 1);
        if let Some((lines, at)) = &mut quote {
            if line.starts_with("```") {
                quote = None;
            } else if !line.trim().is_empty() {
                match lines[*at..].iter().position(|known| known == line.trim()) {
                    Some(found) => *at += found + 1,
                    None => faults.push(format!("{place}: `{}` is not in {} (here)", line.trim(), source.display())),
                }
            }
            continue;
        }
        if line.starts_with("```rust") {
            let code = fs::read_to_string(repository.join(&source)).unwrap_or_default();
            quote = Some((code.lines().map(|line| line.trim().to_string()).collect(), 0));
            continue;
        }
        for path in paths(line) {
            if !repository.join(path).exists() {
                faults.push(format!("{place}: there is no `{path}`"));
            }
            if path.ends_with(".rs") {
                source = path.into();
            }
        }
    }
    faults
}

#[test]
fn pages_quote_the_code_as_it_is() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapters = fs::read_dir(repository.join("chapters")).unwrap().flatten().map(|entry| entry.path());
    let pages = chapters.flat_map(|folder| ["README.md", "README.zh-CN.md"].map(|name| folder.join(name)));
    let pages: Vec<PathBuf> = pages.filter(|page| page.is_file()).collect();
    assert!(!pages.is_empty());
    let faults: Vec<String> = pages.iter().flat_map(|page| faults(page, repository)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_quote_that_is_not_there_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    write("src/a.rs", "one\n    two\nthree\n");
    for (text, wrong) in [
        ("`src/a.rs`\n```rust\ntwo\nthree\n```\n", 0),
        ("`src/a.rs`\n```rust\nthree\ntwo\n```\n", 1),
        ("`src/a.rs`\n```rust\nfour\n```\n", 1),
        ("`src/b.rs`\n", 1),
    ] {
        write("page.md", text);
        assert_eq!(faults(&folder.path().join("page.md"), folder.path()).len(), wrong, "{text}");
    }
}
