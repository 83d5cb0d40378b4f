#!/usr/bin/env python3
"""Brings libtorch, the CPU part of PyTorch, into `.libtorch/` at the root of the repository.

It is cut out of wheels on PyPI, which are fetched with pip, so that the mirror, proxy and certificate
that pip is set up for hold here too. Wheels are pinned by hash and kept in
${XDG_CACHE_HOME:-~/.cache}/neva-run/wheels; nothing is written outside that folder and `.libtorch*`.
A set-up that was interrupted goes on with the wheels that are there. One that is done costs nothing.

Where LIBTORCH names a libtorch 2.11, with or without CUDA, that one is checked and nothing is fetched.
"""

import sys

if sys.version_info < (3, 9):
    sys.exit("setup: Python 3.9 or newer is needed, this is %d.%d" % sys.version_info[:2])

import argparse
import os
import platform
import re
import shutil
import traceback
import zipfile
from pathlib import Path
from typing import Optional

sys.dont_write_bytecode = True

import prerequisites
import wheels
from report import SetupError, say

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / ".libtorch"

VERSION = "2.11.0"
# What a whole `.libtorch/` says of itself. A change of what is put there gets a new number.
STAMP = f"libtorch {VERSION}, layout 1\n"
STAMP_FILE = "neva-setup.txt"

LIBRARIES = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"]
# In bytes.
UNPACKED_SIZE = 520_000_000


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the set-up. The exit code is 0, or 1 once it has been said what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="print the traceback of a failure")
    debug = parser.parse_args(arguments).debug
    try:
        named = os.environ.get("LIBTORCH")
        if named is None:
            set_up()
        else:
            use_named(named)
        return 0
    except KeyboardInterrupt:
        problem = "interrupted; the next set-up goes on from here"
    except Exception as error:
        if debug:
            traceback.print_exc()
        problem = str(error) if isinstance(error, (SetupError, OSError)) else f"this is a bug: {error!r}; --debug shows where"
    print(f"setup: {problem}", file=sys.stderr)
    return 1


def use_named(name: str) -> None:
    """Checks the libtorch that LIBTORCH names."""
    folder = Path(name)
    version = version_of(folder)
    lacking = [library for library in ("libtorch_cpu.so", "libtorch.so", "libc10.so") if not (folder / "lib" / library).exists()]
    if not folder.is_absolute():
        problem = "is not an absolute path, and compilers in several folders read it"
    elif version is None:
        problem = "holds no libtorch: there is no include/torch/headeronly/version.h in it"
    elif version[:2] != (2, 11):
        problem = f"holds libtorch {'.'.join(map(str, version))}, and 2.11 is needed"
    elif lacking:
        problem = f"has no lib/{lacking[0]}"
    else:
        check_prerequisites()
        cuda = "with CUDA" if (folder / "lib" / "libtorch_cuda.so").exists() else "CPU only"
        say(f"using libtorch {'.'.join(map(str, version))} of LIBTORCH={name} ({cuda})")
        return
    raise SetupError(f"LIBTORCH={name} {problem}.\nUnset LIBTORCH to have {VERSION} fetched, or let it name another folder.")


def version_of(libtorch: Path) -> Optional[tuple[int, ...]]:
    """The version in libtorch's headers; None where there are none."""
    # Releases differ in which of them has the numbers.
    for header in ("headeronly/version.h", "version.h", "csrc/api/include/torch/version.h"):
        path = libtorch / "include" / "torch" / header
        text = path.read_text() if path.is_file() else ""
        numbers = [re.search(rf"#define TORCH_VERSION_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
        if all(numbers):
            return tuple(int(number[1]) for number in numbers)
    return None


def set_up() -> None:
    """Makes `.libtorch/` what STAMP says."""
    if is_set_up():
        say(f"libtorch {VERSION} is there")
        return
    check_platform()
    check_prerequisites(wheels.PIP)
    kept = wheels.folder()
    kept.mkdir(parents=True, exist_ok=True)
    with wheels.locked(kept):
        missing = [wheel for wheel in wheels.WHEELS if not wheels.is_whole(kept / wheel.file_name, wheel)]
        check_space(kept, missing)
        for wheel in missing:
            wheels.fetch(wheel, kept)
        unpack([kept / wheel.file_name for wheel in wheels.WHEELS])
    say(f"libtorch {VERSION} is ready in {TARGET}")


def is_set_up() -> bool:
    stamp = TARGET / STAMP_FILE
    return stamp.is_file() and stamp.read_text() == STAMP and all((TARGET / "lib" / name).exists() for name in LIBRARIES)


def check_platform() -> None:
    libc, version = platform.libc_ver()
    recent = libc == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 28)
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or not recent:
        raise SetupError(
            "libtorch is fetched for x86_64 Linux with glibc 2.28 or newer, "
            f"and this is {platform.machine()} {platform.system()} {libc} {version}".rstrip()
            + f".\nLet LIBTORCH name the folder of a libtorch {VERSION} for this machine."
        )


def check_prerequisites(pip: Optional[list[str]] = None) -> None:
    rust_version = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    missing = prerequisites.missing(rust_version[1], pip)
    if missing:
        raise SetupError("the build needs what this machine does not have.\n" + "\n".join(missing))


def check_space(kept: Path, missing: list[wheels.Wheel]) -> None:
    sizes = [wheel.size for wheel in missing]
    # pip holds a second copy of a wheel until it is done with it.
    fetching = sum(sizes) + max(sizes, default=0)
    if kept.stat().st_dev == TARGET.parent.stat().st_dev:
        needs = {kept: max(fetching, sum(sizes) + UNPACKED_SIZE)}
    else:
        needs = {kept: fetching, TARGET.parent: UNPACKED_SIZE}
    for folder, need in needs.items():
        free = shutil.disk_usage(folder).free
        if free < need:
            elsewhere = ", or let XDG_CACHE_HOME name a folder on another disk" if folder == kept else ""
            raise SetupError(
                f"{folder} needs {need / 1e9:.1f} GB of disk space and has {free / 1e9:.1f} GB.\n"
                f"Make room for {(need - free) / 1e9:.1f} GB more{elsewhere}."
            )


def unpack(paths: list[Path]) -> None:
    """Lays `.libtorch/` out beside its place and moves it there as a whole."""
    say("unpacking")
    with wheels.scratch(TARGET.with_name(f"{TARGET.name}.partial")) as partial:
        for path in paths:
            with zipfile.ZipFile(path) as wheel:
                for member in wheel.infolist():
                    place = place_of(member.filename)
                    if place and not member.is_dir():
                        copy_member(wheel, member, partial / place)
        # Linkers ask for both by these names. libtorch.so is but a name for what it would load.
        (partial / "lib" / "libgomp.so").symlink_to("libgomp.so.1")
        empty_library = ["cc", "-shared", "-fPIC", "-Wl,-soname,libtorch.so", "-x", "c", "-"]
        problem = prerequisites.problem_of([*empty_library, "-o", str(partial / "lib" / "libtorch.so")])
        if problem:
            raise SetupError(f"cannot make libtorch.so: {problem}")
        (partial / STAMP_FILE).write_text(STAMP)
        old = TARGET.with_name(f"{TARGET.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if TARGET.exists():
            TARGET.rename(old)
        partial.rename(TARGET)
        shutil.rmtree(old, ignore_errors=True)


def place_of(member: str) -> Optional[str]:
    """Where a file of a wheel goes in `.libtorch/`; None for what a CPU build does without."""
    if member.startswith("torch/include/"):
        return member[len("torch/") :]
    name = member.rpartition("/")[2]
    return f"lib/{name}" if name in LIBRARIES else None


def copy_member(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wheel.open(member) as source, open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


if __name__ == "__main__":
    sys.exit(main())
