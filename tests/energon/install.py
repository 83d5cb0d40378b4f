#!/usr/bin/env python3
"""Installs megatron-energon with PyTorch for the CPU, for tests/energon.

Everything is below ${XDG_CACHE_HOME:-~/.cache}/neva-run/energon-VERSION. A complete folder is reused, an incomplete one is
created again. The tests themselves need no network.
"""

import fcntl
import re
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "transformers"))

import setup as transformers  # noqa: E402

STAMP_FILE = "neva-setup.txt"
REQUIREMENTS = HERE / "requirements.txt"


def installed() -> Path:
    """Returns the folder of the packages. Installs what is missing."""
    version = re.search(r"^megatron-energon==(.+)$", REQUIREMENTS.read_text(), re.MULTILINE)[1]
    folder = transformers.cache() / f"energon-{version}-py{sys.version_info[0]}{sys.version_info[1]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / STAMP_FILE).is_file() or (folder / STAMP_FILE).read_text() != stamp():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            transformers.say("installing PyTorch for the CPU (0.6 GB on disk)")
            transformers.unpack_torch(folder / "torch")
            transformers.pip("install", "--target", folder / "torch", "--requirement", transformers.requirements(transformers.TORCH))
            transformers.say(f"installing megatron-energon {version}")
            transformers.pip("install", "--target", folder / "energon", "--requirement", REQUIREMENTS)
            (folder / STAMP_FILE).write_text(stamp())
    return folder


def stamp() -> str:
    return "\n".join(path.read_text() for path in (REQUIREMENTS, transformers.requirements(transformers.TORCH)))


if __name__ == "__main__":
    transformers.say(f"megatron-energon is installed in {installed()}")
