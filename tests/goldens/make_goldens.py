"""Write the goldens: what timm computes for weights and pictures that the tests can make again.

    pip install "npresnet[parity]"
    python tests/goldens/make_goldens.py

activations.npz: for every variant at an eighth of its width, and for resnetv2_50 at full width,
16 samples and the largest magnitude of each layer, and the logits. preprocessing.json: SHA-256 of
the pixels that timm's transform cuts out, and samples of the normalised result. Both record the
versions that made them.
"""
from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
from PIL import Image
from timm.data import create_transform

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
from helpers import awkward_picture, random_pictures, random_state
from test_preprocessing import CONFIGS, SIZES, as_mode

from npresnet.variants import VARIANTS

SEED, SHAPE, SAMPLES = 7, (2, 3, 65, 97), 16
LAYERS = ("Conv2d", "BatchNormAct2d", "MaxPool2d", "AvgPool2d", "SelectAdaptivePool2d",
          "PreActBottleneck", "PreActBasic", "ResNetStage")


def samples(y: np.ndarray, n: int) -> np.ndarray:
    """n values of the vector y, evenly spread, its ends included."""
    return y[np.linspace(0, y.size - 1, n).astype(np.int64)]


def record_layers(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """What a forward pass will fill: each layer's output, flat, by its path."""
    layers = {}

    def hook_for(path):
        def hook(_module, _inputs, y):
            layers[path] = y.numpy().ravel()
        return hook

    for path, module in model.named_modules():
        if type(module).__name__ in LAYERS:
            module.register_forward_hook(hook_for(path))
    return layers


def activations() -> dict[str, np.ndarray]:
    meta = dict(timm=timm.__version__, torch=torch.__version__, seed=SEED, shape=SHAPE,
                samples=SAMPLES)
    arrays = {"meta": json.dumps(meta)}
    for name in VARIANTS:
        for width in (0.125, 1.0) if name == "resnetv2_50" else (0.125,):
            model = timm.create_model(name, width_factor=width).eval()
            shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
            model.load_state_dict({key: torch.from_numpy(value)
                                   for key, value in random_state(shapes, SEED).items()})
            layers = record_layers(model)
            with torch.no_grad():
                logits = model(torch.from_numpy(random_pictures(*SHAPE, seed=SEED))).numpy()
            key = f"{name}@{width}"
            arrays[f"{key}/paths"] = np.array(list(layers))
            arrays[f"{key}/samples"] = np.stack([samples(y, SAMPLES) for y in layers.values()])
            arrays[f"{key}/scales"] = np.array([np.abs(y).max() for y in layers.values()])
            arrays[f"{key}/logits"] = logits
            print(key, len(layers), "layers", flush=True)
    return arrays


def preprocessing() -> dict:
    rows = []
    for config in CONFIGS:
        pixels = create_transform(**config, is_training=False, normalize=False)
        full = create_transform(**config, is_training=False)
        for i, (width, height) in enumerate(SIZES):
            for mode in ("RGB",) if i else ("RGB", "L", "P", "CMYK", "1", "LA", "YCbCr"):
                original = Image.fromarray(awkward_picture(width, height, seed=i))
                picture = as_mode(original, mode).convert("RGB")
                cut, x = pixels(picture).numpy(), full(picture).numpy().ravel()
                rows.append(dict(config=config, size=[width, height], seed=i, mode=mode,
                                 sha256=hashlib.sha256(cut.tobytes()).hexdigest(),
                                 samples=[float(v) for v in samples(x, 8)]))
    return dict(timm=timm.__version__, pillow=PIL.__version__, rows=rows)


if __name__ == "__main__":
    np.savez_compressed(HERE / "activations.npz", **activations())
    text = json.dumps(preprocessing(), separators=(",", ":"))
    (HERE / "preprocessing.json").write_text(text)
