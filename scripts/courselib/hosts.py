"""A host of one's own for a page, and the guard around it.

The private host is a set of namespaces: what a page breaks in there breaks nothing out here, and what is left in
there when the page is over is the page's own doing. Only the cgroup trees are the machine's; of them the guard
looks at what bears the id of a container of this page.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

from .course import REPO, Failure

STATE = ["/var/lib/mydocker", "/run/mydocker"]
LAB = "/tmp/lab"
IMAGE = REPO / "target/tmp/image.tar"
"""Of the project `counter`; its test makes it."""


def unable():
    """Why this machine cannot give a page a host of its own; empty: it can."""
    if os.geteuid() != 0:
        return "only root can execute the pages"
    for word in ("unshare", "bash", "ip", "mount"):
        if not shutil.which(word):
            return f"`{word}` is not installed"
    tried = subprocess.run([*UNSHARE, "true"], stderr=subprocess.PIPE, text=True)
    return "" if tried.returncode == 0 else tried.stderr.strip()


UNSHARE = [
    "unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
    "--propagation", "private",
]  # fmt: skip


def enter(job):
    """Does `job` in there (`scripts/chapters inside`): its exit status, and the text that it gives back."""
    places = [Place(folder) for folder in STATE]
    # A file without a place: in there, every place is read-only.
    back = os.memfd_create("back")
    try:
        with tempfile.TemporaryDirectory(prefix="mydocker-page-", dir="/var/tmp") as disk:
            program = pathlib.Path(__file__).resolve().parents[1] / "chapters"
            words = ["inside", json.dumps({**job, "back": back, "disk": disk})]
            status = subprocess.run([*UNSHARE, sys.executable, str(program), *words], pass_fds=[back]).returncode
        with os.fdopen(os.dup(back), "rb") as file:
            file.seek(0)
            return status, file.read().decode()
    finally:
        os.close(back)
        for place in places:
            place.leave()


class Place:
    """A folder to mount something over. Who had to make it removes it, unless another page uses it by then.

    The kernel lets a folder be removed that is a mount point in another namespace, and takes the mount away there
    (mount_namespaces(7), since Linux 3.18): so a page that removed what it had made would take the state of another one along.
    """

    def __init__(self, folder):
        self.folder, self.made = folder, False
        while True:
            if not os.path.isdir(folder):
                os.makedirs(folder, 0o711, exist_ok=True)
                self.made = True
            try:
                self.held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            fcntl.flock(self.held, fcntl.LOCK_SH)
            if os.path.exists(folder) and os.path.samestat(os.stat(folder), os.fstat(self.held)):
                return
            os.close(self.held)

    def leave(self):
        try:
            if self.made:
                fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rmdir(self.folder)
        except OSError:
            pass  # somebody else uses it by now
        os.close(self.held)


def give_back(job, text):
    """The text, to who has called `enter`."""
    with os.fdopen(os.dup(job["back"]), "w", encoding="utf-8") as file:
        file.write(text)


def furnish(job):
    """Makes the namespaces a host: mounts, lo, name, numbers; the working directory is LAB."""
    program = job["program"]
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    binary = os.open(program, os.O_RDONLY)
    protect()
    # On a disk, unlike the others: pages in memory would be counted by the cgroup that writes them.
    subprocess.run(["mount", "--bind", job["disk"], "/var/tmp"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,rw", "/var/tmp"], check=True)
    for folder in [*STATE, "/tmp"]:
        os.makedirs(folder, 0o711, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0711", "tmpfs", folder], check=True)
    os.chmod("/tmp", 0o1777)
    os.makedirs("/tmp/bin")
    os.makedirs(LAB)
    if IMAGE.exists():
        os.symlink(IMAGE, f"{LAB}/{IMAGE.name}")
    if os.path.exists(program):
        os.symlink(program, "/tmp/bin/mydocker")
    else:
        # It was below the old /tmp.
        with os.fdopen(os.dup(binary), "rb") as source, open("/tmp/bin/mydocker", "wb") as target:
            shutil.copyfileobj(source, target)
        os.chmod("/tmp/bin/mydocker", 0o755)
    os.close(binary)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", "host"], check=False)
    for name, value in (("kernel/ns_last_pid", "4000"), ("net/ipv6/conf/all/disable_ipv6", "1"),
                        ("net/ipv6/conf/default/disable_ipv6", "1")):  # fmt: skip
        try:
            pathlib.Path("/proc/sys", name).write_text(value)
        except OSError:
            pass  # only for looks
    os.chdir(LAB)


def protect():
    """Makes the machine's own files read-only in here: a chapter whose containers share them may spoil none."""
    # iptables has its lock in there.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    kernels = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "binfmt_misc"}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        at, options = left.split()[4:6]
        if right.split()[0] in kernels or at == "/run":
            continue
        keep = [word for word in options.split(",") if word in ("nosuid", "nodev", "noexec")]
        at = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), at)
        changed = subprocess.run(["mount", "-o", ",".join(["remount", "bind", "ro", *keep]), at],
                                 stderr=subprocess.PIPE, text=True)  # fmt: skip
        if changed.returncode and at == "/":
            raise Failure(f"/ cannot be made read-only for the page: {changed.stderr.strip()}")
    try:
        pathlib.Path("/etc/mydocker-page").touch()
    except OSError:
        return
    os.remove("/etc/mydocker-page")
    raise Failure("/etc can still be written to: no page is run here")


def as_init(work):
    """Does `work` in a child; this process reaps what is left behind, as PID 1 must. The exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work()
        except Failure as failure:
            failure.print()
            status = 2
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


class Guard:
    """What the host is like, before and after."""

    def __init__(self):
        self.births = Births(f"{STATE[0]}/containers")
        self.before = self.look()

    def look(self):
        return {
            "mounts": mounts(),
            "links and addresses": json_lines("-j", "address"),
            "routes": json_lines("-j", "route", "show", "table", "all"),
            "firewall": firewall(),
            "kernel parameters": parameters(),
            "cgroups": cgroups(self.births.ids()),
            "processes": processes(),
            "state": state(),
            "working directory": {str(path) for path in pathlib.Path(LAB).rglob("*")},
        }

    def changes(self, patience=5.0):
        """One line each; what goes away by itself in a moment is not told."""
        end = time.monotonic() + patience
        while True:
            after = self.look()
            lines = []
            for what, now in after.items():
                lines += [f"{what}: + {line}" for line in sorted(now - self.before[what])]
                lines += [f"{what}: - {line}" for line in sorted(self.before[what] - now)]
            if not lines or time.monotonic() > end:
                return lines
            time.sleep(0.02)


class Births:
    """Tells the ids of all containers that are ever made, by inotify."""

    def __init__(self, folder):
        os.makedirs(folder, 0o700, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        create, moved_to = 0x100, 0x80
        if self.fd < 0 or libc.inotify_add_watch(self.fd, folder.encode(), create | moved_to) < 0:
            raise Failure(f"inotify: {os.strerror(ctypes.get_errno())}")
        self.known = set()

    def ids(self):
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return self.known
            while data:
                size = struct.unpack_from("iIII", data)[3]
                self.known.add(data[16:16 + size].rstrip(b"\0").decode())
                data = data[16 + size:]


def mounts():
    """Without their numbers; where, what, options, propagation."""
    found = set()
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields = re.sub(r"(shared|master):\d+", r"\1", line).split()[3:]
        name = " ".join(fields)
        while name in found:
            name += " #"
        found.add(name)
    return found


def json_lines(*words):
    text = subprocess.run(["ip", *words], stdout=subprocess.PIPE, text=True).stdout
    return {json.dumps(one, sort_keys=True) for one in json.loads(text or "[]")}


def firewall():
    if not shutil.which("iptables-save"):
        return set()
    text = subprocess.run(["iptables-save"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    lines = {re.sub(r" \[.*", "", line) for line in text.splitlines() if not line.startswith("#")}
    # A table that was only asked for has its empty built-in chains from then on.
    return {line for line in lines if not re.match(r"\*|COMMIT$|:[A-Z]+ ACCEPT$", line)}


def parameters():
    names = ["net/ipv4/ip_forward", "kernel/hostname", "kernel/domainname", "kernel/core_pattern", "kernel/shmmax"]
    found = set()
    for name in names:
        try:
            found.add(f"{name} = {pathlib.Path('/proc/sys', name).read_text().strip()}")
        except OSError:
            pass
    return found


def cgroups(ids):
    """Folders in any hierarchy that bear the id of a container of this page, or the name that a page makes itself."""
    found = set()
    if not ids:
        return found
    for folder, folders, _ in os.walk("/sys/fs/cgroup"):
        found |= {f"{folder}/{name}" for name in folders if any(one in name for one in ids)}
    return found


def processes():
    """All but us: nobody else is in this PID namespace."""
    found, us = set(), {1, os.getpid()}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in us:
            try:
                words = pathlib.Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words:
                    found.add(f"{name} {words.strip()}")
            except OSError:
                pass
    return found


def state():
    """Containers, names, volumes and networks; images and what all containers share may be new."""
    found = set()
    for folder in ("containers", "names", "volumes", "networks"):
        found |= {str(path) for path in pathlib.Path(STATE[0], folder).glob("*") if not path.name.startswith(".")}
    return found
