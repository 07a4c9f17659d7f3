"""The chapters: their folders, their pages, their programs."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
FOLDER = REPO / "chapters"


class Failure(Exception):
    """What stops us, and what to do about it."""

    def __init__(self, text, hint=""):
        super().__init__(text)
        self.hint = hint

    def print(self):
        print(f"chapters: {self}", file=sys.stderr)
        if self.hint:
            print(f"hint: {self.hint}", file=sys.stderr)


@dataclasses.dataclass
class Chapter:
    """One folder of chapters/."""

    number: int
    folder: pathlib.Path

    @property
    def name(self):
        """`ch05`."""
        return f"ch{self.number:02}"

    @property
    def word(self):
        """`volumes`."""
        return self.folder.name.split("-", 1)[1]

    def page(self, lang="en"):
        return self.folder / ("README.zh-CN.md" if lang == "zh" else "README.md")

    def title(self):
        """The page's first heading, without its number."""
        try:
            first = self.page().read_text(encoding="utf-8").split("\n", 1)[0]
        except OSError:
            return "(no page)"
        return re.sub(r"^#+\s*((Project )?\d+\s*[:·.]?\s*)?", "", first)

    def source(self):
        return self.folder / "mydocker.rs"


def chapters():
    """All of them, in order."""
    found = []
    for folder in sorted(FOLDER.iterdir()):
        if folder.is_dir() and re.match(r"\d\d-", folder.name):
            found.append(Chapter(int(folder.name[:2]), folder))
    return found


@dataclasses.dataclass
class Project(Chapter):
    """One folder of chapters/projects/; its program is the product."""

    @property
    def name(self):
        return f"project-{self.word}"

    @property
    def word(self):
        """`counter`."""
        return self.folder.name


def projects():
    """After the last chapter, in order; a chapter's branch has none."""
    found = [Project(number, FOLDER / "projects" / name) for number, name in enumerate(("web", "counter"), 1)]
    return [one for one in found if one.folder.is_dir()]


def project(name):
    for one in projects():
        if one.word == name:
            return one
    raise Failure(f"there is no project `{name}`", "scripts/chapters project list")


def page_name(text):
    """What says which page: a chapter's number, or a project's name."""
    return int(text) if text.isdigit() else text


def chosen(name):
    """Chapter `name`, that project, or all of them."""
    if name is None:
        return chapters() + projects()
    return [chapter(name) if isinstance(name, int) else project(name)]


def chapter(number):
    for one in chapters():
        if one.number == number:
            return one
    last = chapters()[-1].number
    raise Failure(f"there is no chapter {number}", f"there are 0 to {last}: scripts/chapters list")


def relative(path):
    """As it is named in the repository."""
    try:
        return str(pathlib.Path(path).relative_to(REPO))
    except ValueError:
        return str(path)


def bundled():
    """Whether this is an archive of `bundle`, unpacked: nothing can be built, and nothing need be."""
    return (REPO / "bin" / "mydocker").exists()


def programs(folder=None):
    """The folder that holds the programs chNN; beside it, one level up, is the product."""
    if folder:
        return pathlib.Path(folder).resolve()
    if bundled():
        return REPO / "target" / "debug" / "examples"
    return build(["--examples", "--bin", "mydocker"]) / "examples"


def everywhere():
    """What has cargo build programs that run on older machines too: (words, environment)."""
    text = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, text=True).stdout
    host = re.search(r"^host: (.+)$", text, re.M)
    if not host:
        raise Failure("there is no rustc", "--bin, --programs and MYDOCKER_CHECKER take what is built")
    return ["--target", host[1]], {**os.environ, "RUSTFLAGS": "-C target-feature=+crt-static"}


def build(words, cwd=REPO, target=None, env=None):
    """Has cargo build what the words name; the folder that holds it."""
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    line = [cargo, "build", "--quiet", "--locked", *words, "--message-format=json-render-diagnostics"]
    if target:
        line += ["--target-dir", str(target)]
    try:
        built = subprocess.run(line, cwd=cwd, stdout=subprocess.PIPE, text=True, env=env)
    except OSError as error:
        raise Failure(f"cannot run cargo: {error}", "--programs DIR, or --bin PATH, takes what is built") from None
    if built.returncode:
        raise Failure(f"`{' '.join(line[:4])}` failed", "its words are above")
    made = [json.loads(line) for line in built.stdout.splitlines()]
    made = [one["executable"] for one in made if one.get("executable")]
    bins = [path for path in made if os.path.basename(os.path.dirname(path)) != "examples"]
    first = pathlib.Path(bins[0] if bins else made[0])
    return first.parent if bins else first.parent.parent


def program(chapter_, folder):
    """The program of one chapter; before the first there is only the product."""
    path = folder / chapter_.name
    if not path.exists() and (chapter_.number == 0 or isinstance(chapter_, Project)):
        path = folder.parent / "mydocker"
        path = path if path.exists() else folder / "mydocker"
    if not path.exists():
        raise Failure(f"there is no {path}", "scripts/chapters bundle --all" if bundled() else "cargo build --examples --bins")
    return path
