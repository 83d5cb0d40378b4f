#!/usr/bin/env python3
"""Compares this project with megatron-energon: `make test-energon`.

Both read the same datasets, prepared by either of them: same keys, same decoded content. `NEVA_ENERGON_DIR` names a folder
with prepared datasets of your own, which are compared too; a folder may have a `loaders.json`, the `sample_loaders` of a
recipe.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import install  # noqa: E402

# Seconds for all comparisons.
LIMIT = 1200


def main() -> int:
    packages = install.installed()
    path = os.pathsep.join(str(packages / name) for name in ("energon", "torch"))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "PYTHONWARNINGS": "ignore"}
    test = "speed.py" if sys.argv[1:] == ["--speed"] else "test_energon.py"
    return subprocess.run([sys.executable, "-B", str(HERE / test)], env=environment, timeout=LIMIT).returncode


if __name__ == "__main__":
    sys.exit(main())
