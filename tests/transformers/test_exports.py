"""Loads exports with the transformers and PEFT of this Python. `run.py` starts it once for each version.

NEVA_EXPORTS names the folder that `exports.py` filled.
"""

import json
import os
import re
import unittest
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import peft
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer

FOLDER = Path(os.environ["NEVA_EXPORTS"])
VERSION = int(transformers.__version__.split(".")[0])
EXPORTS = [export for export in json.loads((FOLDER / "exports.json").read_text()) if VERSION in export["versions"]]

# Bound of the differences between logits, in fp32.
LOGITS = 1e-4
# Pixels are normalized by the same numbers, rounded in another order.
PIXELS = 1e-4


def load(folder: str) -> torch.nn.Module:
    """Loads a model without a missing or unexpected key."""
    kind = getattr(transformers, json.loads((Path(folder) / "config.json").read_text())["architectures"][0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = kind.from_pretrained(folder, output_loading_info=True)
    wrong = {name: keys for name, keys in info.items() if keys}
    assert not wrong, f"{folder}: {wrong}"
    keys = [str(warning.message) for warning in caught if "key" in str(warning.message)]
    assert not keys, f"{folder}: {keys}"
    return model.eval()


def adapted(base: str, adapter: str) -> torch.nn.Module:
    """Loads an adapter on its base without a missing or unexpected key."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(load(base), adapter)
    keys = [str(warning.message) for warning in caught if re.search("missing|unexpected", str(warning.message))]
    assert not keys, f"{adapter}: {keys}"
    return model.eval()


def opened(export: dict) -> torch.nn.Module:
    return load(export["folder"]) if export["kind"] == "model" else adapted(export["base"], export["folder"])


class Exports(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        torch.set_num_threads(1)

    def logits(self, model, ours):
        ids = ours["input_ids"]
        config = model.config
        image = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        inputs = {"input_ids": ids if image is None else ids.where(ids >= 0, image)}
        if "pixel_values" in ours:
            inputs["pixel_values"] = ours["pixel_values"]
        with torch.no_grad():
            return model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits

    def test_there_are_exports(self):
        self.assertGreaterEqual(len(EXPORTS), 28)

    def test_keys_and_logits(self):
        for export in EXPORTS:
            with self.subTest(export["name"]):
                ours = load_file(export["logits"])
                model = opened(export)
                theirs = self.logits(model, ours)
                vocabulary = ours["logits"].shape[-1]
                positions = export["positions_in_4"] if VERSION == 4 else None
                difference = (theirs[..., :positions, :vocabulary] - ours["logits"][..., :positions, :]).abs().max().item()
                self.assertLess(difference, LOGITS)
                # A model that ignores what was trained would pass with the base's logits.
                if export["base"]:
                    base = (self.logits(load(export["base"]), ours)[..., :vocabulary] - ours["logits"]).abs().max().item()
                    self.assertGreater(base, 10 * LOGITS)
                if export["merged"]:
                    merged = self.logits(load(export["merged"]), ours)
                    self.assertLess((merged - theirs).abs().max().item(), LOGITS)

    def test_processor_and_chat_template(self):
        for export in (export for export in EXPORTS if export["image"]):
            with self.subTest(export["name"]):
                ours = load_file(export["logits"])
                processor = AutoProcessor.from_pretrained(export["folder"])
                inputs = self.inputs(processor, export)
                self.assertEqual(inputs["input_ids"].tolist(), ours["input_ids"].tolist())
                self.assertLess((inputs["pixel_values"] - ours["pixel_values"]).abs().max().item(), PIXELS)

    def inputs(self, processor, export):
        content = [{"type": "image"}, {"type": "text", "text": export["question"]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        with Image.open(export["image"]) as image:
            return processor(images=image.convert("RGB"), text=text, return_tensors="pt")

    def test_answers(self):
        for export in (export for export in EXPORTS if not export["is_canary"]):
            with self.subTest(export["name"]):
                model = opened(export)
                if export["image"]:
                    processor = AutoProcessor.from_pretrained(export["folder"])
                    inputs = self.inputs(processor, export)
                else:
                    processor = AutoTokenizer.from_pretrained(export["folder"])
                    messages = [{"role": "user", "content": export["question"]}]
                    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
                    self.assertEqual(inputs["input_ids"].tolist(), load_file(export["logits"])["input_ids"].tolist())
                # No end token is given: the export's own settings must stop the answer.
                with torch.no_grad():
                    ids = model.generate(**inputs, do_sample=False, max_new_tokens=64)
                new = ids[0, inputs["input_ids"].shape[1] :]
                self.assertLess(len(new), 64, "generate() did not stop by itself")
                self.assertEqual(processor.decode(new, skip_special_tokens=True).strip(), export["answer"])


if __name__ == "__main__":
    unittest.main()
