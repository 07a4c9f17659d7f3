"""The parts of scripts/vm, in the order in which a run needs them.

host      what this machine is: cache, architecture, progress, errors
image     the guest's disk: Debian packages -> root.img, kernel, initrd
build     cargo: the static binary, the compiled tests
share     the second disk: what the guest sees of this machine
qemu      boot, three channels, time limits
suite     `scripts/vm test`
powercut  `scripts/vm powercut`
"""
