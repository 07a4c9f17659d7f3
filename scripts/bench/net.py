"""The network: a start on the bridge, and what a wire carries, beside the floor, docker and podman.

Everything happens in a network and a mount namespace of its own, with a private /run: no rule, bridge or route of this
machine is touched, and all is gone at the end. A peer that is not installed is skipped, and said to be.

Starts: `run --rm busybox true`, without and with a published port. The floor makes the same kernel objects, the bridge
port included, and no rules. Throughput: iperf3 between two containers, and through a port published on 127.0.0.1, beside
two veth ends on a bare bridge without rules. Latency: one byte to and fro over TCP.

The wires take turns, so that a machine that grows slower does so for all of them. On a busy one the rate tells mostly who
got the processors, and a wire that keeps a third process busy (docker's proxy) gets more of them: what went over it for
each second of their work is told beside it. `bridge-nf-call-iptables` is told too: with 1 the kernel shows every packet
that a bridge passes on to conntrack and the rules, the bare bridge's as well, which has none; with 0 no bridge sees a rule.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import timing
from peers import IMAGE, Peers

PORT = 5201


def sh(line):
    return subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True).stdout


def private_host(scratch):
    """A host of our own: one card with a default route, so that there is an MTU to take over, and a bridge for the floor."""
    sh("mount -t tmpfs tmpfs /run && ip link set lo up")
    sh("ip link add wire type veth peer name far && ip link set far up && ip link set wire up"
       " && ip addr add 192.0.2.1/24 dev wire && ip route add default via 192.0.2.2")
    sh("ip link add floor0 type bridge && ip addr add 10.99.0.1/24 dev floor0 && ip link set floor0 up")
    os.environ["FLOOR_BRIDGE"] = "floor0"
    os.environ.pop("MYDOCKER_NETWORK", None)
    os.makedirs(f"{scratch}/floor")


def starts(options, scratch, mydocker, layer, others):
    floor = [os.path.abspath(options.floor), layer, f"{scratch}/floor", "/bin/true"]
    quick = {
        "floor": floor,
        "mydocker": [*mydocker, "run", "--rm", "busybox", "true"],
        "mydocker -p": [*mydocker, "run", "--rm", "-p", "127.0.0.1:8080:80", "busybox", "true"],
        "no network": [*mydocker, "run", "--rm", "--net", "none", "busybox", "true"],
    }
    loop = timing.compare(quick, options.rounds)
    timing.table("a start on the bridge, in a tight loop", loop)
    gaps = timing.compare(quick, max(options.rounds // 2, 1), options.gap)
    timing.table(f"with {options.gap} s of idling before each", gaps)
    slow = {"mydocker": quick["mydocker"], "mydocker -p": quick["mydocker -p"]}
    for name, command in others.items():
        slow[name] = [*command, "run", "--rm", IMAGE, "/bin/true"]
        slow[f"{name} -p"] = [*command, "run", "--rm", "-p", "127.0.0.1:8081:80", IMAGE, "/bin/true"]
    if others:
        timing.table("beside the peers", timing.compare(slow, max(options.rounds // 5, 1)))
    print("\nbudget                            reached")
    print(f"2.50 x floor, tight loop          {timing.ratio(loop, 'mydocker', 'floor'):.2f}")
    print(f"2.50 x floor, with gaps           {timing.ratio(gaps, 'mydocker', 'floor'):.2f}")
    print(f"2.50 x floor, with a port         {timing.ratio(loop, 'mydocker -p', 'floor'):.2f}")


class Wire:
    """Two network namespaces that can talk: pids, the first one's address, and a port of 127.0.0.1 that leads to it."""

    def __init__(self, server, client, address, published, remove):
        self.server, self.client, self.address = server, client, address
        self.published, self.remove = published, remove


def bare(scratch):
    """Two veth ends on a bridge without rules, in namespaces that nothing else is in."""
    sleepers = [subprocess.Popen(["unshare", "--net", "sleep", "100000"]) for _ in range(3)]
    pids = [sleeper.pid for sleeper in sleepers]
    home = os.readlink("/proc/self/ns/net")
    while any(os.readlink(f"/proc/{pid}/ns/net") == home for pid in pids):
        time.sleep(0.01)
    switch = f"nsenter -t {pids[2]} -n "
    sh(f"{switch} ip link add bare0 type bridge && {switch} ip link set bare0 up")
    for number, pid in enumerate(pids[:2]):
        sh(f"{switch} ip link add bare{number + 1} master bare0 up type veth peer name eth0 netns {pid}"
           f" && nsenter -t {pid} -n sh -c 'ip addr add 10.98.0.{number + 2}/24 dev eth0 && ip link set eth0 up'")
    return Wire(pids[0], pids[1], "10.98.0.2", None, lambda: [sleeper.kill() for sleeper in sleepers])


def containers(command, image, port):
    """Two containers of an engine, the first with a port of 127.0.0.1."""
    publish = ["-p", f"127.0.0.1:{port}:{PORT}"]
    run = [[*command, "run", "-d", "--name", "bench-server", *publish, image, "/bin/sleep", "100000"],
           [*command, "run", "-d", "--name", "bench-client", image, "/bin/sleep", "100000"]]
    for line in run:
        subprocess.run(line, check=True, capture_output=True)

    def ask(what, name):
        line = [*command, "inspect", "-f", what, name]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    names = ["bench-server", "bench-client"]
    server, client = [int(ask("{{.State.Pid}}", name)) for name in names]
    address = sh(f"nsenter -t {server} -n ip -4 -o addr show eth0").split()[3].split("/")[0]
    remove = [*command, "rm", "-f", *names]
    return Wire(server, client, address, port, lambda: subprocess.run(remove, capture_output=True))


def within(pid):
    return [] if pid is None else ["nsenter", "-t", str(pid), "-n"]


class Meter:
    """The processors' work for this process and all that it has started, daemons included: a cgroup of its own."""

    def __init__(self):
        parents = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"]
        self.parent = next(path for path in parents if os.path.exists(f"{path}/cgroup.procs"))
        self.folder = f"{self.parent}/mydocker-bench-{os.getpid()}"
        os.mkdir(self.folder)
        with open(f"{self.folder}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))

    def seconds(self):
        old = f"{self.folder}/cpuacct.usage"
        with open(old if os.path.exists(old) else f"{self.folder}/cpu.stat") as file:
            words = file.read().split()
        return int(words[0]) / 1e9 if len(words) == 1 else int(words[1]) / 1e6

    def close(self):
        with open(f"{self.folder}/cgroup.procs") as file:
            for pid in file.read().split():
                with open(f"{self.parent}/cgroup.procs", "w") as parent:
                    parent.write(pid)
        os.rmdir(self.folder)


def throughput(meter, server, client, address, port, seconds):
    """Of one TCP stream: Gbit/s, and Gbit for each second of the processors' work."""
    listener = subprocess.Popen([*within(server), "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(50):
            time.sleep(0.1)
            line = [*within(client), "iperf3", "-J", "-t", str(seconds), "-c", address, "-p", str(port)]
            before = meter.seconds()
            done = subprocess.run(line, capture_output=True, text=True)
            work = meter.seconds() - before
            if done.returncode == 0:
                received = json.loads(done.stdout)["end"]["sum_received"]
                return received["bits_per_second"] / 1e9, received["bytes"] * 8e-9 / work
        raise SystemExit(f"bench: iperf3 to {address}:{port}: {done.stdout[-300:]}")
    finally:
        listener.terminate()
        listener.wait()


ECHO = """
import socket
server = socket.create_server(("0.0.0.0", %d))
peer = server.accept()[0]
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while byte := peer.recv(1):
    peer.send(byte)
"""

ASK = """
import socket, time
for attempt in range(100):
    try:
        peer = socket.create_connection(("%s", %d), 5)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send(b"x")
        if peer.recv(1): break
    except OSError:
        pass
    time.sleep(0.05)
begin = time.perf_counter()
for _ in range(%d):
    peer.send(b"x")
    peer.recv(1)
print((time.perf_counter() - begin) / %d * 1e6)
"""


def latency(server, client, address, port, times):
    """Microseconds for one byte to and fro."""
    listener = subprocess.Popen([*within(server), sys.executable, "-c", ECHO % PORT])
    try:
        time.sleep(0.3)
        line = [*within(client), sys.executable, "-c", ASK % (address, port, times, times)]
        return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    finally:
        listener.kill()
        listener.wait()


def call_iptables():
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-iptables") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "not there: no br_netfilter"


def wires(options, scratch, mydocker, others, meter):
    if timing.found("iperf3") is None:
        print("\nthroughput: skipped, iperf3 is not installed (apt-get install iperf3)")
        return
    all_wires = {"bare bridge": bare(scratch), "mydocker": containers(mydocker, "busybox", 5301)}
    for number, (name, command) in enumerate(others.items()):
        all_wires[name] = containers(command, IMAGE, 5302 + number)
    rows = {}
    try:
        for _ in range(options.turns):
            for name, wire in all_wires.items():
                row = rows.setdefault(name, {"between": [], "trip": [], "port": [], "port trip": []})
                ends = (wire.server, wire.client, wire.address, PORT)
                row["between"].append(throughput(meter, *ends, options.seconds))
                row["trip"].append(latency(*ends, 5000))
                if wire.published:
                    ends = (wire.server, None, "127.0.0.1", wire.published)
                    row["port"].append(throughput(meter, *ends, options.seconds))
                    row["port trip"].append(latency(*ends, 5000))
    finally:
        for wire in all_wires.values():
            wire.remove()
    for title, key in [("between two containers", "between"), ("by a port of 127.0.0.1", "port")]:
        compared(title, rows, key)
    print(f"\nnet.bridge.bridge-nf-call-iptables: {call_iptables()}, for all of them")
    print("budget: between two containers at least 0.95 of the bare bridge; above docker in both")


def compared(title, rows, key):
    """A line for each wire; ratios are to the bare bridge, turn by turn."""
    print(f"\n{title:<24}{'median':>14}{'of bare':>9}{'per CPU second':>17}{'of bare':>9}{'to and fro':>13}")
    ratio = lambda column, row: statistics.median(
        one[column] / other[column] for one, other in zip(row[key], rows["bare bridge"]["between"]))
    for name, row in rows.items():
        if row[key]:
            rate, work = [statistics.median(column) for column in zip(*row[key])]
            trip = statistics.median(row["trip" if key == "between" else "port trip"])
            print(f"{name:<24}{rate:>7.2f} Gbit/s{ratio(0, row):>9.2f}{work:>12.2f} Gbit{ratio(1, row):>9.2f}{trip:>10.1f} us")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mydocker", required=True)
    parser.add_argument("--floor", required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--gap", type=float, default=0.1, help="seconds of idling before each start, in the second table")
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement of throughput")
    parser.add_argument("--turns", type=int, default=11, help="measurements of each wire")
    parser.add_argument("--only", choices=["starts", "wires"])
    options = parser.parse_args()
    if "BENCH_PRIVATE" not in os.environ:
        os.environ["BENCH_PRIVATE"] = "yes"
        line = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(line[0], line)
    scratch = tempfile.mkdtemp(prefix="mydocker-bench-", dir="/var/tmp")
    others, meter = None, Meter()
    try:
        private_host(scratch)
        mydocker = [os.path.abspath(options.mydocker), "--root", f"{scratch}/root"]
        subprocess.run([*mydocker, "run", "--rm", "busybox", "true"], check=True)
        [layer] = [f"{scratch}/root/layers/{name}/diff" for name in os.listdir(f"{scratch}/root/layers")
                   if os.path.exists(f"{scratch}/root/layers/{name}/diff/bin/true")]
        others = Peers(scratch, layer, apart=False)
        if options.only != "wires":
            starts(options, scratch, mydocker, layer, others.commands)
        if options.only != "starts":
            wires(options, scratch, mydocker, others.commands, meter)
    finally:
        if others:
            others.end()
        meter.close()
        for line in sh("cut -d' ' -f5 /proc/self/mountinfo").split():
            if line.startswith(scratch):
                subprocess.run(["umount", "-l", line], capture_output=True)
        shutil.rmtree(scratch, ignore_errors=True)


main()
