"""Break-it labs: a sabotaged mydocker, a symptom, three hints, and a check that the fault was found and is one.

The faults are tests/chapters/labs.json; the program that has them is the example `labs` (cargo feature `labs`).
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import shutil
import stat
import tempfile

from . import check, course

PLACE = pathlib.Path(tempfile.gettempdir(), "mydocker-lab")


def all_labs():
    return json.loads((course.REPO / "tests/chapters/labs.json").read_text(encoding="utf-8"))


def program(words=(), env=None):
    """The program of the labs: a bundle's, else cargo's, built with `words` and `env`."""
    given = course.REPO / "bin" / "labs"
    if given.exists():
        return given
    if course.bundled():
        raise course.Failure("this archive has no labs", "scripts/chapters bundle --all makes one that has")
    return course.build(["--features", "labs", "--example", "labs", *words], env=env) / "examples" / "labs"


def words(lab, options):
    """Its name, symptom and hints, in the reader's language."""
    lang = options.lang or os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG", "")
    return lab["zh"] if lang.startswith("zh") else lab


def running():
    """The lab that is on."""
    try:
        state = json.loads((PLACE / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise course.Failure("no lab is on", "scripts/chapters lab start NAME, or --random") from None
    return next(one for one in all_labs() if one["code"] == state["code"]), state


def verb(options):
    """`scripts/chapters lab`."""
    return {"list": listing, "start": start, "check": prove, "hint": hint, "stop": stop}[options.action](options)


def listing(options):
    labs = [one for one in all_labs() if options.chapter in (None, one["chapter"])]
    for one in sorted(labs, key=lambda one: one["chapter"]):
        also = f"  {one['zh']['name']}" if words(one, options) is not one else ""
        print(f"{one['code']:<4} chapter {one['chapter']:02}  {one['name']}{also}")
    return 0


def start(options):
    labs = all_labs()
    if options.random:
        chosen = random.choice([one for one in labs if options.chapter in (None, one["chapter"])])
    else:
        wanted = " ".join(options.words).lower()
        chosen = next((one for one in labs if wanted in (one["code"].lower(), one["name"].lower(), one["zh"]["name"])), None)
        if not chosen:
            raise course.Failure(f"there is no lab `{wanted}`", "scripts/chapters lab list")
    if PLACE.exists():
        raise course.Failure("a lab is on already", "scripts/chapters lab stop")
    binary = program()
    PLACE.mkdir(mode=0o700)
    (PLACE / "state.json").write_text(json.dumps({"code": chosen["code"], "hints": 0}), encoding="utf-8")
    only = f" --only {chosen['only']}" if chosen["only"] else ""
    # The fault is named by its code only, so that a look into this file gives nothing away.
    script = (f"#!/bin/sh\nexport MYDOCKER_LAB={chosen['code']} MYDOCKER_ROOT={PLACE}/root\n"
              f"if [ \"$1\" = run ]; then shift; exec {binary} run{only} \"$@\"; fi\nexec {binary} \"$@\"\n")  # fmt: skip
    wrapper = PLACE / "mydocker"
    wrapper.write_text(script, encoding="utf-8")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    print(f"chapter {chosen['chapter']:02}. A colleague's mydocker is {wrapper}; its data are its own.\n\n"
          f"    {words(chosen, options)['symptom']}\n\n"
          "Find out what is wrong, and where the kernel shows it. It is a broken engine: only look with it, and let its\n"
          "containers remove nothing.\n\n"
          "    scripts/chapters lab hint             three of them\n"
          "    scripts/chapters lab check NAME       the fault's name: scripts/chapters lab list\n"
          "    scripts/chapters lab stop")  # fmt: skip
    return 0


def hint(options):
    lab, state = running()
    hints = words(lab, options)["hints"]
    number = min(state["hints"], len(hints) - 1)
    state["hints"] = number + 1
    (PLACE / "state.json").write_text(json.dumps(state), encoding="utf-8")
    print(f"hint {number + 1} of {len(hints)}: {hints[number]}")
    return 0


def prove(options):
    """The name must be right, and the kernel must show it: wrong with the fault, right without."""
    lab, _ = running()
    said = " ".join(options.words).lower()
    typed = set(re.findall(r"\w+", said))
    if said not in (lab["code"].lower(), lab["name"].lower(), lab["zh"]["name"]) and not typed >= set(re.findall(r"\w+", lab["name"].lower())):
        print(f"`{said}` is not it" if said else "say its name: scripts/chapters lab check NAME")
        return 1
    ask = {"MYDOCKER_LAB": lab["code"], "MYDOCKER_ONLY_ROOMS": lab["only"]}
    with_it = check.findings(program(), 99, only=lab["check"], lab=ask)
    without = check.findings(program(), 99, only=lab["check"], lab={**ask, "MYDOCKER_LAB": ""})
    print(f"{lab['name']}: right. The check is `{lab['check']}`.\n"
          f"  with the fault:    {check.WORDS[with_it[0]['verdict']]}: {with_it[0]['text'].splitlines()[0]}\n"
          f"  without the fault: {check.WORDS[without[0]['verdict']]}")  # fmt: skip
    return 0 if with_it[0]["verdict"] == "wrong" and without[0]["verdict"] == "ok" else 1


def stop(_options):
    """Takes everything of the lab away; its containers first."""
    if not PLACE.exists():
        return 0
    if not os.path.exists("/proc/self"):
        raise course.Failure("a container has covered the host's /proc", "umount /proc; scripts/chapters lab stop")
    wrapper = str(PLACE / "mydocker")
    os.system(f"ids=$({wrapper} ps -aq 2>/dev/null); [ -z \"$ids\" ] || {wrapper} rm -f $ids >/dev/null")
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    if str(PLACE) in mounts:
        raise course.Failure(f"something is still mounted below {PLACE}", f"grep {PLACE} /proc/self/mountinfo; umount it")
    for tree in pathlib.Path("/sys/fs/cgroup").glob("**/mydocker/*"):
        if tree.is_dir() and (tree.name == "lab-shared" or (PLACE / "root/containers" / tree.name).exists()):
            try:
                tree.rmdir()
            except OSError:
                pass  # somebody is in it
    shutil.rmtree(PLACE)
    print("the lab is off")
    return 0
