"""The second disk: what the guest sees of this machine, packed anew for each boot.

    agent.sh, job, settings        what to do, in which words
    bin/mydocker                   goes to /usr/local/bin
    roots                          folders of this machine that the guest shall have
    tree/<absolute path>           … and what is in them
"""

import dataclasses
import os
import pathlib
import shlex
import shutil
import subprocess

from . import host

AGENT = pathlib.Path(__file__).parent / "agent.sh"


@dataclasses.dataclass
class Contents:
    """What one boot needs from this machine."""

    binary: pathlib.Path | None
    job: str
    extra: list = dataclasses.field(default_factory=list)


def command(words):
    """Words of our command line as a shell line: one word is a line already."""
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise host.Failure("no command to run", "scripts/vm run 'mydocker run --rm busybox id'")
    return words[0] if len(words) == 1 else shlex.join(words)


def pack(contents, settings, folder):
    """Makes `folder`/share.img; `settings` are shell variables for the agent."""
    stage = folder / "stage"
    (stage / "bin").mkdir(parents=True)
    shutil.copy(AGENT, stage / "agent.sh")
    (stage / "job").write_text(contents.job + "\n")
    (stage / "settings").write_text("".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()))
    if contents.binary:
        place(contents.binary, stage / "bin" / "mydocker")
    for path in [*sources(), *contents.extra]:
        place(path, stage / "tree" / path.relative_to("/"))
    (stage / "roots").write_text("".join(f"{root}\n" for root in roots(contents.extra)))

    image = folder / "share.img"
    size = sum(entry.lstat().st_size + 4096 for entry in stage.rglob("*"))
    with host.progress(f"packing {size >> 20} MiB for the guest"):
        host.call([host.tool("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
                   "-L", "share", "-d", str(stage), str(image), f"{(size * 5 // 4 >> 20) + 512}M"])
    shutil.rmtree(stage)
    return image


def roots(extra):
    """The folders to bind: the repository, and what lies outside it (a target folder elsewhere)."""
    outside = {path.parent for path in extra if not path.is_relative_to(host.REPO)}
    return [host.REPO, *sorted(outside)]


def sources():
    """The repository's files as git knows them, new ones included."""
    listing = subprocess.run(["git", "-c", f"safe.directory={host.REPO}", "-C", str(host.REPO), "ls-files", "-zco",
                              "--exclude-standard"], capture_output=True, check=False)
    if listing.returncode == 0:
        names = [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
        return [host.REPO / name for name in names if os.path.lexists(host.REPO / name)]
    skipped = (host.REPO / "target", host.REPO / ".git")
    return [path for path in host.REPO.rglob("*") if path.is_file() and not any(map(path.is_relative_to, skipped))]


def place(source, target):
    """A hard link where that is possible (the same file system), else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
