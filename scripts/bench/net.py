"""The network: a start on the bridge, and what a wire carries, beside the floor, docker and podman.

Everything happens in a mount namespace of its own with a private /run, and each engine has a network namespace of its
own, so that none meets the rules of another: no rule, bridge or route of this machine is touched, and all is gone at the
end. A peer that is not installed is skipped, and said to be.

Starts: `run --rm busybox true`, without and with a published port. The floor makes the same kernel objects, the bridge
port included, and no rules. Throughput: iperf3 between two containers, and through a port published on 127.0.0.1, beside
two veth ends on a bare bridge without rules. Latency: one byte to and fro over TCP.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import timing
import wires
from peers import IMAGE, Peers
from wires import Meter, Namespaces, sh, within


def card():
    """Lines that make one card with a default route, so that there is an MTU to take over."""
    return ("ip link set lo up && ip link add wire type veth peer name far && ip link set far up && ip link set wire up"
            " && ip addr add 192.0.2.1/24 dev wire && ip route add default via 192.0.2.2")


def private_host(scratch):
    """A host of our own, and a bridge for the floor."""
    sh(f"mount -t tmpfs tmpfs /run && {card()}")
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mydocker", required=True)
    parser.add_argument("--floor", required=True)
    parser.add_argument("--packets", required=True, help="scripts/packets.c, compiled")
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
    others, options.meter, namespaces, hosts = None, Meter(), Namespaces(), {}
    try:
        private_host(scratch)
        mydocker = [os.path.abspath(options.mydocker), "--root", f"{scratch}/root"]
        subprocess.run([*mydocker, "run", "--rm", "busybox", "true"], check=True)
        [layer] = [f"{scratch}/root/layers/{name}/diff" for name in os.listdir(f"{scratch}/root/layers")
                   if os.path.exists(f"{scratch}/root/layers/{name}/diff/bin/true")]

        def host(name):
            hosts[name] = namespaces.one()
            sh(f"{' '.join(within(hosts[name]))} sh -c '{card()}'")
            return within(hosts[name])

        others = Peers(scratch, layer, host)
        if options.only != "wires":
            starts(options, scratch, mydocker, layer, others.commands)
        if options.only != "starts":
            engines = {"mydocker": (mydocker, "busybox", None)}
            engines |= {name: (command, IMAGE, hosts[name]) for name, command in others.commands.items()}
            wires.measure(options, namespaces, engines)
    finally:
        if others:
            others.end()
        namespaces.end()
        options.meter.close()
        for line in sh("cut -d' ' -f5 /proc/self/mountinfo").split():
            if line.startswith(scratch):
                subprocess.run(["umount", "-l", line], capture_output=True)
        shutil.rmtree(scratch, ignore_errors=True)


main()
