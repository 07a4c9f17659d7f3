"""Timing whole commands against each other.

The commands take turns, A B C A B C …, so that a machine that grows slower does so for all of them; each round gives
one ratio per command to the first, and the median of those ratios is what is told.
"""

import os
import statistics
import subprocess
import time


def once(argv, errors=None):
    """Milliseconds from the start of the process to its end; its output goes nowhere, its errors into a file of that
    name, which is told if it fails."""
    begin = time.perf_counter()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    ]
    if errors:
        actions.append((os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = (time.perf_counter() - begin) * 1000
    if status != 0:
        said = ""
        if errors:
            with open(errors, errors="replace") as file:
                said = f": {file.read().strip()[-500:]}"
        raise SystemExit(f"bench: `{' '.join(argv)}` ended with status {os.waitstatus_to_exitcode(status)}{said}")
    return taken


def compare(commands, rounds, gap=0.0):
    """Times `commands`, a dict of name to argv, in turn; the first is what the others are compared with."""
    for argv in commands.values():
        once(argv)
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            if gap:
                time.sleep(gap)
            times[name].append(once(argv))
    return times


def table(title, times):
    """Medians, spread, and the median of the ratios to the first command, round by round."""
    first = next(iter(times.values()))
    print(f"\n{title}\n{'':<12}{'median':>10}{'fastest':>10}{'slowest':>10}{'ratio':>8}")
    for name, series in times.items():
        ratio = statistics.median(a / b for a, b in zip(series, first))
        print(f"{name:<12}{statistics.median(series):>7.2f} ms{min(series):>7.2f} ms{max(series):>7.2f} ms{ratio:>8.2f}")


def ratio(times, one, other):
    return statistics.median(a / b for a, b in zip(times[one], times[other]))


def found(program):
    """The full path of a program, or None."""
    result = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, text=True)
    return result.stdout.strip() or None


#: The default folders; in a benchmark, ones of its own.
DATA, RUN = "/var/lib/mydocker", "/run/mydocker"


def own_folders(scratch):
    """Mounts over the default folders what a machine that boots has there: data on the disk, what runs on a tmpfs."""
    if os.stat("/proc/self/ns/mnt").st_ino == os.stat(f"/proc/{os.getppid()}/ns/mnt").st_ino:
        raise SystemExit("bench: this mounts over the default folders: start it by scripts/bench.sh, in a mount namespace")
    for folder in [DATA, RUN, f"{scratch}/root"]:
        os.makedirs(folder, exist_ok=True)
    subprocess.run(["mount", "--bind", f"{scratch}/root", DATA], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "run", RUN], check=True)
    os.environ.pop("MYDOCKER_ROOT", None)
    os.environ["MYDOCKER_NETWORK"] = "none"
