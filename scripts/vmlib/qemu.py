"""Boot, three channels, time limits.

The guest's agent speaks through virtio-serial ports, each of which is a unix socket
here: `out` and `err` carry the job's bytes, `status` carries two lines, `ready` and
`exit N`. The console only goes to a file, for the day when a boot fails.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

from . import host, share

#: The kernel's words for each layout. systemd 256 and later must be told twice.
LEGACY = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
CGROUP = {
    "v2": "systemd.unified_cgroup_hierarchy=1",
    "v1": f"{LEGACY} systemd.legacy_systemd_cgroup_controller=1",
    "hybrid": f"{LEGACY} systemd.legacy_systemd_cgroup_controller=0",
}

#: program, machine, emulated processor, console, Debian package. The oldest processor boots fastest.
MACHINE = {
    "x86_64": ("qemu-system-x86_64", "q35", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt", "ttyS0", "qemu-system-x86"),
    "aarch64": ("qemu-system-aarch64", "virt", "cortex-a57", "ttyAMA0", "qemu-system-arm"),
}

#: `mov al, 42; out 0xf4, al; hlt`: with isa-debug-exit QEMU ends with status 2 * 42 + 1.
BOOT_SECTOR = bytes.fromhex("b02ae6f4f4ebfd").ljust(510, b"\0") + b"\x55\xaa"


@dataclasses.dataclass
class Outcome:
    """How a boot ended: the job's status, or why there is none."""

    status: int | None = None
    reason: str = ""
    boot_seconds: float | None = None
    seconds: float = 0.0
    console: str = ""

    def report(self):
        """The exit status for our caller; says on stderr what went wrong, if the VM did."""
        if self.boot_seconds is not None:
            print(f"vm: booted in {self.boot_seconds:.1f} s, {self.seconds:.1f} s in all", file=sys.stderr)
        trouble = re.findall(r".*(?:Kernel panic|BUG:|Oops:).*", self.console)
        for line in trouble[:3]:
            print(f"vm: the guest's kernel said: {line.strip()}", file=sys.stderr)
        if self.status is not None:
            return self.status
        tail = "\n".join(self.console.splitlines()[-15:])
        print(f"vm: error: {self.reason}\n{tail}", file=sys.stderr)
        return 124 if "seconds" in self.reason else 125


def boot(options, image, contents, *, interactive=False, disk=None, end="quit", after=None, out=None, err=None):
    """One life of the VM, from power on to power off.

    `disk` keeps what the guest writes (else it is thrown away); `end` is `quit` (switch off when
    the job is done), `poweroff` (let the guest do it, in order) or `cut` (SIGKILL: the power fails;
    with `after`, that many seconds after the job began). `out` and `err` are called with bytes.
    """
    settings = {
        "CGROUP": options.cgroup if "cgroup" not in options.kernel_cmdline else "any",
        "INTERACTIVE": "yes" if interactive else "no",
        "AS": "student" if options.user else "root",
        "END": end,
        "TERMINAL": os.environ.get("TERM", "dumb") if interactive else "dumb",
        "ROWS": shutil.get_terminal_size().lines,
        "WIDTH": shutil.get_terminal_size().columns,
    }
    with tempfile.TemporaryDirectory(prefix="mydocker-vm-") as name, contextlib.ExitStack() as cleanup:
        folder = pathlib.Path(name)
        second = share.pack(contents, settings, folder)
        ports = {port: listen(folder / port, cleanup) for port in ("out", "err", "status")}
        command = arguments(options, image, folder, second, disk, interactive)
        if interactive:
            cleanup.enter_context(terminal())
        qemu = subprocess.Popen(command, stdin=None if interactive else subprocess.DEVNULL,
                                stdout=None if interactive else subprocess.DEVNULL, stderr=subprocess.PIPE,
                                start_new_session=not interactive)
        cleanup.callback(stop, qemu, signal.SIGTERM)
        sinks = {"out": out or writer(sys.stdout), "err": err or writer(sys.stderr)}
        outcome = Watch(options, qemu, ports, sinks, end, after).run()
        console = folder / "console"
        outcome.console = console.read_text(errors="replace") if console.exists() else ""
        if options.console:
            pathlib.Path(options.console).write_text(outcome.console)
        return outcome


def arguments(options, image, folder, second, disk, interactive):
    """The QEMU command line."""
    machine = host.architecture()
    program, board, emulated, console, package = MACHINE[machine]
    accel = accelerator(options.accel)
    words = ["console=" + console, "root=LABEL=root", "rw", "quiet", "systemd.show_status=0", "panic=-1",
             "" if "cgroup" in options.kernel_cmdline else CGROUP[options.cgroup], options.kernel_cmdline]
    drive = f"if=none,id=root,format=raw,file={disk or image.root}" + ("" if disk else ",snapshot=on")
    command = [
        # However we end, the VM ends too.
        host.tool("setpriv", "util-linux"), "--pdeathsig", "KILL", "--",
        host.tool(program, package), "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
        "-M", board, "-m", options.memory, "-smp", "2",
        *(["-accel", "kvm", "-cpu", "host"] if accel == "kvm" else ["-accel", "tcg,thread=multi", "-cpu", emulated]),
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", " ".join(filter(None, words)),
        "-drive", drive, "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=share,format=raw,file={second}", "-device", "virtio-blk-pci,drive=share",
        "-device", "virtio-serial-pci",
    ]
    for port in ("out", "err", "status"):
        command += ["-chardev", f"socket,id={port},path={folder}/{port}",
                    "-device", f"virtserialport,chardev={port},name=vm.{port}"]
    console_to = "stdio,id=console,signal=off" if interactive else f"file,id=console,path={folder}/console"
    return command + ["-chardev", console_to, "-serial", "chardev:console"]


def accelerator(choice):
    """`kvm` where it really runs code, else `tcg`; the verdict is kept until this machine boots again."""
    if choice != "auto":
        return choice
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    if host.architecture() != "x86_64":
        return "kvm"
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = host.cache() / "accelerator"
    if note.exists() and note.read_text().split()[0] == boot_id:
        return note.read_text().split()[1]
    with tempfile.NamedTemporaryFile(prefix="mydocker-kvm-") as sector, host.progress("does KVM work here"):
        sector.write(BOOT_SECTOR)
        sector.flush()
        try:
            status = subprocess.run([
                host.tool("qemu-system-x86_64", "qemu-system-x86"), "-no-user-config", "-nodefaults", "-display", "none",
                "-accel", "kvm", "-cpu", "host", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                "-drive", f"if=ide,format=raw,file={sector.name}"],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False).returncode
        except subprocess.TimeoutExpired:
            status = None
    verdict = "kvm" if status == 85 else "tcg"
    note.write_text(f"{boot_id} {verdict}\n")
    print(f"vm: KVM {'works' if status == 85 else 'does not run code here'}: using {verdict}", file=sys.stderr)
    return verdict


class Watch:
    """Listens to a running VM until its job is done, its time is up, or its power is cut."""

    def __init__(self, options, qemu, ports, sinks, end, after):
        self.options, self.qemu, self.sinks, self.end, self.after = options, qemu, sinks, end, after
        self.selector = selectors.DefaultSelector()
        for name, port in ports.items():
            self.selector.register(port, selectors.EVENT_READ, (name, True))
        self.began = time.monotonic()
        self.deadline = self.began + options.boot_timeout
        self.cut_at = None
        self.words = b""
        self.outcome = Outcome(reason="the guest never said `ready`")

    def run(self):
        while self.qemu.poll() is None and self.step():
            pass
        if self.outcome.status is None and self.end != "cut" and self.qemu.poll() is not None:
            said = self.qemu.stderr.read().decode(errors="replace").strip()
            self.outcome.reason = "the guest switched itself off before the command ended"
            if self.qemu.returncode:
                self.outcome.reason = f"QEMU ended with status {self.qemu.returncode}: {said or 'nothing said'}"
        if self.outcome.status is not None and self.end == "poweroff":
            with host.progress("the guest shuts down"), contextlib.suppress(subprocess.TimeoutExpired):
                self.qemu.wait(90)
        stop(self.qemu, signal.SIGKILL if self.end == "cut" else signal.SIGTERM)
        while self.read(0):
            pass
        self.outcome.seconds = time.monotonic() - self.began
        return self.outcome

    def step(self):
        """One round; False when the VM may be switched off."""
        now = time.monotonic()
        if self.cut_at and now >= self.cut_at:
            self.outcome.status, self.outcome.reason = 0, "power cut"
            return False
        if now >= self.deadline:
            booting = self.outcome.boot_seconds is None
            limit = self.options.boot_timeout if booting else self.options.timeout
            self.outcome.reason = f"{'no boot' if booting else 'the command did not end'} within {limit:.0f} seconds"
            return False
        self.read(max(0.0, min(1.0, min(self.deadline, self.cut_at or self.deadline) - now)))
        return self.outcome.status is None

    def read(self, wait):
        """Passes on what has come; the number of bytes and callers that did."""
        got = 0
        for key, _ in self.selector.select(wait):
            name, listening = key.data
            if listening:
                connection, _ = key.fileobj.accept()
                self.selector.unregister(key.fileobj)
                self.selector.register(connection, selectors.EVENT_READ, (name, False))
                got += 1
                continue
            data = key.fileobj.recv(65536)
            if not data:
                self.selector.unregister(key.fileobj)
                key.fileobj.close()
            elif name == "status":
                self.heard(data)
            else:
                self.sinks[name](data)
            got += len(data)
        return got

    def heard(self, data):
        """`ready`, then `exit N`."""
        *lines, self.words = (self.words + data).split(b"\n")
        for line in lines:
            if line == b"ready":
                now = time.monotonic()
                self.outcome.boot_seconds = now - self.began
                self.outcome.reason = "the guest ended without an exit status"
                self.deadline = now + self.options.timeout
                self.cut_at = now + self.after if self.after is not None else None
            elif line.startswith(b"exit "):
                self.outcome.status = int(line[5:])


def listen(path, cleanup):
    """A unix socket that QEMU will connect to."""
    port = socket.socket(socket.AF_UNIX)
    cleanup.callback(port.close)
    port.bind(str(path))
    port.listen(1)
    return port


def stop(process, how):
    """Ends the QEMU that we started, and reaps it."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def writer(stream):
    """Bytes to one of our own streams, at once."""
    def write(data):
        stream.buffer.write(data)
        stream.flush()
    return write


@contextlib.contextmanager
def terminal():
    """Puts the terminal back as it was, however QEMU ends."""
    saved = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
