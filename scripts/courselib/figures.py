"""A chapter's picture, drawn from `--explain=json` of a real run of its program.

Left what the engine does on the host, right what the child does in its namespaces, from top to bottom in the order of
time; the steps of the rooms that this chapter opens in full, those of earlier ones in a word each; below, the objects
that the kernel keeps. Ids, process numbers and inodes get stable names, so that the same program always gives the same
picture.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import escape

from . import course, hosts

# What is run: lines for the shell; the last one is drawn. The rooms that are drawn in full.
RUNS = {
    1: (["mydocker run --explain=json sh -c :"], ["engine.clone", "namespaces", "process"]),
    2: (["mydocker run --explain=json --mem 100m --cpus 0.5 --pids-limit 20 sh -c :"], ["cgroup"]),
    3: (["mydocker run busybox true", "mydocker run --explain=json busybox true"], ["rootfs", "security"]),
    4: (["mydocker run busybox true", "mydocker run --explain=json busybox true"], ["layers"]),
    5: (
        ["mydocker run busybox true", "mkdir -p /tmp/lab/site",
         "mydocker run --explain=json -v data:/data -v /tmp/lab/site:/site:ro busybox true"],
        ["volume", "rootfs.bind", "rootfs.mount./data", "rootfs.mount./site", "rootfs.remount./site"],
    ),
    6: (
        ["mydocker run --name web busybox sh -c 'echo hi > /hi; sleep 60' & for i in $(seq 200); do mydocker diff web | grep -q hi && break; sleep 0.05; done; mydocker commit web two; kill %1; wait",
         "mydocker run --explain=json two true"],
        ["layers", "image"],
    ),
    7: (["mydocker run --rm busybox true", "mydocker run --explain=json -d --name web busybox sleep 60"],
        ["container", "engine"]),
    8: (["mydocker run -d --name web busybox sleep 60", "mydocker exec --explain=json web true"],
        ["namespaces", "cgroup", "engine.clone", "security", "process"]),
    9: (["mydocker run --rm busybox true",
         "mydocker run --explain=json --rm --network bridge -p 8080:80 busybox true"], ["network"]),
}  # fmt: skip

TITLES = {
    "namespaces": "private mounts, host name, kernel parameters, lo",
    "cgroup": "cgroups, limits, joined before the command",
    "rootfs": "its own / with /proc, /sys, /dev; pivot_root",
    "layers": "an upper layer over the image's",
    "volume": "volumes",
    "security": "fourteen capabilities",
    "process": "session, working directory, limits, exec",
    "engine": "folder and config.json",
    "container": "name and record",
    "network": "veth, addresses, NAT",
    "image": "the image",
}

SIDE = {"host": (24, 450), "child": (486, 450)}
# What is there to be masked, mounted or limited depends on the kernel: on another one the picture may be another.
MACHINE = re.compile(r"\n<!-- drawn on (.*?) -->")
NEW, OLD = "#0b6e4f", "#9aa5b1"


def verb(options):
    """`scripts/chapters figures`."""
    why = hosts.unable()
    if why:
        print(f"skipped: {why}", file=sys.stderr)
        return 0
    folder, status = course.programs(options.programs), 0
    for chapter in course.chapters() if options.chapter is None else [course.chapter(options.chapter)]:
        if chapter.number not in RUNS:
            continue
        path = chapter.folder / "figure.svg"
        failed, text = hosts.enter({"figure": chapter.number, "program": str(course.program(chapter, folder))})
        if failed:
            status = 1
            continue
        name = course.relative(path)
        if not options.check:
            path.write_text(text, encoding="utf-8")
            print(f"{name}: drawn")
            continue
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        machine = MACHINE.search(there)
        if MACHINE.sub("", there) == MACHINE.sub("", text):
            print(f"{name}: the same")
        elif machine and machine[0] not in text:
            print(f"skipped: {name}: drawn on {machine[1]}; here it is {MACHINE.search(text)[1]}", file=sys.stderr)
        else:
            print(f"{name}: another picture now: scripts/chapters figures {chapter.number}")
            differ(there, text)
            status = 1
    return status


def differ(old, new):
    """The first line that is not the same."""
    for number, (one, other) in enumerate(zip(old.split("\n"), new.split("\n")), 1):
        if one != other:
            print(f"  line {number}: was {one.strip()}\n          now {other.strip()}")
            return


def inside(job):
    """In the private host: runs it, and draws what the engine tells."""
    hosts.furnish(job)
    lines, full = RUNS[job["figure"]]
    environment = {**os.environ, "PATH": "/tmp/bin:" + os.environ["PATH"]}
    environment.pop("MYDOCKER_ROOT", None)
    for line in lines:
        ran = subprocess.run(["bash", "-c", line], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL, text=True)  # fmt: skip
        if ran.returncode and line == lines[-1]:
            raise course.Failure(f"`{line}`: {ran.stderr.strip()}")
    steps = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    subprocess.run(["bash", "-c", "mydocker rm -f web"], env=environment, stderr=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("uts", "pid", "mnt", "ipc", "net", "cgroup")}
    hosts.give_back(job, draw(job["figure"], lines[-1], steps, full, ours))
    return 0


def plain(text):
    """Stable names for what the machine made up."""
    text = re.sub(r"/var/lib/mydocker/containers/[0-9a-f]{64}", "$BOX", text)
    text = re.sub(r"/sys/fs/cgroup/cpu,cpuacct/", "/sys/fs/cgroup/cpu/", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
    text = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"\b(ve|br-)[0-9a-f]{8,13}\b", r"\1ID", text)
    text = re.sub(r"write \d+ bytes", "write the file", text)
    text = re.sub(r"(/proc/|-t )\d+", r"\1PID", text)
    text = re.sub(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC", text)
    return text


def belongs(step, full):
    return any(step["step"] == name or step["step"].startswith(name + ".") or step["step"] == name for name in full)


def boxes(steps, full):
    """[(side, new, head, text)]: a box for every step of this chapter, one for each run of steps of an older room."""
    found, told = [], set()
    for step in steps:
        room = step["step"].split(".")[0]
        if belongs(step, full):
            parts = step["step"].split(".")
            kind = ".".join(parts[:2])
            repeats = kind in {"cgroup.mkdir", "cgroup.join", "rootfs.node", "rootfs.link", "rootfs.mask", "rootfs.readonly",
                               "rootfs.etc", "rootfs.remount", "security.bound", "cgroup.subtree", "namespaces.sysctl",
                               "rootfs.mount", "process.limit"}  # fmt: skip
            if repeats and kind in told:
                continue
            told.add(kind)
            more = repeats and sum(one["step"].startswith(kind + ".") for one in steps) > 1
            head = plain(step["shell"]) + ("   # and so on" if more else "")
            found.append((step["side"], True, head, step["why"]))
        elif step["step"] == "engine.clone":
            found.append((step["side"], False, "clone3: the child, in its new namespaces", ""))
        else:
            text = TITLES.get(room, room)
            if (step["side"], room) not in told:
                told.add((step["side"], room))
                found.append((step["side"], False, f"{room}: {text}", ""))
    return found


def wrapped(text, width):
    """Lines of at most `width` letters, cut at blanks where there are some."""
    if "\n" in text:
        return [line for one in text.split("\n") for line in wrapped(one, width)]
    lines = []
    for word in re.findall(r"\S+\s*", text):
        while len(word) > width:
            cut = max(word.rfind(mark, 1, width) for mark in "/,=:") + 1 or width
            if lines and len(lines[-1]) + cut <= width:
                lines[-1] += word[:cut]
            else:
                lines.append(word[:cut])
            word = word[cut:]
        if lines and len(lines[-1]) + len(word.rstrip()) <= width:
            lines[-1] += word
        else:
            lines.append(word)
    return [line.rstrip() for line in lines]


def objects(number, steps, ours):
    """What the kernel keeps, one line each: (what, text)."""
    found = []
    clone = next((step for step in steps if step["step"] == "engine.clone"), {})
    inodes = clone.get("namespaces", {})
    joined = any(step["step"].startswith("namespaces.enter") for step in steps)
    new = [kind for kind in ours if inodes.get(kind) not in (None, ours[kind])]
    same = [kind for kind in ours if kind not in new]
    if any(step["step"] == "cgroup.namespace" for step in steps):
        same.remove("cgroup")
        new.append("cgroup")
    if joined:
        found.append(("namespaces", "those of the container, joined with setns"))
    else:
        found.append(("namespaces", f"new: {', '.join(new)}" + (f"; the host's: {', '.join(same)}" if same else "")))
    for step in steps:
        undo = step.get("undo") or {}
        if undo.get("undo") == "remove-cgroup":
            path = plain(undo["path"])
            wanted = any(word in path for word in ("/memory/", "/cpu/", "/pids/")) or "cgroup/mydocker" in path
            if number == 2 and wanted:
                found.append(("cgroup", path))
        elif step["call"] == "mount" and step["args"][1] == "overlay":
            for part in plain(step["args"][3]).split(",")[:3]:
                found.append(("overlay", part))
        elif step["step"].startswith("network.") and undo:
            found.append(("network", plain(step["shell"])))
    return found


def draw(number, line, steps, full, ours):
    """The SVG."""
    out, y = [], 64
    add = out.append
    for side, new, head, why in boxes(steps, full):
        x, width = SIDE[side]
        if not new:
            add(f'<text x="{x + 12}" y="{y + 15}" class="old">{escape(head)}</text>')
            y += 24
            continue
        heads, whys = wrapped(head, 58), wrapped(why, 68)
        heads = heads[:5] + (["…"] if len(heads) > 5 else [])
        height = 14 + 16 * len(heads) + 15 * len(whys)
        add(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="box"/>')
        at = y + 20
        for one in heads:
            add(f'<text x="{x + 12}" y="{at}" class="do">{escape(one)}</text>')
            at += 16
        for one in whys:
            add(f'<text x="{x + 12}" y="{at}" class="why">{escape(one)}</text>')
            at += 15
        y += height + 10
    lanes = y
    y += 34
    add(f'<text x="24" y="{y}" class="title">what the kernel keeps</text>')
    for what, text in objects(number, steps, ours):
        for index, one in enumerate(wrapped(text, 100)):
            y += 19
            if index == 0:
                add(f'<text x="24" y="{y}" class="kind">{escape(what)}</text>')
            add(f'<text x="130" y="{y}" class="do">{escape(one)}</text>')
    height = y + 24
    shown = escape(line.replace("--explain=json ", ""))
    layout = "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1"
    release = ".".join(os.uname().release.split(".")[:2])
    machine = f"\n<!-- drawn on Linux {release} with cgroup {layout} -->"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {height}" width="960" height="{height}" role="img">'
        + machine,
        f"<title>{shown}</title>",
        "<style>text{font:13px monospace;fill:#1f2933}.do{font-size:12px}.why{font:italic 12px sans-serif;fill:#3e4c59}"
        f".old{{fill:{OLD};font-size:12px}}.title,.lane{{font:bold 14px sans-serif}}.kind{{fill:{NEW};font-size:12px}}"
        f".box{{fill:#f0faf5;stroke:{NEW}}}.line{{stroke:#cbd2d9}}</style>",
        f'<rect width="960" height="{height}" fill="#ffffff"/>',
        f'<text x="24" y="24" class="title">{shown}</text>',
        '<text x="24" y="50" class="lane">the engine, on the host</text>',
        '<text x="486" y="50" class="lane">the child, in its namespaces</text>',
        f'<line x1="480" y1="38" x2="480" y2="{lanes}" class="line"/>',
        *out,
        "</svg>",
        "",
    ])  # fmt: skip
