"""Layers and outputs, on every backend, against a PyTorch twin and timm's golden activations."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    BACKENDS,
    LAYER_TOLERANCE,
    LOGITS_TOLERANCE,
    assert_close,
    random_pictures,
    random_state,
    slow_unless,
)
from twins import assert_layers, pair, torch_run, torch_trace

import npresnet
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, pretrained_cfg

GOLDENS = Path(__file__).parent / "goldens"
ALL = list(VARIANTS)
PICTURES = [(1, 3, 64, 64), (3, 3, 97, 131), (1, 3, 225, 33), (2, 3, 32, 32), (1, 3, 33, 40)]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


# --- every layer ----------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", slow_unless(PICTURES[1:4:2], PICTURES),
                         ids=lambda s: "×".join(map(str, s)))
@pytest.mark.parametrize("name", slow_unless(["resnetv2_18", "resnetv2_50t"], ALL))
def test_every_layer_is_pytorchs(name, shape, backend):
    model, twin = pair(name, backend, seed=len(name))
    x = random_pictures(*shape, seed=shape[2])
    assert_layers(model.trace(x), torch_trace(twin, x), LAYER_TOLERANCE[backend])
    assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_34d"])
def test_full_width(name, backend):
    model, twin = pair(name, backend, width=1.0)
    x = random_pictures(1, 3, 97, 131)
    assert_layers(model.trace(x), torch_trace(twin, x), LAYER_TOLERANCE[backend])


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", slow_unless([8], [8, 16]))
@pytest.mark.parametrize("name", slow_unless(["resnetv2_18", "resnetv2_50t"], [
    "resnetv2_18", "resnetv2_34d", "resnetv2_50", "resnetv2_50t"]))
def test_output_stride(name, output_stride, backend):
    model, twin = pair(name, backend, output_stride=output_stride)
    x = random_pictures(2, 3, 75, 66)
    assert_layers(model.trace(x), torch_trace(twin, x), LAYER_TOLERANCE[backend])
    reductions = [info["reduction"] for info in model.feature_info]
    assert reductions == [2, 4, 8] + [min(r, output_stride) for r in (16, 32)]


@pytest.mark.parametrize("name", slow_unless(["resnetv2_18d", "resnetv2_50d"], ALL))
def test_goldens_from_timm(name, backend):
    """Sampled activations of timm itself, every layer.

    Full width for resnetv2_50, an eighth of it for every variant.
    """
    golden = np.load(GOLDENS / "activations.npz")
    meta = json.loads(str(golden["meta"]))
    print(f"goldens by timm {meta['timm']}, torch {meta['torch']}")
    for width in (0.125, 1.0) if name == "resnetv2_50" else (0.125,):
        variant = dataclasses.replace(VARIANTS[name], width=width)
        cfg = pretrained_cfg(variant, "test")
        model = ResNetV2(variant, cfg, num_classes=1000, backend=backend)
        model.load_state_dict(random_state(model.graph.parameter_shapes(), meta["seed"]))
        x = random_pictures(*meta["shape"], seed=meta["seed"])
        layers = model.trace(x)
        key = f"{name}@{width}"
        paths = golden[f"{key}/paths"]
        computed = [path for path in paths.tolist() if path in layers]
        assert sorted(computed) == sorted(layers)
        assert backend == "numba" or len(computed) == len(paths)
        scales, samples = golden[f"{key}/scales"], golden[f"{key}/samples"]
        deltas = {}
        for i, path in enumerate(paths):
            if path not in layers:                                # fused into the next one
                continue
            flat = layers[path].ravel()
            at = np.linspace(0, flat.size - 1, meta["samples"]).astype(np.int64)
            delta = np.abs(flat[at] - samples[i]).max()
            largest = abs(np.abs(flat).max() - scales[i])
            deltas[path] = max(delta, largest) / scales[i]
        worst = max(deltas, key=deltas.get)
        print(f"{key}: {len(deltas)} layers, worst {worst}: Δ = {deltas[worst]:.1e}")
        assert deltas[worst] <= LAYER_TOLERANCE[backend], worst
        logits = golden[f"{key}/logits"]
        assert_close(f"{key} logits", model(x), logits, LOGITS_TOLERANCE[backend])


# --- heads, channels and feature maps -------------------------------------------------------------

@pytest.mark.parametrize("global_pool", ["avg", "max", "avgmax", "catavgmax", ""])
@pytest.mark.parametrize("num_classes", [0, 7])
def test_heads(global_pool, num_classes, backend):
    options = dict(global_pool=global_pool, num_classes=num_classes)
    model, twin = pair("resnetv2_18", backend, **options)
    x = random_pictures(2, 3, 64, 50)
    assert_close("output", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])
    features = model.forward_features(x)
    wanted = torch_run(twin.forward_features, x)
    assert_close("features", features, wanted, LAYER_TOLERANCE[backend])
    np.testing.assert_array_equal(model.forward_head(features), model(x))
    width = 64 * (2 if global_pool == "catavgmax" else 1)
    embedding = model.forward_head(features, pre_logits=True)
    assert embedding.shape == ((2, width) if global_pool else (2, 64, 2, 2))
    assert model.head_hidden_size == width and model.num_features == 64
    assert model.num_classes == num_classes


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channel_counts(in_chans, backend):
    model, twin = pair("resnetv2_18d", backend, in_chans=in_chans)
    x = random_pictures(1, in_chans, 40, 56)
    assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


def test_feature_maps_are_raw_and_in_order(backend):
    model, twin = pair("resnetv2_50", backend)
    tolerance = LAYER_TOLERANCE[backend]
    x = random_pictures(2, 3, 96, 64)
    theirs = torch_trace(twin, x)
    paths = "stem.conv", "stages.0", "stages.1", "stages.2", "stages.3"
    maps = [theirs[path] for path in paths]
    last, ours = model.forward_intermediates(x)
    for i in range(5):
        assert_close(f"map {i}", ours[i], maps[i], tolerance)
    assert_close("last", last, theirs["norm"], tolerance)
    _, normed = model.forward_intermediates(x, norm=True)
    assert_close("normed", normed[4], theirs["norm"], tolerance)
    _, only = model.forward_intermediates(x, 1, norm=True)
    assert np.shares_memory(only[0], last) is False
    assert maps[0].min() < 0, "the first map has to be raw for this to test anything"

    for indices, wanted in ((2, [3, 4]), ([0], [0]), ([-1, 1], [1, 4]), ((1, 3), [1, 3]),
                            ([3, 1], [1, 3]), ([-5, 0], [0])):
        got = model.forward_intermediates(x, indices, intermediates_only=True)
        assert len(got) == len(wanted)
        for have, i in zip(got, wanted):
            np.testing.assert_array_equal(have, ours[i])
        stopped, early = model.forward_intermediates(x, indices, stop_early=True)
        np.testing.assert_array_equal(early[-1], ours[wanted[-1]])
        if 0 < wanted[-1] < 4:
            np.testing.assert_array_equal(stopped, ours[wanted[-1]])
    stopped, _ = model.forward_intermediates(x, [0], stop_early=True)
    assert_close("behind the pool", stopped, theirs["stem.pool"], tolerance)
    for bad in (0, 6, [5], [-6], []):
        with pytest.raises(ValueError, match="maps"):
            model.forward_intermediates(x, bad)


def test_features_only(backend):
    x = random_pictures(1, 3, 64, 64)
    full = npresnet.create_model("demo", backend=backend)
    model = npresnet.create_model("demo", features_only=True, backend=backend)
    for got, want in zip(model(x), full.forward_intermediates(x)[1], strict=True):
        np.testing.assert_array_equal(got, want)
    info = model.feature_info
    assert info.channels() == [16, 64, 128, 256, 512] and info.reduction() == [2, 4, 8, 16, 32]
    assert info.module_name() == ["stem.conv", *(f"stages.{i}" for i in range(4))]
    two = npresnet.create_model("demo", features_only=True, out_indices=(1, -2), backend=backend)
    assert [y.shape for y in two(x)] == [(1, 64, 16, 16), (1, 256, 4, 4)]
    assert two.feature_info.channels() == [64, 256]
    assert list(two.trace(x))[-1] == "stages.2"
    with pytest.raises(ValueError, match="features_only=True"):
        npresnet.create_model("demo", out_indices=(1,), backend=backend)


# --- batches, layouts and odd pictures ------------------------------------------------------------

def test_a_picture_doesnt_depend_on_its_batch(backend):
    model, _ = pair("resnetv2_18", backend)
    x = random_pictures(3, 3, 49, 63)
    together = model(x)
    alone = np.concatenate([model(picture[None]) for picture in x])
    if backend == "cuda":
        # How blocks split a sum depends on the number of pictures.
        assert_close("alone", together, alone, 1e-6)
    else:
        np.testing.assert_array_equal(together, alone)
    assert model(x[:0]).shape == (0, 1000)


def test_inputs_are_left_alone_and_may_lie_anyhow(backend):
    model, _ = pair("resnetv2_18", backend)
    x = random_pictures(2, 3, 40, 48)
    before = x.copy()
    want = model(x)
    np.testing.assert_array_equal(x, before)
    wide = np.zeros((2, 3, 40, 96), np.float32)
    wide[..., ::2] = x
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for layout in (wide[..., ::2], np.asfortranarray(x), channels_last):
        layout.flags.writeable = False
        np.testing.assert_array_equal(model(layout), want)


def test_nan_reaches_the_logits(backend):
    model, twin = pair("resnetv2_18", backend)
    x = random_pictures(2, 3, 40, 48)
    x[1, 0, 5, 5] = np.nan
    got, want = model(x), torch_run(twin, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    assert np.isnan(got[1]).all() and not np.isnan(got[0]).any()


@pytest.mark.parametrize("name", ["resnetv2_18d", "resnetv2_50"])
def test_nan_goes_where_pytorchs_goes(name, backend):
    """In every layer to the same places. (A Winograd convolution spreads it over its tile.)"""
    model, twin = pair(name, backend, own=dict(exact=True))
    x = random_pictures(1, 3, 150, 130)
    x[0, 1, 70, 60] = np.nan
    layers, wanted = model.trace(x), torch_trace(twin, x)
    share = np.isnan(layers["stages.0.blocks.1.norm1"]).mean()
    assert 0 < share < 0.5, "some of it, or nothing is tested"
    assert_layers(layers, wanted, LAYER_TOLERANCE[backend])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_tiny_pictures(size, backend):
    model, twin = pair("resnetv2_50", backend)
    x = random_pictures(1, 3, size, 1)
    assert_close(f"{size}×1", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])
