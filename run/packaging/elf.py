"""Reads and shortens what the loader of Linux reads in a program: its libraries, their versions, its run path."""

import re
import subprocess
from pathlib import Path

# The run path that the build sets first: libtorch beside the programs.
OWN_RUN_PATH = "$ORIGIN/../lib"


def needed(file: Path) -> list[str]:
    """Returns the names of the libraries that `file` asks for."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic(file))


def run_path(file: Path) -> str:
    """Returns the run path of `file`; empty if it has none."""
    found = re.search(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic(file))
    return found.group(1) if found else ""


def dynamic(file: Path) -> str:
    return subprocess.run(["readelf", "--dynamic", "--wide", file], check=True, capture_output=True, text=True).stdout


def newest_versions(file: Path) -> dict[str, tuple[int, ...]]:
    """Returns the newest version of the C and C++ libraries that `file` needs, by its prefix: `GLIBC`, `GLIBCXX`."""
    text = subprocess.run(["readelf", "--version-info", "--wide", file], check=True, capture_output=True, text=True).stdout
    newest: dict[str, tuple[int, ...]] = {}
    for prefix, version in re.findall(r"Name: (GLIBC|GLIBCXX)_([\d.]+)", text):
        number = tuple(map(int, version.split(".")))
        newest[prefix] = max(newest.get(prefix, ()), number)
    return newest


def keep_own_run_path(file: Path) -> None:
    """Cuts the folders of the building machine out of the run path."""
    path = run_path(file)
    if path == OWN_RUN_PATH:
        return
    if not path.startswith(OWN_RUN_PATH + ":"):
        raise ValueError(f"{file}: the run path is {path!r}, it must begin with {OWN_RUN_PATH}: build it again")
    old = path.encode() + b"\0"
    data = file.read_bytes()
    if data.count(old) != 1:
        raise ValueError(f"{file}: the run path {path!r} occurs {data.count(old)} times")
    file.write_bytes(data.replace(old, OWN_RUN_PATH.encode().ljust(len(old), b"\0")))
    assert run_path(file) == OWN_RUN_PATH, run_path(file)
