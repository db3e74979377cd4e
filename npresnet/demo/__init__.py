"""The embedded demo: ResNetV2-50 at a quarter of its width, trained on Imagenette, shipped as float16 safetensors.

`config.json` says how it wants its pictures, which classes it knows, and how it was trained and scored;
`tests/training/train_demo.py` repeats the training.
"""
from __future__ import annotations

import json
from pathlib import Path

from ..variants import DEMO, pretrained_cfg

WEIGHTS = Path(__file__).with_name("demo.safetensors")


def config() -> dict:
    """The demo's pretrained_cfg, with timm's keys; `label_names` are its ten classes' WordNet ids."""
    own = json.loads(Path(__file__).with_name("config.json").read_text("utf-8"))["pretrained_cfg"]
    own = {key: tuple(value) if key in ("input_size", "mean", "std", "pool_size") else value for key, value in own.items()}
    return pretrained_cfg(DEMO, "imagenette", **own)
