"""The embedded demo: what the file holds, whether its record is true, and how often it is right."""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import npresnet
from npresnet import demo
from npresnet.data import create_transform, load_image, resolve_model_data_config
from npresnet.graph import build_graph
from npresnet.variants import DEMO

ROOT = Path(__file__).resolve().parents[1]
RECORD = json.loads((ROOT / "tests" / "training" / "training.json").read_text())
IMAGENETTE = Path(os.environ.get("NPRESNET_IMAGENETTE",
                                 ROOT.parent / "shared" / "data" / "imagenette160"))


def test_the_file_is_small_half_precision_and_whole():
    size = demo.WEIGHTS.stat().st_size
    print(f"{size / 1e6:.2f} MB")
    assert size < 4e6
    with safe_open(demo.WEIGHTS, framework="np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        dtypes = {file.get_slice(name).get_dtype() for name in shapes
                  if not name.endswith("num_batches_tracked")}
    assert shapes == build_graph(DEMO, num_classes=10).parameter_shapes() and dtypes == {"F16"}


def test_the_demo_is_what_its_record_says():
    model = npresnet.create_model("demo")
    assert list(model.pretrained_cfg["label_names"]) == RECORD["wnids"] == sorted(RECORD["wnids"])
    px = RECORD["recipe"]["eval_px"]
    assert resolve_model_data_config(model)["input_size"] == (3, px, px)
    assert RECORD["curve"][-1]["epoch"] == RECORD["recipe"]["epochs"] - 1
    names = [label.name.split(",")[0] for label in npresnet.model_labels(model)]
    assert names == ["tench", "English springer", "cassette player", "chain saw", "church",
                     "French horn", "garbage truck", "gas pump", "golf ball", "parachute"]


def test_imagenet_labels():
    labels = npresnet.imagenet_labels()
    wnids = [label.wnid for label in labels]
    assert len(labels) == 1000 and wnids == sorted(set(wnids))
    assert labels[0] == (0, "n01440764", "tench, Tinca tinca")
    assert labels[999].name == "toilet tissue, toilet paper, bathroom tissue"
    assert npresnet.model_labels(npresnet.create_model("resnetv2_18")) is labels
    three = npresnet.create_model("resnetv2_18", num_classes=3)
    assert npresnet.model_labels(three)[2] == (2, None, "class 2")
    with pytest.warns(UserWarning, match="has 10 classes, 1000 were asked for"):
        assert npresnet.model_labels(npresnet.create_model("demo", num_classes=1000)) is labels


@pytest.mark.slow
@pytest.mark.skipif(not (IMAGENETTE / "val").is_dir(),
                    reason="no Imagenette here: set NPRESNET_IMAGENETTE to a folder with "
                           "val/<wnid>/*")
def test_accuracy_on_pictures_it_has_not_seen():
    """Every fourth picture of Imagenette's val folder, from the file to the label."""
    model = npresnet.create_model("demo")
    transform = create_transform(**resolve_model_data_config(model))
    files = [(file, label) for label, wnid in enumerate(RECORD["wnids"])
             for file in sorted((IMAGENETTE / "val" / wnid).iterdir())][::4]
    right = 0
    for i in range(0, len(files), 16):
        batch = files[i:i + 16]
        x = np.stack([transform(load_image(file)) for file, _ in batch])
        right += int((model(x).argmax(1) == [label for _, label in batch]).sum())
    accuracy, recorded = right / len(files), RECORD["final"]["val_top1"]
    error = (recorded * (1 - recorded) / len(files)) ** 0.5
    print(f"top-1 {accuracy:.3f} on {len(files)} pictures; "
          f"recorded for all: {recorded:.3f} ± {error:.3f}")
    assert abs(accuracy - recorded) < 3 * error and accuracy > 0.86
