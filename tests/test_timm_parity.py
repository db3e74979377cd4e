"""Live parity with the real timm: names, shapes, every layer, every entry point, preprocessing.

Skipped, visibly, without timm.

    pip install "npresnet[parity]" && python -m pytest tests/test_timm_parity.py
"""
from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from helpers import (
    BACKENDS,
    LAYER_TOLERANCE,
    LOGITS_TOLERANCE,
    assert_close,
    awkward_picture,
    random_pictures,
    random_state,
)
from PIL import Image

try:
    import timm
except Exception as error:                                        # a torchvision that doesn't fit
    pytest.skip(f"timm can't be imported ({type(error).__name__}: {error}): "
                "pip install \"npresnet[parity]\"", allow_module_level=True)
import torch

import npresnet
from npresnet.model import ResNetV2
from npresnet.variants import PRETRAINED, VARIANTS, pretrained_cfg

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def pair(name, backend, width=0.125, seed=3, **options):
    """npresnet's model and timm's with the same random tensors."""
    twin = timm.create_model(name, width_factor=width, **options).eval()
    variant = dataclasses.replace(VARIANTS[name], width=width)
    options = dict(num_classes=1000) | options
    model = ResNetV2(variant, pretrained_cfg(variant, "test"), backend=backend, **options)
    shapes = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    state = random_state(shapes, seed)
    model.load_state_dict(state)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return model, twin


def run(function, *arrays, **options):
    """What a PyTorch function gives for NumPy arrays, as tensors."""
    with torch.no_grad():
        return function(*(torch.from_numpy(np.array(a)) for a in arrays), **options)


def hooked(twin, x):
    """Every module's output, by its path."""
    layers = {}

    def keep(path):
        return lambda _module, _inputs, output: layers.__setitem__(path, output.numpy())

    hooks = [m.register_forward_hook(keep(path)) for path, m in twin.named_modules() if path]
    run(twin, x)
    for hook in hooks:
        hook.remove()
    return layers


def assert_layers(model, twin, x, backend):
    """Assert that every layer is within tolerance of timm in float64, and of timm itself.

    The latter is waived where timm's own float32 strays almost that far from its float64: random
    weights 152 layers deep can drive PyTorch's rounding alone past 4e-6.
    """
    tolerance = LAYER_TOLERANCE[backend]
    ours, theirs = model.trace(x), hooked(twin, x)
    truth = hooked(copy.deepcopy(twin).double(), x.astype(np.float64))
    against_timm = npresnet.compare(ours, theirs, tolerance)
    to_truth = npresnet.compare(ours, truth, tolerance)
    timms_own = npresnet.compare({path: theirs[path] for path in ours}, truth, tolerance)
    print(f"{len(against_timm.layers)} layers: largest Δ to timm {against_timm.max_delta:.1e}, "
          f"to timm in float64 {to_truth.max_delta:.1e} (timm's own {timms_own.max_delta:.1e})")
    assert not against_timm.only_a and to_truth.first_divergence is None, str(to_truth)
    for layer, own in zip(against_timm.layers, timms_own.layers, strict=True):
        assert layer.max_delta <= tolerance or own.max_delta > 0.8 * tolerance, str(against_timm)
    assert all(ours[path].shape == theirs[path].shape for path in ours)


@pytest.mark.parametrize("shape", [(1, 3, 224, 224), (3, 3, 97, 131), (1, 3, 225, 33)], ids=str)
@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_layer(name, shape, backend):
    model, twin = pair(name, backend)
    mine, their = model.state_dict(), twin.state_dict()
    assert list(mine) == list(their)
    assert all(mine[key].shape == tuple(value.shape) for key, value in their.items())
    x = random_pictures(*shape)
    assert_layers(model, twin, x, backend)
    assert_close("logits", model(x), run(twin, x).numpy(), LOGITS_TOLERANCE[backend])


@pytest.mark.parametrize("seed", range(3))
def test_full_width(seed, backend):
    model, twin = pair("resnetv2_50", backend, width=1.0, seed=seed)
    x = random_pictures(2, 3, 225, 97, seed=seed)
    assert_layers(model, twin, x, backend)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_18d", "resnetv2_50", "resnetv2_50d"])
def test_output_stride(name, output_stride, backend):
    model, twin = pair(name, backend, output_stride=output_stride)
    x = random_pictures(1, 3, 75, 66)
    assert_layers(model, twin, x, backend)
    for ours, theirs in zip(model.feature_info, twin.feature_info, strict=True):
        for key in ("num_chs", "reduction", "module"):
            assert ours[key] == theirs[key], key


@pytest.mark.parametrize("global_pool", ["avg", "max", "avgmax", "catavgmax", ""])
@pytest.mark.parametrize("num_classes", [0, 7])
def test_heads(global_pool, num_classes, backend):
    model, twin = pair("resnetv2_34", backend, global_pool=global_pool, num_classes=num_classes)
    x = random_pictures(2, 3, 64, 50)
    assert_close("output", model(x), run(twin, x).numpy(), LOGITS_TOLERANCE[backend])
    features = run(twin.forward_features, x).numpy()
    assert_close("features", model.forward_features(x), features, LAYER_TOLERANCE[backend])
    for pre_logits in (False, True):
        got = model.forward_head(features, pre_logits)
        want = run(twin.forward_head, features, pre_logits=pre_logits)
        assert_close("head", got, want.numpy(), LOGITS_TOLERANCE[backend])
    assert model.num_features == twin.num_features
    assert model.head_hidden_size == twin.head_hidden_size


@pytest.mark.parametrize("indices", [None, 1, 3, 5, [0], [-1], [3, 1], [-2, 0], (1, 2)], ids=str)
def test_intermediates_and_features_only(indices, backend):
    model, twin = pair("resnetv2_50", backend)
    x = random_pictures(1, 3, 64, 96)
    for options in (dict(), dict(norm=True), dict(stop_early=True)):
        last, maps = model.forward_intermediates(x, indices, **options)
        want_last, want = run(twin.forward_intermediates, x, indices=indices, **options)
        assert_close("last", last, want_last.numpy(), LAYER_TOLERANCE[backend])
        for a, b in zip(maps, want, strict=True):
            assert_close(str(options), a, b.numpy(), LAYER_TOLERANCE[backend])

    out = indices if indices is None or isinstance(indices, (list, tuple)) else None
    state = model.state_dict()
    options = dict() if out is None else dict(out_indices=out)
    theirs = timm.create_model("resnetv2_50", width_factor=0.125, features_only=True, **options)
    theirs.eval()
    renamed = {}
    for key, value in state.items():
        flat = key.replace("stem.", "stem_", 1).replace("stages.", "stages_", 1)
        renamed[flat] = torch.from_numpy(np.array(value))
    theirs.load_state_dict(renamed, strict=False)
    ours = ResNetV2(model.variant, model.pretrained_cfg, num_classes=0, features_only=True,
                    out_indices=out, backend=backend)
    ours.load_state_dict(state, strict=False)
    for a, b in zip(ours(x), run(theirs, x), strict=True):
        assert_close("feature map", a, b.numpy(), LAYER_TOLERANCE[backend])
    if out is None or list(out) == sorted(i % 5 for i in out):
        assert ours.feature_info.channels() == theirs.feature_info.channels()
        assert ours.feature_info.reduction() == theirs.feature_info.reduction()
        assert ours.feature_info.module_name() == theirs.feature_info.module_name()


@pytest.mark.parametrize("name", list(PRETRAINED))
@pytest.mark.parametrize("use_test_size", [False, True])
def test_data_configuration_and_pixels(name, use_test_size, backend):
    theirs = timm.create_model(name)
    ours = npresnet.create_model(name, backend=backend)
    config = npresnet.data.resolve_model_data_config(ours, use_test_size=use_test_size)
    assert config == timm.data.resolve_model_data_config(theirs, use_test_size=use_test_size)
    cfg = theirs.pretrained_cfg
    same = ("architecture", "tag", "num_classes", "input_size", "pool_size", "crop_pct",
            "interpolation", "mean", "std", "first_conv", "classifier", "test_input_size",
            "test_crop_pct", "license")
    for key in same:
        assert ours.pretrained_cfg.get(key) == cfg.get(key), key
    mine = npresnet.data.create_transform(**config, is_training=False)
    their = timm.data.create_transform(**config, is_training=False)
    sizes = [(500, 375), (375, 500), (640, 427), (61, 300), (1, 7), (235, 236)]
    for i, (w, h) in enumerate(sizes):
        picture = Image.fromarray(awkward_picture(w, h, seed=50 + i))
        np.testing.assert_allclose(mine(picture), their(picture).numpy(), rtol=0, atol=1e-7)


def test_timm_loads_what_is_saved_here(tmp_path, backend):
    model = npresnet.create_model("resnetv2_18d", seed=5, backend=backend)
    path = tmp_path / "saved.safetensors"
    model.save(path)
    twin = timm.create_model("resnetv2_18d", checkpoint_path=str(path)).eval()
    x = random_pictures(1, 3, 64, 64)
    assert_close("logits", model(x), run(twin, x).numpy(), LOGITS_TOLERANCE[backend])


@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
def test_input_convolutions_are_adapted_as_timm_does(in_chans, tmp_path, backend):
    from timm.models import adapt_input_conv

    from npresnet.loading import adapt_input_conv as ours
    weight = random_pictures(16, 3, 7, 7)
    want = adapt_input_conv(in_chans, torch.from_numpy(weight))
    assert_close("stem", ours(weight, in_chans), want.numpy(), 1e-6)
