"""Branches `chNN` and `chNN-start`: the repository as it stands at the end, and at the beginning, of a chapter.

Each is made from HEAD alone: the files that the chapter's program needs (modules.py), that program as src/main.rs, the
checks, pages and pictures up to there, the dependencies that are left. `chNN-start` is the chapter before, with this
chapter's page and checks, and its rooms as empty stubs. Names and dates of the commits are fixed, so that the same HEAD
always gives the same ids; everything happens in a folder and an index of its own, and no work tree is touched. A branch
whose last commit is not ours is left where it is.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from . import course, modules

NAME, MAIL = "mydocker course", "course@mydocker.invalid"
WHEN = "1767225600 +0000"  # 2026-01-01

SCRIPTS = ["scripts/chapters", "scripts/courselib", "tests/support", "tests/chapters", "tests/chapters.rs"]
PLAIN = [".gitignore", "LICENSE", "clippy.toml", "rustfmt.toml"]
ROOMS = {"Cgroup": 2, "Rootfs": 3, "Security": 3, "Layers": 4, "Volumed": 5, "Images": 6, "Container": 7, "Net": 9}


def git(*words, **more):
    """What `git WORDS` says."""
    if not (course.REPO / ".git").exists():  # an archive without history
        raise course.Failure("this is no git repository, so it has no branches",
                             "git clone has them; here: diff chapters/01-*/mydocker.rs chapters/02-*/mydocker.rs")  # fmt: skip
    ran = subprocess.run(["git", "-C", str(course.REPO), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    if ran.returncode:
        raise course.Failure(f"git {' '.join(words[:2])}: {ran.stderr.decode().strip()}")
    return ran.stdout.decode(errors="surrogateescape").strip()


class Source:
    """HEAD, as files."""

    def __init__(self, place):
        self.root = pathlib.Path(place, "head")
        self.root.mkdir()
        git("rev-parse", "HEAD")
        archive = subprocess.run(["git", "-C", str(course.REPO), "archive", "HEAD"], stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", str(self.root)], input=archive.stdout, check=True)
        files = {str(path.relative_to(self.root)): path.read_text(encoding="utf-8")
                 for path in (self.root / "src").rglob("*.rs")}  # fmt: skip
        self.tests = {name: text for name, text in files.items() if name.endswith("tests.rs")}
        self.files = {name: text for name, text in files.items() if name not in self.tests}
        self.crates = {}
        self.chapters = sorted((self.root / "chapters").glob("[0-9][0-9]-*"))

    def crate(self, number):
        """The files as they stand in chapter `number`."""
        if number not in self.crates:
            self.crates[number] = modules.Crate(self.files, number)
        return self.crates[number]

    def program(self, number):
        """The text of a chapter's mydocker.rs; before the first there is one that knows no word."""
        for folder in self.chapters:
            if int(folder.name[:2]) == number and (folder / "mydocker.rs").exists():
                return (folder / "mydocker.rs").read_text(encoding="utf-8")
        return EMPTY


EMPTY = """//! mydocker before its first chapter: it knows no word yet.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("mydocker: there is no command yet; chapter 01 begins with `run`");
    ExitCode::from(125)
}
"""

STUB = """//! To be written in chapter {number:02}: see chapters/.

use crate::plan::{{Plan, Room, Spec}};
use anyhow::Result;

/// The room of this chapter, still empty.
pub struct {room};

impl Room for {room} {{
    fn name(&self) -> &'static str {{
        "{module}"
    }}

    fn plan(&self, _spec: &Spec, _plan: &mut Plan) -> Result<()> {{
        Ok(())
    }}
}}
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_tree(source, number, place):
    """Writes the tree of chapter `number` below `place`."""
    program = source.program(number)
    wanted = source.crate(number).needed(program)
    files = source.crate(number).trimmed(wanted) if wanted else {}
    for name, text in files.items():
        write(place / name, without_strange_tests(text, source, name, place))
    write(place / "src/main.rs", program)
    for name in PLAIN:
        if (source.root / name).exists():
            shutil.copy(source.root / name, place / name)
    pages(source, number, place)
    if wanted:
        checks(source, number, place)
    manifest(source, files, place)


def without_strange_tests(text, source, name, place):
    """Unit tests that stand in a file of their own come along with their room."""
    for found in re.finditer(r"#\[cfg\(test\)\]\n(?:#\[path = \"([^\"]+)\"\]\n)?mod (\w+);", text):
        folder = pathlib.PurePosixPath(name).parent
        other = str(folder / (found[1] or f"{found[2]}.rs"))
        if other in source.tests:
            write(place / other, source.tests[other])
    return text


def pages(source, number, place):
    for folder in source.chapters:
        if int(folder.name[:2]) <= number:
            shutil.copytree(folder, place / "chapters" / folder.name, ignore=shutil.ignore_patterns("mydocker.rs"))
    for page in (source.root / "chapters").glob("*.md"):
        shutil.copy(page, place / "chapters" / page.name)


def checks(source, number, place):
    """The checks up to this chapter, and what asks them of one binary."""
    for name in SCRIPTS:
        path = source.root / name
        if path.is_dir():
            shutil.copytree(path, place / name, dirs_exist_ok=True)
        else:
            write(place / name, path.read_text(encoding="utf-8"))
            shutil.copymode(path, place / name)
    for path in (place / "tests/chapters").iterdir():
        chapter = re.match(r"ch(\d\d)\.rs$", path.name)
        if path.is_dir():
            shutil.rmtree(path)
        elif (chapter and int(chapter[1]) > number) or (not chapter and path.name not in ("check.rs", "steps.json")):
            path.unlink()
    helpers = place / "tests/chapters/check.rs"
    write(helpers, modules.opened(helpers.read_text(encoding="utf-8"), number))
    write(place / "tests/chapters.rs", asking(source, number))


def asking(source, number):
    """tests/chapters.rs, with the checks up to there and without what compares many programs."""
    text = (source.root / "tests/chapters.rs").read_text(encoding="utf-8")
    head, rest = text.split("const CHAPTERS", 1)
    keep = {"check.rs", *(f"ch{one:02}.rs" for one in range(number + 1))}
    head = re.sub(r'#\[path = "chapters/([\w./]+)"\]\nmod \w+;\n', lambda found: found[0] if found[1] in keep else "", head)
    head = head.replace("use support::{examples, skip};", "use support::skip;").replace("{Path, PathBuf}", "PathBuf")
    count = len([one for one in range(1, number + 1)])
    lines = "".join(f"    ({one}, ch{one:02}::CHECKS),\n" for one in range(1, number + 1))
    rest = rest.split("];\n", 1)[1]
    gone = ("const HELD_BEFORE", "fn the_project", "fn the_matrix", "fn a_chroot_can", "fn no_program_can", "fn mark(",
            "fn every_check_of")
    items = [item for item in split_items(rest) if not any(word in item for word in gone)]
    return f"{head}const CHAPTERS: [(usize, &[Check]); {count}] = [\n{lines}];\n" + "".join(items)


def split_items(text):
    """Top-level items, each with its comments: they are divided by empty lines, and none inside begins at the margin."""
    found, current = [], ""
    for block in text.split("\n\n"):
        if re.match(r"\n?[^\s}]", block) and current:
            found.append(current)
            current = ""
        current += block + "\n\n"
    return [*found, current.rstrip("\n") + "\n"]


def manifest(source, files, place):
    """Cargo.toml with the dependencies that are used, and a Cargo.lock that fits."""
    text = (source.root / "Cargo.toml").read_text(encoding="utf-8")
    text = re.sub(r"(?:#[^\n]*\n)*\[\[example\]\]\n(?:\w[^\n]*\n)+\n", "", text)
    text = re.sub(r"(?:#[^\n]*\n)*\[features\]\n(?:\w[^\n]*\n)*\n", "", text)
    body = "".join(files.values())
    tests = "".join(path.read_text(encoding="utf-8") for path in (place / "tests").rglob("*.rs")) if files else ""
    tests += "".join(path.read_text(encoding="utf-8") for path in (place / "src").rglob("*tests.rs"))
    head, rest = text.split("[dependencies]\n", 1)
    lines, rest = rest.split("\n\n", 1)
    dev, rest = rest.split("[dev-dependencies]\n", 1)[1].split("\n\n", 1)

    def used(some, where):
        names = set(re.findall(r"\b(\w+)(?=::|!|;)", where))
        return [line for line in some if line.split(" ", 1)[0].replace("-", "_") in names]

    main = used(lines.splitlines(), body)
    devs = [line for line in used(lines.splitlines(), tests) if line not in main]
    devs += used(dev.splitlines(), tests + body)
    readme = "" if (place / "README.md").exists() else 'readme = "README.md"\n'
    head = head.replace(readme, "")
    parts = [head.rstrip(), "", "[dependencies]", *main, ""]
    if devs:
        parts += ["[dev-dependencies]", *sorted(devs), ""]
    write(place / "Cargo.toml", "\n".join(parts) + "\n" + (rest if files else ""))
    shutil.copy(source.root / "Cargo.lock", place / "Cargo.lock")
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    # Prunes the lock, and changes no version in it.
    ran = subprocess.run([cargo, "metadata", "--offline", "--format-version=1"], cwd=place, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)  # fmt: skip
    if ran.returncode:
        raise course.Failure(f"Cargo.lock of {place.name}: {ran.stderr.strip()}")


def make_start(source, number, place):
    """The chapter before, with this one's page and checks, and stubs for its rooms."""
    make_tree(source, number - 1, place)
    pages_of = next((folder for folder in source.chapters if int(folder.name[:2]) == number), None)
    if pages_of:
        shutil.copytree(pages_of, place / "chapters" / pages_of.name, ignore=shutil.ignore_patterns("mydocker.rs"))
    if number == 1:
        return
    checks(source, number, place)
    before, now = source.program(number - 1), source.program(number)
    imports = re.findall(r"^use mydocker::(\w+)::(\w+);\n", now, re.M)
    rooms = [(module, room) for module, room in imports if ROOMS.get(room) == number]
    library = (place / "src/lib.rs").read_text(encoding="utf-8")
    program = before
    for module, room in rooms:
        if f"pub mod {module};" in library:
            continue  # a part of it is there already, for those who look at it
        write(place / f"src/{module}.rs", STUB.format(number=number, room=room, module=module))
        library = re.sub(r"((?:pub mod \w+;\n)+)", lambda found: "".join(
            sorted([*found[1].splitlines(True), f"pub mod {module};\n"])), library, count=1)  # fmt: skip
        program = program.replace("use mydocker::plan::Room;\n", f"use mydocker::plan::Room;\nuse mydocker::{module}::{room};\n")
        program = re.sub(r"(&Process)(.*?\];)", rf"\1, &{room}\2", program, count=1, flags=re.S)
    write(place / "src/lib.rs", library)
    write(place / "src/main.rs", program)
    manifest(source, {str(path): path.read_text(encoding="utf-8") for path in (place / "src").rglob("*.rs")}, place)


def commit(place, message, parent, index):
    """The commit of everything below `place`."""
    environment = {
        **os.environ, "GIT_INDEX_FILE": str(index), "GIT_AUTHOR_NAME": NAME, "GIT_AUTHOR_EMAIL": MAIL,
        "GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_NAME": NAME, "GIT_COMMITTER_EMAIL": MAIL, "GIT_COMMITTER_DATE": WHEN,
    }  # fmt: skip
    index.unlink(missing_ok=True)
    git(f"--work-tree={place}", "-c", "core.fileMode=true", "add", "-A", "-f", ".", env=environment, cwd=place)
    tree = git("write-tree", env=environment)
    parents = ["-p", parent] if parent else []
    return git("-c", "commit.gpgSign=false", "commit-tree", tree, *parents, "-m", message, env=environment)


def make(place):
    """[(branch, commit, files, lines of Rust)], from chapter 00 on."""
    source, index, found, parent = Source(place), pathlib.Path(place, "index"), [], None
    for folder in source.chapters:
        number, title = int(folder.name[:2]), folder.name[3:]
        if number > 0:
            start = pathlib.Path(place, f"ch{number:02}-start")
            start.mkdir()
            make_start(source, number, start)
            found.append((start.name, commit(start, f"Chapter {number:02}, {title}: where it begins", parent, index), start))
        tree = pathlib.Path(place, f"ch{number:02}")
        tree.mkdir()
        make_tree(source, number, tree)
        parent = commit(tree, f"Chapter {number:02}: {title}", parent, index)
        found.append((tree.name, parent, tree))
    return found


def lines(place):
    """Lines of Rust below src/, without unit tests."""
    count = 0
    for path in (place / "src").rglob("*.rs"):
        if not path.name.endswith("tests.rs"):
            text = re.split(r"^#\[cfg\(test\)\]\nmod tests \{", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)[0]
            count += len(text.splitlines())
    return count


def verb(_options):
    """`scripts/chapters branches`."""
    status = 0
    with tempfile.TemporaryDirectory(prefix="mydocker-branches-") as place:
        for name, made, tree in make(place):
            there = subprocess.run(["git", "-C", str(course.REPO), "rev-parse", "-q", "--verify", f"refs/heads/{name}"],
                                   stdout=subprocess.PIPE, text=True).stdout.strip()  # fmt: skip
            if there == made:
                what = "as it was"
            elif there and git("log", "-1", "--format=%ce", there) != MAIL:
                what, status = f"LEFT ALONE: somebody's commit {there[:12]} is on it", 1
            elif there and name in {line.split()[-1] for line in git("worktree", "list", "--porcelain").split("\n")
                                    if line.startswith("branch")} | checked_out():  # fmt: skip
                what, status = "LEFT ALONE: it is checked out in a work tree", 1
            else:
                git("update-ref", f"refs/heads/{name}", made, there or "0" * 40)
                what = "moved" if there else "made"
            print(f"{name:<12} {made[:12]}  {lines(tree):>6} lines of Rust  {what}")
    return status


def checked_out():
    text = git("worktree", "list", "--porcelain")
    return {line.removeprefix("branch refs/heads/") for line in text.split("\n") if line.startswith("branch ")}


def matrix(options):
    """`scripts/chapters matrix`: builds every branch's tree, runs its unit tests, and asks its program every check."""
    from . import check

    target = pathlib.Path(options.target or course.REPO / "target/branches")
    columns, names, status = [], [], 0
    with tempfile.TemporaryDirectory(prefix="mydocker-branches-") as place:
        for name, _, tree in make(place):
            if options.chapter is not None and not name.startswith(f"ch{options.chapter:02}"):
                continue
            cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
            # Cargo knows packages by their place in their workspace: to it, all these are the same one.
            for path in tree.rglob("*.rs"):
                path.touch()
            where = ["--quiet", "--locked", "--offline", "--target-dir", str(target)]
            built = subprocess.run([cargo, "build", "--all-targets", *where], cwd=tree, stderr=subprocess.PIPE, text=True)
            warnings = len(re.findall(r"^warning: (?!`mydocker`)", built.stderr, re.M))
            print(f"{name:<12} {'builds' if built.returncode == 0 else 'DOES NOT BUILD'}, {warnings} warnings", flush=True)
            if built.returncode:
                print("\n".join(built.stderr.splitlines()[:30]))
                status = 1
                continue
            if options.build:
                continue
            part = "--lib" if (tree / "src/lib.rs").exists() else "--bins"
            tests = subprocess.run([cargo, "test", part, *where], cwd=tree, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)  # fmt: skip
            passed = re.search(r"(\d+) passed", tests.stdout)
            if tests.returncode or not passed:
                print(f"  its unit tests fail:\n{tests.stdout}")
                status = 1
            else:
                print(f"  {passed[1]} unit tests pass", flush=True)
            found = check.findings(target / "debug/mydocker", 99)
            reached = int(name[2:4]) - name.endswith("-start")
            bad = [one for one in found if one["chapter"] <= reached and one["verdict"] in ("wrong", "not-reached")]
            for one in bad:
                print(f"  {one['chapter']:02} {one['name']}: {check.WORDS[one['verdict']]}: {one['text']}")
            status |= bool(bad)
            names.append(name)
            columns.append(found)
    signs = {"ok": "+", "wrong": "x", "not-reached": ".", "cannot": "-"}
    if columns:
        print(f"\n{'':<48}" + "".join(f" {name:<10}" for name in names))
        for row, one in enumerate(columns[0]):
            marks = "".join(f" {signs[column[row]['verdict']]:<10}" for column in columns)
            print(f"{one['chapter']:02} {one['name']:<45}{marks}")
        print("\n+ holds, x wrong, . not reached yet, - this machine cannot")
    return status


def start(options):
    """`scripts/chapters start N`: a branch and a work tree of the student's own."""
    chapter = course.chapter(options.chapter)
    if chapter.number == 0:
        raise course.Failure("chapter 00 has nothing to write", f"less {course.relative(chapter.page())}")
    branch, origin = f"my-{chapter.name}", f"{chapter.name}-start"
    folder = course.REPO.parent / f"{course.REPO.name}-{chapter.name}"
    if folder.exists():
        raise course.Failure(f"`{folder}` is there already", f"cd {folder}; nothing of it was touched")
    if not git("for-each-ref", f"refs/heads/{origin}"):
        print("the chapters' branches are made first, once:", flush=True)
        verb(options)
    has = git("for-each-ref", f"refs/heads/{branch}")
    git("worktree", "add", *([str(folder), branch] if has else ["-b", branch, str(folder), origin]))
    print(f"branch {branch}, work tree {folder}\n  cd {folder}\n  less chapters/{chapter.folder.name}/README.md\n"
          f"  cargo build && sudo {course.REPO}/scripts/chapters check {chapter.number}")  # fmt: skip
    return 0


def diff(options):
    """`scripts/chapters diff N`: what chapter N adds to the one before."""
    if course.chapter(options.chapter).number == 0:
        raise course.Failure("before chapter 00 there is nothing", "scripts/chapters diff 1")
    one, other = f"ch{options.chapter - 1:02}", f"ch{options.chapter:02}"
    for name in (one, other):
        if not git("for-each-ref", f"refs/heads/{name}"):
            raise course.Failure(f"there is no branch {name}", "scripts/chapters branches")
    return subprocess.run(["git", "-C", str(course.REPO), "diff", *([] if options.all else ["--stat"]), one, other, "--",
                           "src", "Cargo.toml"]).returncode  # fmt: skip


def solution(options):
    """`scripts/chapters solution N`: the chapter's program, and where its rooms are."""
    chapter = course.chapter(options.chapter)
    if not chapter.source().exists():
        raise course.Failure(f"chapter {chapter.number:02} has no program of its own")
    print(chapter.source().read_text(encoding="utf-8"))
    source = {str(path.relative_to(course.REPO)): path.read_text(encoding="utf-8")
              for path in (course.REPO / "src").rglob("*.rs") if not path.name.endswith("tests.rs")}  # fmt: skip
    crate = modules.Crate(source, chapter.number)
    before = [one for one in course.chapters() if one.number < chapter.number and one.source().exists()]
    old = modules.Crate(source, chapter.number - 1).needed(before[-1].source().read_text(encoding="utf-8")) if before else {}
    now = crate.needed(chapter.source().read_text(encoding="utf-8"))
    print(f"Files that open in chapter {chapter.number:02}:", file=sys.stderr)
    for path in sorted(now):
        if path and now[path] and not old.get(path):
            print(f"  {crate.module[path]}")
    return 0
