"""What cargo has to make before a boot: one static binary, or the whole test suite.

Everything is linked statically, so that it runs in a guest whose C library is older
than this machine's. An explicit `--target` must go with `+crt-static`, or the
proc-macro crates fail to build; it also keeps these artifacts apart from those of a
plain `cargo build`.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

from . import host


# Half of the bytes of a test binary are line numbers that nobody reads there; and an emulated processor needs the
# compiler's help more than a real one.
PROFILE = {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_PROFILE_DEV_OPT_LEVEL": "1"}


@dataclasses.dataclass
class Tests:
    """A compiled suite: test binaries by name, and the programs that they drive."""

    binaries: dict
    programs: list
    engine: pathlib.Path


def binary(options):
    """The mydocker to share with the guest, or None while there is no crate to build."""
    given = options.bin or os.environ.get("MYDOCKER_BIN")
    if given:
        path = pathlib.Path(given).resolve()
        if not os.access(path, os.X_OK):
            raise host.Failure(f"`{given}` is not an executable file")
        return path
    if not (host.REPO / "Cargo.toml").exists():
        print("vm: no Cargo.toml here: the guest has no mydocker", file=sys.stderr)
        return None
    messages = cargo("building mydocker", "build", "--release", "--bin", "mydocker")
    return next(pathlib.Path(message["executable"]) for message in messages if message.get("executable"))


def tests(only=""):
    """Compiles the suite and every program that it may drive; with `only`, those files of tests/ alone, if it names some."""
    names = sorted(path.stem for path in (host.REPO / "tests").glob("*.rs") if only and wanted(path.stem, only))
    words = [word for name in names for word in ("--test", name)]
    messages = cargo("compiling the tests", "test", "--no-run", *words, **PROFILE)
    if not names or {"chapters", "demo", "course_pages"} & set(names):
        # The chapters' programs, which `cargo test` makes only with everything else, and the one of the labs.
        for more in (["--examples"], ["--example", "labs", "--features", "labs"]):
            messages += cargo("building the chapters' programs", "build", *more, **PROFILE)
    made = [message for message in messages if message.get("executable")]
    found = Tests(binaries={}, programs=[], engine=None)
    for message in made:
        path, target = pathlib.Path(message["executable"]), message["target"]
        if message["profile"]["test"]:
            found.binaries[suite_name(target)] = path
        else:
            found.programs += [path] * (path not in found.programs)
            if target["name"] == "mydocker":
                found.engine = path
    if not found.engine:
        messages = cargo("building mydocker", "build", "--bin", "mydocker", **PROFILE)
        found.engine = next(pathlib.Path(message["executable"]) for message in messages if message.get("executable"))
        found.programs.append(found.engine)
    return found


def wanted(name, only):
    """Whether a test binary is among those asked for: words with commas between them; none: all of them."""
    return any(word in name for word in only.split(","))


def suite_name(target):
    """`unit (lib)`, `unit (main)`, or the name of a file in tests/."""
    kind = target["kind"][0]
    return target["name"] if kind == "test" else f"unit ({kind})"


def cargo(text, *words, **environment):
    """Runs cargo for a static build of this host's target; returns its JSON messages."""
    program, variables = toolchain()
    variables |= {"RUSTFLAGS": "-C target-feature=+crt-static -C relocation-model=static"} | environment
    command = [program, *words, "--locked", "--target", triple(program, variables),
               "--message-format=json-render-diagnostics"]
    with host.progress(text):
        result = subprocess.run(command, cwd=host.REPO, env=variables, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise host.Failure(f"cargo failed:\n{result.stderr.strip()}")
    messages = (json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))
    return [message for message in messages if message["reason"] == "compiler-artifact"]


def triple(program, variables):
    """The host's target triple, from the compiler beside this cargo."""
    rustc = shutil.which("rustc", path=os.path.dirname(program)) or "rustc"
    words = subprocess.run([rustc, "-vV"], env=variables, capture_output=True, text=True, check=True).stdout
    return next(line.split()[1] for line in words.splitlines() if line.startswith("host:"))


def toolchain():
    """cargo and its environment; under sudo it may be in the home of the user who called."""
    variables = dict(os.environ)
    homes = ["~" + variables["SUDO_USER"]] if variables.get("SUDO_USER") else []
    for home in ["~", *homes]:
        variables["PATH"] += ":" + os.path.expanduser(home) + "/.cargo/bin"
    program = shutil.which("cargo", path=variables["PATH"])
    if not program:
        raise host.Failure("cargo is not installed", "scripts/setup.sh vm says how to get it")
    for name, folder in (("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")):
        there = pathlib.Path(program).parents[2] / folder
        if program.endswith("/.cargo/bin/cargo") and there.is_dir():
            variables.setdefault(name, str(there))
    return program, variables
