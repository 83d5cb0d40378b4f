#!/usr/bin/env python3
"""Tests exports of the built programs with transformers 4 and 5 and PEFT: `make test-transformers`.

With `--speed [CASE...]` it compares the speed of training: `make bench-training`.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import exports  # noqa: E402
import setup  # noqa: E402

# Seconds for the tests of one version.
LIMIT = 400


def main() -> int:
    if setup.main() != 0:
        return 1
    packages = setup.installed()
    if sys.argv[1:2] == ["--speed"]:
        return speed(packages, sys.argv[2:])
    with tempfile.TemporaryDirectory(prefix="neva-transformers-") as name:
        folder = Path(os.environ.get("NEVA_EXPORTS") or name)
        started = time.monotonic()
        if not (folder / "exports.json").is_file():
            exports.train_and_export(folder)
            exports.real_model(folder, setup.model_file(packages))
        print(f"trained and exported in {time.monotonic() - started:.0f} s", flush=True)
        totals = {"passed": 0, "failed": 0}
        for reader in setup.READERS:
            count(test(reader, packages, folder), totals)
    print(f"{totals['passed']} passed, {totals['failed']} failed")
    return 1 if totals["failed"] or not totals["passed"] else 0


def speed(packages: Path, cases: list[str]) -> int:
    path = os.pathsep.join([setup.python_path(packages, setup.READERS[-1]), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, "-B", str(HERE / "speed.py"), *cases], env=environment).returncode


def test(reader: str, packages: Path, folder: Path) -> tuple[int, int]:
    """Runs the tests with one version. Returns the numbers of tests and of failures."""
    version = re.search(r"^transformers==(.+)$", setup.requirements(reader).read_text(), re.MULTILINE)[1]
    print(f"\n== transformers {version}", flush=True)
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": setup.python_path(packages, reader), "NEVA_EXPORTS": str(folder), "PYTHONNOUSERSITE": "1"}
    command = [sys.executable, "-B", str(HERE / "test_exports.py")]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    print(done.stderr, end="")
    print(f"transformers {version}: {time.monotonic() - started:.0f} s", flush=True)
    ran = re.search(r"^Ran (\d+) tests? in", done.stderr, re.MULTILINE)
    number = int(ran[1]) if ran else 0
    problems = sum(int(found) for found in re.findall(r"(?:failures|errors)=(\d+)", done.stderr))
    if "skipped=" in done.stderr or number == 0 or (done.returncode != 0 and problems == 0):
        problems = max(problems, 1)
    return number, problems


def count(result: tuple[int, int], totals: dict[str, int]) -> None:
    number, failed = result
    totals["failed"] += failed
    totals["passed"] += max(0, number - failed)


if __name__ == "__main__":
    sys.exit(main())
