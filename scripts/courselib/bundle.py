"""One archive for a room without a network: the program, its checks, the image, the pages.

    tar -xf mydocker-course.tar.gz && cd mydocker-course && sudo ./start

No compiler, no registry and no network are needed: `start` puts the image into the store and runs a container of it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from . import check, course, labs

START = """#!/bin/sh
# Puts the image into the store and shows that a container runs; then: less chapters/README.md
set -eu
cd "$(dirname "$0")"
export MYDOCKER_ROOT="${MYDOCKER_ROOT:-$PWD/data}"
bin/mydocker load -i image.tar
bin/mydocker run --rm busybox echo "a container runs; the pages begin at $PWD/chapters"
echo "export MYDOCKER_ROOT=$MYDOCKER_ROOT PATH=$PWD/bin:\\$PATH"
"""


def verb(options):
    """`scripts/chapters bundle`."""
    binary = pathlib.Path(options.bin).resolve() if options.bin else release()
    programs = course.programs(options.programs) if options.all else None
    with tempfile.TemporaryDirectory(prefix="mydocker-bundle-") as place:
        top = pathlib.Path(place, "mydocker-course")
        (top / "bin").mkdir(parents=True)
        add(binary, top / "bin/mydocker")
        add(check.checker(), top / "bin/checker")
        if options.all:
            add(labs.program(), top / "bin/labs")
            for chapter in course.chapters():
                if chapter.source().exists():
                    add(course.program(chapter, programs), top / "bin" / chapter.name)
        image(binary, place, top / "image.tar")
        for name in ("scripts/chapters", "scripts/courselib", "chapters", "tests/chapters/labs.json", "LICENSE"):
            source = course.REPO / name
            target = top / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        (top / "start").write_text(START, encoding="utf-8")
        (top / "start").chmod(0o755)
        out = pathlib.Path(options.out).resolve()
        with tarfile.open(out, "w:gz", compresslevel=6) as archive:
            archive.add(top, arcname=top.name)
    print(f"{out}: {out.stat().st_size >> 20} MiB; tar -xf {out.name} && cd mydocker-course && sudo ./start")
    return 0


def add(source, target):
    """A program, without the tables that only debuggers read."""
    shutil.copy(source, target)
    if shutil.which("strip"):
        subprocess.run(["strip", str(target)], stderr=subprocess.DEVNULL)


def image(binary, place, out):
    """The default image, made from this machine's static busybox."""
    environment = {**os.environ, "MYDOCKER_ROOT": f"{place}/data", "MYDOCKER_NETWORK": "none"}
    for words in (["run", "--rm", "busybox", "true"], ["save", "-o", str(out), "busybox"]):
        ran = subprocess.run([str(binary), *words], env=environment, stderr=subprocess.PIPE, text=True)
        if ran.returncode:
            raise course.Failure(f"`mydocker {' '.join(words[:2])}`: {ran.stderr.strip()}")


def release():
    """A static one, as scripts/run.sh builds it: it runs on any machine of this kind."""
    line = '. scripts/lib.sh; build_release'
    ran = subprocess.run(["bash", "-c", line, "scripts/run.sh"], cwd=course.REPO, stdout=subprocess.PIPE, text=True)
    if ran.returncode or not ran.stdout.strip():
        raise course.Failure("the release build failed", "--bin PATH takes one that is there")
    return pathlib.Path(ran.stdout.strip().splitlines()[-1])
