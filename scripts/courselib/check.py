"""Asks a binary the checks of the chapters: any binary, in any language, offline.

The checks are Rust (tests/chapters); what asks them is the compiled test, which judges by what the kernel shows. Here it
is found or built, told which binary and how far, and its findings are put into words.
"""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
from xml.sax.saxutils import escape, quoteattr

from . import course

WORDS = {"ok": "ok", "wrong": "WRONG", "not-reached": "not reached yet", "cannot": "this machine cannot"}


def checker(words=(), env=None):
    """The compiled checks: one that was given (a bundle's), else cargo's, built with `words` and `env`."""
    given = os.environ.get("MYDOCKER_CHECKER") or course.REPO / "bin" / "checker"
    if os.access(given, os.X_OK):
        return pathlib.Path(given)
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    line = [cargo, "test", "--quiet", "--no-run", "--test", "chapters", *words, "--message-format=json-render-diagnostics"]
    try:
        building = subprocess.Popen(line, cwd=course.REPO, stdout=subprocess.PIPE, text=True, env=env)
    except OSError as error:
        raise course.Failure(f"cannot run cargo: {error}", "MYDOCKER_CHECKER=FILE names compiled checks") from None
    with building:
        try:
            told, _ = building.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            print("the checks are being compiled: some minutes, the first time", file=sys.stderr)
            told, _ = building.communicate()
    for one in reversed([json.loads(text) for text in told.splitlines()]):
        if one.get("executable") and one.get("target", {}).get("name") == "chapters":
            return pathlib.Path(one["executable"])
    raise course.Failure("the checks could not be compiled", "its words are above")


def findings(binary, last, only=None, lab=None, test="the_binary"):
    """[{"chapter", "name", "verdict", "text"}], in the order of the chapters; `lab` holds variables for the checks."""
    if os.geteuid() != 0:
        raise course.Failure("only root can make containers", "sudo scripts/chapters …")
    # The checks' own folders lie in there, too: whoever ends them in the middle leaves none.
    with tempfile.TemporaryDirectory(prefix="mydocker-check-", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o711)
        out = pathlib.Path(place, "findings")
        variables = {"MYDOCKER_BIN": str(binary), "MYDOCKER_CHAPTER": str(last), "MYDOCKER_FINDINGS": str(out),
                     "TMPDIR": place}  # fmt: skip
        if only:
            variables["MYDOCKER_CHECK"] = only
        if lab:
            variables.update(lab)
        # As cargo would run it: the checks have paths of their own only where they build.
        words = [str(checker()), "--exact", test, "--nocapture"]
        asked = subprocess.run(words, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, stdin=subprocess.DEVNULL)  # fmt: skip
        if not out.exists():
            raise course.Failure("the checks did not run", asked.stdout.strip().splitlines()[-1] if asked.stdout else "")
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def default_binary():
    """The binary of the work tree that we are in."""
    for place in (pathlib.Path.cwd(), course.REPO):  # an archive of `bundle` has only the second
        for profile in ("debug", "release"):
            path = place / "target" / profile / "mydocker"
            if path.exists() and (place == pathlib.Path.cwd() or course.bundled()):
                return path
    return course.build(["--bin", "mydocker"]) / "mydocker"


def verb(options):
    """`scripts/chapters check`."""
    binary = pathlib.Path(options.bin).resolve() if options.bin else default_binary()
    if not (binary.is_file() and os.access(binary, os.X_OK)):
        raise course.Failure(f"`{binary}` is no program", "--bin PATH")
    last = options.chapter if options.chapter is not None else course.chapters()[-1].number
    if last < 1:
        raise course.Failure("chapter 00 has no checks: there is no engine in it", "scripts/chapters check 1")
    course.chapter(last)
    found = findings(binary, last)
    if options.only:
        found = [one for one in found if one["chapter"] == last]
    for one in found:
        one["page"] = where(one)
    print({"md": markdown, "json": as_json, "junit": junit}.get(options.report, text)(found, binary))
    remember(found, binary, last)
    return 1 if any(one["verdict"] in ("wrong", "not-reached") for one in found) else 0


def where(one):
    """`PAGE:LINE: Write it yourself, step N`: the step of the chapter's exercise that the check asks for."""
    if one["verdict"] in ("ok", "cannot"):
        return ""
    try:
        page = course.chapter(one["chapter"]).page()
        steps = json.loads((course.REPO / "tests/chapters/steps.json").read_text(encoding="utf-8"))
        lines = page.read_text(encoding="utf-8").splitlines()
    except (course.Failure, OSError):
        return ""
    begin = next((number for number, line in enumerate(lines) if line.startswith("**Write it yourself.**")), None)
    if begin is None or one["name"] not in steps:
        return course.relative(page)
    mark = f"{steps[one['name']]}. "
    at = next((number for number, line in enumerate(lines[begin:], begin + 1) if line.startswith(mark)), begin + 1)
    return f"{course.relative(page)}:{at}: Write it yourself, step {mark[:-2]}"


def totals(found):
    """`12 ok, 3 wrong`."""
    counts = [(WORDS[word], sum(one["verdict"] == word for one in found)) for word in WORDS]
    return ", ".join(f"{count} {word}" for word, count in counts if count)


def text(found, binary):
    """For a terminal."""
    lines, chapter, said = [f"{binary}"], None, ""
    for one in found:
        if one["chapter"] != chapter:
            chapter = one["chapter"]
            lines.append(f"\nchapter {chapter:02}")
        lines.append(f"  {WORDS[one['verdict']]:<20} {one['name']}")
        if one["verdict"] != "ok":
            lines += [f"      {line}" for line in (one["text"] if one["text"] != said else "the same").splitlines()]
            said = one["text"]
            if one["page"]:
                lines.append(f"      read {one['page']}")
    return "\n".join([*lines, "", totals(found)])


def markdown(found, binary):
    """A table, for a report or a forge."""
    lines = [f"# `{binary.name}`: {totals(found)}", "", "| ch | check | verdict | what the kernel shows | read |",
             "|---|---|---|---|---|"]  # fmt: skip
    for one in found:
        shown = "" if one["verdict"] == "ok" else one["text"].replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {one['chapter']:02} | {one['name']} | {WORDS[one['verdict']]} | {shown} | {one['page']} |")
    return "\n".join(lines)


def as_json(found, binary):
    return json.dumps({"binary": str(binary), "findings": found}, indent=1, ensure_ascii=False)


def junit(found, binary):
    """For continuous integration: wrong and not reached are failures, what the machine cannot is skipped."""
    bad = sum(one["verdict"] in ("wrong", "not-reached") for one in found)
    skipped = sum(one["verdict"] == "cannot" for one in found)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>',
             f'<testsuite name={quoteattr(binary.name)} tests="{len(found)}" failures="{bad}" skipped="{skipped}">']  # fmt: skip
    for one in found:
        case = f'  <testcase classname="ch{one["chapter"]:02}" name={quoteattr(one["name"])}'
        inner = f"message={quoteattr(WORDS[one['verdict']])}>{escape(one['text'])}"
        if one["verdict"] == "ok":
            lines.append(case + "/>")
        elif one["verdict"] == "cannot":
            lines.append(f"{case}><skipped {inner}</skipped></testcase>")
        else:
            lines.append(f"{case}><failure {inner}</failure></testcase>")
    return "\n".join([*lines, "</testsuite>"])


def memory():
    """Where the last check and the hints that were given are remembered: in no work tree, and with who called `sudo`."""
    try:
        home = pathlib.Path(pwd.getpwnam(os.environ["SUDO_USER"]).pw_dir)
    except KeyError:
        home = pathlib.Path.home()
    return pathlib.Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state") / "mydocker-course.json"


def keep(state):
    """Writes it; the file is the student's, also if root has asked."""
    path = memory()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(state), encoding="utf-8")
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        for one in (path, path.parent, path.parent.parent):
            if one.stat().st_uid == 0 and one.is_relative_to(pathlib.Path(pwd.getpwuid(int(os.environ["SUDO_UID"])).pw_dir)):
                os.chown(one, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", -1)))


def remember(found, binary, last):
    bad = next((one for one in found if one["verdict"] in ("wrong", "not-reached")), None)
    try:
        keep({"binary": str(binary), "chapter": last, "finding": bad, "hints": 0})
    except (KeyError, OSError) as error:
        print(f"chapters: not remembered: {error}", file=sys.stderr)


def hint(_options):
    """`scripts/chapters hint`: one more about the first check that the last `check` has not passed."""
    try:
        last = json.loads(memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise course.Failure("no check was asked yet", "scripts/chapters check N --bin PATH") from None
    one = last["finding"]
    if not one:
        print("the last check found nothing wrong: scripts/chapters next")
        return 0
    chapter = course.chapter(one["chapter"])
    hints = [
        f"the kernel's answer: {one['text']}",
        f"read {where(one)}",
        "the check itself says what it looks at: tests/chapters/" + f"{chapter.name}.rs, `{one['name']}`",
        f"what `{chapter.name}` does there, as shell commands with a reason each: {plan(chapter)} run --dry-run sh\n"
        f"and its source: scripts/chapters solution {chapter.number}",
    ]
    last["hints"] = min(last["hints"] + 1, len(hints))
    print(f"chapter {one['chapter']:02}, {one['name']}; hint {last['hints']} of {len(hints)}:\n{hints[last['hints'] - 1]}")
    keep(last)
    return 0


def plan(chapter):
    """The chapter's own program, as it is started from here."""
    places = [course.REPO / "bin" / chapter.name, course.REPO / "target/debug/examples" / chapter.name]
    return next((str(one) for one in places if one.exists()), f"cargo run -q --example {chapter.name} --")


def following(_options):
    """`scripts/chapters next`: what comes after the last check. It only tells: nobody's work is touched."""
    try:
        last = json.loads(memory().read_text(encoding="utf-8"))
        reached, one = last["chapter"], last["finding"]
    except (KeyError, OSError, ValueError):
        first = course.chapters()[0]
        print(f"no check was asked yet: begin with {course.relative(first.page())}")
        return 0
    if one:
        print(f"chapter {one['chapter']:02} is not done: {one['name']}\n  scripts/chapters hint\n"
              f"  sudo scripts/chapters check {reached} --bin {last['binary']}")  # fmt: skip
        return 1
    chapters = [chapter for chapter in course.chapters() if chapter.number > reached]
    if not chapters:
        print(f"chapter {reached:02} is done, and it is the last one.")
        for project in course.projects():
            print(f"  project {project.word}: {project.title()}: {course.relative(project.page())}")
        return 0
    chapter = chapters[0]
    print(f"chapter {reached:02} is done. Next: chapter {chapter.number:02}, {chapter.title()}\n"
          f"  less {course.relative(chapter.page())}")  # fmt: skip
    if (course.REPO / ".git").exists():
        print(f"  scripts/chapters start {chapter.number}      a work tree of its own, with the course's chapters before it; yours stays as it is")
    print(f"  sudo scripts/chapters check {chapter.number} --bin {last['binary']}")
    return 0
