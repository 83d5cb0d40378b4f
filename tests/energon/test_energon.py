#!/usr/bin/env python3
"""Same keys and same content as megatron-energon, for datasets that either of them has prepared."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

from megatron.energon.epathlib import EPath
from megatron.energon.metadataset.loader import prepare_metadataset
from PIL import Image
from reader import PROGRAMS, ROOT, energon_lines, own_lines

PHOTOS = ROOT / "examples" / "photos"
NAMES = sorted(path.name for path in PHOTOS.glob("*.jpg")) + ["horse.png"]

LOADERS = {
    "interleaved": {"sample_type": "InterleavedSample", "field_map": {"sequence": "parts(json[sequence], image)"}},
    "similarity_interleaved": {
        "sample_type": "SimilarityInterleavedSample",
        "field_map": {
            "images": "parts(json[images])",
            "texts": "json[texts]",
            "similarity_matrix": "json[similarity_matrix]",
            "matched_text_indices": "json[matched_text_indices]",
        },
    },
}

SEQUENCE = """
def sample_loader(raw):
    return dict(__key__=raw["__key__"], sequence=[raw[x["image"]] if isinstance(x, dict) else x for x in raw["json"]["sequence"]])

def part_filter(part):
    return True
"""

SIMILARITY = """
import torch

def sample_loader(raw):
    j = raw["json"]
    return dict(__key__=raw["__key__"], images=[raw[n] for n in j["images"]], texts=j["texts"],
                similarity_matrix=torch.tensor(j["similarity_matrix"]), matched_text_indices=j["matched_text_indices"])

def part_filter(part):
    return True
"""


def photo(number: int) -> tuple[str, bytes]:
    """Returns ending and content of a small photo."""
    name = NAMES[number % len(NAMES)]
    image = Image.open(PHOTOS / name).convert("RGB")
    image.thumbnail((120, 90))
    out = io.BytesIO()
    if number % 3 == 0:
        image.save(out, "PNG")
        return "png", out.getvalue()
    image.save(out, "JPEG", quality=90)
    return "jpg", out.getvalue()


def vqa(number):
    ending, content = photo(number)
    yield ending, content
    yield "json", {"question": f"What is {number}?", "answers": ["one", f"Number {number}, ünïcode 图."], "weights": [0.25, 1.0]}


def captioning(number):
    ending, content = photo(number)
    yield ending, content
    yield "txt", f"Photo {number} with a \"caption\".".encode()


def text(number):
    yield "txt", (f"Text {number}. " * (number % 5 + 1)).encode()


def choices(number):
    ending, content = photo(number)
    yield ending, content
    yield "json", {"q": f"Which {number}?", "c": ["red", "green", "blue"], "i": number % 3}


def classes(number):
    ending, content = photo(number)
    yield ending, content
    yield "cls", str(number % 7).encode()
    yield "json", {"name": NAMES[number % len(NAMES)]}


def ocr(number):
    ending, content = photo(number)
    yield ending, content
    yield "json", {"text": f"STOP {number}", "words": ["STOP", str(number)], "boxes": [[0, 0, 4, 5], [5, 0, 4, 5.5]]}


def interleaved(number):
    sequence = [f"Story {number}."]
    for index in range(number % 3):
        ending, content = photo(number + index)
        yield f"{index}.{ending}", content
        sequence += [{"image": f"{index}.{ending}"}, f"Then {index}."]
    yield "json", {"sequence": sequence}


def similarity(number):
    images = []
    for index in range(number % 2 + 1):
        ending, content = photo(number + index)
        yield f"{index}.{ending}", content
        images.append(f"{index}.{ending}")
    rows = [[0.1, 0.5, 0.2] for _ in images]
    yield "json", {"images": images, "texts": ["One.", "Two.", "Three."], "matched_text_indices": [1] * len(images), "similarity_matrix": rows}


# Samples, type, field map (or the loader's name and its Python code).
SETS = {
    "vqa": (vqa, "VQASample", {"image": "jpg,png", "context": "json[question]", "answers": "json[answers]"}),
    "vqa_one": (vqa, "VQASample", {"image": "jpg,png", "context": "json[question]", "answers": "json[answers][1]"}),
    "captioning": (captioning, "CaptioningSample", {"image": "jpg,png", "caption": "txt"}),
    "text": (text, "TextSample", {"text": "txt"}),
    "choices": (choices, "MultiChoiceVQASample", {"image": "jpg,png", "context": "json[q]", "choices": "json[c]", "correct_choice_idx": "json[i]"}),
    "classes": (classes, "ImageClassificationSample", {"image": "jpg,png", "label": "cls", "label_name": "json[name]"}),
    "ocr": (ocr, "OCRSample", {"image": "jpg,png", "text": "json[text]", "words_text": "json[words]", "words_boxes": "json[boxes]"}),
    "interleaved": (interleaved, "InterleavedSample", SEQUENCE),
    "similarity_interleaved": (similarity, "SimilarityInterleavedSample", SIMILARITY),
}


def pack(folder: Path, make, shards: int = 3, per_shard: int = 12) -> None:
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"shard_{shard:04}.tar", "w") as tar:
            for number in range(shard * per_shard, (shard + 1) * per_shard):
                for part, content in make(number):
                    content = content if isinstance(content, bytes) else json.dumps(content).encode()
                    info = tarfile.TarInfo(f"{number:06}.{part}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def energon_prepare(folder: Path, sample_type: str, mapping) -> None:
    """Prepares a folder with megatron-energon."""
    command = [sys.executable, "-m", "megatron.energon.cli.main", "prepare", "--non-interactive", "--split-ratio", "2,1,0", "--sample-type", sample_type]
    if isinstance(mapping, dict):
        command += ["--field-map", json.dumps(mapping)]
    else:
        command += ["--field-map", "{}"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=120)
    assert (folder / ".nv-meta/.info.json").exists(), done.stdout + done.stderr
    write_loader(folder, sample_type, mapping)


def own_prepare(folder: Path, sample_type: str, mapping) -> None:
    loader = mapping if isinstance(mapping, dict) else LOADERS[folder.name]["field_map"]
    command = [str(PROGRAMS / "neva-run"), "data", "prepare", str(folder), "--split-ratio", "2,1,0", "--sample-type", sample_type]
    done = subprocess.run([*command, "--field-map", json.dumps(loader)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    write_loader(folder, sample_type, mapping)


def write_loader(folder: Path, sample_type: str, mapping) -> None:
    """Megatron-energon needs Python code for the mappings that its `field_map` cannot express."""
    if isinstance(mapping, dict):
        return
    (folder / ".nv-meta/sample_loader.py").write_text(mapping)
    kind = f"sample_type:\n  __module__: megatron.energon\n  __class__: {sample_type}\n"
    (folder / ".nv-meta/dataset.yaml").write_text(kind + "sample_loader: sample_loader.py:sample_loader\npart_filter: sample_loader.py:part_filter\n")


def splits(folder: Path) -> list[str]:
    import yaml

    parts = yaml.safe_load((folder / ".nv-meta/split.yaml").read_text())["split_parts"]
    return [name for name, shards in parts.items() if shards]


class Comparison(unittest.TestCase):
    maxDiff = 2000

    def compare(self, folder: Path, loaders: Path | None = None) -> None:
        for split in splits(folder):
            expected, found = energon_lines(folder, split), own_lines(folder, split, loaders)
            self.assertTrue(expected, f"{folder} {split} has no samples")
            keys = [[sample["key"] for sample in samples] for samples in (found, expected)]
            self.assertEqual(*keys, f"{folder} {split}: keys")
            for own, sample in zip(found, expected):
                self.assertEqual(own, sample, f"{folder} {split}: {sample['key']}")

    def loaders(self, folder: Path) -> Path:
        path = folder / "loaders.json"
        path.write_text(json.dumps(LOADERS))
        return path

    def prepared(self, prepare) -> None:
        with tempfile.TemporaryDirectory(prefix="neva-energon-") as name:
            loaders = self.loaders(Path(name))
            for own, (make, sample_type, mapping) in SETS.items():
                with self.subTest(own):
                    folder = Path(name) / own
                    pack(folder, make)
                    prepare(folder, sample_type, mapping)
                    self.compare(folder, loaders if own in LOADERS else None)

    def test_sets_that_energon_prepares(self):
        self.prepared(energon_prepare)

    def test_sets_that_this_project_prepares(self):
        self.prepared(own_prepare)

    def test_the_indices_are_the_same(self):
        with tempfile.TemporaryDirectory(prefix="neva-energon-") as name:
            for own, prepare in [("own", own_prepare), ("theirs", energon_prepare)]:
                pack(Path(name) / own, vqa)
                prepare(Path(name) / own, *SETS["vqa"][1:])
            for path in sorted((Path(name) / "theirs").glob("*.idx")):
                self.assertEqual((Path(name) / "own" / path.name).read_bytes(), path.read_bytes(), path.name)
            self.assertEqual(table(Path(name) / "own"), table(Path(name) / "theirs"))
            shards = [json.loads((Path(name) / own / ".nv-meta/.info.json").read_text()) for own in ("own", "theirs")]
            self.assertEqual(*shards)
            self.assertEqual(splits(Path(name) / "own"), splits(Path(name) / "theirs"))

    def test_a_joined_set_that_this_project_prepares(self):
        """Megatron-energon joins by `index.sqlite`, which this project has written."""
        with tempfile.TemporaryDirectory(prefix="neva-energon-") as name:
            root = Path(name)
            pack(root / "photos", captioning)
            own_prepare(root / "photos", "CaptioningSample", SETS["captioning"][2])
            pack(root / "words", text)
            own_prepare(root / "words", "TextSample", SETS["text"][2])
            (root / "joiner.py").write_text(
                "from megatron.energon import CaptioningSample, TextSample\n\n"
                "def joiner(photo: CaptioningSample, words: TextSample) -> CaptioningSample:\n"
                "    return CaptioningSample.derive_from(photo, image=photo.image, caption=words.text)\n"
            )
            (root / "mix.yaml").write_text(
                "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n    join:\n      photo: {path: photos}\n"
                "      words: {path: words, nonmatch: skip}\n    joiner: {__module__: joiner, __function__: joiner}\n"
            )
            loaders = root / "loaders.json"
            mapping = {"image": "photo.jpg,photo.png", "caption": "words.txt"}
            loaders.write_text(json.dumps({"photos+words": {"sample_type": "CaptioningSample", "field_map": mapping}}))
            sys.path.insert(0, name)
            try:
                prepare_metadataset(EPath(root / "mix.yaml"))
                expected = energon_lines(root / "mix.yaml", "train")
            finally:
                sys.path.remove(name)
            found = own_lines(root / "mix.yaml", "train", loaders)
            self.assertEqual(len(expected), 24)
            self.assertEqual(found, expected)

    def test_a_metadataset(self):
        with tempfile.TemporaryDirectory(prefix="neva-energon-") as name:
            root = Path(name)
            for own in ("vqa", "captioning", "text"):
                pack(root / own, SETS[own][0])
                energon_prepare(root / own, *SETS[own][1:])
            # Keys of the sets are the same; validation reads each sample once.
            head = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  val:\n"
            parts = "[{path: vqa, weight: 2, split_part: train, subset: {range: [25%, 75%]}}, {path: inner.yaml}]"
            (root / "mix.yaml").write_text(f"{head}    blend: {parts}\n")
            inner = "[{path: text, split_part: val}, {path: captioning, split_part: train, subset: {range: [3, end]}, subflavors: {a: b}}]"
            (root / "inner.yaml").write_text(f"{head}    blend: {inner}\n")
            expected = energon_lines(root / "mix.yaml", "val")
            self.assertEqual(len(expected), 12 + 12 + 21)
            self.assertEqual(own_lines(root / "mix.yaml", "val"), expected)

    def test_sets_of_a_folder(self):
        given = os.environ.get("NEVA_ENERGON_DIR")
        if not given:
            return
        found = sorted(path.parent for path in Path(given).rglob(".nv-meta"))
        self.assertTrue(found, f"NEVA_ENERGON_DIR: {given} has no prepared dataset")
        with tempfile.TemporaryDirectory(prefix="neva-energon-") as name:
            for folder in found:
                with self.subTest(folder.name):
                    own = folder / "loaders.json"
                    loaders = own if own.is_file() else self.loaders(Path(name))
                    needs = own.is_file() or folder.name in LOADERS
                    self.compare(folder, loaders if needs else None)
                with self.subTest(f"{folder.name}, prepared again"):
                    again = Path(name) / "again" / folder.name
                    shutil.copytree(folder, again, ignore=shutil.ignore_patterns("*.idx", "index.*", ".info.*"))
                    done = subprocess.run([str(PROGRAMS / "neva-run"), "data", "prepare", str(again), "--split-ratio", "1,0,0"], capture_output=True, text=True, timeout=300)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    shutil.copy(folder / ".nv-meta/split.yaml", again / ".nv-meta/split.yaml")
                    self.compare(again, loaders if needs else None)


def table(folder: Path) -> list:
    import sqlite3

    with sqlite3.connect(folder / ".nv-meta/index.sqlite") as connection:
        samples = connection.execute("SELECT * FROM samples ORDER BY tar_file_id, sample_index").fetchall()
        parts = connection.execute("SELECT * FROM sample_parts ORDER BY tar_file_id, content_byte_offset").fetchall()
        schema = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    return [samples, parts, schema]


if __name__ == "__main__":
    unittest.main()
