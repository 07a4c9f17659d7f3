"""Images: import, load, commit and save of one large image and of one with 20 layers, beside docker (a daemon of the
benchmark's own, in its own network namespace), podman, and skopeo with umoci, where they are installed.

All of it on a file system made for it, an ext4 with a journal in a loop device, as most machines have one: without a
journal ext4 looks over every inode that was freed in the last minutes before it takes another one, and a benchmark
that removes as much as it makes would time that.

The commands take turns; before each, untimed, what the last round made is removed and the disk is let come to rest.
The ratio is that of mydocker to the peer, round by round; the goal is half of the best peer's time.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile

import timing
from peers import Peers

LAYERS = 20


def quiet(argv, **more):
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)


def real_files(tree, megabytes):
    """Copies what this machine has in /usr/lib and /usr/share, up to the size that is wanted: the copies, by name."""
    left, names = megabytes << 20, []
    for top in ["/usr/lib", "/usr/share"]:
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                data = os.lstat(path)
                if os.path.islink(path) or not os.path.isfile(path) or data.st_size > 8 << 20:
                    continue
                if data.st_size > left:
                    return names
                to = os.path.join(tree, path.lstrip("/"))
                os.makedirs(os.path.dirname(to), exist_ok=True)
                shutil.copy2(path, to)
                left -= data.st_size
                names.append(path.lstrip("/"))
    return names


def archive(scratch, name, tree, parts):
    """A docker-archive called NAME:1 with one layer for each list of names."""
    layers, ids = [], []
    for number, names in enumerate(parts):
        layer = f"{scratch}/{name}-{number}.tar"
        listed = "\0".join(names).encode()
        subprocess.run(["tar", "-C", tree, "--no-recursion", "--null", "-T", "-", "-cf", layer], input=listed, check=True)
        with open(layer, "rb") as file:
            ids.append("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
        layers.append(layer)
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
              "rootfs": {"type": "layers", "diff_ids": ids}}
    config = json.dumps(config).encode()
    name_of_config = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name_of_config, "RepoTags": [f"localhost/{name}:1"],
                 "Layers": [f"{number}/layer.tar" for number in range(len(layers))]}]
    path = f"{scratch}/{name}.tar"
    with tarfile.open(path, "w") as out:
        for text, called in [(config, name_of_config), (json.dumps(manifest).encode(), "manifest.json")]:
            document = f"{scratch}/document"
            with open(document, "wb") as file:
                file.write(text)
            out.add(document, called)
        for number, layer in enumerate(layers):
            out.add(layer, f"{number}/layer.tar")
            os.unlink(layer)
    return path


def disk(folder, megabytes):
    """Mounts an empty ext4 of that size over a folder; what nobody writes of it takes no room."""
    image = f"{folder}.img"
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    for argv in [["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]]:
        result = quiet(argv)
        if result.returncode != 0:
            print(f"on the machine's own file system: {' '.join(argv)}: {result.stderr.strip()}")
            return
    print("on an ext4 with a journal, in a loop device")


class Engine:
    """docker, or what speaks as it does."""

    def __init__(self, name, argv):
        self.name, self.argv = name, argv

    def do(self, *words):
        result = quiet([*self.argv, *words])
        if result.returncode != 0:
            raise SystemExit(f"bench: {self.name} {' '.join(words)}: {result.stderr.strip()}")

    def forget(self, *words):
        quiet([*self.argv, *words])

    def gone(self, image):
        """An image and everything of it, so that the next one is made anew."""
        self.forget("rmi", "-f", image)
        self.forget("image", "prune", "-f")


def engines(options, scratch, peers):
    ours = Engine("mydocker", [os.path.abspath(options.mydocker), "--root", f"{scratch}/mydocker"])
    return [ours] + [Engine(name, command) for name, command in peers.commands.items()]


def turns(title, scratch, rounds, works):
    """Each work is (name, prepare, argv): prepared untimed, then timed, in turn."""
    times = {name: [] for name, _, _ in works}
    for number in range(rounds + 1):
        for name, prepare, argv in works:
            prepare()
            os.sync()
            # Some tell their progress to anybody.
            taken = timing.once(argv, errors=f"{scratch}/said")
            if number:  # the first warms the files up
                times[name].append(taken)
    ours = times.pop("mydocker")
    print(f"\n{title}\n{'mydocker':<16}{statistics.median(ours):>10.0f} ms")
    for name, series in times.items():
        ratio = statistics.median(a / b for a, b in zip(ours, series))
        print(f"{name:<16}{statistics.median(series):>10.0f} ms   mydocker needs {ratio:.2f} of it")


def compare(options, scratch, found):
    tree = f"{scratch}/tree"
    os.makedirs(f"{tree}/bin")
    shutil.copy2(timing.found("busybox"), f"{tree}/bin/sh")
    names = real_files(tree, options.size)
    print(f"# {options.size} MB, {len(names)} files, {os.cpu_count()} processors, {options.rounds} rounds")
    big = archive(scratch, "big", tree, [["bin/sh", *names]])
    many = archive(scratch, "many", tree, [["bin/sh", *names[number::LAYERS]] for number in range(LAYERS)])
    tiny = archive(scratch, "tiny", tree, [["bin/sh"]])
    plain = f"{scratch}/plain.tar"
    subprocess.run(["tar", "-C", tree, "-cf", plain, "."], check=True)
    for engine in found:
        engine.do("load", "-i", tiny)
        engine.do("create", "--name", "filled", "localhost/tiny:1", "/bin/sh")
        engine.do("cp", f"{tree}/usr", "filled:/")

    def each(words, prepare):
        return [(engine.name, lambda engine=engine: prepare(engine), [*engine.argv, *words(engine)]) for engine in found]

    out = lambda engine: f"{scratch}/{engine.name}.out"
    unlink = lambda path: os.path.exists(path) and os.unlink(path)
    turns("import of one file system", scratch, options.rounds,
          each(lambda _: ["import", plain, "localhost/plain:1"], lambda engine: engine.gone("localhost/plain:1")))
    turns("commit of as much", scratch, options.rounds,
          each(lambda _: ["commit", "filled", "localhost/filled:1"], lambda engine: engine.gone("localhost/filled:1")))
    for title, name, path in [("one layer", "big", big), (f"{LAYERS} layers", "many", many)]:
        image = f"localhost/{name}:1"
        works = each(lambda _: ["load", "-i", path], lambda engine: engine.gone(image))
        if timing.found("skopeo") and timing.found("umoci"):
            clean = lambda: [shutil.rmtree(f"{scratch}/{name}", ignore_errors=True) for name in ["oci", "bundle"]]
            script = f"skopeo copy -q docker-archive:{path} oci:{scratch}/oci:x && umoci unpack --image {scratch}/oci:x {scratch}/bundle"
            works.append(("skopeo+umoci", clean, ["/bin/sh", "-c", script]))
        turns(f"load, {title}", scratch, options.rounds, works)
        works = each(lambda engine: ["save", "-o", out(engine), image], lambda engine: unlink(out(engine)))
        if timing.found("skopeo"):
            source, to = f"oci:{scratch}/oci:x", f"{scratch}/skopeo.out"
            works.append(("skopeo", lambda: unlink(to),
                          [timing.found("skopeo"), "copy", "-q", source, f"docker-archive:{to}:{image}"]))
        turns(f"save, {title}", scratch, options.rounds, works)
        for engine in found:
            unlink(out(engine))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mydocker", required=True)
    parser.add_argument("--floor", help="not used here")
    parser.add_argument("--size", type=int, default=300, help="megabytes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="bench-image-", dir="/var/tmp")
    peers = None
    try:
        disk(scratch, 40 * options.size + 4000)
        peers = Peers(scratch)
        compare(options, scratch, engines(options, scratch, peers))
    finally:
        if peers:
            peers.end()
        # What podman and docker have mounted is in this mount namespace alone, and goes with it; here before the files.
        with open("/proc/self/mounts") as mounts:
            ours = [line.split()[1] for line in mounts if line.split()[1].startswith(scratch)]
        for mount in reversed(ours):
            quiet(["umount", "-l", mount])
        shutil.rmtree(scratch, ignore_errors=True)
        if os.path.exists(f"{scratch}.img"):
            os.unlink(f"{scratch}.img")


main()
