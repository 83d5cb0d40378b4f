#!/usr/bin/env python3
"""Packs what `check.py` needs on a machine without Rust: stripped programs, the golden cases, and itself."""

import argparse
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In bytes: what may travel to a machine that is lent by the minute.
MOST = 60 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="folder with neva-run, golden-rank and golden-cases")
    parser.add_argument("--out", type=Path, required=True, help="folder to make; an old one is replaced")
    arguments = parser.parse_args()
    out = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "bin").mkdir(parents=True)
    for name in ("neva-run", "golden-rank"):
        packed = shutil.copy2(arguments.programs / name, out / "bin" / name)
        if shutil.which("strip"):
            subprocess.run(["strip", packed], check=True)
        compress(Path(packed))
    subprocess.run([arguments.programs / "golden-cases", out / "cases"], check=True)
    # golden-cases has taken what the check compares out of the golden tensors.
    golden = shutil.ignore_patterns("golden.safetensors")
    shutil.copytree(ROOT / "tests/fixtures/hf", out / "tests/fixtures/hf", ignore=golden)
    for name in ("check.py", "machine.py", "stages.py", "throughput.py"):
        shutil.copy2(Path(__file__).with_name(name), out / name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"gpu-check: packed {size / (1 << 20):.1f} MiB into {out}")
    if size > MOST:
        print(f"gpu-check: more than the {MOST >> 20} MiB that may travel", file=sys.stderr)
        return 1
    return 0


def compress(program: Path) -> None:
    """Replaces a program by `NAME.xz`, a third of its size; `check.py` unpacks it."""
    with open(program, "rb") as source, lzma.open(f"{program}.xz", "wb", preset=1) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    program.unlink()


if __name__ == "__main__":
    sys.exit(main())
