"""Training speed of models of 7B shapes with random weights, beside published figures.

The operations of a position are those of `effects.json`, the project's one formula (docs/performance.md), for all figures.
"""

import json
from dataclasses import dataclass
from typing import Any, Optional

from machine import MemoryWatch, Programs
from stages import Table, metrics

# Dense bf16 FLOP/s of one GPU, by a part of its name (NVIDIA's data sheets). FP8 has twice as many.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


@dataclass(frozen=True)
class Published:
    """A figure of others, for one GPU."""

    tokens_per_s: float
    source: str


@dataclass(frozen=True)
class Case:
    """A fine-tune with LoRA of one model."""

    name: str
    model: Optional[dict[str, Any]] = None
    precision: str = "bf16_mixed"
    # Samples of a row of 4,096 positions.
    packed: int = 1
    published: Optional[Published] = None


QWEN2_7B = {"_target_": "llm.Qwen2Model", "config": "llm.Qwen2Config7B"}
LLAMA2_7B = {"_target_": "llm.LlamaModel", "config": "llm.Llama2Config7B"}

CASES = [
    Case("LLaVA-1.5 7B, LoRA, bf16"),
    Case(
        "Qwen2.5 7B, LoRA, bf16",
        model=QWEN2_7B,
        published=Published(14_110, "one H100, NeMo AutoModel's performance summary, 2025-10"),
    ),
    Case("Llama 2 7B, LoRA, bf16, packed", model=LLAMA2_7B, packed=4),
    Case(
        "Llama 2 7B, LoRA, FP8, packed",
        model=LLAMA2_7B,
        precision="bf16_with_fp8_mixed",
        packed=4,
        published=Published(24_824, "a GPU of eight H100, NeMo 24.12's performance summary"),
    ),
]

# Sizes with which a CPU trains in seconds.
SMALL = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512}
SMALL_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56}


def measured(programs: Programs, case: Case, device: str, gpu: str) -> Table:
    """Trains some steps with random weights; a small model without a GPU."""
    small = device == "cpu"
    length = 512 if small else 4096
    recipe: dict[str, Any] = {
        "_factory_": "llava15_7b",
        "dir": str(programs.runs),
        "name": case.name.replace(" ", "_").replace(",", ""),
        "num_gpus_per_node": 1,
        "peft_scheme": "lora",
        "finetune": {
            "model": shape(case, small),
            "data": {
                "seq_length": length,
                "global_batch_size": 4 * case.packed,
                "micro_batch_size": case.packed,
                "use_packed_sequence": case.packed > 1,
                "num_workers": 2,
            },
            "trainer": {"accelerator": device, "max_steps": 6, "val_check_interval": None, "threads_per_rank": 1 if small else None},
            "optim": {"lr_scheduler": {"_target_": "Constant"}},
            "log": {"ckpt": {"save_on_train_end": False, "train_time_interval": None}},
            "resume": {"restore_config": None},
        },
    }
    file = programs.runs / f"{recipe['name']}.yaml"
    # JSON is YAML.
    file.write_text(json.dumps(recipe))
    sets = ["--set", f"finetune.trainer.plugins={case.precision}"]
    if "fp8" in case.precision and small:
        sets += ["--set", "finetune.trainer.plugins.fp8_emulate=true"]
    with MemoryWatch() as memory:
        programs.neva_run(file, *sets)
    (folder,) = (programs.runs / recipe["name"]).iterdir()
    # The first steps warm up kernels and memory.
    steps = metrics(folder)[2:]
    rate = sorted(step["tokens/s"] for step in steps)[len(steps) // 2]
    effects = json.loads((folder / "effects.json").read_text())
    positions = sum(step["tokens/s"] * step["train_step_timing in s"] for step in metrics(folder))
    flops = effects["model_flops"] / positions
    peak = next((peak for name, peak in PEAKS.items() if name in gpu), None)
    used = f"{memory.most / 1024:.1f} GiB" if memory.most is not None else "not measured: there is no nvidia-smi"
    table = [
        ("tokens/s", f"{rate:.0f}"),
        ("model TFLOP/s", f"{rate * flops / 1e12:.3g}"),
        ("of the bf16 peak", f"{rate * flops / peak:.1%} of {peak / 1e12:.0f} TFLOP/s" if peak else "not known: no peak of this device in the table"),
        ("FP8 share of the decoder's linears", f"{effects['fp8_share']:.1%}"),
        ("fused kernels", ", ".join(kernel["kernel"] for kernel in effects.get("fused_kernels", [])) or "none"),
        ("GPU memory in use", used),
        ("loss", f"{steps[0]['reduced_train_loss']:.4f} -> {steps[-1]['reduced_train_loss']:.4f}"),
    ]
    if case.published:
        theirs = case.published.tokens_per_s
        if small:
            table.append(("published", f"{theirs:.0f} tokens/s ({case.published.source}), not compared: this model is small"))
        else:
            text = f"{theirs:.0f} tokens/s, {theirs * flops / 1e12:.3g} TFLOP/s in the same count ({case.published.source})"
            table += [("published", text), ("this run", f"{rate / theirs:.0%} of it")]
    return table


def shape(case: Case, small: bool) -> dict[str, Any]:
    """Returns the model of a case."""
    if case.model is None:
        return {"text_config": SMALL, "vision_config": SMALL_VISION} if small else {}
    return {**case.model, "config": SMALL} if small else case.model
