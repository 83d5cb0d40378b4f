#!/usr/bin/env python3
"""Brings NVIDIA's compiler library NVRTC from PyPI, for the test that compiles the kernels without a GPU.

The folder is NEVA_NVRTC, or else ${XDG_CACHE_HOME:-~/.cache}/neva-run/nvrtc-VERSION. A complete one is reused. The test itself
needs no network.
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

# The wheels of libtorch are fetched in the same way.
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "ffi"))

import wheels
from report import SetupError, say

# `compiled.rs` uses the same version.
VERSION = Path(__file__).with_name("version.txt").read_text().strip()
WHEEL = wheels.Wheel(
    requirement=f"nvidia-cuda-nvrtc=={VERSION}",
    platform="manylinux2010_x86_64",
    sha256="ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    size=90_215_200,
)
FILES = ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"]


def main() -> int:
    """Runs the set-up. Returns exit code 0, or 1 after printing the problem."""
    cache = wheels.folder()
    named = os.environ.get("NEVA_NVRTC")
    folder = Path(named).absolute() if named else cache.parent / f"nvrtc-{VERSION}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with wheels.locked(cache):
            if not all((folder / name).is_file() for name in FILES):
                bring(folder, cache)
        say("NVRTC is there for the tests of the kernels")
        return 0
    except KeyboardInterrupt:
        problem = "interrupted; the next set-up starts over"
    except (OSError, zipfile.BadZipFile, SetupError) as error:
        problem = str(error)
    print(f"setup: {problem}", file=sys.stderr)
    return 1


def bring(folder: Path, cache: Path) -> None:
    """Unpacks the libraries into the folder; the wheel is not kept."""
    wheels.fetch(WHEEL, cache)
    wheel = cache / WHEEL.file_name
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            partial = folder / f"{name}.partial"
            with archive.open(f"nvidia/cu13/lib/{name}") as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            partial.rename(folder / name)
    wheel.unlink()


if __name__ == "__main__":
    sys.exit(main())
