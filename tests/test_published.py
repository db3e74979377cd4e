"""What published weights want of their pictures, in literal figures, and every default."""
from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from helpers import awkward_picture
from PIL import Image

import npresnet
from npresnet.data import create_transform, resolve_data_config, resolve_model_data_config
from npresnet.variants import VARIANTS

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# From timm 1.0.31, models/resnetv2.py: edge, crop_pct, test edge, test crop_pct, first convolution.
PUBLISHED = {
    "resnetv2_18.ra4_e3600_r224_in1k": (224, 0.9, 288, 1.0, "stem.conv"),
    "resnetv2_18d.ra4_e3600_r224_in1k": (224, 0.9, 288, 1.0, "stem.conv1"),
    "resnetv2_34.ra4_e3600_r224_in1k": (224, 0.9, 288, 1.0, "stem.conv"),
    "resnetv2_34d.ra4_e3600_r224_in1k": (224, 0.9, 288, 1.0, "stem.conv1"),
    "resnetv2_34d.ra4_e3600_r384_in1k": (384, 1.0, 448, 1.0, "stem.conv1"),
    "resnetv2_50.a1h_in1k": (224, 0.95, 288, 1.0, "stem.conv"),
    "resnetv2_101.a1h_in1k": (224, 0.95, 288, 1.0, "stem.conv"),
}
UNPUBLISHED = {
    "resnetv2_50d": "stem.conv1", "resnetv2_50t": "stem.conv1", "resnetv2_101d": "stem.conv1",
    "resnetv2_152": "stem.conv", "resnetv2_152d": "stem.conv1",
}


# --- published weights ----------------------------------------------------------------------------


def test_these_are_all_of_them():
    assert npresnet.list_models(pretrained=True) == ["demo", *PUBLISHED]
    assert npresnet.list_models() == ["demo", *VARIANTS]
    assert {name.partition(".")[0] for name in PUBLISHED} | set(UNPUBLISHED) == set(VARIANTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_what_published_weights_want(name):
    edge, crop_pct, test_edge, test_crop_pct, first_conv = PUBLISHED[name]
    model = npresnet.create_model(name, backend="numpy", num_classes=2)
    always = dict(interpolation="bicubic", mean=HALF, std=HALF, crop_mode="center")
    assert resolve_model_data_config(model) == always | dict(
        input_size=(3, edge, edge), crop_pct=crop_pct)
    assert resolve_model_data_config(model, use_test_size=True) == always | dict(
        input_size=(3, test_edge, test_edge), crop_pct=test_crop_pct)
    cfg = model.pretrained_cfg
    architecture, _, tag = name.partition(".")
    assert (cfg["architecture"], cfg["tag"]) == (architecture, tag)
    assert cfg["hf_hub_id"] == f"timm/{name}"
    assert (cfg["first_conv"], cfg["classifier"]) == (first_conv, "head.fc")
    assert cfg["pool_size"] == (math.ceil(edge / 32), math.ceil(edge / 32))
    assert f"{first_conv}.weight" in model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(UNPUBLISHED))
def test_what_the_others_want(name):
    model = npresnet.create_model(name, backend="numpy", num_classes=2)
    want = dict(input_size=(3, 224, 224), interpolation="bicubic", mean=HALF, std=HALF,
                crop_pct=0.875, crop_mode="center")
    for use_test_size in (False, True):
        assert resolve_model_data_config(model, use_test_size=use_test_size) == want
    assert model.pretrained_cfg["first_conv"] == UNPUBLISHED[name]
    assert model.pretrained_cfg["tag"] == "untrained" and "hf_hub_id" not in model.pretrained_cfg


# --- create_transform's defaults ------------------------------------------------------------------


DEFAULTS = dict(input_size=224, is_training=False, interpolation="bilinear", mean=IMAGENET_MEAN,
                std=IMAGENET_STD, crop_pct=0.875, crop_mode="center", normalize=True)
OTHERS = dict(input_size=200, interpolation="bicubic", mean=HALF, std=HALF, crop_pct=1.0,
              crop_mode="squash", normalize=False)
PICTURE = Image.fromarray(awkward_picture(300, 260, seed=4))


def by_hand() -> np.ndarray:
    """The default transform in Pillow and NumPy: the short edge 256, the 224×224 in the middle."""
    resized = PICTURE.resize((int(256 * 300 / 260), 256), Image.Resampling.BILINEAR)
    left = round((resized.width - 224) / 2)
    cut = np.asarray(resized.crop((left, 16, left + 224, 240)), np.float64) / 255
    return ((cut - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)


def test_without_arguments():
    got = create_transform()(PICTURE)
    assert got.dtype == np.float32 and got.shape == (3, 224, 224)
    print(f"largest difference from the transform by hand {np.abs(got - by_hand()).max():.1e}")
    np.testing.assert_allclose(got, by_hand(), rtol=0, atol=1e-6)
    assert set(DEFAULTS) == set(inspect.signature(create_transform).parameters)


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_each_default_by_itself(name):
    """Left out it is what is written here, and another value is another transform."""
    explicit = create_transform(**DEFAULTS)(PICTURE)
    others = {key: value for key, value in DEFAULTS.items() if key != name}
    np.testing.assert_array_equal(create_transform(**others)(PICTURE), explicit)
    if name in OTHERS:
        changed = create_transform(**others, **{name: OTHERS[name]})(PICTURE)
        assert changed.shape != explicit.shape or not np.array_equal(changed, explicit)


def test_none_is_the_default_of_crops():
    want = create_transform(**DEFAULTS)
    assert create_transform(**DEFAULTS | dict(crop_pct=None, crop_mode=None)) == want


# --- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize("args, size", [
    (dict(in_chans=1), (1, 224, 224)),
    (dict(chans=1), (1, 224, 224)),
    (dict(in_chans=4, chans=1), (4, 224, 224)),
    (dict(img_size=96), (3, 96, 96)),
    (dict(img_size=96, in_chans=1), (1, 96, 96)),
    (dict(img_size=96, chans=5), (5, 96, 96)),
    (dict(input_size=(2, 40, 50), img_size=96, in_chans=7), (2, 40, 50)),
    (dict(input_size=[2, 40, 50]), (2, 40, 50)),
    (dict(in_chans=None, img_size=None, input_size=None), (3, 224, 224)),
], ids=str)
def test_sizes_by_arguments(args, size):
    assert resolve_data_config(args)["input_size"] == size


def test_arguments_go_before_the_configuration():
    cfg = dict(input_size=(3, 64, 48), test_input_size=(3, 80, 80), crop_pct=0.9, test_crop_pct=0.8,
               mean=(0.1, 0.2, 0.3), std=(1, 2, 3), interpolation="lanczos", crop_mode="border")
    assert resolve_data_config(None, cfg) == {
        key: value for key, value in cfg.items() if not key.startswith("test_")}
    large = resolve_data_config(None, cfg, use_test_size=True)
    assert (large["input_size"], large["crop_pct"]) == ((3, 80, 80), 0.8)
    own = dict(input_size=(1, 32, 32), crop_pct=0.7, mean=(0.4,), std=(0.6,), crop_mode="squash",
               interpolation="nearest")
    for use_test_size in (False, True):
        assert resolve_data_config(own, cfg, use_test_size=use_test_size) == own
    assert resolve_data_config(dict(img_size=20), cfg)["input_size"] == (3, 20, 20)
    # As in timm, in_chans alone doesn't change a configuration's own size.
    assert resolve_data_config(dict(in_chans=1), cfg)["input_size"] == (3, 64, 48)


def test_a_single_value_is_every_channels():
    config = resolve_data_config(dict(in_chans=2, img_size=32, mean=(0.3,), std=[0.7]))
    assert (config["mean"], config["std"]) == ((0.3, 0.3), (0.7, 0.7))
    with pytest.raises(ValueError, match="std has 3 values for 1 channels"):
        resolve_data_config(dict(in_chans=1, std=(1, 1, 1)))


def test_another_configuration_than_the_models():
    model = npresnet.create_model("resnetv2_50.a1h_in1k", backend="numpy", num_classes=2)
    cfg = dict(input_size=(3, 64, 48), crop_pct=0.6, mean=HALF)
    for config in (resolve_model_data_config(model, pretrained_cfg=cfg),
                   resolve_data_config(pretrained_cfg=cfg, model=model)):
        assert config == dict(input_size=(3, 64, 48), crop_pct=0.6, mean=HALF, std=IMAGENET_STD,
                              interpolation="bicubic", crop_mode="center")
    assert resolve_data_config(model=model) == resolve_model_data_config(model)
    assert resolve_model_data_config(model, dict(crop_pct=0.5))["crop_pct"] == 0.5
    assert model.pretrained_cfg["input_size"] == (3, 224, 224), "the model's own was changed"
