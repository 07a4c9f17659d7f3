"""What a wire carries: iperf3 and small packets between two containers of each engine, and by a published port.

The wires take turns, so that a machine that grows slower does so for all of them. On a busy one the rate tells mostly who
got the processors, and a wire that keeps a third process busy (docker's proxy) gets more of them: what went over it for
each second of their work is told beside it.

Two things decide more than any engine does, so both are told, and varied. Who controls congestion: bbr sends by its own
clock and takes twice the work of cubic, the kernel's default, so a slower wire shows less. And `bridge-nf-call-iptables`:
with 1 the kernel shows every packet that a bridge passes on to conntrack and the rules; with 0, as where `br_netfilter`
was never loaded, no bridge sees a rule. A second bare bridge has the one rule that a network cannot do without when its
containers are to reach the world (MASQUERADE): what it loses to the first is the price of conntrack under that switch,
which no engine can stay below; what an engine loses to it is the price of the engine's own rules.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import timing
from peers import IMAGE

PORT = 5201


def sh(line):
    return subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True).stdout


def within(pid):
    """The words that run a command in the network namespace of `pid`; None: in ours."""
    return [] if pid is None else [timing.found("nsenter"), "-t", str(pid), "-n"]


class Namespaces:
    """Network namespaces in which nothing is, each by the pid of a process that sleeps there."""

    def __init__(self):
        self.sleepers = []

    def one(self):
        home = os.readlink("/proc/self/ns/net")
        sleeper = subprocess.Popen(["unshare", "--net", "sleep", "100000"])
        self.sleepers.append(sleeper)
        while os.readlink(f"/proc/{sleeper.pid}/ns/net") == home:
            time.sleep(0.01)
        return sleeper.pid

    def end(self):
        for sleeper in self.sleepers:
            sleeper.kill()
            sleeper.wait()


class Wire:
    """Two network namespaces that can talk, the first one's address, a port of 127.0.0.1 that leads to it, and the
    namespace in which their bridge is. Namespaces are told by a pid."""

    def __init__(self, server, client, address, host, published=None, remove=None):
        self.server, self.client, self.address, self.host = server, client, address, host
        self.published, self.remove = published, remove


def bare(namespaces, rule=""):
    """Two veth ends on a bridge, in namespaces that nothing else is in; with `rule`, one rule where the bridge is."""
    switch, *ends = [namespaces.one() for _ in range(3)]
    there = " ".join(within(switch))
    sh(f"{there} ip link add bare0 type bridge && {there} ip link set bare0 up")
    for number, pid in enumerate(ends):
        sh(f"{there} ip link add bare{number + 1} master bare0 up type veth peer name eth0 netns {pid}"
           f" && nsenter -t {pid} -n sh -c 'ip addr add 10.98.0.{number + 2}/24 dev eth0 && ip link set eth0 up'")
    if rule:
        sh(f"{there} iptables {rule}")
    return Wire(*ends, "10.98.0.2", switch)


def containers(command, image, host):
    """Two containers of an engine, the first with a port of 127.0.0.1."""
    published = 5301
    publish = ["-p", f"127.0.0.1:{published}:{PORT}"]
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
    return Wire(server, client, address, host, published, lambda: subprocess.run(remove, capture_output=True))


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


def throughput(options, server, client, address, port, congestion):
    """Of one TCP stream: Gbit/s, and Gbit for each second of the processors' work."""
    line = [*within(server), "iperf3", "-s", "-1"]
    listener = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(50):
            time.sleep(0.1)
            line = [*within(client), "iperf3", "-J", "-t", str(options.seconds), "-C", congestion, "-c", address,
                    "-p", str(port)]
            before = options.meter.seconds()
            done = subprocess.run(line, capture_output=True, text=True)
            work = options.meter.seconds() - before
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


def small(program, server, client, address):
    """Nanoseconds for one datagram of 32 bytes, of which the receiver reads none."""
    bound = "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 9)); time.sleep(100)"
    listener = subprocess.Popen([*within(server), sys.executable, "-c", bound])
    try:
        time.sleep(0.3)
        line = [*within(client), "taskset", "1", program, address]
        return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    finally:
        listener.kill()
        listener.wait()


CALL_IPTABLES = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def read(path):
    return sh(f"cat {path} 2>/dev/null || true").strip()


class Switch:
    """`bridge-nf-call-iptables` in the namespaces `hosts`, the last of which is fresh."""

    def __init__(self, hosts):
        self.hosts, self.value, self.ours = hosts, read(CALL_IPTABLES), False
        if self.value == "1":
            # Until Linux 5.3 the whole machine had one, which is not ours to turn.
            self.turn("0", hosts[-1:])
            self.ours = read(CALL_IPTABLES) == "1"
            self.turn("1", hosts[-1:])

    def turn(self, value, hosts=None):
        for pid in hosts or self.hosts:
            sh(f"{' '.join(within(pid))} sh -c 'echo {value} > {CALL_IPTABLES}'")


def conditions(switch):
    """What a packet meets: who controls congestion, and whether bridges call iptables."""
    own, value = read("/proc/sys/net/ipv4/tcp_congestion_control"), switch.value or "no br_netfilter"
    found = [(own, value)]
    if own != "cubic" and "cubic" in read("/proc/sys/net/ipv4/tcp_available_congestion_control").split():
        found.append(("cubic", value))
    if switch.ours:
        found.append((found[-1][0], "0"))
    elif value == "1":
        print("\nbridge-nf-call-iptables 0: skipped, this kernel has one switch for the whole machine")
    return found


def measure(options, namespaces, engines):
    """Prints all of it. `engines`, by name: the words before a sub-command, an image, and the engine's namespace."""
    if timing.found("iperf3") is None:
        print("\nthroughput: skipped, iperf3 is not installed (apt-get install iperf3)")
        return
    wires = {"bare bridge": bare(namespaces)}
    wires["bare, NAT"] = bare(namespaces, "-t nat -A POSTROUTING -s 10.98.0.0/24 ! -o bare0 -j MASQUERADE")
    rates, trips, packets = {}, {}, {}
    try:
        for name, engine in engines.items():
            wires[name] = containers(*engine)
        switch = Switch([wire.host for wire in reversed(wires.values())])
        under = conditions(switch)
        for _ in range(options.turns):
            for condition in under:
                if switch.ours:
                    switch.turn(condition[1])
                for name, wire in wires.items():
                    ends = (wire.server, wire.client, wire.address)
                    for key, rate in carried(options, wire, condition[0]).items():
                        rates.setdefault((key, condition), {}).setdefault(name, []).append(rate)
                    if condition in (under[0], under[-1]):
                        packets.setdefault(condition[1], {}).setdefault(name, []).append(small(options.packets, *ends))
                    if condition == under[0]:
                        trips.setdefault(name, []).append(latency(*ends, PORT, 5000))
    finally:
        for wire in wires.values():
            if wire.remove:
                wire.remove()
    for key in ["between two containers", "by a port of 127.0.0.1"]:
        for condition in under:
            compared(key, condition, rates)
    for value, row in packets.items():
        print(f"\na small packet between two containers; bridge-nf-call-iptables {value}")
        print(f"{'':<16}{'its cost':>10}{'above bare':>12}")
        over = lambda name: statistics.median(one - bare for one, bare in zip(row[name], row["bare bridge"]))
        for name in row:
            print(f"{name:<16}{statistics.median(row[name]):>7.0f} ns{over(name):>9.0f} ns")
    print("\none byte to and fro: " + "; ".join(f"{name} {statistics.median(row):.1f} us" for name, row in trips.items()))
    print("budget: between two containers at least 0.95 of the bare bridge; above docker in both")


def carried(options, wire, congestion):
    """By name of the way, what one measurement of `wire` gave."""
    rates = {"between two containers":
             throughput(options, wire.server, wire.client, wire.address, PORT, congestion)}
    if wire.published:
        rates["by a port of 127.0.0.1"] = throughput(
            options, wire.server, wire.host, "127.0.0.1", wire.published, congestion)
    return rates


def compared(key, condition, rates):
    """A line for each wire. Ratios are to the bare bridge, turn by turn: their median, and where half of them lie."""
    print(f"\n{key}; {condition[0]}, bridge-nf-call-iptables {condition[1]}")
    print(f"{'':<16}{'median':>14}{'of bare':>9}{'half of them':>15}{'per CPU second':>17}{'of bare':>9}")
    base = rates["between two containers", condition]["bare bridge"]
    for name, row in rates[key, condition].items():
        rate, work = [statistics.median(column) for column in zip(*row)]
        of_rate, of_work = [[one[column] / other[column] for one, other in zip(row, base)] for column in (0, 1)]
        low, _, high = statistics.quantiles(of_rate, n=4) if len(row) > 1 else of_rate * 3
        print(f"{name:<16}{rate:>7.2f} Gbit/s{statistics.median(of_rate):>9.2f}{f'{low:.2f} to {high:.2f}':>15}"
              f"{work:>12.2f} Gbit{statistics.median(of_work):>9.2f}")
