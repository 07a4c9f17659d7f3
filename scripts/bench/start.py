"""The start of a container: `mydocker run --rm --net none busybox true` beside the floor and its peers.

The floor makes the same kernel objects and nothing else. crun and runc run a bundle of the same files (less work: they
make no overlay, and read a finished spec); docker and podman run an image made of them.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import tempfile

import timing
from peers import IMAGE, Peers
from timing import DATA, RUN


def bundle(runtime, folder, layer):
    """An OCI bundle of the runtime's own default spec, for `true`, on a copy of the layer."""
    os.makedirs(folder)
    shutil.copytree(layer, os.path.join(folder, "rootfs"), symlinks=True)
    subprocess.run([runtime, "spec"], cwd=folder, check=True)
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        spec = json.load(file)
    spec["process"].update(terminal=False, args=["/bin/true"])
    with open(path, "w") as file:
        json.dump(spec, file)


def tree():
    """The files of the default image, which has one layer."""
    [layer] = glob.glob(f"{DATA}/layers/*/diff")
    return layer


def commands(options, scratch):
    timing.own_folders(scratch)
    mydocker = [os.path.abspath(options.mydocker)]
    subprocess.run([*mydocker, "run", "--rm", "--net", "none", "busybox", "true"], check=True)
    layer = tree()
    os.makedirs(f"{scratch}/floor")
    found = {
        "floor": [os.path.abspath(options.floor), layer, f"{scratch}/floor", "/bin/true"],
        "mydocker": [*mydocker, "run", "--rm", "--net", "none", "busybox", "true"],
    }
    for runtime in ["crun", "runc"]:
        path = timing.found(runtime)
        if path is None:
            print(f"{runtime}: skipped, it is not installed")
            continue
        folder = f"{scratch}/{runtime}"
        bundle(path, folder, layer)
        found[runtime] = [path, "--root", f"{RUN}/{runtime}", "run", "--bundle", folder, f"bench-{os.getpid()}"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mydocker", required=True)
    parser.add_argument("--floor", required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--gap", type=float, default=0.1, help="seconds of idling before each start, in the second table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mydocker-bench-") as scratch:
        quick = commands(options, scratch)
        loop = timing.compare(quick, options.rounds)
        timing.table("in a tight loop", loop)
        gaps = timing.compare(quick, max(options.rounds // 2, 1), options.gap)
        timing.table(f"with {options.gap} s of idling before each", gaps)
        peers = Peers(scratch, tree())
        try:
            slow = {name: [*command, "run", "--rm", "--net", "none", IMAGE, "/bin/true"]
                    for name, command in peers.commands.items()}
            if slow:
                timing.table("beside the peers", timing.compare({"mydocker": quick["mydocker"], **slow}, 10))
        finally:
            peers.end()
    print("\nbudget                     reached")
    print(f"1.35 x floor, tight loop   {timing.ratio(loop, 'mydocker', 'floor'):.2f}")
    if "crun" in loop:
        print(f"0.60 x crun, tight loop    {timing.ratio(loop, 'mydocker', 'crun'):.2f}")
    print(f"1.05 x floor, with gaps    {timing.ratio(gaps, 'mydocker', 'floor'):.2f}")


main()
