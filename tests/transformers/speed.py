#!/usr/bin/env python3
"""Speed of training on this machine's CPU, as a ratio to Hugging Face + PEFT in the same run: `make bench-training`.

Both train the model of speed_peer.py from the same weights, on the same tokens, with the same number of threads. The times are
processor times of the process, which other programs on the machine disturb least; the first step is left out. run.py starts
this program with the packages that setup.py installs.
"""

import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import setup
import speed_data
from speed_cases import (
    CASES,
    DEMO,
    DEMO_KEPT,
    DEMO_ROUNDS,
    DEMO_TARGET,
    NAMES,
    PROFILE,
    PROFILE_ROUNDS,
    PROFILE_STEPS,
    PROFILE_TARGET,
    START,
    START_TARGET,
    STARTS,
    Case,
)
from speed_peer import IMAGE_ID, TINY_IMAGE_ID

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "neva-run"
# Seconds for one training.
LIMIT = 1500
# Trainings of each program, in turn. The fastest counts: other programs only ever make one slower.
ROUNDS = 2
LR = 1e-4


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"bench-training: there is no case `{unknown[0]}`; the cases are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    bench = Bench()
    print(f"{cpu()}\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; times are processor times", flush=True)
    with tempfile.TemporaryDirectory(prefix="neva-bench-") as name:
        bench.folder = Path(name)
        wanted = names or NAMES
        for case in CASES:
            if case.name in wanted:
                bench.compare(case)
        for name, run in ((START, bench.start), (DEMO, bench.demo), (PROFILE, bench.profile)):
            if name in wanted:
                run()
    return 1 if bench.lost else 0


def flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


def has_amx() -> bool:
    return "amx_bf16" in flags()


def cpu() -> str:
    """Returns the CPU's name, and the features that decide about the speed of products."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
    return f"{name}, {', '.join(flag for flag in known if flag in flags()) or 'no AVX2'}"


class Bench:
    """Runs cases and prints their tables."""

    def __init__(self) -> None:
        self.folder = Path()
        self.lost = 0
        self.has_head = False

    def model(self) -> Path:
        """Returns the folder of the fresh model, which is written once into the cache."""
        folder = setup.cache() / "bench-llava-134m-1"
        if not folder.is_dir():
            print("writing a fresh model of 220 M parameters into the cache", flush=True)
            partial = folder.with_name(f"{folder.name}.{os.getpid()}")
            shutil.rmtree(partial, ignore_errors=True)
            self.peer("--make", str(partial))
            partial.rename(folder)
        return folder

    def peer(self, *arguments: str) -> str:
        command = [sys.executable, "-B", str(HERE / "speed_peer.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode != 0:
            raise SystemExit(f"bench-training: the peer failed:\n{done.stderr}")
        return done.stdout

    def neva_run(self, *arguments: str) -> str:
        done = subprocess.run([str(PROGRAM), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode != 0:
            raise SystemExit(f"bench-training: {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def compare(self, case: Case) -> None:
        """Trains a case with both programs in turn."""
        model = self.model()
        speed_data.write_image(self.folder)
        records = speed_data.write_records(self.folder, case.data, case.batch * case.steps)
        recipe = self.recipe(case, model, records)
        samples = speed_data.tokens(PROGRAM, recipe, IMAGE_ID, case.batch * case.steps)
        job = {**asdict(case), "model": str(model), "images": [str(self.folder / "image.png")], "lr": LR}
        job["samples"] = [{**asdict(sample), "images": [0] * sample.has_image} for sample in samples]
        (self.folder / "job.json").write_text(json.dumps(job))
        peers, owns = [], []
        for _ in range(ROUNDS):
            peers.append(json.loads(self.peer(str(self.folder / "job.json")).splitlines()[-1]))
            self.neva_run(str(recipe), "--direct")
            owns.append(Own(newest(self.folder / case.name)))
        steps = peers[0]["steps"][1:]
        tokens = sum(step["tokens"] for step in steps)
        peer_rate = tokens / min(sum(step["processor_s"] for step in peer["steps"][1:]) for peer in peers)
        # The same samples: their number of positions is that of the peer, without padding.
        own_rate = tokens / len(steps) / min(own.step_s for own in owns)
        ratio, target = own_rate / peer_rate, case.target[0 if has_amx() else 1]
        own_memory, peer_memory = (min(values) for values in ([own.gib for own in owns], [peer["rss_gib"] for peer in peers]))
        if not self.has_head:
            self.has_head = True
            speed, memory_head = f"{'tokens/s':>9}{'peer':>7}{'ratio':>7}{'target':>7}", f"{'GiB':>7}{'peer':>6}{'share':>7}{'target':>7}"
            print(f"{'case':<28}{speed}{memory_head}{'MFU':>6}  first loss, peer")
        lost = ratio < case.kept
        self.lost += lost
        wanted = f"{case.memory:.2f}" if case.memory else "-"
        print(
            f"{case.text:<28}{own_rate:>9.0f}{peer_rate:>7.0f}{ratio:>7.2f}{target:>7.2f}"
            f"{own_memory:>7.2f}{peer_memory:>6.2f}{own_memory / peer_memory:>7.2f}{wanted:>7}"
            f"{max(own.mfu for own in owns):>6.0%}  {owns[0].first_loss:.4f} {peers[0]['steps'][0]['loss']:.4f}"
            f"{'  LOST: it was ' + str(case.kept) if lost else ''}",
            flush=True,
        )

    def recipe(self, case: Case, model: Path, records: Path) -> Path:
        """Writes a recipe file; JSON is YAML."""
        mixed = case.data == "mixed"
        length = speed_data.MIXED_LENGTH if mixed else speed_data.FIXED_LENGTH
        lora = {"_target_": "vlm.LoRA", "dim": 8, "alpha": 16, "dropout": 0.0, "freeze_vision_model": True, "freeze_language_model": True}
        adapted = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora["target_modules"] = [f"*.language_model.*.{name}" for name in adapted]
        finetune = {
            "model": {"from_pretrained": str(model), "freeze_vision_model": True, "freeze_vision_projection": case.mode == "lora"},
            "data": {
                "_target_": "vlm.NevaPreloadedDataModule",
                "paths": str(records),
                "data_config": {"image_folder": str(self.folder)},
                "tokenizer": "builtin:mistral_2k",
                "seq_length": length,
                "global_batch_size": case.batch,
                "micro_batch_size": case.batch,
                "use_packed_sequence": mixed,
                "num_workers": 0,
                "shuffle": False,
            },
            "trainer": {
                "accelerator": "cpu",
                "max_steps": case.steps,
                "val_check_interval": None,
                "threads_per_rank": case.threads,
                "profile_steps": case.steps,
                "plugins": {"_target_": "nl.MegatronMixedPrecision", "precision": case.own_plugin},
                "loss_spike_threshold": None,
            },
            "optim": {
                "lr": LR,
                "betas": [0.9, 0.999],
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_grad": 0.0,
                "lr_scheduler": {"_target_": "Constant"},
            },
            "log": {"tensorboard": False, "ckpt": {"save_on_train_end": False, "train_time_interval": None}},
            **({"peft": lora} if case.mode == "lora" else {}),
        }
        path = self.folder / f"{case.name}.yaml"
        path.write_text(json.dumps({"_factory_": "neva_tiny", "name": case.name, "dir": str(self.folder), "finetune": finetune}))
        return path

    def start(self) -> None:
        """Measures the time from the start of a process to its first step. Other programs make it longer: the shortest counts."""
        for name, way in (("--direct", ["--direct"]), ("launcher", [])):
            begins, ends = [], []
            for _ in range(STARTS):
                started = time.time()
                sets = ["--set", f"dir={self.folder}", "--set", "finetune.trainer.max_steps=1"]
                self.neva_run("recipes/neva_tiny.yaml", *sets, "--profile", "1", *way)
                trace = json.loads((newest(self.folder / "neva_tiny") / "profile.json").read_text())
                step = next(event for event in trace["traceEvents"] if event["name"] == "step")
                zero = trace["otherData"]["started_unix_us"] / 1e6
                begins.append(zero + step["ts"] / 1e6 - started)
                ends.append(begins[-1] + step["dur"] / 1e6)
            times = f"{min(begins):.2f} s (median {statistics.median(begins):.2f}), to its end {min(ends):.2f} s"
            print(f"neva_tiny, {name}: process start to first step {times}; target {START_TARGET:.2f} s, wall time", flush=True)

    def demo(self) -> None:
        """Compares the training of make demo with a peer that learns the same photographs, from the starts of the processes."""
        recipe = ROOT / "examples" / "photos" / "recipe.yaml"
        photos = ROOT / "examples" / "photos" / "photos.json"
        records = json.loads(photos.read_text())
        inspected = self.folder / "inspected.yaml"
        data = {"_target_": "vlm.NevaPreloadedDataModule", "paths": str(photos), "tokenizer": "builtin:mistral_2k", "seq_length": 192}
        data |= {"global_batch_size": 32, "micro_batch_size": 16}
        inspected.write_text(json.dumps({"_factory_": "neva_tiny", "finetune": {"data": data}}))
        shown = speed_data.images(records)
        names = sorted({name for images in shown for name in images})
        samples = [
            {**asdict(sample), "images": [names.index(name) for name in images]}
            for sample, images in zip(speed_data.tokens(PROGRAM, inspected, TINY_IMAGE_ID, len(records)), shown, strict=True)
        ]
        job = {
            "mode": "photos",
            "threads": 2,
            "precision": "highest",
            "samples": samples,
            "images": [str(photos.parent / name) for name in names],
            **{"lr": 2e-3, "min_lr": 1e-5, "warmup": 10, "steps": 100, "batch": 32},
        }
        path = self.folder / "job.json"
        own, peer = Costs(), Costs()
        for _ in range(DEMO_ROUNDS):
            with own.measured():
                self.neva_run(str(recipe), "--set", f"dir={self.folder}")
            metrics = [json.loads(line) for line in (newest(self.folder / "photos") / "metrics.jsonl").read_text().splitlines()]
            job["loss"] = metrics[-1]["reduced_train_loss"]
            path.write_text(json.dumps(job))
            with peer.measured():
                theirs = json.loads(self.peer(str(path)).splitlines()[-1])
        ratio = peer.processor_s / own.processor_s
        print(
            f"make demo's training: {own}, {len(metrics)} steps to loss {job['loss']:.4f}; "
            f"Hugging Face: {peer}, {theirs['steps']} steps to loss {theirs['loss']:.4f}; "
            f"ratio {peer.wall_s / own.wall_s:.2f}, of processor time {ratio:.2f}; target {DEMO_TARGET:.2f}"
            f"{f'  LOST: it was {DEMO_KEPT}' if ratio < DEMO_KEPT else ''}",
            flush=True,
        )
        self.lost += ratio < DEMO_KEPT

    def profile(self) -> None:
        """Compares the processor time of runs with a profile of all steps and of one. Both measure the peak of the CPU."""
        words = ["recipes/neva_tiny.yaml", "--direct", "--set", f"dir={self.folder}"]
        words += ["--set", f"finetune.trainer.max_steps={PROFILE_STEPS}", "--set", "finetune.trainer.threads_per_rank=1"]
        words += ["--set", "finetune.trainer.val_check_interval=null", "--set", "finetune.log.ckpt.save_on_train_end=false"]
        one, every = Costs(), Costs()
        for _ in range(PROFILE_ROUNDS):
            for costs, profiled in ((one, 1), (every, PROFILE_STEPS)):
                with costs.measured():
                    self.neva_run(*words, "--profile", str(profiled))
        text = f"{every.processor_s:.2f} s of processor, with one step profiled {one.processor_s:.2f} s"
        more = every.processor_s / one.processor_s - 1
        print(f"{PROFILE_STEPS} steps of neva_tiny, all profiled: {text}: {more:+.1%}; target {PROFILE_TARGET:.0%}", flush=True)


class Own:
    """Measured values of a run of neva-run."""

    def __init__(self, run: Path) -> None:
        profile = json.loads((run / "profile.json").read_text())["otherData"]
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        # Processor time of a step, the mean of all but the first.
        self.step_s = profile["processor_ms"] / 1e3
        self.mfu = profile["mfu"]
        self.gib = max(line["peak_memory_gib"] for line in metrics)
        self.first_loss = metrics[0]["reduced_train_loss"]


class Costs:
    """The least wall time and the least processor time of several processes."""

    def __init__(self) -> None:
        self.wall_s = self.processor_s = math.inf

    @contextmanager
    def measured(self) -> Iterator[None]:
        before, started = children_seconds(), time.perf_counter()
        yield
        self.wall_s = min(self.wall_s, time.perf_counter() - started)
        self.processor_s = min(self.processor_s, children_seconds() - before)

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} s, {self.processor_s:.1f} s of processor"


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def newest(folder: Path) -> Path:
    return max(folder.iterdir())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
