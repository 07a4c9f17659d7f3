"""`scripts/vm powercut FIRST… -- SECOND…`: does the state survive a power cut?

One disk, two boots. The first runs FIRST, then QEMU gets SIGKILL: what the guest's
kernel still had in its page cache is gone, as on a machine whose plug was pulled. The
second boots the same disk (ext4 replays its journal) and runs SECOND. The exit status
is SECOND's; a FIRST that fails by itself ends the matter.
"""

import pathlib
import sys
import tempfile

from . import build, host, qemu, share


def run(options, image):
    """Both boots; SECOND's exit status."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if "--" not in words:
        raise host.Failure("no `--` between the two commands", "scripts/vm powercut FIRST -- SECOND")
    middle = words.index("--")
    return both(options, image, build.binary(options), share.command(words[:middle]), share.command(words[middle + 1:]))


def both(options, image, binary, before, after):
    """One disk: `before`, then no power, then `after`, whose exit status this is."""
    jobs = [before, after]
    with tempfile.TemporaryDirectory(prefix="mydocker-disk-", dir=host.cache()) as folder:
        disk = pathlib.Path(folder) / "root.img"
        with host.progress("copying the disk"):
            host.call(["cp", "--sparse=always", "--reflink=auto", str(image.root), str(disk)])
        first = qemu.boot(options, image, share.Contents(binary, jobs[0]), disk=disk, end="cut",
                          after=getattr(options, "after", None))
        status = first.report()
        if status:
            print("vm: the command before the power cut failed", file=sys.stderr)
            return status
        print("vm: power cut; the same disk boots again", file=sys.stderr)
        return qemu.boot(options, image, share.Contents(binary, jobs[1]), disk=disk).report()
