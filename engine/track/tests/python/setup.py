#!/usr/bin/env python3
"""Brings TensorBoard and an MLflow server, which the tests of neva-track read and talk to, from PyPI.

They go into a virtual environment: NEVA_TRACK_VENV, or else
${XDG_CACHE_HOME:-~/.cache}/neva-run/track-venv-PINS, where PINS are the versions in `requirements.txt`. One
that is whole costs nothing; a half-made one is made anew. The tests themselves need no network.
"""

import sys

if sys.version_info < (3, 10):
    sys.exit("setup: TensorBoard and MLflow need Python 3.10 or newer, this is %d.%d" % sys.version_info[:2])

import fcntl
import os
import re
import subprocess
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# Written last: an environment that has it is whole.
STAMP_FILE = "neva-setup.txt"


def main() -> int:
    """Runs the set-up. The exit code is 0, or 1 once it has been said what is wrong."""
    venv, stamp = folder(), REQUIREMENTS.read_text()
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        with open(venv.with_name(f"{venv.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_whole(venv, stamp):
                say("TensorBoard and MLflow are there, for the tests")
            else:
                say(f"installing TensorBoard and MLflow into {venv}, for the tests (430 MB)")
                install(venv)
                (venv / STAMP_FILE).write_text(stamp)
        return 0
    except KeyboardInterrupt:
        problem = "interrupted; the next set-up begins anew"
    except subprocess.CalledProcessError as error:
        problem = problem_of(error)
    except OSError as error:
        problem = str(error)
    print(f"setup: {problem}", file=sys.stderr)
    return 1


def folder() -> Path:
    named = os.environ.get("NEVA_TRACK_VENV")
    if named:
        return Path(named).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # `tests/environment/mod.rs` makes the same name.
    pins = re.findall(r"^[\w-]+==(.+)$", REQUIREMENTS.read_text(), re.MULTILINE)
    return Path(cache) / "neva-run" / "-".join(["track-venv", *pins])


def is_whole(venv: Path, stamp: str) -> bool:
    file = venv / STAMP_FILE
    # The interpreter is a link to one that an update of the system may have taken away.
    return file.is_file() and file.read_text() == stamp and (venv / "bin" / "python").exists()


def install(venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True)


def problem_of(error: subprocess.CalledProcessError) -> str:
    if "venv" in error.cmd:
        return (
            "Python cannot make a virtual environment; it says why above.\n"
            "    Debian, Ubuntu:  sudo apt-get install python3-venv"
        )
    return "pip could not install them; it says why above.\nCheck the network and pip's own settings (`pip config list`)."


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
