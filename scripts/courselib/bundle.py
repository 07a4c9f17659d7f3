"""One archive for a room without a network: the program, its checks, the image, the pages, the source to read.

    tar -xf mydocker-course.tar.gz && cd mydocker-course && sudo ./start

No compiler, no registry and no network are needed: `start` puts the image into the store and runs a container of it.
The programs lie in bin/; target/debug has links to them, so that every line of the pages holds.
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
# Puts the image into the store and shows that a container runs. Nothing is installed: to end it all, delete this folder.
set -eu
cd "$(dirname "$0")"
[ "$(id -u)" = 0 ] || { echo "start: only root can make containers: sudo ./start" >&2; exit 1; }
export MYDOCKER_ROOT="${MYDOCKER_ROOT:-$PWD/data}"
bin/mydocker load -i image.tar
bin/mydocker run --rm --network none busybox echo "a container runs"
command -v python3 > /dev/null || echo "python3 is missing: the pages can be worked through, but not be checked" >&2
cat <<END
In each root shell (sudo -i, bash):
  export COURSE='$PWD' MYDOCKER_ROOT='$MYDOCKER_ROOT'
  export PATH=~/course:\\$COURSE/bin:\\$PATH; mkdir -p ~/course ~/lab; cd ~/lab
Then: less \\$COURSE/chapters/README.md
END
"""

# Read on the day: the pages, and the code that they speak of.
FILES = ["scripts/chapters", "scripts/courselib", "chapters", "src", "tests/chapters", "tests/chapters.rs", "Cargo.toml",
         "README.md", "LICENSE"]  # fmt: skip


def verb(options):
    """`scripts/chapters bundle`."""
    out = pathlib.Path(options.out).resolve()
    if not out.parent.is_dir() or out.is_dir():
        raise course.Failure(f"`{out}` cannot be a file", "--out FILE")
    given = options.programs or os.environ.get("MYDOCKER_CHECKER")
    words, env = ((), None) if given else course.everywhere()
    binary = pathlib.Path(options.bin).resolve() if options.bin else release()
    if not os.access(binary, os.X_OK):
        raise course.Failure(f"`{binary}` is no program", "--bin PATH")
    with tempfile.TemporaryDirectory(prefix="mydocker-bundle-") as place:
        top = pathlib.Path(place, "mydocker-course")
        (top / "bin").mkdir(parents=True)
        (top / "target/debug/examples").mkdir(parents=True)
        add(binary, top, "mydocker")
        add(check.checker(words, env), top, "checker")
        if options.all:
            add(labs.program(words, env), top, "labs")
            folder = course.programs(options.programs) if given else course.build(["--examples", "--bins", *words], env=env) / "examples"
            for chapter in course.chapters():
                if chapter.source().exists():
                    add(course.program(chapter, folder), top, chapter.name)
        image(binary, place, top / "image.tar")
        for name in FILES:
            source, target = course.REPO / name, top / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "image.tar"), dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        (top / "start").write_text(START, encoding="utf-8")
        (top / "start").chmod(0o755)
        # Written beside it, and renamed: half an archive never has its name.
        half = out.with_name(out.name + ".half")
        try:
            with tarfile.open(half, "w:gz", compresslevel=6) as archive:
                archive.add(top, arcname=top.name, filter=nobodys)
            half.rename(out)
        finally:
            half.unlink(missing_ok=True)
    print(f"{out}: {out.stat().st_size >> 20} MiB; tar -xf {out.name} && cd mydocker-course && sudo ./start")
    return 0


def nobodys(member):
    """Without the names and numbers of who has made it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def add(source, top, name):
    """A program, without the tables that only debuggers read; and a link where cargo would have put it."""
    target = top / "bin" / name
    shutil.copy(source, target)
    if shutil.which("strip"):
        subprocess.run(["strip", str(target)], stderr=subprocess.DEVNULL)
    if name.startswith("ch0"):
        (top / "target/debug/examples" / name).symlink_to(f"../../../bin/{name}")
    elif name == "mydocker":
        (top / "target/debug" / name).symlink_to("../../bin/mydocker")


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
