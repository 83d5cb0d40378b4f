"""What is checked. Each stage returns lines of a table, and raises Failed where a result is wrong."""

import json
import time
from pathlib import Path
from typing import Any

from machine import Failed, MemoryWatch, Programs, kill, tail

Table = list[tuple[str, str]]

# Greatest relative difference of a loss and of a gradient norm from Hugging Face's, by precision. Five optimizer steps
# in bf16 leave fp32's path; its losses stay near.
TOLERANCES = {"32": (1e-3, 1e-3), "bf16-mixed": (2e-2, 1e-1)}

# Dense bf16 FLOP/s of one GPU, by a part of its name (NVIDIA's data sheets).
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def started(programs: Programs, cuda: bool) -> Table:
    """The programs, built elsewhere, start and find the GPU."""
    version = json.loads(programs.run(programs.rank, "version"))
    if version["cuda"] != cuda:
        raise Failed(f"the programs {'see no' if cuda else 'see a'} GPU: {version}")
    return [("neva-rank", version["version"]), ("libtorch", version["libtorch"]), ("sees a GPU", str(version["cuda"]).lower())]


def golden(programs: Programs, device: str, precision: str) -> Table:
    """Losses and gradient norms of Hugging Face's traces and batches."""
    table: Table = []
    of_loss, of_norm = TOLERANCES[precision]
    for case in json.loads((programs.pack / "cases/cases.json").read_text()):
        name = f"{case['name']}-{precision}"
        marks = {"@ROOT@": programs.pack, "@CASES@": programs.pack / "cases", "@RUNS@": programs.runs}
        recipe = case["recipe"]
        for mark, path in marks.items():
            recipe = recipe.replace(mark, str(path))
        file = programs.runs / f"{name}.yaml"
        file.write_text(recipe)
        sets = [f"name={name}", f"finetune.trainer.accelerator={device}", f"finetune.trainer.plugins.precision={json.dumps(precision)}"]
        programs.neva_run(file, "--direct", *flags(sets))
        steps = metrics(programs.runs / name)
        losses = case.get("bf16_losses", case["losses"]) if precision == "bf16-mixed" else case["losses"]
        if len(steps) != len(losses):
            raise Failed(f"{name}: {len(steps)} steps, expected {len(losses)}")
        off = [
            max(abs(step[key] - value) / max(abs(value), 1.0) for step, value in zip(steps, expected))
            for key, expected in [("reduced_train_loss", losses), ("grad_norm", case["grad_norms"])]
        ]
        result = f"loss off by {off[0]:.1e} of {of_loss:.0e}, gradient norm by {off[1]:.1e} of {of_norm:.0e}"
        if off[0] > of_loss or off[1] > of_norm:
            raise Failed(f"{name}: {result}")
        table.append((case["name"], result))
    if not table:
        raise Failed("there is no golden case")
    return table


def resumed(programs: Programs, device: str, steps: int) -> Table:
    """A run that is killed and resumed has the losses of one that is not."""
    every = steps // 6
    common = [
        f"dir={programs.runs}",
        f"finetune.trainer.accelerator={device}",
        f"finetune.trainer.max_steps={steps}",
        "finetune.trainer.val_check_interval=null",
        f"finetune.log.ckpt.every_n_train_steps={every}",
        "finetune.resume.resume_if_exists=true",
        "finetune.resume.resume_ignore_no_checkpoint=true",
    ]
    if device == "cpu":
        # A step in milliseconds, on a busy machine too.
        common += ["finetune.trainer.threads_per_rank=1", "finetune.data.global_batch_size=2", "finetune.data.micro_batch_size=2"]
    programs.neva_run("neva_tiny", *flags([*common, "name=whole"]))
    whole = metrics(programs.runs / "whole")
    killed = [programs.pack / "bin/neva-run", "neva_tiny", *flags([*common, "name=killed"])]
    process = programs.start(*killed)
    while len(metrics(programs.runs / "killed")) < steps // 2:
        if process.poll() is not None:
            raise Failed(f"the run ended before it was killed: {tail(process.communicate()[0])}")
        if time.monotonic() > programs.deadline:
            raise Failed(f"out of time: {tail(kill(process))}")
        time.sleep(0.005)
    kill(process)
    programs.run(*killed)
    folders = sorted((programs.runs / "killed").iterdir())
    before, after = metrics(folders[0]), metrics(folders[-1])
    if len(folders) != 2 or not 0 < after[0]["step"] <= len(before) or after[-1]["step"] != steps - 1:
        raise Failed(f"resumed at step {after[0]['step']} of {steps} in {len(folders)} folders, killed after step {before[-1]['step']}")
    losses = {step["step"]: step["reduced_train_loss"] for step in before + after}
    off = max(abs(losses[step["step"]] - step["reduced_train_loss"]) for step in whole)
    result = "equal bit for bit" if off == 0 else f"off by {off:.1e}"
    if off > 1e-4:
        raise Failed(f"losses of the resumed run are {result}")
    loss = f"{whole[0]['reduced_train_loss']:.4f} -> {whole[-1]['reduced_train_loss']:.4f}"
    return [("loss", loss), ("killed after step", str(before[-1]["step"])), ("resumed at step", str(after[0]["step"])), ("losses", result)]


def lora_step(programs: Programs, device: str, gpu: str) -> Table:
    """LoRA steps of a model of LLaVA-1.5 7B's shape with random weights; of a small one without a GPU."""
    small = device == "cpu"
    recipe: dict[str, Any] = {
        "_factory_": "llava15_7b",
        "dir": str(programs.runs),
        "name": "lora_step",
        "num_gpus_per_node": 1,
        "peft_scheme": "lora",
        "finetune": {
            "model": SMALL if small else {},
            "data": {"seq_length": 128 if small else 4096, "global_batch_size": 4, "micro_batch_size": 1, "num_workers": 2},
            "trainer": {"accelerator": device, "max_steps": 6, "val_check_interval": None, "threads_per_rank": 1 if small else None},
            "optim": {"lr_scheduler": {"_target_": "Constant"}},
            "log": {"ckpt": {"save_on_train_end": False, "train_time_interval": None}},
            "resume": {"restore_config": None},
        },
    }
    file = programs.runs / "lora_step.yaml"
    # JSON is YAML.
    file.write_text(json.dumps(recipe))
    with MemoryWatch() as memory:
        programs.neva_run(file)
    (folder,) = (programs.runs / "lora_step").iterdir()
    # The first steps warm up kernels and memory.
    steps = metrics(folder)[2:]
    rate = sorted(step["tokens/s"] for step in steps)[len(steps) // 2]
    plan = json.loads((folder / "plan.json").read_text())["run"]["finetune"]
    flops = rate * flops_of_token(plan)
    peak = next((peak for name, peak in PEAKS.items() if name in gpu), None)
    used = f"{memory.most / 1024:.1f} GiB" if memory.most is not None else "not measured: there is no nvidia-smi"
    return [
        ("tokens/s", f"{rate:.0f}"),
        ("model TFLOP/s", f"{flops / 1e12:.3g}"),
        ("MFU", f"{flops / peak:.1%} of {peak / 1e12:.0f} TFLOP/s" if peak else "not known: no peak of this device in the table"),
        ("GPU memory in use", used),
        ("loss", f"{steps[0]['reduced_train_loss']:.4f} -> {steps[-1]['reduced_train_loss']:.4f}"),
    ]


# The shape of a model that trains on a CPU in seconds.
SMALL = {
    "text_config": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
    "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56},
}


def flops_of_token(finetune: dict[str, Any]) -> float:
    """FLOPs of forward and backward pass for a position of the language model: 4 for a frozen weight behind which
    something trains, 6 for a trained one, and 6 L h s for causal attention. The vision encoder's go to its sample."""
    model = finetune["model"]["vlm.LlavaModel"]
    text, vision, lora = model["text_config"], model["vision_config"], finetune["peft"]["vlm.LoRA"]
    length = finetune["data"]["vlm.MockDataModule"]["seq_length"]
    h, f, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    head = text["head_dim"] or h // text["num_attention_heads"]
    q, kv = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    frozen = layers * (h * (2 * q + 2 * kv) + 3 * h * f) + text["vocab_size"] * h
    # One adapter each on qkv, proj, fc1 and fc2: A is [dim, in], B is [out, dim].
    trained = layers * lora["dim"] * ((h + q + 2 * kv) + (q + h) + (h + 2 * f) + (f + h))
    attention = 6 * layers * q * length
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    encoder = (vision["num_hidden_layers"] - 1) * (4 * vision["hidden_size"] ** 2 + 2 * vision["hidden_size"] * vision["intermediate_size"])
    projector = vision["hidden_size"] * h + h * h
    return 4 * frozen + 6 * trained + attention + 6 * (encoder + projector) * patches / length


def flags(sets: list[str]) -> list[str]:
    return [word for text in sets for word in ("--set", text)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Training steps of a run, given by its folder or by that of its name; whole lines only."""
    steps = []
    for file in sorted([*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")]):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n") and "reduced_train_loss" in (step := json.loads(line)):
                steps.append(step)
    return steps
