"""Reads a split with megatron-energon, in the form that `energon_dump` prints."""

import dataclasses
import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy
import torch
from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_loader, get_val_dataset

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("NEVA_PROGRAMS") or ROOT / "target" / "release")


class Unchanged(DefaultTaskEncoder):
    """Yields the samples as they are."""

    def batch(self, samples):
        return samples

    def encode_batch(self, batch):
        return batch


def energon_samples(path: Path, split: str):
    """Yields the samples of a split, each once."""
    worker = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_val_dataset(path, split_part=split, worker_config=worker, batch_size=1, task_encoder=Unchanged())
    for batch in get_loader(dataset):
        yield from batch


def energon_lines(path: Path, split: str) -> list[dict]:
    """Returns the samples that megatron-energon reads, sorted: a metadataset may have a key several times."""
    found = []
    for sample in energon_samples(path, split):
        names = [field.name for field in dataclasses.fields(sample) if not field.name.startswith("__")]
        fields = {name: plain(getattr(sample, name)) for name in names}
        fields = {name: value for name, value in fields.items() if value is not None}
        found.append({"key": sample.__key__, "type": type(sample).__name__, "fields": fields})
    return ordered(found)


def own_lines(path: Path, split: str, loaders: Path | None = None) -> list[dict]:
    """Returns the samples that this project reads, sorted."""
    command = [str(PROGRAMS / "examples" / "energon_dump"), str(path), split, *([str(loaders)] if loaders else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = []
    for line in map(json.loads, done.stdout.splitlines()):
        fields = {name: rounded(value) for name, value in line["fields"].items() if value is not None}
        found.append({"key": line["key"], "type": line["type"], "fields": fields})
    return ordered(found)


def ordered(samples: list[dict]) -> list[dict]:
    return sorted(samples, key=lambda sample: (sample["key"], json.dumps(sample, sort_keys=True)))


def plain(value):
    if isinstance(value, torch.Tensor) and value.dim() == 3:
        # An image in [0, 1], channels first.
        pixels = (value * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        height, width, _ = pixels.shape
        return {"width": width, "height": height, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return rounded(value)


def rounded(value):
    """Rounds numbers: Energon's matrices have float32."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
