#!/usr/bin/env python3
"""Installs libtorch, the CPU part of PyTorch, into `.libtorch/` at the root of the repository.

The files come from wheels on PyPI, which pip downloads, so that pip's mirror, proxy and certificate settings
apply. Wheels are pinned by hash and cached in ${XDG_CACHE_HOME:-~/.cache}/neva-run/wheels. Nothing is written
outside that folder and `.libtorch*`. An interrupted set-up resumes with the cached wheels. A repeated set-up does
nothing.

If LIBTORCH names a libtorch 2.11, with or without CUDA, the set-up only checks it and downloads nothing.
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
# Contents of the stamp file of a complete `.libtorch/`. Increment the layout number if the installed files change.
STAMP = f"libtorch {VERSION}, layout 1\n"
STAMP_FILE = "neva-setup.txt"

LIBRARIES = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"]
# In bytes.
UNPACKED_SIZE = 520_000_000


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the set-up. Returns exit code 0, or 1 after an error message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="print the traceback of a failure")
    debug = parser.parse_args(arguments).debug
    try:
        named = os.environ.get("LIBTORCH")
        if named is None:
            set_up()
        else:
            use_existing(named)
        return 0
    except KeyboardInterrupt:
        problem = "interrupted; run it again to resume"
    except Exception as error:
        if debug:
            traceback.print_exc()
        problem = str(error) if isinstance(error, (SetupError, OSError)) else f"this is a bug: {error!r}; run with --debug for a traceback"
    print(f"setup: {problem}", file=sys.stderr)
    return 1


def use_existing(name: str) -> None:
    """Checks the libtorch in the folder that LIBTORCH names."""
    folder = Path(name)
    version = version_of(folder)
    missing = [library for library in ("libtorch_cpu.so", "libtorch.so", "libc10.so") if not (folder / "lib" / library).exists()]
    if not folder.is_absolute():
        problem = "is not an absolute path; compilers run in several folders and need one"
    elif version is None:
        problem = "contains no libtorch: it has no include/torch/headeronly/version.h"
    elif version[:2] != (2, 11):
        problem = f"contains libtorch {'.'.join(map(str, version))}, but 2.11 is required"
    elif missing:
        problem = f"has no lib/{missing[0]}"
    else:
        check_prerequisites()
        cuda = "with CUDA" if (folder / "lib" / "libtorch_cuda.so").exists() else "CPU only"
        say(f"using libtorch {'.'.join(map(str, version))} from LIBTORCH={name} ({cuda})")
        return
    raise SetupError(f"LIBTORCH={name} {problem}.\nUnset LIBTORCH to download {VERSION}, or set it to another folder.")


def version_of(libtorch: Path) -> Optional[tuple[int, ...]]:
    """Returns the version in libtorch's headers, or None if there are none."""
    # The header with the version differs between releases.
    for header in ("headeronly/version.h", "version.h", "csrc/api/include/torch/version.h"):
        path = libtorch / "include" / "torch" / header
        text = path.read_text() if path.is_file() else ""
        numbers = [re.search(rf"#define TORCH_VERSION_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
        if all(numbers):
            return tuple(int(number[1]) for number in numbers)
    return None


def set_up() -> None:
    """Installs `.libtorch/` as described by STAMP."""
    if is_set_up():
        say(f"libtorch {VERSION} is already installed")
        return
    check_platform()
    check_prerequisites(wheels.PIP)
    cache = wheels.folder()
    cache.mkdir(parents=True, exist_ok=True)
    with wheels.locked(cache):
        missing = [wheel for wheel in wheels.WHEELS if not wheels.is_valid(cache / wheel.file_name, wheel)]
        check_space(cache, missing)
        for wheel in missing:
            wheels.fetch(wheel, cache)
        unpack([cache / wheel.file_name for wheel in wheels.WHEELS])
    say(f"libtorch {VERSION} is ready in {TARGET}")


def is_set_up() -> bool:
    stamp = TARGET / STAMP_FILE
    return stamp.is_file() and stamp.read_text() == STAMP and all((TARGET / "lib" / name).exists() for name in LIBRARIES)


def check_platform() -> None:
    libc, version = platform.libc_ver()
    recent = libc == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 28)
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or not recent:
        raise SetupError(
            "the downloaded libtorch needs x86_64 Linux with glibc 2.28 or newer, "
            f"but this is {platform.machine()} {platform.system()} {libc} {version}".rstrip()
            + f".\nSet LIBTORCH to the folder of a libtorch {VERSION} for this machine."
        )


def check_prerequisites(pip: Optional[list[str]] = None) -> None:
    rust_version = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    missing = prerequisites.missing(rust_version[1], pip)
    if missing:
        raise SetupError("the build needs tools that are missing on this machine.\n" + "\n".join(missing))


def check_space(cache: Path, missing: list[wheels.Wheel]) -> None:
    sizes = [wheel.size for wheel in missing]
    # pip needs space for a second copy of the wheel that it downloads.
    download_size = sum(sizes) + max(sizes, default=0)
    if cache.stat().st_dev == TARGET.parent.stat().st_dev:
        needs = {cache: max(download_size, sum(sizes) + UNPACKED_SIZE)}
    else:
        needs = {cache: download_size, TARGET.parent: UNPACKED_SIZE}
    for folder, need in needs.items():
        free = shutil.disk_usage(folder).free
        if free < need:
            elsewhere = ", or set XDG_CACHE_HOME to a folder on another disk" if folder == cache else ""
            raise SetupError(
                f"{folder} needs {need / 1e9:.1f} GB of disk space but has {free / 1e9:.1f} GB.\n"
                f"Free another {(need - free) / 1e9:.1f} GB{elsewhere}."
            )


def unpack(paths: list[Path]) -> None:
    """Unpacks the wheels into a temporary folder and renames it to `.libtorch/`."""
    say("unpacking")
    with wheels.scratch(TARGET.with_name(f"{TARGET.name}.partial")) as partial:
        for path in paths:
            with zipfile.ZipFile(path) as wheel:
                for member in wheel.infolist():
                    path_in_target = installed_path(member.filename)
                    if path_in_target and not member.is_dir():
                        copy_member(wheel, member, partial / path_in_target)
        # Linkers look for both names. libtorch.so can be empty: it only stands for the libraries that it would load.
        (partial / "lib" / "libgomp.so").symlink_to("libgomp.so.1")
        empty_library = ["cc", "-shared", "-fPIC", "-Wl,-soname,libtorch.so", "-x", "c", "-"]
        problem = prerequisites.command_problem([*empty_library, "-o", str(partial / "lib" / "libtorch.so")])
        if problem:
            raise SetupError(f"cannot make libtorch.so: {problem}")
        (partial / STAMP_FILE).write_text(STAMP)
        old = TARGET.with_name(f"{TARGET.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if TARGET.exists():
            TARGET.rename(old)
        partial.rename(TARGET)
        shutil.rmtree(old, ignore_errors=True)


def installed_path(member: str) -> Optional[str]:
    """Returns the path of a wheel's file in `.libtorch/`, or None if a CPU build does not need it."""
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
