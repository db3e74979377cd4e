"""The evaluation transform is timm's bit for bit, on pictures of awkward sizes and modes."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from helpers import awkward_picture
from PIL import Image

import npresnet
from npresnet.data import create_transform, resolve_data_config, resolve_model_data_config

GOLDENS = Path(__file__).parent / "goldens" / "preprocessing.json"
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
USUAL = dict(interpolation="bicubic", mean=HALF, std=HALF, crop_mode="center")
CONFIGS = [USUAL | own for own in (
    dict(input_size=(3, 224, 224), crop_pct=0.95),
    dict(input_size=(3, 288, 288), crop_pct=1.0),
    dict(input_size=(3, 224, 224), crop_pct=0.9),
    dict(input_size=(3, 384, 384), crop_pct=1.0),
    dict(input_size=(3, 160, 160), crop_pct=1.0),
    dict(input_size=(3, 224, 224), crop_pct=0.875),
    dict(input_size=(3, 200, 256), crop_pct=0.95),
    dict(input_size=(3, 97, 33), crop_pct=0.9, interpolation="bilinear"),
    dict(input_size=(3, 96, 96), crop_pct=0.95, crop_mode="squash"),
    dict(input_size=(3, 96, 80), crop_pct=0.9, crop_mode="border"),
    dict(input_size=(3, 128, 128), crop_pct=0.95, interpolation="lanczos",
         mean=IMAGENET_MEAN, std=IMAGENET_STD),
    dict(input_size=(3, 64, 64), crop_pct=0.9, interpolation="nearest"),
)]
SIZES = [(333, 500), (500, 333), (1, 1), (1, 30), (30, 1), (2, 3), (17, 31), (224, 224), (235, 235),
         (236, 235), (235, 236), (288, 288), (223, 225), (225, 224), (400, 47), (47, 401),
         (641, 480), (1023, 767)]


def as_mode(picture: Image.Image, mode: str) -> Image.Image:
    """The picture as a file of another mode would hold it."""
    if mode == "P":
        return picture.quantize(64)
    if mode == "LA":
        return picture.convert("L").convert("LA")
    return picture.convert(mode)


def golden_rows():
    return json.loads(GOLDENS.read_text())["rows"]


def name_of(config: dict) -> str:
    """Such as 224×224-0.95-bicubic-center."""
    _, height, width = config["input_size"]
    return f"{height}×{width}-{config['crop_pct']}-{config['interpolation']}-{config['crop_mode']}"


@pytest.mark.parametrize("config", CONFIGS[:1] + [pytest.param(config, marks=pytest.mark.slow)
                                                  for config in CONFIGS[1:]], ids=name_of)
def test_pixels_are_timms_bit_for_bit(config):
    rows = [row for row in golden_rows() if row["config"] == json.loads(json.dumps(config))]
    assert len(rows) == len(SIZES) + 6
    if int(PIL.__version__.split(".")[0]) < 13:     # made tall pictures small in another order
        rows = [row for row in rows if row["size"] != [47, 401]]
    pixels, full = create_transform(**config, normalize=False), create_transform(**config)
    worst = 0.0
    for row in rows:
        original = Image.fromarray(awkward_picture(*row["size"], seed=row["seed"]))
        picture = as_mode(original, row["mode"]).convert("RGB")
        before = picture.tobytes()
        cut, x = pixels(picture), full(picture)
        assert picture.tobytes() == before
        assert cut.shape == x.shape == tuple(config["input_size"])
        assert cut.dtype == np.uint8 and x.dtype == np.float32
        digest = hashlib.sha256(cut.tobytes()).hexdigest()
        assert digest == row["sha256"], (row["size"], row["mode"])
        at = np.linspace(0, x.size - 1, 8).astype(np.int64)
        samples = np.array(row["samples"], np.float32)
        worst = max(worst, float(np.abs(x.ravel()[at] - samples).max()))
    print(f"{len(rows)} pictures, pixels equal, "
          f"largest difference after normalisation {worst:.1e}")
    assert worst <= 1e-7


def test_normalisation_by_hand():
    picture = Image.new("RGB", (8, 8), (0, 255, 51))
    x = create_transform(8, mean=HALF, std=(0.5, 0.25, 1.0), crop_pct=1.0)(picture)
    np.testing.assert_allclose(x[:, 3, 3], [-1.0, 2.0, 51 / 255 - 0.5], rtol=1e-7)


@pytest.mark.slow
def test_model_card_configuration():
    model = npresnet.create_model("resnetv2_50.a1h_in1k")
    assert resolve_model_data_config(model) == dict(
        input_size=(3, 224, 224), interpolation="bicubic", mean=HALF, std=HALF,
        crop_pct=0.95, crop_mode="center")
    large = resolve_model_data_config(model, use_test_size=True)
    assert large["input_size"] == (3, 288, 288) and large["crop_pct"] == 1.0
    model = npresnet.create_model("resnetv2_34d.ra4_e3600_r384_in1k")
    r384 = resolve_model_data_config(model, use_test_size=True)
    assert r384["input_size"] == (3, 448, 448) and r384["crop_pct"] == 1.0
    assert resolve_model_data_config(npresnet.create_model("resnetv2_50d"))["crop_pct"] == 0.875


def test_configuration_by_arguments():
    assert resolve_data_config() == dict(
        input_size=(3, 224, 224), interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD,
        crop_pct=0.875, crop_mode="center")
    own = dict(img_size=96, mean=(0.1,), crop_pct=1.0)
    config = resolve_data_config(own, pretrained_cfg=dict(std=(1, 2, 3)))
    assert config["input_size"] == (3, 96, 96)
    assert config["mean"] == (0.1, 0.1, 0.1) and config["std"] == (1, 2, 3)
    with pytest.raises(ValueError, match="mean has 2 values for 3 channels"):
        resolve_data_config(dict(mean=(0.1, 0.2)))


def test_arguments_come_before_the_models_configuration():
    model = npresnet.create_model("resnetv2_50.a1h_in1k", backend="numpy")
    own = dict(input_size=(3, 64, 96), interpolation="bilinear", mean=(0.1, 0.2, 0.3),
               std=(0.4, 0.5, 0.6), crop_pct=0.7, crop_mode="border")
    usual = resolve_model_data_config(model)
    for key, value in own.items():
        assert resolve_model_data_config(model, {key: value}) == usual | {key: value}
    assert resolve_model_data_config(model, own) == own
    assert resolve_model_data_config(model, pretrained_cfg=own) == own
    assert resolve_data_config(model=model) == usual
    assert resolve_data_config(pretrained_cfg=own, model=model) == own
    assert resolve_model_data_config(model, dict.fromkeys(own)) == usual


def test_channels_by_argument():
    for args in (dict(in_chans=1), dict(chans=1)):
        assert resolve_data_config(args)["input_size"] == (1, 224, 224)
        assert resolve_data_config(args | dict(img_size=96))["input_size"] == (1, 96, 96)
    nothing = dict(in_chans=None, input_size=None, mean=None)
    assert resolve_data_config(nothing | dict(img_size=96))["input_size"] == (3, 96, 96)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I", "F", "I;16"])
def test_the_caller_converts_to_rgb(mode):
    picture = Image.new(mode, (40, 40))
    with pytest.raises(ValueError, match="convert it with"):
        create_transform(32)(picture)
    if mode == "L":
        assert create_transform(32, mean=(0.5,), std=(0.5,))(picture).shape == (1, 32, 32)


@pytest.mark.parametrize("options, words", [
    (dict(is_training=True), "is_training=False"),
    (dict(interpolation="cubic"), "unknown interpolation"),
    (dict(crop_mode="middle"), "unknown crop_mode"),
    (dict(crop_pct=-1), "bad transform"),
    (dict(input_size=0), "bad transform"),
    (dict(mean=(0.5,)), "bad transform"),
])
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        create_transform(**options)
