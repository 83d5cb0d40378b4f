"""The wheels that contain libtorch, and the folder that caches them.

The folder contains only complete wheels. pip does all downloads.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from report import SetupError, say


class Wheel(NamedTuple):
    """A wheel on PyPI."""

    requirement: str
    # Platform tag, with which pip selects exactly this file.
    platform: str
    sha256: str
    # In bytes.
    size: int

    @property
    def file_name(self) -> str:
        return self.requirement.replace("==", "-") + ".whl"


# libtorch_cpu.so of the first wheel is linked with libraries of the other two, so they are loaded. They are unused on a
# machine without a GPU.
WHEELS = [
    Wheel(
        requirement="torch==2.11.0",
        platform="manylinux_2_28_x86_64",
        sha256="7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        size=530_604_548,
    ),
    Wheel(
        requirement="nvidia-cuda-runtime==13.0.96",
        platform="manylinux2014_x86_64",
        sha256="7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        size=2_243_632,
    ),
    Wheel(
        requirement="nvidia-cuda-cupti==13.0.85",
        platform="manylinux_2_25_x86_64",
        sha256="4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        size=10_715_597,
    ),
]

PIP = [sys.executable, "-m", "pip"]
# The torch wheel is for CPython 3.11. The files that are taken from it do not depend on Python.
PIP_FLAGS = [
    *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--disable-pip-version-check"),
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
]
ATTEMPTS = 3
SECONDS_BETWEEN_ATTEMPTS = 3


def folder() -> Path:
    """Returns the cache folder of the wheels."""
    # The XDG specification says to ignore relative paths.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "neva-run" / "wheels"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Locks the cache: a second set-up, for example of another checkout, waits until the first one ends."""
    with open(cache / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_valid(path: Path, wheel: Wheel) -> bool:
    """Returns whether the wheel exists and has the right hash. Deletes a damaged one."""
    if not path.exists():
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() == wheel.sha256:
        return True
    say(f"{path.name} is damaged")
    path.unlink()
    return False


def fetch(wheel: Wheel, cache: Path) -> None:
    """Downloads a wheel into the cache."""
    megabytes = max(1, round(wheel.size / 1e6))
    for attempt in range(1, ATTEMPTS + 1):
        retry = f", attempt {attempt} of {ATTEMPTS}" if attempt > 1 else ""
        say(f"downloading {wheel.requirement} ({megabytes} MB){retry}")
        with scratch(cache / "partial") as partial:
            path = download(wheel, partial)
            if path and is_valid(path, wheel):
                path.rename(cache / wheel.file_name)
                return
        if attempt < ATTEMPTS:
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    raise SetupError(
        f"pip could not download {wheel.requirement} in {ATTEMPTS} attempts; see its messages above.\n"
        "Check the network and pip's settings (`pip config list`). Complete downloads are kept for the next set-up."
    )


def download(wheel: Wheel, into: Path) -> Optional[Path]:
    requirements = into / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [*PIP, "download", *PIP_FLAGS, "--platform", wheel.platform]
    # A progress bar is useful only on a terminal.
    command += [] if sys.stderr.isatty() else ["--quiet"]
    command += ["--dest", str(into), "--requirement", str(requirements)]
    # pip installs nothing, so it needs no virtual environment. Its temporary copy goes to the folder whose free space
    # was checked, because the system's temporary folder may be small.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "false", "TMPDIR": str(into)}
    succeeded = subprocess.run(command, env=environment).returncode == 0
    return next(into.glob("*.whl"), None) if succeeded else None


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Creates an empty temporary folder. Removes leftovers of a killed set-up first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
