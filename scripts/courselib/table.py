"""What each chapter's program can say, from its own --help; a chapter may only add to it."""

from __future__ import annotations

import re
import subprocess

from . import course

PATH = course.FOLDER / "CAPABILITIES.md"


def words(program):
    """{verb: {flags}} of a program."""
    text = help_of(program)
    verbs = re.findall(r"^  ([a-z]+)  ", text.split("Commands:", 1)[-1].split("Options:", 1)[0], re.M)
    return {verb: flags(help_of(program, verb)) for verb in verbs if verb != "help"}


def help_of(program, *verbs):
    ran = subprocess.run([str(program), *verbs, "--help"], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    return ran.stdout


def flags(text):
    """The long names, and the short ones of those that have no long one."""
    found = set()
    for line in text.splitlines():
        option = re.match(r"\s+(-\w)?(?:, )?(--[a-z][\w-]*)?", line)
        if option and (option[1] or option[2]):
            found.add(option[2] or option[1])
    return found - {"--help"}


def verb(options):
    """`scripts/chapters table`."""
    folder = course.programs(options.programs)
    chapters = [one for one in course.chapters() if one.source().exists()]
    known = {one.number: words(course.program(one, folder)) for one in chapters}
    known[None] = words(folder.parent / "mydocker")
    status, before, rows = 0, {}, []
    names = {one.number: f"{one.number:02} {one.word}" for one in chapters} | {None: "the product"}
    for number, now in known.items():
        lost = [f"`{name}`" for name in before if name not in now]
        lost += [f"`{name} {flag}`" for name in before if name in now for flag in sorted(before[name] - now[name])]
        if lost:
            print(f"{names[number]} has lost {', '.join(lost)}")
            status = 1
        new = [f"`{name}`" for name in now if name not in before]
        more = [
            f"`{name}`: " + " ".join(f"`{flag}`" for flag in sorted(now[name] - before.get(name, set())))
            for name in now
            if (name == "run" or name in before) and now[name] - before.get(name, set())
        ]
        rows.append(f"| {names[number]} | {' '.join(new)} | {'; '.join(more)} |")
        before = now
    text = "\n".join([
        "# What each chapter's program can do",
        "",
        "Made by `scripts/chapters table` from every program's `--help`. A chapter only adds: the tests see to that.",
        "",
        "| chapter | new commands | new flags |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip
    if options.check:
        if not PATH.exists() or PATH.read_text(encoding="utf-8") != text:
            print(f"{course.relative(PATH)} is not what the programs say: scripts/chapters table")
            status = 1
    else:
        PATH.write_text(text, encoding="utf-8")
        print(text)
    return status
