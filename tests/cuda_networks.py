"""CUDA cases: whole networks against the NumPy backend, with guards around every activation."""
from __future__ import annotations

import dataclasses
from unittest.mock import patch

import numpy as np
from cuda_memory import GUARDS
from helpers import LAYER_TOLERANCE, LOGITS_TOLERANCE, assert_close, random_pictures, random_state

import npresnet
from cuda_kernels.backend import cuda
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, pretrained_cfg


def models(name: str, depths=(1, 1, 1, 1), **options) -> tuple[ResNetV2, ResNetV2]:
    """(cuda's, NumPy's) with the same random tensors: few blocks, an eighth of the width."""
    variant = dataclasses.replace(VARIANTS[name], width=0.125, depths=depths)
    cfg = pretrained_cfg(variant, "test")
    options = dict(num_classes=7) | options
    ours = ResNetV2(variant, cfg, backend="cuda", **options)
    reference = ResNetV2(variant, cfg, backend="numpy", **options)
    for model in (ours, reference):
        model.load_state_dict(random_state(ours.graph.parameter_shapes(), len(name)))
    return ours, reference


def apart(activations) -> int:
    """Stands in for `place`: one behind the other with bands between, so that overruns are seen."""
    end = GUARDS
    for y in activations:
        y.base, end = end, end + y.size + GUARDS
    return end


def check_network(ours: ResNetV2, reference: ResNetV2, x: np.ndarray, trace: bool) -> None:
    """Compare every layer, or the logits.

    All activations lie between bands of NaN, and are NaN themselves before they are written.
    """
    runner = ours._engine
    wanted = None if trace else [ours.graph.last]
    with patch("cuda_kernels.plan.place", apart):
        ready = runner._ready(len(x), x.shape[1:], wanted, False)
    size = runner.workspace.size
    runner.workspace.copy_to_device(np.full(size, np.nan, np.float32))
    if trace:
        got, want = ours.trace(x), reference.trace(x)
        result = npresnet.compare(got, want, LAYER_TOLERANCE["cuda"])
        print(f"{ours.variant.name}: {len(result.layers)} layers, largest Δ {result.max_delta:.1e}")
        assert result.first_divergence is None and list(got) == list(want), str(result)
    else:
        assert_close(ours.variant.name, ours(x), reference(x), LOGITS_TOLERANCE["cuda"])
    used = np.zeros(size, bool)
    for launch in ready.plan.launches:
        for y in launch.args:
            if hasattr(y, "floats"):
                used[y.base:y.base + y.floats] = True
    unused = runner.workspace.copy_to_host()[~used]
    assert np.isnan(unused).all(), "a launch wrote where no activation lies"


def bottlenecks():
    ours, reference = models("resnetv2_50", depths=(2, 1, 1, 1))
    x = random_pictures(1, 3, 24, 19)
    check_network(ours, reference, x, trace=True)
    ours._set_params(ours._params)                                # a new runner, for what is fused
    check_network(ours, reference, x, trace=False)


def basic_blocks():
    ours, reference = models("resnetv2_18d", depths=(1, 1, 1, 2), output_stride=16, in_chans=1)
    check_network(ours, reference, random_pictures(2, 1, 18, 21), trace=True)


# --- heads, groups of pictures, and plans that come and go ----------------------------------------

def check(what, got, want):
    assert_close(what, got, want, LOGITS_TOLERANCE["cuda"])


def embeddings(ours: ResNetV2, reference: ResNetV2, features: np.ndarray) -> list[np.ndarray]:
    """What either model's head gives before its classifier."""
    return [model.forward_head(features, pre_logits=True) for model in (ours, reference)]


def shapes(layers: dict) -> dict[str, tuple]:
    return {path: y.shape for path, y in layers.items()}


def heads():
    """Pools, groups of pictures, arrays on the device, empty batches, the first map alone."""
    features, few = random_pictures(3, 64, 2, 3), random_pictures(1, 64, 1, 2)
    with patch("cuda_kernels.runner.GROUP", 2):
        for pool_name in ("avg", "max", "avgmax", "catavgmax", ""):
            ours, reference = models("resnetv2_18", global_pool=pool_name)
            got, want = ours.forward_head(features), reference.forward_head(features)
            check(f"head, {pool_name!r}", got, want)
            check(f"embedding, {pool_name!r}", *embeddings(ours, reference, features))
        # Three pictures were run in groups of at most two.
        assert sorted(n for n, _ in ours._engine.plans) == [1, 1, 2, 2]

        check("another size", ours.forward_head(few), reference.forward_head(few))
        check("one row", *embeddings(ours, reference, few))
        there = ours.forward_head(cuda.to_device(features))
        assert not isinstance(there, np.ndarray), "what lies on the device is answered there"
        np.testing.assert_array_equal(there.copy_to_host(), ours.forward_head(features))

        assert ours.forward_head(features[:0]).shape == (0, 7, 2, 3)
        assert ours(np.zeros((0, 3, 40, 40), np.float32)).shape == (0, 7, 2, 2)
        nobody = np.zeros((0, 3, 33, 40), np.float32)
        assert shapes(ours.trace(nobody)) == shapes(reference.trace(nobody))

        x = random_pictures(1, 3, 9, 12)
        last, maps = ours.forward_intermediates(x, [0], stop_early=True)
        want, wants = reference.forward_intermediates(x, [0], stop_early=True)
        check("behind the pool", last, want)
        check("the first map", *maps, *wants)
        got, want = ours.forward_head(few), reference.forward_head(few)
        check("after the workspace has grown", got, want)

    ours._set_params(ours._params)                                # a new runner, without limits
    five = np.concatenate([features, features[:2]])
    with (patch("cuda_kernels.runner.KEPT_PLANS", 1), patch("cuda_kernels.runner.GROUP", 4),
          patch("cuda_kernels.runner.LARGEST", 800)):
        check("halved groups", ours.forward_head(five), reference.forward_head(five))
        assert set(ours._engine.limits.values()) == {2}
        assert [n for n, _ in ours._engine.plans] == [1]
        planned, plan = [], ours._engine._plan

        def count(n, *args):
            planned.append(n)
            return plan(n, *args)
        ours._engine._plan = count
        check("the same again", ours.forward_head(five), reference.forward_head(five))
        assert max(planned) == 2, "what didn't fit was tried again"
