"""Prints schedule_values.rs: learning rates of transformers 5.23.0, and of NeMo's formulas.

python schedule_values.py > schedule_values.rs
"""

from math import cos, pi
from types import SimpleNamespace

import torch
from transformers import TrainingArguments, optimization


def transformers(get_schedule):
    """Returns the rates of steps 0, 1 .. of an optimizer with torch's scheduler."""

    def rates(peak, total, warmup_steps, warmup_ratio, last, **options):
        warmup = warmup_steps
        if warmup_ratio is not None:
            warmup = TrainingArguments.get_warmup_steps(SimpleNamespace(warmup_steps=warmup_ratio), total)
        if get_schedule is not optimization.get_constant_schedule_with_warmup:
            options["num_training_steps"] = total
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
        scheduler = get_schedule(optimizer, num_warmup_steps=warmup, **options)
        for _ in range(last + 1):
            yield scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()

    return rates


def nemo(peak, total, warmup_steps, warmup_ratio, last, constant_steps, min_lr):
    """Computes `nemo.core.optim.lr_scheduler.CosineAnnealing`, whose ratio is rounded down."""
    warmup = warmup_steps if warmup_ratio is None else int(warmup_ratio * total)
    decay = total - (constant_steps + warmup)
    for step in range(last + 1):
        if warmup > 0 and step <= warmup:
            yield peak * float(step) / float(warmup) if constant_steps else peak * ((step + 1) / (warmup + 1))
        elif step > warmup + decay:
            yield min_lr
        elif constant_steps:
            yield min_lr + 0.5 * (cos(pi * (float(step - warmup) / float(decay))) + 1.0) * (peak - min_lr)
        else:
            yield (peak - min_lr) * (0.5 * (1 + cos(pi * (step - warmup) / (total - warmup)))) + min_lr


RATES = {
    "CosineAnnealing": nemo,
    "CosineWithWarmup": transformers(optimization.get_cosine_schedule_with_warmup),
    "LinearWithWarmup": transformers(optimization.get_linear_schedule_with_warmup),
    "Wsd": transformers(optimization.get_wsd_schedule),
    "Constant": transformers(optimization.get_constant_schedule_with_warmup),
}
RAMPS = {"linear": "Linear", "cosine": "Cosine", "1-sqrt": "OneMinusSqrt"}


def written(value):
    """Formats a value as Rust."""
    return f"RampType::{RAMPS[value]}" if isinstance(value, str) else repr(value)


def case(kind, peak, total, warmup=0, ratio=None, **fields):
    """Prints one call of `check`."""
    options = {{"decay_steps": "num_decay_steps"}.get(name, name): value for name, value in fields.items()}
    after_warmup = warmup or int(total * (ratio or 0))
    before_end = [total - fields.get(name, 0) for name in ("constant_steps", "decay_steps")]
    edges = [0, 2, after_warmup // 2, after_warmup, total // 2, total * 9 // 10, *before_end, total, total * 2]
    steps = sorted({step for edge in edges for step in (edge - 1, edge, edge + 1) if step >= 0})
    rates = list(RATES[kind](peak, total, warmup, ratio, steps[-1], **options))
    fields = {"warmup_steps": warmup, "warmup_ratio": None, **fields}
    text = ", ".join(f"{name}: {written(value)}" for name, value in fields.items())
    if ratio is not None:
        text = text.replace("warmup_ratio: None", f"warmup_ratio: Some({ratio!r})")
    values = ", ".join(f"({step}, {float(rates[step])!r})" for step in steps)
    print(f"check(LrScheduler::{kind} {{ {text} }}, {peak!r}, {total}, &[{values}]);")


print("// Printed by schedule_values.py.\n{")
for peak in (2e-5, 1e-4):
    case("CosineAnnealing", peak, 5190, 150, constant_steps=0, min_lr=2e-7)
case("CosineAnnealing", 0.001, 7, constant_steps=0, min_lr=0.0)
case("CosineAnnealing", 0.001, 5, 9, constant_steps=0, min_lr=1e-5)
case("CosineAnnealing", 2e-5, 5190, ratio=0.03, constant_steps=0, min_lr=2e-7)
case("CosineAnnealing", 3e-4, 100, 10, constant_steps=20, min_lr=1e-6)
case("CosineAnnealing", 3e-4, 100, ratio=0.07, constant_steps=20, min_lr=1e-6)
for kind in ("CosineWithWarmup", "LinearWithWarmup", "Constant"):
    case(kind, 0.001, 5)
    case(kind, 0.001, 5, 1)
    case(kind, 0.001, 5, 9)
    case(kind, 2e-5, 5190, 150)
    case(kind, 2e-5, 5190, ratio=0.03)
    case(kind, 3e-4, 100, ratio=0.07)
wsd = {"warmup_type": "linear", "decay_type": "cosine", "min_lr_ratio": 0.0}
case("Wsd", 2e-5, 5190, 150, decay_steps=519, **wsd)
case("Wsd", 2e-5, 5190, ratio=0.03, decay_steps=519, **wsd)
case("Wsd", 2e-5, 100, decay_steps=0, **wsd)
case("Wsd", 2e-5, 100, 60, decay_steps=70, **wsd)
case("Wsd", 2e-5, 10, decay_steps=14, **wsd)
for ramp, other in zip(RAMPS, ("1-sqrt", "linear", "cosine")):
    case("Wsd", 3e-4, 50, 11, decay_steps=13, warmup_type=ramp, decay_type=other, min_lr_ratio=0.1)
    case("Wsd", 3e-4, 50, 11, decay_steps=13, warmup_type=ramp, decay_type=ramp, min_lr_ratio=0.0)
print("}")
