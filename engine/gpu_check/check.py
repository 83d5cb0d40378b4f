#!/usr/bin/env python3
"""Checks neva-run on the NVIDIA GPUs of a machine, with the CUDA libtorch of a Python that has torch 2.11, within 10 minutes.

It needs no Rust: `pack.py` has put the programs beside it. Run it with the Python that has torch. Where there is no
GPU, or no libtorch for it, it says so and fails nothing. `--device cpu` goes through the same stages with small models.
"""

import argparse
import datetime
import lzma
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Optional

sys.dont_write_bytecode = True

import stages
import throughput
from machine import Failed, Gpu, Programs, count_gpus, find_gpu, find_libtorch

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu tries the stages themselves, without a GPU")
    parser.add_argument("--results", type=Path, help="file to write (default: GPU_RESULTS.md, or CPU_RESULTS.md)")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="repository with .libtorch, for --device cpu (default: here)")
    parser.add_argument("--minutes", type=float, default=9.5, help="time for all stages (default: 9.5)")
    parser.add_argument("--only", metavar="WORD", help="runs only the stages whose name contains it, such as FP8 or speed")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    on_gpu = arguments.device == "gpu"

    gpu = find_gpu() if on_gpu else None
    if on_gpu and gpu is None:
        print("gpu-check: nothing was checked: nvidia-smi finds no NVIDIA GPU on this machine")
        return 0
    libraries = find_libtorch(arguments.root)
    wanted = "libtorch_cuda.so" if on_gpu else "libtorch_cpu.so"
    if not libraries or not (libraries[0] / wanted).is_file():
        where = libraries[0] if libraries else "this Python"
        print(f"gpu-check: nothing was checked: no {wanted} in {where}: run it with a Python that has torch 2.11, or set LIBTORCH")
        return 0

    unpack(HERE / "bin")
    results = arguments.results or Path("GPU_RESULTS.md" if on_gpu else "CPU_RESULTS.md")
    report = Report(results.absolute(), gpu, arguments.only)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as runs:
        programs = Programs(HERE, libraries, Path(runs), deadline)
        device = arguments.device
        report.stage("programs start", lambda: stages.started(programs, on_gpu))
        if not report.failed:
            report.stage("golden, fp32 without TF32", lambda: stages.golden(programs, device, "32"))
            report.stage("golden, bf16", lambda: stages.golden(programs, device, "bf16-mixed"))
            report.stage("train, kill, resume", lambda: stages.resumed(programs, device, 300 if on_gpu else 24))
            report.stage("fused kernels", lambda: stages.kernels(programs, on_gpu))
            report.stage("FP8", lambda: stages.fp8(programs, device))
            report.stage("several ranks", lambda: stages.ranks(programs, device, count_gpus() if on_gpu else 2))
            for case in throughput.CASES:
                report.stage(f"speed: {case.name}", lambda case=case: throughput.measured(programs, case, device, gpu.name if gpu else ""))
    if not report.ran:
        print(f"gpu-check: no stage has `{arguments.only}` in its name", file=sys.stderr)
        return 2
    print(f"gpu-check: {'FAILED' if report.failed else 'passed'}, results in {results}")
    return 1 if report.failed else 0


def unpack(folder: Path) -> None:
    """Unpacks the programs that `pack.py` has compressed, unless an earlier run did."""
    for packed in folder.glob("*.xz"):
        program = packed.with_suffix("")
        if not program.exists():
            partial = packed.with_suffix(".partial")
            with lzma.open(packed, "rb") as source, open(partial, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            partial.chmod(0o755)
            partial.rename(program)


class Report:
    """The file of results, written anew after each stage: one that is cut off has told what there was."""

    def __init__(self, path: Path, gpu: Optional[Gpu], only: Optional[str]):
        self.path, self.failed, self.only, self.ran = path, False, only, 0
        now = datetime.datetime.now(datetime.timezone.utc)
        self.lines = [
            f"# {'GPU' if gpu else 'CPU'} results",
            "",
            "Written by `make gpu-check`; not edited by hand.",
            "",
            f"- date: {now:%Y-%m-%d %H:%M} UTC",
            f"- GPU: {f'{gpu.name}, {gpu.memory}' if gpu else 'none: the stages were tried on the CPU'}",
            f"- driver: {gpu.driver if gpu else 'none'}",
        ]
        if only:
            self.lines.append(f"- stages: only those with `{only}` in their name")

    def stage(self, name: str, body: Callable[[], stages.Table]) -> None:
        """Runs a stage, unless others are asked for, and writes its result down."""
        if self.only and self.only not in name:
            return
        self.ran += 1
        started = time.monotonic()
        try:
            table, outcome = body(), "passed"
        except Failed as failure:
            table, outcome = [("reason", str(failure))], "FAILED"
            self.failed = True
        seconds = time.monotonic() - started
        print(f"gpu-check: {name}: {outcome} ({seconds:.0f} s)", flush=True)
        for key, value in table:
            print(f"  {key}: {value}", flush=True)
        self.lines += ["", f"## {name}: {outcome} ({seconds:.0f} s)", "", "| | |", "|---|---|"]
        self.lines += [f"| {key} | {value.replace('|', ' ')} |" for key, value in table]
        writing = self.path.with_name(self.path.name + ".writing")
        writing.write_text("\n".join(self.lines) + "\n")
        writing.rename(self.path)


if __name__ == "__main__":
    sys.exit(main())
