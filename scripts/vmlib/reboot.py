"""`scripts/vm reboot`: containers were running when the power failed; what does the next boot find?

Nothing may pretend to run, what was to go with its end is gone, names and addresses are free, no file of ours is torn,
and what was running starts again. The first boot ends with SIGKILL to QEMU (see powercut.py), a few moments after a
`sync`, so that some of what it did is on the disk and some is not.
"""

from . import build, powercut

#: Containers in every state, then the disk settles, then one more that may or may not reach it.
FIRST = r"""
set -eu
mydocker run -d --name web busybox sleep 1000
mydocker run -d --rm --name gone busybox sleep 1000
mydocker run -d --name again --restart always busybox sleep 1000
mydocker run -d --name frozen busybox sleep 1000
mydocker pause frozen
mydocker run -d --name over busybox sh -c 'exit 7'
mydocker wait over
mydocker create --name made busybox true
mydocker network create --subnet 10.213.7.0/29 lab
mydocker run -d --name wired --network lab --ip 10.213.7.2 busybox sleep 1000
mydocker run --rm --name front busybox sleep 1000 </dev/null >/dev/null 2>&1 &
tries=0
until [ "$(mydocker ps -q | wc -l)" = 6 ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { mydocker ps -a; exit 1; }
    sleep 0.2
done
sync
mydocker run -d --name late busybox sleep 1000
"""

#: What must hold afterwards, one check per line of the table: a name, then a command.
CHECKS = [
    ("nothing pretends to run", 'test -z "$(mydocker ps -q)"'),
    ("the first command says nothing of damage", 'test -z "$(mydocker ps -a 2>&1 >/dev/null)"'),
    ("what ran has ended, unseen", '''test "$(mydocker inspect -f '{{.State.Running}} {{.State.ExitCode}}' web)" = "false 255"'''),
    ("what was paused has ended", '''test "$(mydocker inspect -f '{{.State.Status}}' frozen)" = exited'''),
    ("an end that was seen stays", '''test "$(mydocker inspect -f '{{.State.ExitCode}}' over)" = 7'''),
    ("what was only made is only made", '''test "$(mydocker inspect -f '{{.State.Status}}' made)" = created'''),
    ("what went with its end is gone", "! mydocker inspect gone && ! mydocker inspect front"),
    ("no file is torn", "mydocker ps -aq | xargs mydocker inspect"),
    ("every folder has its container", 'test "$(ls /var/lib/mydocker/containers | wc -l)" = "$(mydocker ps -aq | wc -l)"'),
    ("every name has its container", 'for name in /var/lib/mydocker/names/*; do test -d "$name" || exit 1; done'),
    ("no journal is left", 'test -z "$(ls /run/mydocker/journal)"'),
    ("a name that is free can be taken", "mydocker run --rm --name gone busybox true"),
    ("an address is free", "mydocker run --rm --network lab --ip 10.213.7.2 busybox true"),
    ("what ran starts again", "mydocker start web && test \"$(mydocker inspect -f '{{.State.Running}}' web)\" = true"),
    ("so does what has an address", "mydocker start wired && mydocker exec wired ip addr show eth0 | grep -q 10.213.7.2"),
    ("what restarts always does", "mydocker start --all-restartable && mydocker ps | grep -q again"),
    ("all of it can be removed", "mydocker ps -aq | xargs mydocker rm -f && mydocker network rm lab"),
    ("and leaves nothing", 'test -z "$(ls /var/lib/mydocker/containers /var/lib/mydocker/names | grep -v :)"'),
]


def second():
    """The checks as one shell line; its status is the number of those that failed."""
    lines = ["failed=0"]
    for name, command in CHECKS:
        lines.append(f"if output=$( ({command}) 2>&1 ); then echo 'ok      {name}'; "
                     f"else echo 'FAILED  {name}'; echo \"$output\"; failed=$((failed + 1)); fi")
    lines.append(f'printf "all %d %d 0\\n" $(({len(CHECKS)} - failed)) $failed; exit $failed')
    return "\n".join(lines)


def run(options, image):
    """Both boots; 0 when every check holds."""
    binary = build.binary(options) if options.bin else build.tests("guard").engine
    return powercut.both(options, image, binary, FIRST, second())
