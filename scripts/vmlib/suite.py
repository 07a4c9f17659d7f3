"""`scripts/vm test`: the compiled test suite inside the VM, as a table.

cargo compiles here; the guest only runs the binaries, one after the other, as root, in
the repository's own path, as `cargo test` would. Every failing test is shown with its
output, every test that could not run there with its reason: libtest's `ignored`, and
tests that print `skipped: REASON`.
"""

import dataclasses
import re
import shlex
import sys
import time

from . import build, host, qemu, share

BEGIN, END = "::suite ", "::end "


@dataclasses.dataclass
class Result:
    """What one test binary did."""

    name: str
    began: float
    lines: list = dataclasses.field(default_factory=list)
    status: int | None = None
    seconds: float = 0.0

    @property
    def skipped(self):
        """Test and reason of each that did not run, whole or in part."""
        found = []
        for line in self.lines:
            if match := re.match(r"test (.*) \.\.\. ignored(?:, (.*))?$", line):
                found.append((match[1], match[2] or "ignored"))
            elif match := re.match(r"skipped: (\S+): (.*)", line):
                found.append((match[1], match[2]))
        return found

    def count(self, word):
        """Number from libtest's last line, `5 passed; 0 failed; …`."""
        for line in reversed(self.lines):
            if line.startswith("test result:"):
                return int(re.search(rf"(\d+) {word}", line)[1])
        return 0

    @property
    def failed(self):
        """Failed tests; a binary that died without a verdict is one failure."""
        return self.count("failed") or int(self.status != 0)

    @property
    def passed(self):
        unable = {line.split(": ")[1] for line in self.lines if line.startswith("skipped: ")}
        return self.count("passed") - len(unable)

    def failures(self):
        """libtest's own report of what failed, or all there is when there is none."""
        text = "\n".join(self.lines)
        reports = re.search(r"^failures:$.*?^test result", text, re.M | re.S)
        if self.status == 124:
            return "did not end in time; it had said:\n" + "\n".join(self.lines[-60:])
        return reports[0].rsplit("\n", 1)[0] if reports else f"ended with status {self.status}:\n" + "\n".join(self.lines[-60:])


class Reader:
    """Cuts the job's output into one result per test binary, while it comes."""

    def __init__(self, log):
        self.log, self.rest, self.results = log, b"", []

    def __call__(self, data):
        self.log.write(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.line(line.decode(errors="replace").rstrip("\r"))

    def line(self, line):
        now = time.monotonic()
        if line.startswith(BEGIN):
            self.results.append(Result(line[len(BEGIN):], now))
        elif line.startswith(END) and self.results:
            result = self.results[-1]
            result.status, result.seconds = int(line[len(END):]), now - result.began
            print(f"vm: {result.name}: {result.passed} passed, {result.failed} failed, "
                  f"{len(result.skipped)} skipped, {result.seconds:.0f} s", file=sys.stderr)
        elif self.results:
            self.results[-1].lines.append(line)


def run(options, image):
    """Compiles, boots, runs, prints the table; 0 when nothing failed."""
    tests = build.tests(options.only)
    chosen = {name: path for name, path in sorted(tests.binaries.items()) if build.wanted(name, options.only)}
    if not chosen:
        raise host.Failure(f"no test binary has `{options.only}` in its name", " ".join(sorted(tests.binaries)))
    engine = build.binary(options) if options.bin else tests.engine
    contents = share.Contents(engine, job(options, chosen, engine), [*chosen.values(), *tests.programs])
    path = host.cache() / f"test-{options.cgroup}.log"
    with open(path, "wb", buffering=0) as log:
        reader = Reader(log)
        outcome = qemu.boot(options, image, contents, out=reader, err=log.write)
    status = outcome.report()
    table(options, reader.results, chosen)
    print(f"\nthe whole output: {path}")
    if outcome.status is None:
        return status
    return int(any(result.failed for result in reader.results) or len(reader.results) < len(chosen))


def job(options, chosen, engine):
    """The guest's script: each binary as cargo would run it, between two marks."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    folder = shlex.quote(str(host.REPO))
    target = engine.parents[1]
    lines = [
        f"cd {folder}",
        # An emulated processor is some ten times slower than this one.
        f"export CARGO_MANIFEST_DIR={folder} RUST_BACKTRACE=0 MYDOCKER_TEST_SLOW=6",
        # Else the tests find the program where cargo has put it, here as there.
        f"export MYDOCKER_BIN={shlex.quote(str(engine))}" if options.bin else "unset MYDOCKER_BIN",
        # What CARGO_TARGET_TMPDIR named when the tests were compiled.
        f"mkdir -p {shlex.quote(str(target / 'tmp'))} {shlex.quote(str(target.parent / 'tmp'))}",
    ]
    for name, path in chosen.items():
        command = shlex.join(["timeout", "-k", "5", f"{options.each:.0f}", str(path), "--show-output", *words])
        lines.append(f"echo {shlex.quote(BEGIN + name)}; {command} 2>&1; status=$?; echo; echo {shlex.quote(END)}$status")
    return "\n".join(lines)


def table(options, results, chosen):
    """Failures first, then reasons of skips, then one line per test binary."""
    for result in results:
        if result.failed:
            print(f"\n---- {result.name}, cgroup {options.cgroup} ----\n{result.failures()}")
    for result in results:
        for test, reason in result.skipped:
            print(f"skipped {result.name} {test}: {reason}")
    form = "{:<28} {:>7} {:>7} {:>8} {:>8}"
    print("\n" + form.format(f"cgroup {options.cgroup}", "passed", "failed", "skipped", "time"))
    for result in results:
        took = f"{result.seconds:.0f} s" if result.status is not None else "cut off"
        print(form.format(result.name, result.passed, result.failed, len(result.skipped), took))
    for name in list(chosen)[len(results):]:
        print(form.format(name, "-", "-", "-", "not run"))
    print(form.format("all", sum(r.passed for r in results), sum(r.failed for r in results),
                      sum(len(r.skipped) for r in results), f"{sum(r.seconds for r in results):.0f} s"))
