#!/usr/bin/env python3
"""Speed of reading and decoding with one core, as a ratio to megatron-energon in the same run."""

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from reader import PROGRAMS, energon_samples
from PIL import Image
from test_energon import NAMES, PHOTOS, SETS, own_prepare, pack

SIZE = 640


def large_photos(number: int):
    """Yields a question about a photo of the size that data sets have."""
    with Image.open(PHOTOS / NAMES[number % len(NAMES)]) as image:
        scale = SIZE / max(image.size)
        large = image.convert("RGB").resize([round(edge * scale) for edge in image.size])
    out = io.BytesIO()
    large.save(out, "JPEG", quality=90)
    yield "jpg", out.getvalue()
    yield "json", {"question": f"What is {number}?", "answers": [f"Number {number}."]}


# Set, its samples, samples in a shard, ratio that is expected.
CASES = [("vqa", large_photos, 16, 1.5), ("text", SETS["text"][0], 4000, 20.0)]
SECONDS = 4.0


def main() -> int:
    torch.set_num_threads(1)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="neva-energon-") as name:
        for own, make, per_shard, wanted in CASES:
            folder = Path(name) / own
            pack(folder, make, per_shard=per_shard)
            own_prepare(folder, *SETS[own][1:])
            ratios = []
            for _ in range(3):
                theirs, ours = energon_speed(folder), own_speed(folder)
                ratios.append(ours / theirs)
                print(f"{own}: {ours:.0f} samples/s, megatron-energon {theirs:.0f}: {ratios[-1]:.1f} x", flush=True)
            median = sorted(ratios)[1]
            missed += median < wanted
            print(f"{own}: median {median:.1f} x, wanted {wanted} x", flush=True)
    return 1 if missed else 0


def energon_speed(folder: Path) -> float:
    count, start = 0, None
    while start is None or time.monotonic() - start < SECONDS:
        for _ in energon_samples(folder, "train"):
            # The first sample includes the start of the loader.
            start = start or time.monotonic()
            count += 1
            if time.monotonic() - start > SECONDS:
                break
    return (count - 1) / (time.monotonic() - start)


def own_speed(folder: Path) -> float:
    command = [str(PROGRAMS / "examples" / "energon_dump"), "--speed", str(SECONDS), str(folder), "train"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


if __name__ == "__main__":
    sys.exit(main())
