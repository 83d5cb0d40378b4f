"""The machine that is checked: its GPU, its libtorch, and how programs are started on it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

# Variables of an outer run, which would make a rank of a program that is started here.
OUTER = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS", "NEVA_LOG", "NEVA_JOB"]


class Failed(Exception):
    """A stage has another result than it must have."""


@dataclass
class Gpu:
    """The first GPU, as nvidia-smi describes it."""

    name: str
    driver: str
    memory: str


def find_gpu() -> Optional[Gpu]:
    """Returns the first GPU of this machine."""
    line = nvidia_smi("name,driver_version,memory.total")
    return Gpu(*line.split(", ")[:3]) if line else None


def count_gpus() -> int:
    """Returns the number of GPUs that a run here may have."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip()])
    return len(nvidia_smi_lines("name"))


def nvidia_smi(fields: str, *flags: str) -> Optional[str]:
    """Returns what nvidia-smi prints of the first GPU."""
    lines = nvidia_smi_lines(fields, *flags)
    return lines[0].strip() if lines else None


def nvidia_smi_lines(fields: str, *flags: str) -> list[str]:
    """Returns what nvidia-smi prints, a line for each GPU; nothing without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", ",".join(["--format=csv", "noheader", *flags])]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def find_libtorch(root: Path) -> list[Path]:
    """Returns the folders with libtorch and what it loads: of LIBTORCH, of this Python's torch, or of `make setup`."""
    named = os.environ.get("LIBTORCH")
    if named:
        return [Path(named) / "lib"]
    # Does not import it, which takes seconds.
    found = importlib.util.find_spec("torch")
    if found and found.submodule_search_locations:
        package = Path(found.submodule_search_locations[0])
        # The wheels of CUDA's libraries unpack beside torch: nvidia/cublas/lib, or nvidia/cu13/lib.
        return [package / "lib", *sorted((package.parent / "nvidia").glob("*/lib"))]
    own = root / ".libtorch/lib"
    return [own] if own.is_dir() else []


class Programs:
    """The packed programs, started with that libtorch and before a deadline."""

    def __init__(self, pack: Path, libraries: list[Path], runs: Path, deadline: float):
        self.pack, self.runs, self.deadline = pack, runs, deadline
        self.rank = pack / "bin/golden-rank"
        environment = {name: value for name, value in os.environ.items() if name not in OUTER}
        # It goes before the run path of the programs, which names a folder of the machine that built them.
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = ":".join([*map(str, libraries), *([known] if known else [])])
        environment |= {
            "NEVA_RANK": str(self.rank),
            "NEVA_RUN_HOME": str(runs / "home"),
            # cuBLAS repeats its bits only with a workspace of fixed size.
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            # The programs forbid TF32 themselves; this forbids it to what a library might decide.
            "NVIDIA_TF32_OVERRIDE": "0",
        }
        self.environment = environment

    def start(self, *command: object) -> subprocess.Popen:
        """Starts a program in a process group of its own, so that all of it can be killed."""
        words = [str(word) for word in command]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=self.runs, env=self.environment, start_new_session=True
        )

    def run(self, *command: object) -> str:
        """Runs a program to its end and returns its output."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            output = kill(process)
            raise Failed(f"out of time: {tail(output)}") from None
        if process.returncode != 0:
            raise Failed(f"exit code {process.returncode}: {tail(output)}")
        return output

    def neva_run(self, *arguments: object) -> str:
        """Trains."""
        return self.run(self.pack / "bin/neva-run", *arguments)


def kill(process: subprocess.Popen) -> str:
    """Kills a program and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return process.communicate()[0]


def tail(output: str, lines: int = 6) -> str:
    """Returns the last lines of an output."""
    return " / ".join(line.strip() for line in output.splitlines()[-lines:] if line.strip())


class MemoryWatch:
    """Measures the most memory of the first GPU that is in use."""

    def __enter__(self) -> "MemoryWatch":
        self.most: Optional[int] = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)
        self._thread.start()
        return self

    def _measure(self) -> None:
        while not self._done.is_set():
            used = nvidia_smi("memory.used", "nounits")
            if used is None:
                return
            self.most = max(self.most or 0, int(used))
            self._done.wait(0.25)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=60)
