"""A container's life beside its peers: `exec` (crun, docker, podman), `run -d` and `stop` (docker, podman), `ps` with
many containers; and what five hundred detached containers cost: start rate, memory, the time of `ps`, and whether they
leave anything behind. Peers that are not installed, or cannot run a container here, are told of and left out.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import tempfile
import time

import timing
from peers import IMAGE, Peers
from timing import DATA, RUN


def quiet(argv, **more):
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **more)


def told(argv):
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True).stdout


def crun(scratch, layer):
    """The words before `exec`'s, with a container of the same files that runs; None if it cannot run here."""
    path = timing.found("crun")
    if path is None:
        print("crun: skipped, it is not installed")
        return None
    folder = f"{scratch}/bundle"
    os.makedirs(folder)
    shutil.copytree(layer, f"{folder}/rootfs", symlinks=True)
    subprocess.run([path, "spec"], cwd=folder, check=True)
    with open(f"{folder}/config.json") as file:
        spec = json.load(file)
    spec["process"].update(terminal=False, args=["/bin/sleep", "1000000"])
    with open(f"{folder}/config.json", "w") as file:
        json.dump(spec, file)
    words = [path, "--root", f"{scratch}/crun"]
    if quiet([*words, "run", "--detach", "--bundle", folder, "bench"]).returncode != 0:
        print("crun: skipped, it cannot run a container here (hybrid cgroups?)")
        return None
    return words


def execs(mydocker, runtime, peers, rounds):
    commands = {"mydocker": [mydocker, "exec", "bench", "/bin/true"]}
    if runtime:
        commands["crun"] = [*runtime, "exec", "bench", "/bin/true"]
    for name, command in peers.items():
        commands[name] = [*command, "exec", "bench", "/bin/true"]
    times = timing.compare(commands, rounds)
    timing.table("exec", times)
    return times


def starts_and_stops(mydocker, peers, rounds):
    """One `run -d` and one `stop` each, in turn; what was stopped is removed outside of the clock."""
    engines = {"mydocker": ([mydocker], "busybox"), **{name: (command, IMAGE) for name, command in peers.items()}}
    begun, ended = ({name: [] for name in engines} for _ in range(2))
    for number in range(rounds + 1):
        for name, (command, image) in engines.items():
            label = f"bench-{name}-{number}"
            run = timing.once([*command, "run", "-d", "--net", "none", "--name", label, image, "/bin/sleep", "1000000"])
            stop = timing.once([*command, "stop", "-t", "0", label])
            quiet([*command, "rm", "-f", label])
            if number > 0:
                begun[name].append(run)
                ended[name].append(stop)
    timing.table("run -d", begun)
    timing.table("stop -t 0", ended)


def monitors():
    """The monitor of every container that runs."""
    for path in glob.glob(f"{RUN}/*/state"):
        with open(path) as file:
            yield json.loads(file.readline())["monitor"]


def memory(pid):
    """Resident kB with shared pages counted by their share."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def what_is_left():
    names = [*glob.glob(f"{DATA}/containers/*"), *glob.glob(f"{DATA}/names/*"), *glob.glob(f"{RUN}/journal/*")]
    names += [path for path in glob.glob(f"{RUN}/*") if len(os.path.basename(path)) == 64]
    return names


def many(mydocker, count, rounds, peers):
    ids = []
    begin = time.perf_counter()
    for _ in range(count):
        ids.append(told([mydocker, "run", "-d", "--net", "none", "busybox", "/bin/sleep", "1000000"]).strip())
    rate = count / (time.perf_counter() - begin)
    commands = {"mydocker": [mydocker, "ps"]}
    for name, command in peers.items():
        commands[f"{name} with 1"] = [*command, "ps"]
    times = timing.compare(commands, rounds)
    timing.table(f"ps with {count}", times)
    timing.table(f"run -d beside {count}", timing.compare({
        "mydocker": [mydocker, "run", "--rm", "--net", "none", "busybox", "/bin/true"]}, rounds))
    sizes = [memory(pid) for pid in monitors()]
    begin = time.perf_counter()
    for at in range(0, len(ids), 100):
        quiet([mydocker, "stop", "-t", "0", *ids[at:at + 100]], check=True)
    stopped = time.perf_counter() - begin
    begin = time.perf_counter()
    for at in range(0, len(ids), 100):
        quiet([mydocker, "rm", *ids[at:at + 100]], check=True)
    removed = time.perf_counter() - begin
    cgroups = [path for one in ids for path in glob.glob(f"/sys/fs/cgroup/**/mydocker/{one}", recursive=False)]
    left = [path for path in what_is_left() if any(one in path for one in ids)] + cgroups
    print(f"\n{count} detached: {rate:.0f} started a second, {sum(sizes) / len(sizes):.0f} kB of memory each (PSS),"
          f" {stopped / count * 1000:.1f} ms to stop one, {removed / count * 1000:.1f} ms to remove one,"
          f" {len(left)} things left behind")
    if left:
        raise SystemExit(f"bench: left behind: {left[:5]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mydocker", required=True)
    parser.add_argument("--floor", help="not used here")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--count", type=int, default=500, help="so many containers for `ps`")
    options = parser.parse_args()
    mydocker = os.path.abspath(options.mydocker)
    with tempfile.TemporaryDirectory(prefix="mydocker-bench-") as scratch:
        timing.own_folders(scratch)
        runtime, peers = None, None
        try:
            quiet([mydocker, "run", "-d", "--net", "none", "--name", "bench", "busybox", "/bin/sleep", "1000000"],
                  check=True)
            [layer] = glob.glob(f"{DATA}/layers/*/diff")
            runtime = crun(scratch, layer)
            peers = Peers(scratch, layer)
            for command in peers.commands.values():
                quiet([*command, "run", "-d", "--net", "none", "--name", "bench", IMAGE, "/bin/sleep", "1000000"])
            times = execs(mydocker, runtime, peers.commands, options.rounds)
            starts_and_stops(mydocker, peers.commands, max(options.rounds // 3, 1))
            many(mydocker, options.count, options.rounds, peers.commands)
            if runtime:
                print(f"exec: {timing.ratio(times, 'mydocker', 'crun'):.2f} x crun (goal: at most 1.00)")
        finally:
            if runtime:
                quiet([*runtime, "delete", "--force", "bench"])
            if peers:
                for command in peers.commands.values():
                    quiet([*command, "rm", "-f", "bench"])
                peers.end()
            rest = subprocess.run([mydocker, "ps", "-aq"], capture_output=True, text=True).stdout.split()
            if rest:
                quiet([mydocker, "rm", "-f", *rest])
            subprocess.run(["umount", RUN, DATA], check=False)


main()
