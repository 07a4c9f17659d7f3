"""What counts as the same line: names that the machine makes up are given stable ones, and the rest is literal."""

from __future__ import annotations

import re

MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d+)?)?"

# In this order: what comes later sees what the earlier ones have left.
RULES = [
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b(?=[0-9a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{12}\b", "<id>"),
    (r"\b([a-z_]+):\[\d+\]", r"\1:[<inode>]"),
    (r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
    (r"\b(veth|br-|if)[0-9a-f]{6,12}\b", r"\1<id>"),
    (r"@if\d+", "@if<n>"),
    (r"^\d+: (?=[\w.-]+[@:])", "<n>: "),
    (rf"\b\d{{4}}-\d\d-\d\d[T ]{CLOCK}(?:Z| ?[+-]\d\d:?\d\d)?", "<time>"),
    (rf"\b[A-Z][a-z]{{2}} {MONTH} [ \d]\d {CLOCK} (?:[A-Z]+ )?\d{{4}}", "<time>"),
    (rf"\b{MONTH} +\d+ +(?:{CLOCK}|\d{{4}})\b", "<time>"),
    (rf"(?<![\d.:]){CLOCK}(?![\d.:])", "<time>"),
    (r"\b(?:Less than a|About an?|\d+) (?:second|minute|hour|day)s?\b", "<age>"),
    (r"\s+", " "),
]
RULES = [(re.compile(pattern), new) for pattern, new in RULES]

PROCESS = re.compile(
    r"(?:/proc/|[Pp]rocess |\b[Pp]id(?:\"?: ?|[ =])|\bPID |-t |\bkill (?:-\S+ )?|(?:NSpid|PPid|Tgid|Pid):\s+|^ *(?=\d+ +\S+ ))"
    r"(\d{3,7})\b"
)
ASKS = re.compile(r"\$\$|\$!|\$PPID|pidof|pgrep|State\.Pid|cgroup\.procs|children")


def processes(said):
    """The process numbers that a page, or a machine, speaks of: [(command, lines)]."""
    found = set()
    for command, lines in said:
        for line in [*lines, command]:
            found |= set(PROCESS.findall(line))
        if ASKS.search(command):
            found |= {line.strip() for line in lines if re.fullmatch(r"\s*\d{3,7}\s*", line)}
    return found


def normal(line, pids, any_number=False):
    """The line, with stable names."""
    for pattern, new in RULES:
        line = pattern.sub(new, line)
    line = re.sub(r"(?<![\w.])\d{3,7}\b(?!\.\d)", lambda found: "<pid>" if found[0] in pids else found[0], line)
    if any_number:
        line = re.sub(r"\d+(?:\.\d+)?", "<n>", line)
    return line.strip()


def same(shown, came, shown_pids, came_pids, any_number):
    """Whether the page's line is the machine's."""
    came = normal(came, came_pids, any_number)
    parts = [normal(part, shown_pids, any_number) for part in shown.split("…")]
    if len(parts) == 1:
        return parts[0] == came
    return re.fullmatch(r".*?".join(re.escape(part) for part in parts), came) is not None


def difference(shown, came, equal):
    """The index of the first line of `shown` that is not the machine's, and of `came`; `None`: all are."""
    # reach[i]: how many lines of `came` the first i lines of `shown` can have eaten.
    reach = {0}
    for index, line in enumerate(shown):
        if line.strip() == "...":
            reach = set(range(min(reach), len(came) + 1))
            continue
        following = {at + 1 for at in reach if at < len(came) and equal(line, came[at])}
        if not following:
            return index, min(reach)
        reach = following
    return None if len(came) in reach else (len(shown), max(reach))
