"""Feature maps: no stage runs behind the last one asked for, and their sizes are PyTorch's."""
from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from helpers import random_pictures
from torch_twin import TorchResNetV2
from twins import torch_trace

from npresnet import ops
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, pretrained_cfg

NARROW = dataclasses.replace(VARIANTS["resnetv2_50"], width=0.125)
BASIC = dataclasses.replace(VARIANTS["resnetv2_34d"], width=0.125)
# Convolutions as far as each map, counted by hand: a stem, then 3 a bottleneck and 1 a projection.
CONVS_50 = (1, 1 + 10, 1 + 10 + 13, 1 + 10 + 13 + 19, 1 + 10 + 13 + 19 + 10)
CONVS_34D = (3, 3 + 6, 3 + 6 + 9, 3 + 6 + 9 + 13, 3 + 6 + 9 + 13 + 7)
NORMS_50 = (0, 9, 9 + 12, 9 + 12 + 18, 9 + 12 + 18 + 9)
CHOICES = [[0], [1], [2], [3], [4], [0, 2], [-3, -4], 2]
LAST = [0, 1, 2, 3, 4, 2, 2, 4]


def maps_model(variant, backend: str, out_indices, **options) -> ResNetV2:
    return ResNetV2(variant, pretrained_cfg(variant, "test"), num_classes=0, features_only=True,
                    out_indices=out_indices, backend=backend, **options)


@pytest.fixture
def counts(monkeypatch):
    """How often each of the reference's operations was called."""
    counted = {"conv2d": 0, "batch_norm": 0, "max_pool2d": 0, "global_pool": 0}

    def counting(name):
        function = getattr(ops, name)

        def call(*args, **options):
            counted[name] += 1
            return function(*args, **options)
        return call

    for name in counted:
        monkeypatch.setattr(ops, name, counting(name))
    return counted


# --- what is left out -----------------------------------------------------------------------------


@pytest.mark.parametrize("out_indices, last", list(zip(CHOICES, LAST, strict=True)), ids=str)
@pytest.mark.parametrize("variant, convs", [(NARROW, CONVS_50), (BASIC, CONVS_34D)],
                         ids=["50", "34d"])
def test_numpy_runs_no_stage_behind_the_last_map(variant, convs, out_indices, last, counts):
    model = maps_model(variant, "numpy", out_indices)
    x = random_pictures(1, 3, 32, 32)
    for call in (model, model.trace):
        counts.update(dict.fromkeys(counts, 0))
        call(x)
        print(f"{out_indices}: {counts}")
        assert counts["conv2d"] == convs[last]
        assert counts["global_pool"] == 0 and counts["max_pool2d"] <= 1
        if variant is NARROW and last < 4:
            assert counts["batch_norm"] == NORMS_50[last]


def test_counting_counts_everything(counts):
    """The whole network, without features_only: the figures above leave something out."""
    model = ResNetV2(NARROW, pretrained_cfg(NARROW, "test"), num_classes=5, backend="numpy")
    x = random_pictures(1, 3, 32, 32)
    model(x)
    assert counts == dict(conv2d=54, batch_norm=49, max_pool2d=1, global_pool=1)
    counts.update(dict.fromkeys(counts, 0))
    model.forward_intermediates(x, [1], stop_early=True)
    assert counts["conv2d"] == 11
    counts.update(dict.fromkeys(counts, 0))
    model.forward_intermediates(x, [1])
    assert counts["conv2d"] == 53 and counts["batch_norm"] == 49


@pytest.mark.parametrize("out_indices, last", list(zip(CHOICES, LAST, strict=True)), ids=str)
def test_numba_plans_and_packs_nothing_of_later_stages(out_indices, last):
    """Neither operations nor weights: those of later stages stay in the file."""
    model = maps_model(NARROW, "numba", out_indices, num_threads=1)
    model(random_pictures(1, 3, 40, 33))
    engine = model._engine
    later = tuple([*(f"stages.{s}." for s in range(last, 4)), "norm", "head."])
    layers = [work.layer for (ready,) in engine.plans.values() for work in ready.plan.work]
    packed = {key[0] for key in engine.packed.places} - {"zero"}
    print(f"map {last}: {len(layers)} operations, {engine.packed.size:,} floats packed")
    assert not [layer for layer in layers if layer.startswith(later)]
    own = {name.rpartition(".")[0] for name in model.state_dict()}
    assert packed <= own, "the keys are paths of layers"
    # The last operation may hold the norm with which the next block begins.
    following = "norm" if last == 4 else f"stages.{last}.blocks.0.norm1"
    assert not [path for path in packed - {following} if path.startswith(later)]
    assert any(path.startswith(f"stages.{last - 1}." if last else "stem.") for path in packed)


def test_numba_packs_less_for_an_earlier_map():
    sizes = []
    for i in range(5):
        model = maps_model(NARROW, "numba", [i], num_threads=1, exact=True)
        model(random_pictures(1, 3, 33, 40))
        sizes.append(model._engine.packed.size)
    print(f"floats packed as far as each map: {sizes}")
    assert sizes == sorted(set(sizes))


# --- what feature_info says -----------------------------------------------------------------------


@cache
def twin_maps(name: str, output_stride: int) -> dict[str, tuple[int, int, int]]:
    """path → shape of PyTorch's maps for a picture of 128×192."""
    variant = dataclasses.replace(VARIANTS[name], width=0.125)
    twin = TorchResNetV2(variant.depths, basic=variant.block == "basic", stem=variant.stem,
                         avg=variant.avg_down, width=0.125, output_stride=output_stride).eval()
    layers = torch_trace(twin, np.zeros((1, 3, 128, 192), np.float32))
    return {path: y.shape[1:] for path, y in layers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_feature_info_is_of_pytorchs_maps(name, output_stride):
    """Channels, and how many pixels of the picture one pixel stands for."""
    variant = dataclasses.replace(VARIANTS[name], width=0.125)
    model = maps_model(variant, "numpy", None, output_stride=output_stride)
    shapes = twin_maps(name, output_stride)
    modules = ["stem.conv3" if variant.stem else "stem.conv", *(f"stages.{s}" for s in range(4))]
    assert model.feature_info.module_name() == modules
    for i, (info, path) in enumerate(zip(model.feature_info, modules, strict=True)):
        channels, height, width = shapes[path]
        assert info == dict(num_chs=channels, reduction=128 // height, module=path, index=i)
        assert 128 % height == 0 and 192 // width == info["reduction"]
    assert model.feature_info.reduction()[-1] == output_stride
    assert model.num_features == shapes["norm"][0]
    some = maps_model(variant, "numpy", (1, -1), output_stride=output_stride)
    assert some.feature_info.out_indices == (1, 4)
    assert some.feature_info.channels() == [shapes["stages.0"][0], shapes["stages.3"][0]]
    assert some.feature_info.reduction() == [4, output_stride]
