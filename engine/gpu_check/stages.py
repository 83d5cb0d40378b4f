"""What is checked. Each stage returns lines of a table, and raises Failed where a result is wrong."""

import json
import time
from pathlib import Path
from typing import Any

from machine import Failed, Programs, kill, tail

Table = list[tuple[str, str]]

# Greatest relative difference of a loss and of a gradient norm from Hugging Face's, by precision. Five optimizer steps
# in bf16 leave fp32's path; its losses stay near.
TOLERANCES = {"32": (1e-3, 1e-3), "bf16-mixed": (2e-2, 1e-1)}

# A step on a CPU in milliseconds, on a busy machine too.
ONE_THREAD = ["finetune.trainer.threads_per_rank=1", "finetune.data.global_batch_size=2", "finetune.data.micro_batch_size=2"]


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
        common += ONE_THREAD
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


# Steps of the runs that FP8 is compared in, and the greatest relative difference of their mean loss from bf16's.
FP8_STEPS = {"gpu": 200, "cpu": 6}
OF_FP8 = 2e-2


def kernels(programs: Programs, cuda: bool) -> Table:
    """The fused kernels compute libtorch's formulae; on a CPU there are none."""
    found = json.loads(programs.run(programs.rank, "kernels", 0))
    if "missing" in found:
        if cuda:
            raise Failed(f"there are no kernels: {found['missing']}")
        return [("not compared", found["missing"])]
    table = [
        (case["case"], f"off by {case['greatest']:.1e} of {case['bound']:.1e}, {case['fused_us']:.0f} us, libtorch {case['formula_us']:.0f} us")
        for case in found
    ]
    wrong = [f"{name}: {result}" for (name, result), case in zip(table, found) if not case["greatest"] <= case["bound"]]
    if wrong:
        raise Failed("; ".join(wrong))
    return table


# Recipes that are emulated on most GPUs: `blockwise` on all but Hopper's, `mxfp8` on those before Blackwell.
OF_BLOCKS = ("bf16_with_fp8_subchannel_scaling_mixed", "bf16_with_mxfp8_mixed")


def fp8(programs: Programs, device: str) -> Table:
    """Losses of FP8 are near those of bf16, and the products are computed in FP8."""

    def train(name: str, precision: str) -> list[float]:
        emulate = device == "cpu" or precision in OF_BLOCKS
        sets = [
            f"dir={programs.runs}",
            f"name={name}",
            f"finetune.trainer.accelerator={device}",
            f"finetune.trainer.max_steps={FP8_STEPS[device]}",
            "finetune.trainer.val_check_interval=null",
            "finetune.log.ckpt.save_on_train_end=false",
            f"finetune.trainer.plugins={precision}",
        ]
        if device == "cpu":
            sets += ONE_THREAD
        if precision != "bf16_mixed":
            sets.append(f"finetune.trainer.plugins.fp8_emulate={str(emulate).lower()}")
        programs.neva_run("neva_tiny", *flags(sets))
        return [step["reduced_train_loss"] for step in metrics(programs.runs / name)]

    plain = train("of_bf16", "bf16_mixed")
    mean = sum(plain) / len(plain)
    table = [("bf16", f"mean loss {mean:.4f}")]
    for precision in ("bf16_with_fp8_mixed", "bf16_with_fp8_current_scaling_mixed", *OF_BLOCKS):
        losses = train(precision, precision)
        off = abs(sum(losses) / len(losses) - mean) / mean
        (folder,) = (programs.runs / precision).iterdir()
        effects = json.loads((folder / "effects.json").read_text())
        kinds = {gemm["kind"] for gemm in effects["gemms"] if gemm["group"] == "decoder linears"}
        result = f"mean loss off by {off:.1e} of {OF_FP8:.0e}, decoder linears in {', '.join(sorted(kinds))}"
        # Current scaling leaves the first and the last layer in bf16.
        expected = {"fp8 (emulated)" if device == "cpu" else "fp8", *(["bfloat16"] if "current" in precision else [])}
        right = kinds == expected or (precision in OF_BLOCKS and kinds == {"fp8 (emulated)"})
        if not off <= OF_FP8 or losses == plain or not right:
            raise Failed(f"{precision}: {result}")
        table.append((precision, result))
    return table


def ranks(programs: Programs, device: str, count: int) -> Table:
    """Several ranks have the losses of one: over NCCL on as many GPUs, over Gloo on a CPU."""
    if count < 2:
        return [("not compared", "this machine has one GPU, and each rank needs its own")]

    def train(name: str, count: int, *layout: str) -> list[float]:
        sets = [
            f"dir={programs.runs}",
            f"name={name}",
            f"num_gpus_per_node={count}",
            f"finetune.trainer.accelerator={device}",
            "finetune.trainer.max_steps=10",
            "finetune.trainer.val_check_interval=null",
            "finetune.log.ckpt.save_on_train_end=false",
            "finetune.data.micro_batch_size=1",
            *layout,
        ]
        if device == "cpu":
            sets += ONE_THREAD[:1]
        programs.neva_run("neva_tiny", *flags(sets))
        return [step["reduced_train_loss"] for step in metrics(programs.runs / name)]

    alone, table = train("one_rank", 1), []
    strategy = "finetune.trainer.strategy"
    layouts = {
        f"data parallel {count}": (count, []),
        "tensor parallel 2": (2, [f"{strategy}.tensor_model_parallel_size=2"]),
        "pipeline of 2": (2, [f"{strategy}.pipeline_model_parallel_size=2"]),
    }
    for name, (ranks, layout) in layouts.items():
        losses = train(name.replace(" ", "_"), ranks, *layout)
        off = max(abs(own - theirs) / max(abs(theirs), 1.0) for own, theirs in zip(losses, alone))
        result = f"loss off by {off:.1e} of 1e-03"
        if len(losses) != len(alone) or not off <= 1e-3:
            raise Failed(f"{name}: {result}")
        table.append((name, result))
    return table


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
