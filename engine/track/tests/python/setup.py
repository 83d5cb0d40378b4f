#!/usr/bin/env python3
"""Installs TensorBoard and an MLflow server from PyPI, for the tests of neva-track.

The virtual environment is NEVA_TRACK_VENV, or else
${XDG_CACHE_HOME:-~/.cache}/neva-run/track-venv-PINS, where PINS are the versions in `requirements.txt`. A
complete one is reused, an incomplete one is created again. The tests themselves need no network.
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
# Written last: an environment that has it is complete.
STAMP_FILE = "neva-setup.txt"


def main() -> int:
    """Runs the set-up. Returns exit code 0, or 1 after printing the problem."""
    venv, stamp = folder(), REQUIREMENTS.read_text()
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        with open(venv.with_name(f"{venv.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_complete(venv, stamp):
                say("TensorBoard and MLflow are installed for the tests")
            else:
                say(f"installing TensorBoard and MLflow into {venv}, for the tests (430 MB)")
                install(venv)
                (venv / STAMP_FILE).write_text(stamp)
        return 0
    except KeyboardInterrupt:
        problem = "interrupted; the next set-up starts over"
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
    # `tests/environment/mod.rs` uses the same name.
    pins = re.findall(r"^[\w-]+==(.+)$", REQUIREMENTS.read_text(), re.MULTILINE)
    return Path(cache) / "neva-run" / "-".join(["track-venv", *pins])


def is_complete(venv: Path, stamp: str) -> bool:
    file = venv / STAMP_FILE
    # The interpreter is a link; an update of the system may have removed its target.
    return file.is_file() and file.read_text() == stamp and (venv / "bin" / "python").exists()


def install(venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True)


def problem_of(error: subprocess.CalledProcessError) -> str:
    if "venv" in error.cmd:
        return (
            "Python cannot create a virtual environment; see its message above.\n"
            "    Debian, Ubuntu:  sudo apt-get install python3-venv"
        )
    return "pip could not install them; see its message above.\nCheck the network and pip's own settings (`pip config list`)."


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
