"""Trains small models with the built programs and exports them, for the tests of each version of transformers.

Everything lies in a folder with a file `exports.json`: for each export its folder, kind, base, prompt, and what our program
answers. `logits.safetensors` beside an export has our token ids, pixels and logits of the prompt.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "neva-run"
PHOTOS = ROOT / "examples" / "photos"

QUESTION = "What is in the picture?"
# What the models learn to say of an image.
ANSWERS = {"chelsea.jpg": "A tabby cat.", "coffee.jpg": "A cup of coffee on a saucer.", "rocket.jpg": "A rocket on its launch pad at dusk."}
NEW_ANSWERS = {"chelsea.jpg": "An old friend.", "coffee.jpg": "A warm drink.", "rocket.jpg": "A long journey."}


# What a language model learns. It is asked the first question.
TEXTS = [(QUESTION, "There is no picture."), ("Who are you?", "I am a small model."), ("What is one and one?", "Two.")]

# A language model alone, with a tied head.
LANGUAGE_MODEL = """  model:
    _target_: llm.LlamaModel
    config:
      vocab_size: 2048
      hidden_size: 64
      intermediate_size: 128
      num_hidden_layers: 2
      num_attention_heads: 4
      num_key_value_heads: 2
      max_position_embeddings: 512
      tie_word_embeddings: true
"""


@dataclass
class Export:
    """An export and what our program makes of the exported run."""

    name: str
    # `model`: transformers alone. `adapter`: PEFT on `base`.
    kind: str
    folder: str
    image: Optional[str]
    question: str
    answer: str
    logits: str
    base: Optional[str] = None
    # The same run with its adapters merged.
    merged: Optional[str] = None
    # The prompt of the check, in place of a question.
    is_canary: bool = False
    # Number of positions that transformers 4 computes as the model says, if not all.
    positions_in_4: Optional[int] = None
    # Versions of transformers that read it.
    versions: list[int] = field(default_factory=lambda: [4, 5])


class Runs:
    """Trains and exports below a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.exports: list[Export] = []
        folder.mkdir(parents=True, exist_ok=True)

    def write_records(self, name: str, answers: dict[str, str]) -> Path:
        def turns(question: str, answer: str) -> list[dict[str, str]]:
            return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

        asked = f"<image>\n{QUESTION}"
        records: list[dict] = [{"id": image, "image": image, "conversations": turns(asked, answer)} for image, answer in answers.items()]
        if not answers:
            records = [{"conversations": turns(question, answer)} for question, answer in TEXTS]
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(records))
        return path

    def train(self, name: str, records: Path, steps: int, *settings: str, model: str = "") -> Path:
        """Trains a small NeVA on one rank. Returns the run's folder."""
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(
            f"""_factory_: neva_tiny
name: {name}
finetune:
  data:
    _target_: vlm.NevaPreloadedDataModule
    paths: {records}
    data_config:
      image_folder: {PHOTOS}
    tokenizer: builtin:mistral_2k
    seq_length: 160
    global_batch_size: 6
    micro_batch_size: 6
    num_workers: 0
  trainer:
    max_steps: {steps}
{model}"""
        )
        run(str(recipe), "--set", f"dir={self.folder / 'runs'}", *[word for setting in settings for word in ("--set", setting)])
        return self.folder / "runs" / name

    def train_mock(self, name: str, *settings: str) -> Path:
        """Trains three steps on random images and tokens. Returns the run's folder."""
        words = [word for setting in ("finetune.trainer.max_steps=3", *settings) for word in ("--set", setting)]
        run("recipes/neva_tiny.yaml", "--set", f"name={name}", "--set", f"dir={self.folder / 'runs'}", *words)
        return self.folder / "runs" / name

    def export(self, run_folder: Path, name: str, *options: str) -> tuple[Path, str]:
        """Exports a run. Returns the folder, and what was printed."""
        out = self.folder / "exports" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        return out, run("export", str(run_folder), "--output", str(out), *options)

    def add(self, name: str, kind: str, folder: Path, ask: list[str], image: Optional[str] = "chelsea.jpg", **more: object) -> None:
        """Adds an export, with our answer and our logits."""
        logits = self.folder / f"{name}.logits.safetensors"
        images = ["--image", str(PHOTOS / image)] if image else []
        answer = rank("generate", *ask, *images, "--prompt", QUESTION, "--logits", str(logits))
        path = str(PHOTOS / image) if image else None
        self.exports.append(Export(name, kind, str(folder), path, QUESTION, answer.strip(), str(logits), **more))

    def add_canary(self, name: str, kind: str, folder: Path, run_folder: Path, options: list[str], **more: object) -> None:
        """Adds an export of a run without text, with our logits of the prompt of its check."""
        logits = self.folder / f"{name}.logits.safetensors"
        rank("export", str(run_folder), "--output", str(folder), "--check-only", "--canary", str(logits), *options)
        self.exports.append(Export(name, kind, str(folder), None, "", "", str(logits), is_canary=True, **more))

    def write(self) -> None:
        (self.folder / "exports.json").write_text(json.dumps([asdict(export) for export in self.exports], indent=1))


def run(*arguments: str) -> str:
    return program([str(PROGRAM), *arguments])


def rank(*arguments: str) -> str:
    return program([str(PROGRAM.with_name("neva-rank")), *arguments])


def program(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


# Models of tests/fixtures/hf, and the versions of transformers that have their class.
FAMILIES = {
    "llava_siglip_llama": [4, 5],
    "clip_layers": [5],
    "mistral_window": [4, 5],
    "qwen2_window": [4, 5],
    "nemotron_bias": [4, 5],
    "llama3_bias": [4, 5],
    "internvl_qwen2": [5],
    "internvl_6b": [5],
    "llava_internvit": [5],
}

# transformers 4.49 gives a window to all layers of Qwen2, also to those without one: only positions within it are equal.
POSITIONS_IN_4 = {"qwen2_window": 20}

# Runs on top of the base, by name: settings, and versions of transformers that read the adapter.
ADAPTED = {
    # NeMo's fused modules with one A; the projector is trained.
    "fused": ["finetune.model.freeze_vision_model=true"],
    # Separate linears; nothing else is trained.
    "separate": [
        "finetune.model.freeze_vision_model=true",
        "finetune.model.freeze_vision_projection=true",
        'finetune.peft.target_modules=["*.language_model.*.q_proj", "*.language_model.*.v_proj", "*.language_model.*.down_proj"]',
    ],
    # The vision encoder is adapted as well, its base weights are not trained.
    "vision": [
        "finetune.model.freeze_vision_model=true",
        'finetune.peft.target_modules=["*.vision_tower.*.q_proj", "*.language_model.*.o_proj"]',
    ],
    "rslora": ["finetune.model.freeze_vision_model=true", "finetune.peft.use_rslora=true", "finetune.peft.dim=4"],
    "dora": ["finetune.model.freeze_vision_model=true", "finetune.peft.use_dora=true"],
}


def train_and_export(folder: Path) -> None:
    """Trains all runs and writes all exports."""
    runs = Runs(folder)
    full = runs.train("full", runs.write_records("records", ANSWERS), 60)
    original, printed = runs.export(full, "full-hf")
    assert "checked: " in printed, printed
    newer, _ = runs.export(full, "full-newer", "--names", "newer")
    shards, _ = runs.export(full, "full-shards", "--max-shard-size", "200KB")
    runs.add("full", "model", original, ["--checkpoint", str(full)])
    runs.add("full-as-model", "model", original, ["--model", str(original)], image="coffee.jpg")
    runs.add("full-newer", "model", newer, ["--checkpoint", str(full)], versions=[5])
    runs.add("full-shards", "model", shards, ["--checkpoint", str(full)])
    records = runs.write_records("new_records", NEW_ANSWERS)

    def language() -> None:
        trained = runs.train("language", runs.write_records("texts", {}), 100, model=LANGUAGE_MODEL)
        folder, _ = runs.export(trained, "language-hf")
        runs.add("language", "model", folder, ["--checkpoint", str(trained)], image=None)
        runs.add("language-as-model", "model", folder, ["--model", str(folder)], image=None)

    jobs = [language]
    jobs += [lambda name=name: add_adapted(runs, name, original, records) for name in ADAPTED]
    jobs += [lambda case=case: add_family(runs, case, FAMILIES[case]) for case in FAMILIES]
    # Each is mostly one thread and files.
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda job: job(), jobs))
    runs.exports.sort(key=lambda export: export.name)
    runs.write()


def add_adapted(runs: Runs, name: str, original: Path, records: Path) -> None:
    """Trains adapters on the export of the first run."""
    base = f"finetune.resume.restore_config.path={original}"
    adapted = runs.train(name, records, 40, "peft_scheme=lora", base, *ADAPTED[name])
    merged, _ = runs.export(adapted, f"{name}-merged")
    runs.add(f"{name}-merged", "model", merged, ["--checkpoint", str(adapted)])
    for names, versions in (("newer", [5]), ("original", [4])):
        adapter, _ = runs.export(adapted, f"{name}-peft-{names}", "--format", "hf-peft", "--names", names)
        more = {"base": str(original), "merged": str(merged), "versions": versions}
        runs.add(f"{name}-peft-{names}", "adapter", adapter, ["--checkpoint", str(adapted)], **more)


def add_family(runs: Runs, case: str, versions: list[int]) -> None:
    """Trains a model of a family on random images, then adapters on its export."""
    full = runs.train_mock(case, f"finetune.model.from_pretrained={ROOT / 'tests' / 'fixtures' / 'hf' / case}")
    model, _ = runs.export(full, case)
    shared = {"versions": versions, "positions_in_4": POSITIONS_IN_4.get(case)}
    runs.add_canary(case, "model", model, full, [], **shared)
    name = f"{case}-lora"
    settings = ["peft_scheme=lora", "finetune.model.freeze_vision_model=true"]
    adapted = runs.train_mock(name, f"finetune.model.from_pretrained={model}", *settings)
    merged, _ = runs.export(adapted, f"{name}-merged")
    runs.add_canary(f"{name}-merged", "model", merged, adapted, [], **shared)
    for names, version in (("newer", 5), ("original", 4)):
        if version in versions:
            options = ["--format", "hf-peft", "--names", names]
            adapter, _ = runs.export(adapted, f"{name}-peft-{names}", *options)
            more = {**shared, "base": str(model), "merged": str(merged), "versions": [version]}
            runs.add_canary(f"{name}-peft-{names}", "adapter", adapter, adapted, options, **more)


def real_model(folder: Path, gguf: Path) -> None:
    """Imports SmolLM2-135M-Instruct from GGUF and asks it. The answer is transformers' as well (`test_exports.py`)."""
    out = folder / "smollm2"
    run("import", str(gguf), "--output", str(out))
    logits = folder / "smollm2.logits.safetensors"
    question = "What is the capital of France?"
    answer = run("generate", "--model", str(out), "--prompt", question).strip()
    if "Paris" not in answer:
        raise RuntimeError(f"SmolLM2 answers {answer!r} to {question!r}")
    rank("generate", "--model", str(out), "--prompt", question, "--logits", str(logits))
    entry = Export("smollm2", "model", str(out), None, question, answer, str(logits))
    path = folder / "exports.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), asdict(entry)], indent=1))
