"""Which Chinese sections render an English one that has changed since."""

from __future__ import annotations

import hashlib
import re

from . import blocks
from .course import FOLDER, chosen, relative

MARK = re.compile(r"^<!-- en: ([0-9a-f]*) -->$")


def sections(path):
    """[(line, lines)]: the top, then one for each `## `; a fence hides what looks like a heading."""
    found, fence = [(1, [])], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        opened = re.match(r"```+", line)
        if opened:
            fence = "" if fence == opened[0] else (fence or opened[0])
        if line.startswith("## ") and not fence:
            found.append((number, []))
        found[-1][1].append(line.rstrip())
    return found


def digest(lines):
    """Ten digits of the section's hash; its own marks do not count."""
    text = "\n".join(line for line in lines if not MARK.match(line)).strip()
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def pairs(name=None):
    """[(English, Chinese)] of everything that is there in Chinese."""
    found = sorted(FOLDER.rglob("*.zh-CN.md"))
    folders = {one.folder for one in chosen(name)}
    return [
        (path.with_name(path.name.replace(".zh-CN", "")), path)
        for path in found
        if name is None or path.parent in folders
    ]


def lagging(name=None):
    """One line for each section that lags behind, or whose console blocks are other ones."""
    told = []
    for english, chinese in pairs(name):
        if not english.exists():
            told.append(f"{relative(chinese)}: there is no {english.name}")
            continue
        ours, theirs = sections(english), sections(chinese)
        if len(ours) != len(theirs):
            told.append(f"{relative(chinese)}: {len(theirs)} sections, and {len(ours)} in {english.name}")
            continue
        for (_, source), (line, lines) in zip(ours, theirs):
            marks = [found[1] for found in map(MARK.match, lines) if found]
            if marks != [digest(source)]:
                title = next((one for one in source if one.strip()), "")
                why = "has changed since" if marks else "has no mark here"
                told.append(f"{relative(chinese)}:{line}: `{title}` {why}")
        one, other = blocks.without_comments(english), blocks.without_comments(chinese)
        if one != other:
            at = next((i for i, both in enumerate(zip(one, other)) if both[0] != both[1]), min(len(one), len(other)))
            theirs = other[at] if at < len(other) else "(nothing more)"
            told.append(f"{relative(chinese)}: its console blocks are not those of {english.name}: `{theirs}`")
    return told


def stale(_options):
    """`scripts/chapters stale`."""
    told = lagging()
    print("\n".join(told) if told else f"{len(pairs())} translations, none lags behind")
    return 1 if told else 0


def stamp(options):
    """`scripts/chapters stamp`: writes the hashes, section by section."""
    status = 0
    for english, chinese in pairs(options.chapter):
        ours, theirs = sections(english), sections(chinese)
        if len(ours) != len(theirs):
            print(f"{relative(chinese)}: {len(theirs)} sections, and {len(ours)} in {english.name}: not stamped")
            status = 1
            continue
        text = []
        for (_, source), (_, lines) in zip(ours, theirs):
            lines = [line for line in lines if not MARK.match(line)]
            at = next((i for i, line in enumerate(lines) if line.strip()), 0)
            first = lines[at].startswith("#") if lines else False
            lines.insert(at + 1 if first else at, f"<!-- en: {digest(source)} -->")
            text += lines
        chinese.write_text("\n".join(text), encoding="utf-8")
        print(f"{relative(chinese)}: {len(ours)} sections")
    return status
