#!/usr/bin/env python3
"""The peer of `make bench-training`: Hugging Face's LLaVA with PEFT, one configuration for each process.

    speed_peer.py --make FOLDER           writes a fresh model
    speed_peer.py JOB.json                trains, and prints what it measured as one line of JSON
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

# CLIP ViT-B/16-224 and a language model of 134 M parameters.
TEXT = {
    "vocab_size": 32064,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
IMAGE_ID = 32000
# The model of examples/photos.
TINY_TEXT = {
    "vocab_size": 2048,
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
TINY_VISION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
TINY_IMAGE_ID = 2046
SPIN_COUNT = "3000"
ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def main() -> None:
    if sys.argv[1] == "--make":
        fresh(TEXT, VISION, IMAGE_ID).save_pretrained(sys.argv[2])
        return
    job = json.loads(Path(sys.argv[1]).read_text())
    threads = str(job["threads"])
    # Before PyTorch is imported.
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, CUDA_VISIBLE_DEVICES="")
    # As neva-run sets it: idle threads that spin would count as processor time.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(job["precision"])
    measured = photos(job) if job["mode"] == "photos" else train(job)
    measured["rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(measured), flush=True)


def fresh(text: dict, vision: dict, image_id: int):
    import torch
    import transformers

    torch.manual_seed(0)
    positions = (vision["image_size"] // vision["patch_size"]) ** 2
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_token_id=image_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=positions,
    )
    return transformers.LlavaForConditionalGeneration(config)


def train(job: dict) -> dict:
    import torch
    import transformers

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "autocast": torch.float32}[job["dtype"]]
    model = transformers.LlavaForConditionalGeneration.from_pretrained(job["model"], dtype=kind)
    model.model.vision_tower.requires_grad_(False)
    if job["mode"] == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=ADAPTED)).to(kind)
    as_trainer(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["lr"], weight_decay=0.0, fused=True)
    pixels = [image(path).to(kind) for path in job["images"]]
    samples, batch = job["samples"], job["batch"]
    rows = []
    for step in range(job["steps"]):
        inputs = collate(samples[step * batch : (step + 1) * batch], pixels)
        wall, processor = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=job["dtype"] == "autocast"):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens = int(inputs["attention_mask"].sum())
        spent = {"processor_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
        rows.append({"loss": float(loss), "tokens": tokens, **spent})
    return {"steps": rows}


def as_trainer(model) -> None:
    """Sets what Hugging Face's Trainer sets by default. Its optimizer is fused, too."""
    model.config.use_cache = False
    model.config.text_config.use_cache = False
    model.train()


def collate(samples: list[dict], pixels) -> dict:
    """Pads a batch on the right to its longest sample, as Hugging Face's Trainer does."""
    import torch

    longest = max(len(sample["ids"]) for sample in samples)

    def padded(key: str, value: int) -> "torch.Tensor":
        return torch.tensor([sample[key] + [value] * (longest - len(sample[key])) for sample in samples])

    lengths = torch.tensor([[len(sample["ids"])] for sample in samples])
    inputs = {
        "input_ids": padded("ids", 0),
        "labels": padded("labels", -100),
        "attention_mask": (torch.arange(longest)[None] < lengths).long(),
    }
    images = [pixels[number] for sample in samples for number in sample["images"]]
    return {**inputs, "pixel_values": torch.stack(images)} if images else inputs


def image(path: str, size: int = 0):
    """Returns the pixels of an image; with a size, scaled to it and cut."""
    import numpy
    import torch
    from PIL import Image
    from speed_data import MEAN, STD

    with Image.open(path) as opened:
        rgb = opened.convert("RGB")
        if size:
            scale = size / min(rgb.size)
            rgb = rgb.resize([max(size, round(edge * scale)) for edge in rgb.size], Image.BICUBIC)
            left, top = ((edge - size) // 2 for edge in rgb.size)
            rgb = rgb.crop((left, top, left + size, top + size))
        values = torch.from_numpy(numpy.asarray(rgb).copy()).float() / 255
    return ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1).contiguous()


def photos(job: dict) -> dict:
    """Learns the photographs with the learning rates and batches of neva-run, in its number of steps or until the loss is its.

    With more steps the learning rate would be at its end: the last hundredth of the loss would take as long as all before it.
    """
    import math

    import torch

    model = fresh(TINY_TEXT, TINY_VISION, TINY_IMAGE_ID)
    as_trainer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job["lr"], betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0, fused=True)
    # As fast as it can be: every photograph is decoded once.
    pixels = [image(path, TINY_VISION["image_size"]) for path in job["images"]]
    samples, batch, total = job["samples"], job["batch"], job["steps"]
    order: list[int] = []
    losses = []
    for step in range(total):
        if step < job["warmup"]:
            rate = job["lr"] * (step + 1) / (job["warmup"] + 1)
        else:
            done = (step - job["warmup"]) / (total - job["warmup"])
            rate = job["min_lr"] + (job["lr"] - job["min_lr"]) * (1 + math.cos(math.pi * done)) / 2
        optimizer.param_groups[0]["lr"] = rate
        if len(order) < batch:
            order += torch.randperm(len(samples)).tolist()
        chosen, order = order[:batch], order[batch:]
        loss = model(**collate([samples[index] for index in chosen], pixels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss))
        if losses[-1] <= job["loss"]:
            break
    return {"steps": len(losses), "loss": losses[-1]}


if __name__ == "__main__":
    main()
