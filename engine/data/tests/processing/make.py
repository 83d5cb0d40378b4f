#!/usr/bin/env python3
"""Writes the results of PIL and of transformers' processors to reference.json: those of its cases, and of tiles.

Needs Pillow 13, numpy, and transformers 5 with torch for the tiles.
"""
import hashlib, json, pathlib, sys

import numpy as np
import PIL
from PIL import Image

folder = pathlib.Path(__file__).parent
reference = json.loads((folder / "reference.json").read_text())
sha256 = lambda data: hashlib.sha256(data).hexdigest()
rgb = lambda name: Image.open(folder / name).convert("RGB")


def to_size(size, width, height):
    """Width and height after the resize, as get_resize_output_image_size of transformers."""
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if "height" in size:
        return size["width"], size["height"]
    edge = size["shortest_edge"]
    return (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)


def cropped(image, size):
    height, width = (size, size) if isinstance(size, int) else (size["height"], size["width"])
    offset = lambda old, new: (old - new) // 2 if old >= new else -((new - old + 1) // 2)
    left, top = offset(image.width, width), offset(image.height, height)
    return image.crop((left, top, left + width, top + height))


def processed(image, processor, mode):
    mean = processor["image_mean"]
    if mode == "pad":
        edge = max(image.size)
        square = Image.new("RGB", (edge, edge), tuple(int(x * 255) for x in mean))
        square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = square
    if mode == "keep":
        edge = max(int(min(448 / (max(image.size) / min(image.size)), 224)), 1)
        image = image.resize(to_size(edge, *image.size), Image.BICUBIC)
    else:
        if processor["do_resize"]:
            image = image.resize(to_size(processor["size"], *image.size), Image.BICUBIC)
        if processor.get("do_center_crop", False):
            image = cropped(image, processor["crop_size"])
    pixels = (np.asarray(image) * processor["rescale_factor"]).astype(np.float32)
    if processor["do_normalize"]:
        pixels = (pixels - np.float32(mean)) / np.float32(processor["image_std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def tiled(case):
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    height, width = case["tile"]
    processor = GotOcr2ImageProcessorPil(
        size={"height": height, "width": width}, crop_to_patches=True, min_patches=case["min"], max_patches=case["max"]
    )
    pixels = processor(images=[rgb(case["image"])], return_tensors="np")["pixel_values"]
    return {"count": len(pixels), "sha256": sha256(np.ascontiguousarray(pixels, np.float32).tobytes())}


changed = 0
for case in reference["processed"]:
    pixels = processed(rgb(case["image"]), reference["processors"][case["processor"]], case["mode"])
    found = {"shape": list(pixels.shape), "sha256": sha256(pixels.tobytes())}
    changed += any(case[key] != value for key, value in found.items())
    case.update(found, sum=float(pixels.astype(np.float64).sum()))
cases = [(case["image"], *case["size"], 3) for case in reference["resized"] if case.get("resample", 3) == 3]
for filter in (1, 2, 4, 5):
    cases += [(image, *size, filter) for image in ("wide.png", "tall.png", "strip.png") for size in ((56, 56), (31, 200), (170, 9), (150, 64))]
resized = []
for image, width, height, filter in cases:
    data = rgb(image).resize((width, height), filter).tobytes()
    resized.append({"image": image, "size": [width, height], "resample": filter, "sha256": sha256(data)})
old = {(case["image"], *case["size"], case.get("resample", 3)): case["sha256"] for case in reference["resized"]}
changed += sum(old.get((case["image"], *case["size"], case["resample"]), case["sha256"]) != case["sha256"] for case in resized)
print(changed, "results changed, Pillow", PIL.__version__)
if "--check" in sys.argv:
    sys.exit()
reference["resized"] = resized

import transformers
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

reference["made_with"] = f"Pillow {PIL.__version__}, transformers {transformers.__version__} (make.py)"
reference["grids"] = []
for least, most in (1, 12), (1, 6), (2, 6), (3, 9), (1, 1), (4, 4):
    for width, height in (448, 448), (900, 900), (640, 480), (480, 640), (1920, 1080), (100, 1000), (5000, 20), (3, 7), (1250, 1000), (896, 448), (2000, 1000), (60, 45):
        columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), least, most)
        reference["grids"].append([least, most, width, height, columns, rows])
reference["tiled"] = []
for image in "wide.png", "tall.png", "square.png", "strip.png":
    for least, most, tile in (1, 12, (28, 28)), (2, 4, (28, 28)), (1, 5, (20, 24)):
        case = {"image": image, "min": least, "max": most, "tile": tile}
        reference["tiled"].append(case | tiled(case))
parts = []
for key, value in reference.items():
    if isinstance(value, list):
        text = "[\n" + ",\n".join(f" {json.dumps(item)}" for item in value) + "\n]"
    elif isinstance(value, dict):
        text = "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(item)}" for name, item in value.items()) + "\n}"
    else:
        text = json.dumps(value)
    parts.append(f"{json.dumps(key)}: {text}")
(folder / "reference.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
