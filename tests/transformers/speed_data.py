"""Data of `make bench-training`: conversations in LLaVA's format, and the tokens that neva-run makes of them."""

import json
import math
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

IMAGE_SIZE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Conversations like those of LLaVA's instruction data: 300 of them, 80 % with an image, one to five turns of a question of 8 to
# 20 words and an answer. The text of a conversation has a log-normal length: median 180 tokens, sigma 0.7, 32 to 1,024.
MIXED = 300
WITH_IMAGE = 0.8
MEDIAN, SIGMA, SHORTEST, LONGEST = 180, 0.7, 32, 1024
TOKENS_PER_WORD = 2.0
MIXED_LENGTH = 1280
FIXED_LENGTH = 512

WORDS = (
    "the a an of in on and with to is are there two three man woman dog cat boat street tree house sky red blue green old new small large "
    "stands walks sees holds looks left right behind front water light morning city field people children table cup book picture shows"
).split()


@dataclass
class Sample:
    """Tokens of a conversation: ids with an image's id at each of its positions, labels with -100 elsewhere."""

    ids: list[int]
    labels: list[int]
    has_image: bool


def write_image(folder: Path) -> None:
    """Writes an image of the model's size, so that no program resizes it."""
    noise = random.Random(1)
    small = Image.new("RGB", (28, 28))
    small.putdata([tuple(noise.randrange(256) for _ in range(3)) for _ in range(28 * 28)])
    small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.NEAREST).save(folder / "image.png")


def write_records(folder: Path, data: str, count: int) -> Path:
    """Writes `count` conversations, or all of the mixed ones."""
    make = random.Random(7)
    records = [mixed(make) if data == "mixed" else fixed(make) for _ in range(MIXED if data == "mixed" else count)]
    path = folder / f"{data}.json"
    path.write_text(json.dumps([{"id": str(index), **record} for index, record in enumerate(records)]))
    return path


def sentence(make: random.Random, words: int) -> str:
    return " ".join(make.choice(WORDS) for _ in range(words)).capitalize() + "."


def fixed(make: random.Random) -> dict:
    """Returns a conversation that is longer than the row."""
    return record([("<image>\n" + sentence(make, 12), sentence(make, FIXED_LENGTH))], True)


def mixed(make: random.Random) -> dict:
    tokens = min(max(make.lognormvariate(math.log(MEDIAN), SIGMA), SHORTEST), LONGEST)
    words = int(tokens / TOKENS_PER_WORD)
    turns, with_image = make.randint(1, 5), make.random() < WITH_IMAGE
    texts = []
    for turn in range(turns):
        question = min(make.randint(8, 20), max(words // turns // 2, 3))
        answer = max(words // turns - question, 2)
        start = "<image>\n" if with_image and turn == 0 else ""
        texts.append((start + sentence(make, question), sentence(make, answer)))
    return record(texts, with_image)


def record(texts: list[tuple[str, str]], image: bool) -> dict:
    turns = [{"from": speaker, "value": value} for pair in texts for speaker, value in zip(("human", "gpt"), pair)]
    return {**({"image": "image.png"} if image else {}), "conversations": turns}


def images(records: list[dict]) -> list[list[str]]:
    """Returns the names of the images of each conversation."""
    named = [record.get("image", []) for record in records]
    return [[names] if isinstance(names, str) else names for names in named]


def tokens(program: Path, recipe: Path, image_id: int, limit: int) -> list[Sample]:
    """Returns the samples as neva-run's model gets them, in order."""
    count = len(json.loads(data_file(recipe).read_text()))
    command = [str(program), "data", "inspect", str(recipe), "--samples", str(count), "--output", "json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    return [sample(shown_sample["pieces"], image_id) for shown_sample in shown["samples"][:limit]]


def data_file(recipe: Path) -> Path:
    return Path(json.loads(recipe.read_text())["finetune"]["data"]["paths"])


def sample(pieces: list[dict], image_id: int) -> Sample:
    ids, labels = [], []
    for piece in (piece for piece in pieces if not piece["is_cut"]):
        is_image = piece["image"] is not None
        ids += [image_id if is_image else piece["id"]] * piece["len"]
        labels += [piece["id"] if piece["is_label"] else -100] * piece["len"]
    return Sample(ids, labels, image_id in ids)
