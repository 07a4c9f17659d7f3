"""What this machine is: where to cache, how to name it, how to talk to its user."""

import contextlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import threading
import time

#: The repository that these scripts stand in.
REPO = pathlib.Path(__file__).resolve().parents[2]


class Failure(Exception):
    """An error with what to do about it; printed once, at the door."""

    def __init__(self, text, hint=None):
        super().__init__(text)
        self.hint = hint

    def print(self):
        print(f"vm: error: {self}", file=sys.stderr)
        if self.hint:
            print(f"hint: {self.hint}", file=sys.stderr)


def architecture():
    """This machine's processor, as the kernel names it: one that we know how to boot."""
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64"):
        raise Failure(f"no recipe for a VM on `{machine}`", "x86_64 and aarch64 have one: scripts/vmlib/qemu.py")
    return machine


def cache():
    """The folder that survives between calls; made if it is not there."""
    path = os.environ.get("MYDOCKER_VM_CACHE")
    if not path:
        path = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mydocker", "vm")
    os.makedirs(path, exist_ok=True)
    return pathlib.Path(path)


def clean_cache():
    """Removes the cache; says how much it held."""
    folder = cache()
    held = sum(entry.stat().st_blocks * 512 for entry in folder.rglob("*") if entry.is_file())
    shutil.rmtree(folder)
    print(f"{folder}: {held >> 20} MiB removed")
    return 0


def tool(name, package):
    """The path of a program, also when it lives in a sbin that a user's PATH lacks."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Failure(f"`{name}` is not installed (Debian package {package})", "scripts/setup.sh vm")
    return path


@contextlib.contextmanager
def progress(text):
    """Says `text` if the block takes longer than two seconds: a counter on a terminal, else two lines."""
    began, done = time.monotonic(), threading.Event()
    live = sys.stderr.isatty()

    def speak():
        if done.wait(2):
            return
        if not live:
            print(f"vm: {text} …", file=sys.stderr, flush=True)
            done.wait()
            return
        while not done.wait(1):
            print(f"\rvm: {text} … {time.monotonic() - began:.0f} s ", end="", file=sys.stderr, flush=True)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()
        took = time.monotonic() - began
        if took > 2:
            print(f"{chr(13) if live else ''}vm: {text}: {took:.1f} s   ", file=sys.stderr, flush=True)


def call(arguments, log=None, **more):
    """Runs a program quietly; its output appears only in the error, when it fails."""
    result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, errors="replace", check=False, **more)
    if log:
        pathlib.Path(log).write_text(result.stdout)
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-25:])
        raise Failure(f"`{arguments[0]}` ended with status {result.returncode}:\n{tail}")
    return result.stdout
