"""The embedded demo: ResNetV2-50 at a quarter of its width, trained on Imagenette.

Its weights are shipped as float16 safetensors. `config.json` says how it wants its pictures, which
classes it knows, and how it was trained and scored; `tests/training/train_demo.py` repeats the
training.
"""
from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from ..variants import DEMO, pretrained_cfg

WEIGHTS = files(__package__) / "demo.safetensors"                 # in a zip file it is no path
_TUPLES = ("input_size", "mean", "std", "pool_size")


def config() -> dict[str, Any]:
    """The demo's pretrained_cfg, with timm's keys.

    `label_names` are its ten classes' WordNet ids.
    """
    own = json.loads((files(__package__) / "config.json").read_text("utf-8"))["pretrained_cfg"]
    for key in _TUPLES:             # JSON has lists only
        if key in own:
            own[key] = tuple(own[key])
    return pretrained_cfg(DEMO, "imagenette", **own)
