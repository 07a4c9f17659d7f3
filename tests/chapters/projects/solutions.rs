//! The demands' own test: the course's solutions satisfy them, and of each wrong solution the right one says so first.

use crate::check::{Fault, Finding};
use crate::skip;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHAPTERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/chapters/projects");

/// What is wrong: the file, the words that are replaced, by what, and the first demand that must not be satisfied.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

const WEB: &[Mistake] = &[
    ("up", "-v pages:/www -p", "-v /www -p", "the page is in the volume"),
    ("up", "\"$PORT:80\"", "\"127.0.0.1:$PORT:80\"", "the neighbour reaches it"),
    (
        "up",
        "-p \"$PORT:80\" busybox httpd -f -p 80",
        "--network host busybox httpd -f -p $PORT",
        "a network of its own",
    ),
    ("up", "test -e /www/index.html ||", "", "a new container finds the page"),
    ("up", "set -eu", "set -eu; exit 3", "it comes up"),
];

const COUNTER: &[Mistake] = &[
    ("counter.py", "number = visit()", "number = b'%d' % Page.one_more()", "the number is Redis's"),
    ("up", "-v visits:/data", "", "Redis's folder is a volume"),
    ("up", "--appendonly yes --appendfsync always", "", "the number outlives both containers"),
    ("up", "\"$PORT:80\"", "\"127.0.0.1:$PORT:80\"", "the neighbour is counted"),
    ("up", "--network counter -v", "--network counter -p 6379:6379 -v", "nobody outside reaches Redis"),
    ("counter.py", "(\"redis\", 6379)", "(\"172.17.0.2\", 6379)", "the two find each other by name"),
];

/// A number in the web program's own memory.
const IN_MEMORY: &str = "class Page(http.server.BaseHTTPRequestHandler):
    count = 0

    @staticmethod
    def one_more():
        Page.count += 1
        return Page.count
";

/// On a host of its own, and so in a thread of its own.
fn ask(project: &str, folder: &Path) -> Option<Vec<(&'static str, Finding)>> {
    let ask = || super::ask(project, Path::new(env!("CARGO_BIN_EXE_mydocker")), folder);
    std::thread::scope(|scope| scope.spawn(ask).join().unwrap())
}

/// The course's solution, in a folder of its own.
fn solution(project: &str, image: Option<&Path>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(format!("{CHAPTERS}/{project}/solution")).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    if let Some(image) = image {
        std::os::unix::fs::symlink(image, folder.path().join("image.tar")).unwrap();
    }
    folder
}

fn judge(project: &str, image: Option<&Path>, mistakes: &[Mistake]) {
    let right = solution(project, image);
    let Some(findings) = ask(project, right.path()) else { return };
    if let Some((_, Err(Fault::Cannot(why)))) = findings.first() {
        return skip(why);
    }
    let wrong: Vec<_> = findings.iter().filter(|(_, finding)| finding.is_err()).collect();
    assert!(wrong.is_empty() && findings.len() == super::demands(project).len(), "the solution: {wrong:#?}");
    let try_one = |mistake: &Mistake| {
        let (file, from, to, first) = mistake;
        let folder = solution(project, image);
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        let text = text.replace(from, to).replace("class Page(http.server.BaseHTTPRequestHandler):\n", IN_MEMORY);
        std::fs::write(folder.path().join(file), text).unwrap();
        let findings = ask(project, folder.path()).unwrap();
        match findings.iter().find(|(_, finding)| finding.is_err()) {
            Some((name, Err(Fault::Wrong(_)))) if name == first => String::new(),
            other => format!("`{to}` in the place of `{from}`: {first} should be wrong, and first is {other:?}\n"),
        }
    };
    // Two at a time.
    let missed: String = std::thread::scope(|scope| {
        let half = |odd: usize| mistakes.iter().skip(odd).step_by(2).map(try_one).collect::<String>();
        let other = scope.spawn(move || half(1));
        half(0) + &other.join().unwrap()
    });
    assert!(missed.is_empty(), "\n{missed}");
}

#[test]
fn web_solutions_right_and_wrong() {
    judge("web", None, WEB);
}

/// The image, made once from this machine's Debian mirror and kept; or why not.
fn image() -> Result<PathBuf, String> {
    let image = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("image.tar");
    if !image.exists() {
        let made = Command::new(format!("{CHAPTERS}/counter/image")).arg(&image).output();
        let made = made.map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).trim().to_string());
        }
    }
    Ok(image)
}

#[test]
#[ignore = "fetches packages from a Debian mirror, once"]
fn counter_solutions_right_and_wrong() {
    match image() {
        Ok(image) => judge("counter", Some(&image), COUNTER),
        Err(why) => skip(&why),
    }
}
