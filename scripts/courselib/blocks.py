"""What a page holds: its console blocks, the commands in them, and the lines that it shows."""

from __future__ import annotations

import dataclasses
import re

from .course import Failure, relative

WORDS = {"skip", "needs", "numbers", "retry", "timeout", "prompt"}


@dataclasses.dataclass
class Typed:
    """A line, typed or run, and what the page shows of its output."""

    text: str
    line: int
    """Where it stands, from 1."""
    shown: list
    """Lines, as they stand in the page."""


@dataclasses.dataclass
class Command(Typed):
    """A command, and what is typed into it if it gets a terminal."""

    inner: list = dataclasses.field(default_factory=list)
    first: int = 0
    """The number of its first line of output."""


@dataclasses.dataclass
class Block:
    """One console block."""

    line: int
    words: dict
    commands: list

    def number(self, word, otherwise):
        return float(self.words.get(word, otherwise))


def read(path):
    """The console blocks of a page."""
    blocks, opened, start, fence = [], None, 0, ""
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if opened is None:
            found = re.match(r"(```+)\s*(\S*)\s*(.*)$", line)
            if found:
                fence, opened, start = found[1], (found[2], found[3]), number
        elif line.rstrip() == fence:
            if opened[0] == "console":
                blocks.append(block(path, start, opened[1], lines[start:number - 1]))
            opened = None
    if opened is not None:
        raise Failure(f"{relative(path)}:{start}: this block has no end")
    return blocks


def block(path, start, said, lines):
    """The block that opens in line `start`."""
    words = dict(re.findall(r'([\w-]+)="([^"]*)"', said))
    rest = re.sub(r'[\w-]+="[^"]*"', "", said).strip()
    wrong = sorted(set(words) - WORDS) + ([rest] if rest else [])
    if wrong:
        raise Failure(f"{relative(path)}:{start}: what is `{wrong[0]}`?", "scripts/chapters --help lists the words")
    prompt = words.get("prompt", "/ # ")
    commands = []
    for number, line in enumerate(lines, start + 1):
        last = commands[-1] if commands else None
        if line.startswith("$ "):
            commands.append(Command(line[2:], number, [], first=number + 1))
        elif last is None:
            raise Failure(f"{relative(path)}:{number}: a console block begins with `$ COMMAND`")
        elif (line.startswith(prompt) or line == prompt.rstrip()) and line.strip():
            last.inner.append(Typed(line[len(prompt):], number, []))
        elif line.startswith("> ") and not last.shown and not last.inner:
            last.text += "\n" + line[2:]
            last.first = number + 1
        else:
            (last.inner[-1] if last.inner else last).shown.append(line)
    return Block(start, words, commands)


def without_comments(path):
    """The blocks as one text, for the comparison of two languages: comments behind a command are left out."""
    text = []
    for one in read(path):
        text.append("```console " + " ".join(f'{key}="{value}"' for key, value in one.words.items() if key != "skip"))
        for command in one.commands:
            text.append("$ " + re.sub(r"\s+# .*$", "", command.text, flags=re.M))
            text += command.shown
            for typed in command.inner:
                text.append(typed.text)
                text += typed.shown
    return text
