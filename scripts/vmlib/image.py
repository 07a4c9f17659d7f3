"""The guest's disk: Debian packages in, `root.img` with a kernel and an initrd out.

mmdebstrap works as root and, where a user has subordinate ids, without root; the
last hook packs the tree with `mke2fs -d` while it can still see it as root does.
"""

import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from . import host

#: Debian 12: its systemd and its kernel still know every cgroup layout there is. (The
#: kernel of Debian 13 has no memory and no cpuset controller for v1 hierarchies.)
SUITE = "bookworm"

#: Room for the suite to work in; the file is sparse, about 600 MB of it exist.
SIZE = "6G"

KERNEL = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}

PACKAGES = """
    systemd systemd-sysv udev dbus dbus-user-session libpam-systemd kmod initramfs-tools
    busybox-static iptables iproute2 strace procps util-linux attr acl uidmap python3
    gcc libc6-dev crun runc hyperfine
""".split()

LEAN = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclasses.dataclass
class Image:
    """Three files in one folder of the cache."""

    folder: pathlib.Path

    @property
    def root(self):
        return self.folder / "root.img"

    @property
    def kernel(self):
        return self.folder / "vmlinuz"

    @property
    def initrd(self):
        return self.folder / "initrd"


def ensure(options):
    """The image for these options, built unless the cache has it."""
    script = (pathlib.Path(__file__).parent / "image.sh").read_text()
    packages = [KERNEL[host.architecture()], *PACKAGES]
    recipe = "\n".join([options.suite, SIZE, *packages, *LEAN, script])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    cache = host.cache()
    image = Image(cache / f"{options.suite}-{host.architecture()}-{key}")
    with open(cache / "lock", "w", encoding="ascii") as lock:
        with host.progress("waiting for another scripts/vm that builds an image"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if options.no_cache and image.folder.exists():
            shutil.rmtree(image.folder)
        if not image.folder.exists():
            build(options.suite, packages, script, image)
    return image


def build(suite, packages, script, image):
    """mmdebstrap into a scratch folder, then one rename into the cache."""
    mmdebstrap = host.tool("mmdebstrap", "mmdebstrap")
    host.tool("mke2fs", "e2fsprogs")
    partial = image.folder.with_suffix(".partial")
    # Without root the hook runs as a subordinate id, which no home folder lets in.
    with tempfile.TemporaryDirectory(prefix="mydocker-vm-", dir="/var/tmp") as scratch:
        os.chmod(scratch, 0o755)
        results = os.path.join(scratch, "image")
        os.mkdir(results)
        os.chmod(results, 0o777)
        hook = pathlib.Path(scratch, "hook")
        hook.write_text(f"#!/bin/sh\nIMAGE={results} SIZE={SIZE}\n{script}")
        hook.chmod(0o755)
        command = [mmdebstrap, "--quiet", "--variant=minbase", "--format=null",
                   "--include=" + ",".join(packages),
                   '--aptopt=APT::Install-Recommends "false"',
                   *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEAN),
                   f"--customize-hook={hook}",
                   suite, "-", *sources(suite)]
        environment = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin", TMPDIR="/var/tmp")
        with host.progress(f"building the Debian {suite} image (about a minute, once)"):
            host.call(command, env=environment)
            shutil.rmtree(partial, ignore_errors=True)
            host.call(["cp", "-r", "--sparse=always", results, str(partial)])
        partial.rename(image.folder)
    for old in image.folder.parent.glob(f"{suite}-*"):
        if old != image.folder:
            shutil.rmtree(old, ignore_errors=True)


def sources(suite):
    """apt lines for `suite` from where this machine gets its Debian; none means mmdebstrap's default."""
    form = "$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(CREATED_BY)"
    try:
        listing = subprocess.run(["apt-get", "indextargets", "--format", form],
                                 capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    mirrors = {}
    for line in listing.splitlines():
        uri, origin, label, kind = line.split("|")
        if origin == "Debian" and kind == "Packages":
            mirrors.setdefault(label, uri)
    if "Debian" not in mirrors:
        return []
    lines = [f"deb {mirrors['Debian']} {suite} main", f"deb {mirrors['Debian']} {suite}-updates main"]
    if "Debian-Security" in mirrors:
        lines.append(f"deb {mirrors['Debian-Security']} {suite}-security main")
    return lines
