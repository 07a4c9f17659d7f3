"""Executes a page, block by block, and compares what comes with what the page shows."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from . import blocks, compare, course, figures, hosts

# The page's shell: it is handed one command after the other in a file, so that what it starts has an empty stdin and
# the shell keeps its variables, functions and background jobs.
SHELL = r"""
while IFS= read -r _step <&198; do
    eval "$(<"$_step")" </dev/null >"$_step.out" 2>&1
    echo done >&199
done
"""


def verb(options):
    """`scripts/chapters pages`."""
    why = hosts.unable()
    if why:
        print(f"skipped: {why}", file=sys.stderr)
        return 0
    folder = course.programs(options.programs)
    status = 0
    for chapter in course.chosen(options.chapter):
        page = chapter.page(options.lang)
        if options.if_ready and not (chapter.page("zh").exists() and chapter.page().exists()):
            print(f"skipped: {course.relative(chapter.folder)}: not there in both languages yet", file=sys.stderr)
            continue
        job = {
            "page": str(page),
            "program": str(course.program(chapter, folder)),
            "show": options.show,
            "write": options.write,
        }
        failed, written = hosts.enter(job)
        status |= failed
        if written:
            page.write_text(written, encoding="utf-8")
    return 1 if status else 0


def inside(options):
    """In the page's own host: PID 1 there."""
    job = json.loads(options.job)

    def work():
        if "figure" in job:
            return figures.inside(job)
        page = Page(pathlib.Path(job["page"]), job)
        hosts.furnish(job)
        return page.run()

    return hosts.as_init(work)


class Page:
    """One page, one shell, one guard."""

    def __init__(self, path, job):
        self.path, self.job = path, job
        self.name = course.relative(path)
        self.blocks = blocks.read(path)
        self.came = []
        """Of each thing that was run or typed: (block, typed, the lines that came)."""
        self.serial = 0
        # All of this may lie below the old /tmp, which is out of sight in a moment.
        self.text = path.read_text(encoding="utf-8")
        self.terminal = pathlib.Path(__file__).with_name("terminal.py").read_text(encoding="utf-8")

    def say(self, text):
        print(text, flush=True)

    def run(self):
        began = time.monotonic()
        guard = hosts.Guard()
        self.steps = "/tmp/steps"
        os.makedirs(self.steps)
        pathlib.Path(self.steps, "terminal.py").write_text(self.terminal, encoding="utf-8")
        self.open()
        skipped, ok = 0, True
        try:
            for block in self.blocks:
                why = self.missing(block)
                if why:
                    skipped += 1
                    self.say(f"skipped: {self.name}:{block.line}: {why}")
                    continue
                for command in block.commands:
                    if not self.execute(block, command):
                        ok = False
                        break
                if not ok:
                    break
        finally:
            self.close()
        wrong = self.differences() if ok else []
        if self.job["write"] and wrong:
            self.write(wrong)
            wrong = []
        for text in wrong:
            self.say(text[-1])
        ok = ok and not wrong
        if ok:
            left = guard.changes()
            ok = not left
            if left:
                self.say(f"{self.name}: the host is not as it was:\n  " + "\n  ".join(left))
        count = len(self.came)
        self.say(f"{self.name}: {count} commands, {skipped} blocks skipped, {time.monotonic() - began:.1f} s: "
                 + ("ok" if ok else "FAILED"))  # fmt: skip
        return 0 if ok else 1

    def missing(self, block):
        """Why the block is not run here; empty: it is."""
        if "skip" in block.words:
            return block.words["skip"]
        for need in block.words.get("needs", "").split():
            unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
            if need in ("v1", "v2"):
                if unified != (need == "v2"):
                    return f"this machine has cgroup {'v2' if unified else 'v1'}"
            elif need == hosts.IMAGE.name:
                if not os.path.exists(f"{hosts.LAB}/{need}"):
                    return f"`{need}` was not made yet: the ignored test of the project `counter` makes it"
            elif not shutil.which(need):
                return f"`{need}` is not installed"
        return ""

    def open(self):
        """The shell, with its two pipes at 198 and 199."""
        theirs, self.hand = os.pipe()
        self.ear, echo = os.pipe()
        environment = {
            "PATH": "/tmp/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": hosts.LAB, "TERM": "dumb", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "USER": "root",
            "PS1": "# ", "COLUMNS": "100",
        }  # fmt: skip

        def descriptors():
            os.dup2(theirs, 198)
            os.dup2(echo, 199)

        self.bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", SHELL], cwd=hosts.LAB, env=environment, close_fds=False,
            preexec_fn=descriptors, start_new_session=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(echo)

    def close(self):
        os.close(self.hand)
        try:
            self.bash.wait(2)
        except subprocess.TimeoutExpired:
            self.bash.kill()
            self.bash.wait()

    def execute(self, block, command):
        """Runs it; `False` if it did not end."""
        limit = block.number("timeout", 20)
        end = time.monotonic() + block.number("retry", 0)
        while True:
            heard = self.once(block, command, limit)
            if heard is None:
                self.say(f"{self.name}:{command.line}: `{command.text}` did not end within {limit:g} s")
                return False
            items = [command, *command.inner]
            pairs = list(zip(items, heard + [[]] * len(items)))
            if time.monotonic() >= end or all(self.holds(block, typed, came) for typed, came in pairs):
                break
            time.sleep(0.05)
        self.came += [(block, typed, came) for typed, came in pairs]
        if self.job["show"]:
            for typed, came in pairs:
                mark = "$ " if typed is command else block.words.get("prompt", "/ # ")
                self.say("\n".join([mark + typed.text.replace("\n", "\n> "), *came]))
        return True

    def holds(self, block, typed, came):
        return self.differs([(block, typed, came)]) == []

    def once(self, block, command, limit):
        """Lines of the command's output, and of what was typed into it; `None`: it did not end."""
        self.serial += 1
        step = f"{self.steps}/{self.serial}"
        line = command.text
        if command.inner:
            job = {
                "command": line, "prompt": block.words.get("prompt", "/ # "), "timeout": limit,
                "typed": [typed.text for typed in command.inner], "out": step + ".heard",
            }  # fmt: skip
            pathlib.Path(step + ".job").write_text(json.dumps(job), encoding="utf-8")
            line = f"{sys.executable} {self.steps}/terminal.py {step}.job"
        pathlib.Path(step).write_text(line + "\n", encoding="utf-8")
        os.write(self.hand, step.encode() + b"\n")
        if not self.ended(limit + 5 if command.inner else limit):
            os.killpg(self.bash.pid, signal.SIGKILL)
            return None
        if not command.inner:
            return [lines(pathlib.Path(step + ".out").read_bytes().decode(errors="replace"))]
        heard = json.loads(pathlib.Path(step + ".heard").read_text(encoding="utf-8"))
        return [lines(text) for text in heard]

    def ended(self, limit):
        """Waits for the shell's word; a shell that is gone (`exit`) has ended too, and a new one takes its place."""
        import select

        end = time.monotonic() + limit
        while time.monotonic() < end:
            if select.select([self.ear], [], [], 0.05)[0]:
                if os.read(self.ear, 5):
                    return True
            if self.bash.poll() is not None:
                os.close(self.hand)
                os.close(self.ear)
                self.open()
                return True
        return False

    def differences(self):
        """[(typed, lines that came, words)] of all that differs."""
        return self.differs(self.came)

    def differs(self, pairs):
        everything = pairs + self.came
        shown_pids = compare.processes((typed.text, typed.shown) for _, typed, _ in everything)
        came_pids = compare.processes((typed.text, came) for _, typed, came in everything)
        wrong = []
        for block, typed, came in pairs:
            def equal(shown, line, loose=block.words.get("numbers") == "any"):
                return compare.same(shown, line, shown_pids, came_pids, loose)

            shown = trimmed(typed.shown)
            found = compare.difference(shown, came, equal)
            if found:
                at, of = found
                line = getattr(typed, "first", typed.line + 1) + at
                expected = f"the page shows `{shown[at]}`" if at < len(shown) else "the page shows no more"
                got = f"`{came[of]}`" if of < len(came) else "nothing more"
                text = "\n".join("    " + one for one in came)
                wrong.append((typed, came, f"{self.name}:{line}: {expected}, the machine says {got}\n"
                              f"  `{typed.text}` prints:\n{text}"))  # fmt: skip
        return wrong

    def write(self, wrong):
        """Puts what came into the page."""
        text = self.text.split("\n")
        for typed, came, _ in sorted(wrong, key=lambda one: -one[0].line):
            first = getattr(typed, "first", typed.line + 1) - 1
            text[first:first + len(typed.shown)] = came
            self.say(f"{self.name}:{first + 1}: written: {len(came)} lines")
        hosts.give_back(self.job, "\n".join(text))


def lines(text):
    return trimmed(text.replace("\r", "").split("\n"))


def trimmed(some):
    """Without empty lines at the end."""
    some = list(some)
    while some and not some[-1].strip():
        some.pop()
    return some
