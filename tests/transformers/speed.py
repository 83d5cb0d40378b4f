#!/usr/bin/env python3
"""Speed of training on this machine's CPU, as a ratio to Hugging Face + PEFT in the same run: `make bench-training`.

Both train the model of speed_peer.py from the same weights, on the same tokens, with the same number of threads. The times are
processor times of the process, which other programs on the machine disturb least; the first step is left out. run.py starts
this program with the packages that setup.py installs.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import setup
import speed_data
from speed_cases import CASES, DEMO, NAMES, PROFILE, START, Case
from speed_peer import IMAGE_ID, TINY_IMAGE_ID

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "neva-run"
# Seconds for one training.
LIMIT = 1500
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
        """Trains a case with both programs."""
        model = self.model()
        speed_data.write_image(self.folder)
        records = speed_data.write_records(self.folder, case.data, case.batch * case.steps)
        recipe = self.recipe(case, model, records)
        samples = speed_data.tokens(PROGRAM, recipe, IMAGE_ID, case.batch * case.steps)
        job = {**asdict(case), "model": str(model), "image": str(self.folder / "image.png"), "lr": LR}
        job["samples"] = [asdict(sample) for sample in samples]
        (self.folder / "job.json").write_text(json.dumps(job))
        theirs = json.loads(self.peer(str(self.folder / "job.json")).splitlines()[-1])
        self.neva_run(str(recipe), "--direct")
        run = newest(self.folder / case.name)
        profile = json.loads((run / "profile.json").read_text())["otherData"]
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        their_steps = theirs["steps"][1:]
        tokens = sum(step["tokens"] for step in their_steps)
        their_rate = tokens / sum(step["processor_s"] for step in their_steps)
        # The same samples: their number of positions is that of the peer, without padding.
        own_rate = tokens / len(their_steps) / (profile["processor_ms"] / 1e3)
        ratio, target = own_rate / their_rate, case.target[0 if has_amx() else 1]
        own_memory = max(line["peak_memory_gib"] for line in metrics)
        memory = own_memory / theirs["rss_gib"]
        if not self.has_head:
            self.has_head = True
            speed, memory_head = f"{'tokens/s':>9}{'peer':>7}{'ratio':>7}{'target':>7}", f"{'GiB':>7}{'peer':>6}{'share':>7}{'target':>7}"
            print(f"{'case':<28}{speed}{memory_head}{'MFU':>6}  first loss, peer")
        lost = ratio < case.kept
        self.lost += lost
        wanted = f"{case.memory:.2f}" if case.memory else "-"
        print(
            f"{case.text:<28}{own_rate:>9.0f}{their_rate:>7.0f}{ratio:>7.2f}{target:>7.2f}"
            f"{own_memory:>7.2f}{theirs['rss_gib']:>6.2f}{memory:>7.2f}{wanted:>7}"
            f"{profile['mfu']:>6.0%}  {metrics[0]['reduced_train_loss']:.4f} {theirs['steps'][0]['loss']:.4f}"
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
        """Measures the time from the start of a process to its first step."""
        rows = []
        for way in (["--direct"], []):
            begins, ends = [], []
            for _ in range(5):
                started = time.time()
                sets = ["--set", f"dir={self.folder}", "--set", "finetune.trainer.max_steps=1"]
                self.neva_run("recipes/neva_tiny.yaml", *sets, "--profile", "1", *way)
                trace = json.loads((newest(self.folder / "neva_tiny") / "profile.json").read_text())
                step = next(event for event in trace["traceEvents"] if event["name"] == "step")
                zero = trace["otherData"]["started_unix_us"] / 1e6
                begins.append(zero + step["ts"] / 1e6 - started)
                ends.append(begins[-1] + step["dur"] / 1e6)
            rows.append((statistics.median(begins), statistics.median(ends)))
        for (begin, end), name in zip(rows, ("--direct", "launcher")):
            text = f"process start to first step {begin:.2f} s, to its end {end:.2f} s; target 0.50 s (median of 5, wall time)"
            print(f"neva_tiny, {name:<9} {text}", flush=True)

    def demo(self) -> None:
        """Compares the training of make demo with a peer that learns the same photographs to the same loss."""
        recipe = ROOT / "examples" / "photos" / "recipe.yaml"
        before, started = children_seconds(), time.perf_counter()
        self.neva_run(str(recipe), "--set", f"dir={self.folder}")
        own, own_processor = time.perf_counter() - started, children_seconds() - before
        metrics = [json.loads(line) for line in (newest(self.folder / "photos") / "metrics.jsonl").read_text().splitlines()]
        loss = metrics[-1]["reduced_train_loss"]
        photos = ROOT / "examples" / "photos" / "photos.json"
        records = json.loads(photos.read_text())
        inspected = self.folder / "inspected.yaml"
        data = {"_target_": "vlm.NevaPreloadedDataModule", "paths": str(photos), "tokenizer": "builtin:mistral_2k", "seq_length": 192}
        data |= {"global_batch_size": 32, "micro_batch_size": 16}
        inspected.write_text(json.dumps({"_factory_": "neva_tiny", "finetune": {"data": data}}))
        samples = [asdict(sample) for sample in speed_data.tokens(PROGRAM, inspected, TINY_IMAGE_ID, len(records))]
        for index, sample in enumerate(samples):
            sample["number"] = index
        job = {
            "mode": "photos",
            "threads": 2,
            "precision": "highest",
            "samples": samples,
            "images": [str(photos.parent / record["image"]) for record in records],
            "loss": loss,
            **{"lr": 2e-3, "min_lr": 1e-5, "warmup": 10, "steps": 100, "batch": 32},
        }
        (self.folder / "job.json").write_text(json.dumps(job))
        before, started = children_seconds(), time.perf_counter()
        theirs = json.loads(self.peer(str(self.folder / "job.json")).splitlines()[-1])
        peer, peer_processor = time.perf_counter() - started, children_seconds() - before
        print(
            f"make demo's training: {own:.1f} s, {own_processor:.1f} s of processor, {len(metrics)} steps to loss {loss:.4f}; "
            f"Hugging Face: {peer:.1f} s, {peer_processor:.1f} s, {theirs['steps']} steps to loss {theirs['loss']:.4f}; "
            f"ratio {peer / own:.2f}, of processor time {peer_processor / own_processor:.2f}; target 1.50",
            flush=True,
        )

    def profile(self) -> None:
        """Compares the processor time of runs with a profile of all steps and of one. Both measure the peak of the CPU."""
        steps = 60
        words = ["recipes/neva_tiny.yaml", "--direct", "--set", f"dir={self.folder}", "--set", f"finetune.trainer.max_steps={steps}"]
        words += ["--set", "finetune.trainer.threads_per_rank=1", "--set", "finetune.trainer.val_check_interval=null"]
        seconds: dict[int, list[float]] = {1: [], steps: []}
        for _ in range(5):
            for profiled, measured in seconds.items():
                before = children_seconds()
                self.neva_run(*words, "--profile", str(profiled))
                measured.append(children_seconds() - before)
        one, every = (min(measured) for measured in seconds.values())
        text = f"{every:.2f} s of processor, with one step profiled {one:.2f} s: {every / one - 1:+.1%}; target 2 %"
        print(f"{steps} steps of neva_tiny, all profiled: {text}", flush=True)


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def newest(folder: Path) -> Path:
    return max(folder.iterdir())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
