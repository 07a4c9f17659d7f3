"""docker and podman beside us, each with folders, a socket and settings of the benchmark's own: nothing that this
machine keeps with either is touched. What is not installed, or cannot run a container here, is told of and left out.
"""

import os
import subprocess
import time

import timing

IMAGE = "mydocker-bench"


class Peers:
    """`commands`: the words before a sub-command, by the peer's name."""

    def __init__(self, scratch, layer=None, host=None):
        """With `layer`, each gets its files as an image and must be able to run it. `host` gives, for a peer's name, the
        words that run it in a network that is ready for it; without, docker's daemon gets a network namespace of its own
        and makes no rules, and podman works in the benchmark's."""
        self.commands, self.daemon = {}, None
        for name, begin in [("docker", self.docker), ("podman", podman)]:
            try:
                command = begin(scratch, host)
                if layer:
                    load(command, layer)
                    subprocess.run([*command, "run", "--rm", "--net", "none", IMAGE, "/bin/true"], check=True,
                                   capture_output=True)
                self.commands[name] = command
            except subprocess.CalledProcessError as error:
                words = (error.stderr or b"").decode(errors="replace").strip().splitlines()
                print(f"{name}: left out, it does not work here ({words[-1] if words else error})")
            except LookupError as error:
                print(f"{name}: left out, {error.args[0]}")

    def docker(self, scratch, host):
        if not (timing.found("docker") and timing.found("dockerd")):
            raise LookupError("it is not installed")
        command = [timing.found("docker"), "-H", f"unix://{scratch}/docker.sock"]
        words = [timing.found("dockerd"), "--data-root", f"{scratch}/docker", "--exec-root", f"{scratch}/docker-run",
                 "--pidfile", f"{scratch}/docker.pid", "-H", f"unix://{scratch}/docker.sock"]
        if host:
            words = [*host("docker"), *words]
        else:
            words = ["unshare", "--net", *words, "--iptables=false", "--ip6tables=false"]
        with open(f"{scratch}/dockerd.log", "w") as log:
            self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while subprocess.run([*command, "version"], capture_output=True).returncode != 0:
            if self.daemon.poll() is not None or time.monotonic() > end:
                with open(f"{scratch}/dockerd.log") as log:
                    raise LookupError(f"its daemon does not start here: {log.read().strip()[-200:]}")
            time.sleep(0.1)
        return command

    def end(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(60)


def podman(scratch, host):
    if not timing.found("podman"):
        raise LookupError("it is not installed")
    # Its own default limits are above what a machine without CAP_SYS_RESOURCE may set.
    with open(f"{scratch}/containers.conf", "w") as file:
        file.write('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
    os.environ["CONTAINERS_CONF"] = f"{scratch}/containers.conf"
    return [*(host("podman") if host else []), timing.found("podman"), "--root", f"{scratch}/podman",
            "--runroot", f"{scratch}/podman-run", "--storage-driver", "overlay",
            "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", f"{scratch}/podman-tmp", "--log-level", "error"]


def load(command, layer):
    """The files of one layer as the image `IMAGE`."""
    archive = subprocess.Popen(["tar", "-C", layer, "-c", "."], stdout=subprocess.PIPE)
    subprocess.run([*command, "import", "-", IMAGE], stdin=archive.stdout, check=True, capture_output=True)
