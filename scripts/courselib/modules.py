"""Which source files a program needs: follows the `use` lines, file by file, and leaves out the rest.

No copy of the compiler: paths are followed as they are written (`crate::`, `super::`, `mod`, `pub use`), which is enough
for code that keeps to the house's rules; `scripts/chapters matrix` has the compiler say so.
"""

from __future__ import annotations

import re


# Comments, strings of all kinds, quoted letters: whichever begins first.
STRANGE = re.compile(r"""//[^\n]*|r#"(?s:.*?)"#|r"[^"]*"|"(?:[^"\\]|\\(?s:.))*"|'(?:[^'\\]|\\[^']+)'""")


def plain(text):
    """Without tests, comments and strings, which may hold what looks like a path."""
    text = re.split(r"^#\[cfg\(test\)\]\s*\n(?:#\[path.*\n)?mod tests", text, maxsplit=1, flags=re.M)[0]
    return STRANGE.sub("", text)


def leaves(tree, prefix=()):
    """`a::{b, c::{d, self}}` as paths; a new name behind `as` is dropped."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        return [(*prefix, *[part.strip() for part in re.sub(r"\s+as\s+\w+", "", tree).split("::")])]
    head = tuple(part.strip() for part in tree[:brace].rstrip(": \n").split("::") if part.strip())
    inner, depth, start, found = tree[brace + 1:tree.rindex("}")], 0, 0, []
    for at, letter in enumerate(inner + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if inner[start:at].strip():
                found += leaves(inner[start:at], (*prefix, *head))
            start = at + 1
    return found


# `CODE // ch07`, `// ch07` above a statement or an item, either with `, before: CODE`; `// before ch07: CODE`.
MARK = re.compile(r"^(?P<code>(?P<space>\s*).*?)\s*// (?:ch(?P<since>\d\d)(?:, before: (?P<before>.*))?|before ch(?P<until>\d\d): (?P<early>.*))$")


def opened(text, chapter):
    """The file as it stands in a chapter: what a later one adds is left out, the marks that say so too.

    A mark at a line's end is about that line. One on a line of its own is about what follows it: a statement, an item,
    a field or an arm, with its comments, up to where its brackets are closed.
    """
    lines, kept, at = text.split("\n"), [], 0
    while at < len(lines):
        found, at = MARK.match(lines[at]), at + 1
        if not found:
            kept.append(lines[at - 1])
            continue
        space, code, alone = found["space"], found["code"].rstrip(), not found["code"].strip()
        if found["until"]:
            kept += [space + found["early"]] if chapter < int(found["until"]) else []
        elif chapter >= int(found["since"]):
            kept += [] if alone else [code]
        else:
            if alone:
                at = end_of(lines, at)
            else:
                while kept and re.match(r"\s*(///|#\[)", kept[-1]):
                    kept.pop()
            kept += [space + found["before"]] if found["before"] else []
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept))
    return re.sub(r"\n\n(\s*\})", r"\n\1", re.sub(r"(\{)\n\n", r"\1\n", text))


def end_of(lines, at):
    """The number behind the last line of what begins in line `at`."""
    depth = 0
    while at < len(lines):
        line, at = STRANGE.sub("", lines[at]).strip(), at + 1
        depth += sum(line.count(one) for one in "([{") - sum(line.count(one) for one in ")]}")
        if depth <= 0 and line.endswith((";", ",", "}")) and not line.startswith("#["):
            break
    return at


class Crate:
    """All files below src/, by module path: () is lib.rs; as they stand in a chapter."""

    def __init__(self, files, chapter=99):
        # {"src/plan/mod.rs": text}; the faults of the labs are no chapter's.
        self.files = {
            name: opened(re.sub(r"^ *#\[cfg\(feature = \"labs\"\)\]\n[^\n]*\n", "", text, flags=re.M), chapter)
            for name, text in files.items()
        }
        self.module = {}
        for name in files:
            parts = name[len("src/"):-len(".rs")].split("/")
            if parts[-1] in ("mod", "lib"):
                parts.pop()
            if name != "src/main.rs":
                self.module[tuple(parts)] = name
        self.exports = {}
        self.privates = {}
        for path, name in self.module.items():
            self.scan(path, plain(self.files[name]))

    def scan(self, path, text):
        exports, privates = {}, []
        for visible, tree in re.findall(r"^\s*(pub(?:\([a-z]+\))? )?use ([^;]+);", text, re.M):
            for leaf in leaves(tree):
                leaf = leaf[:-1] if leaf[-1] == "self" else leaf
                if visible and len(leaf) > 1:
                    exports[leaf[-1]] = leaf
                else:
                    privates.append(leaf)
        body = re.sub(r"^\s*(pub(?:\([a-z]+\))? )?use [^;]+;", "", text, flags=re.M)
        for inline in re.findall(r"\b(?:[a-z_]\w*::)+\w+", body):
            privates.append(tuple(inline.split("::")))
        body = re.sub(r"^\s*(pub(?:\([a-z]+\))? )?mod \w+;", "", body, flags=re.M)
        # What the folder hands on, its own code may use too; `wait::…` is a module, `wait(…)` what it hands on.
        words = set(re.findall(r"(?<![\w:.])(?:[A-Z]\w*|[a-z_]\w*(?!\w|::))", body))
        privates += [leaf for name, leaf in exports.items() if name in words]
        self.exports[path], self.privates[path] = exports, privates

    def absolute(self, path, leaf):
        """The leaf as a path from the crate's root; `None`: another crate's."""
        if leaf[0] in ("crate", "mydocker"):
            return leaf[1:]
        if leaf[0] == "self":
            return (*path, *leaf[1:])
        at = path
        while leaf and leaf[0] == "super":
            at, leaf = at[:-1], leaf[1:]
            if leaf and leaf[0] != "super":
                return (*at, *leaf)
        if (*path, leaf[0]) in self.module:
            return (*path, *leaf)
        # A module that this file has imported by name.
        for one in self.privates.get(path, []):
            if one[-1] == leaf[0] and one != leaf and len(one) > 1:
                full = self.absolute(path, one)
                if full and full in self.module:
                    return (*full, *leaf[1:])
        return None

    def targets(self, full, seen=()):
        """{module path: whole} that a full path leads through; of a folder that only hands on a name, the door does."""
        at, found = (), {(): False}
        for index, part in enumerate(full):
            if (*at, part) in self.module:
                at = (*at, part)
                found[at] = index + 1 == len(full)
                continue
            leaf = self.exports.get(at, {}).get(part)
            again = self.absolute(at, leaf) if leaf and (at, part) not in seen else None
            if again:
                found.update(self.targets((*again, *full[index + 1:]), (*seen, (at, part))))
            else:
                found[at] = True
            break
        return found

    def needed(self, program):
        """{module path: whole} that a program (its text) needs."""
        wanted, open_ = {}, []
        text = plain(program)
        starts = [leaf for _, tree in re.findall(r"^\s*(pub )?use ([^;]+);", text, re.M) for leaf in leaves(tree)]
        starts += [("mydocker", "cli", word) for word in re.findall(r"cli::(\w+)", text)]
        for leaf in starts:
            if leaf[0] == "mydocker":
                open_ += self.targets(leaf[1:]).items()
        while open_:
            path, whole = open_.pop()
            whole = whole or self.is_file(path)
            if wanted.get(path, False) or (path in wanted and not whole):
                continue
            wanted[path] = whole
            open_ += [(path[:end], False) for end in range(len(path))]
            if whole and path != ():
                for leaf in self.privates[path]:
                    full = self.absolute(path, leaf)
                    if full is not None:
                        open_ += self.targets(full).items()
        return wanted

    def has(self, full):
        """Whether the name is there, in this chapter."""
        where = max((one for one in self.targets(full)), key=len)
        if full == where or full[-1] in self.exports.get(where, {}) or full[-1] in ("self", "*"):
            return True
        return re.search(rf"\b(?:fn|struct|enum|const|static|type|trait|macro_rules!) {full[-1]}\b", self.files[self.module[where]])

    def is_file(self, path):
        """One without files below it, which makes sense only as a whole."""
        return path != () and not any(len(name) > len(path) and name[:len(path)] == path for name in self.module)

    def trimmed(self, wanted):
        """{file: text} with the `mod` and `pub use` lines of what is left out left out."""
        texts = {path: self.trim(path, wanted) for path in wanted if path in self.module}
        return {self.module[path]: self.without_far_tests(path, text, wanted) for path, text in texts.items()}

    def without_far_tests(self, path, text, wanted):
        """Unit tests that need what is left out are left out too."""
        block = re.search(r"^#\[cfg\(test\)\]\nmod tests \{\n.*\Z", text, re.M | re.S)
        if not block:
            return text
        inner = STRANGE.sub("", block[0])
        paths = [leaf for tree in re.findall(r"^\s*use ([^;]+);", inner, re.M) for leaf in leaves(tree)]
        paths += [tuple(one.split("::")) for one in re.findall(r"\b(?:[a-z_]\w*::)+\w+", inner)]
        for leaf in paths:
            full = self.absolute((*path, "tests"), leaf) if leaf[0] in ("crate", "super") else self.absolute(path, leaf)
            if full and any(one not in wanted for one in self.targets(full)):
                return text[:block.start()].rstrip() + "\n"
        return text

    def trim(self, path, wanted):
        text = self.files[self.module[path]]
        if not wanted[path] and path != ():
            docs = re.match(r"(?://![^\n]*\n)*", text)[0]
            text = re.sub(r"^#\[cfg\(test\)\]\n(?:#\[[^\n]*\n)*mod \w+;\n", "", text, flags=re.M)
            doors = re.findall(r"^(?:pub(?:\(\w+\))? )?mod \w+;\n|^pub(?:\(\w+\))? use [^;]+;\n", text, re.M)
            text = docs + "\n" + "".join(doors)
        children = [name[-1] for name in self.module if len(name) == len(path) + 1 and name[:-1] == path]
        gone = {name for name in children if (*path, name) not in wanted}
        for name in gone:
            text = re.sub(rf"^(?:#\[[^\n]*\]\n)*(?:pub(?:\(\w+\))? )?mod {name};\n", "", text, flags=re.M)
            text = re.sub(rf"^//! \|[^\n]*\[`{name}`\][^\n]*\n", "", text, flags=re.M)

        def keep(found):
            kept = []
            for leaf in leaves(found[2]):
                full = self.absolute(path, leaf)
                if full is None or all(one in wanted for one in self.targets(full)) and self.has(full):
                    kept.append(leaf)
            whole = leaves(found[2])
            if len(kept) == len(whole):
                return found[0]
            if not kept:
                return ""
            head = kept[0][:-1]
            names = ", ".join(sorted(one[-1] for one in kept))
            names = names if len(kept) == 1 else "{" + names + "}"
            return f"{found[1]}use {'::'.join([*head, names])};\n"

        return re.sub(r"^(pub(?:\(\w+\))? )use ([^;]+);\n", keep, text, flags=re.M)
