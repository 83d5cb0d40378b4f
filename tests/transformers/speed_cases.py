"""Cases of `make bench-training`: what is trained, with what, and the ratio to Hugging Face + PEFT that it should reach."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Case:
    """One training with both programs. Ratios are our tokens for a second of processor time, divided by the peer's."""

    name: str
    text: str
    # `lora`: adapters of rank 8 on all linears of the language model. `full`: language model and projector.
    mode: str
    # Data type of the peer: `bf16` and `fp32` for everything, `autocast` for fp32 with products in bf16.
    dtype: str
    threads: int = 1
    # PyTorch's `set_float32_matmul_precision` of the peer.
    precision: str = "highest"
    batch: int = 2
    # `fixed`: 512 positions, 196 of them an image. `mixed`: see speed_data.py.
    data: str = "fixed"
    steps: int = 4
    # Ratio to be reached on a CPU with AMX and on one without.
    target: tuple[float, float] = (1.0, 1.0)
    # Peak memory, as a share of the peer's, at most.
    memory: Optional[float] = None
    # The bench fails below this ratio: it was reached before.
    kept: float = 1.0

    @property
    def own_plugin(self) -> str:
        """Precision of neva-run."""
        return "fp32" if self.dtype == "fp32" else "bf16-mixed"


CASES = [
    Case("lora-bf16", "LoRA, bf16", "lora", "bf16", target=(1.6, 1.4), memory=0.5, kept=1.2),
    Case("lora-bf16-2", "LoRA, bf16, 2 threads", "lora", "bf16", threads=2, target=(1.6, 1.4), memory=0.5, kept=1.15),
    Case("full-autocast", "full, bf16 with fp32 master", "full", "autocast", target=(1.6, 1.6), memory=0.65, kept=1.3),
    Case("full-bf16", "full, peer everything bf16", "full", "bf16", target=(1.4, 1.4), kept=0.9),
    Case("full-fp32", "full, fp32", "full", "fp32", target=(2.0, 1.35), kept=1.15),
    Case("full-fp32-medium", "full, fp32, peer at medium", "full", "fp32", precision="medium", target=(1.2, 1.2), kept=0.6),
    Case("lora-mixed", "LoRA, bf16, mixed lengths", "lora", "bf16", batch=8, data="mixed", steps=5, target=(2.5, 2.2), kept=1.5),
]

# Cases without a table of steps.
START = "start"
DEMO = "demo"
PROFILE = "profile"
# Seconds of wall time from the start of the process, and the number of starts.
START_TARGET = 0.5
STARTS = 8
# Ratio of processor times, from process start: the goal, and what was reached before.
DEMO_TARGET, DEMO_KEPT = 1.5, 1.2
DEMO_ROUNDS = 2
# Processor time of a profile of all steps, at most: its share of a run's.
PROFILE_TARGET = 0.02
PROFILE_STEPS, PROFILE_ROUNDS = 40, 4
NAMES = [case.name for case in CASES] + [START, DEMO, PROFILE]
