"""The wheels that libtorch is cut out of, and the folder that keeps them.

A wheel is in the folder whole or not at all. All downloading is pip's.
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
    # The tag that makes pip choose this very file.
    platform: str
    sha256: str
    # In bytes.
    size: int

    @property
    def file_name(self) -> str:
        return self.requirement.replace("==", "-") + ".whl"


# libtorch_cpu.so of the first names libraries of the others as needed, so they are loaded, and idle where
# there is no GPU.
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
# The wheel of torch is the one for CPython 3.11; what is taken out of it does not depend on Python.
PIP_FLAGS = [
    *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--disable-pip-version-check"),
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
]
ATTEMPTS = 3
SECONDS_BETWEEN_ATTEMPTS = 3


def folder() -> Path:
    """Where wheels are kept."""
    # The XDG specification has relative paths ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "neva-run" / "wheels"


@contextmanager
def locked(kept: Path) -> Iterator[None]:
    """Has a second set-up, say of another checkout, wait until the first is done."""
    with open(kept / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_whole(path: Path, wheel: Wheel) -> bool:
    """Whether the wheel is there. A damaged one is deleted."""
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


def fetch(wheel: Wheel, kept: Path) -> None:
    """Downloads a wheel into the folder `kept`."""
    megabytes = max(1, round(wheel.size / 1e6))
    for attempt in range(1, ATTEMPTS + 1):
        again = f", attempt {attempt} of {ATTEMPTS}" if attempt > 1 else ""
        say(f"fetching {wheel.requirement} ({megabytes} MB){again}")
        with scratch(kept / "partial") as partial:
            fetched = download(wheel, partial)
            if fetched and is_whole(fetched, wheel):
                fetched.rename(kept / wheel.file_name)
                return
        if attempt < ATTEMPTS:
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    raise SetupError(
        f"pip could not fetch {wheel.requirement} in {ATTEMPTS} attempts; it says why above.\n"
        "Check the network and pip's own settings (`pip config list`). What was fetched is kept for the next set-up."
    )


def download(wheel: Wheel, into: Path) -> Optional[Path]:
    requirements = into / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [*PIP, "download", *PIP_FLAGS, "--platform", wheel.platform]
    # A progress bar is for a person.
    command += [] if sys.stderr.isatty() else ["--quiet"]
    command += ["--dest", str(into), "--requirement", str(requirements)]
    # Nothing is installed, so a pip that insists on a virtual environment need not. And pip's temporary copy
    # goes where there was a look for space: the system's folder for such may be small.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "false", "TMPDIR": str(into)}
    succeeded = subprocess.run(command, env=environment).returncode == 0
    return next(into.glob("*.whl"), None) if succeeded else None


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder for a while. What a killed set-up left there goes first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
