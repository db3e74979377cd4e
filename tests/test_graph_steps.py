"""The graph's steps, run one by one with the reference's operations, give PyTorch's layers."""
from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from helpers import random_pictures, random_state
from torch import nn
from torch_twin import Downsample, TorchResNetV2
from twins import assert_layers, torch_trace, twin_of

from npresnet import ops
from npresnet.graph import PICTURE, Graph, Step, build_graph
from npresnet.variants import VARIANTS, Variant

TOLERANCE = 5e-6
CONTAINERS = (nn.Sequential, nn.Identity, Downsample)             # modules that are no layers


# --- a tiny interpreter ---------------------------------------------------------------------------


def convolve(step: Step, x, params, graph) -> np.ndarray:
    weight, bias = params[f"{step.path}.weight"], params.get(f"{step.path}.bias")
    assert weight.shape == (step.c_out, step.c_in, step.kernel, step.kernel), step
    assert (bias is not None) == step.bias, step
    return ops.conv2d(x, weight, bias, step.stride, step.padding, step.dilation)


def max_pool(step: Step, x, params, graph) -> np.ndarray:
    assert step.dilation == 1
    return ops.max_pool2d(x, step.kernel, step.stride, step.padding)


def avg_pool(step: Step, x, params, graph) -> np.ndarray:
    assert (step.padding, step.dilation) == (0, 1)
    if step.same:                                                 # zeros right and below count
        more = step.kernel - step.stride
        x = np.pad(x, ((0, 0), (0, 0), (0, more), (0, more)))
        return ops.avg_pool2d(x, step.kernel, step.stride)
    return ops.avg_pool2d(x, step.kernel, step.stride, ceil_mode=True, count_include_pad=False)


def global_pool(step: Step, x, params, graph) -> np.ndarray:
    return ops.global_pool(x, graph.global_pool)


def norm_and_relu(step: Step, x, params, graph) -> np.ndarray:
    return normalise(step.path, x, params)


def normalise(path: str, x, params) -> np.ndarray:
    """The batch norm called `path`, by its definition in float64, and its ReLU."""
    weight, bias, mean, var = (params[f"{path}.{part}"].astype(np.float64)[:, None, None]
                               for part in ("weight", "bias", "running_mean", "running_var"))
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * weight + bias, 0).astype(np.float32)


KINDS = {"conv": convolve, "max_pool": max_pool, "avg_pool": avg_pool, "norm": norm_and_relu,
         "global_pool": global_pool}


def run(graph: Graph, params, x: np.ndarray) -> dict[str, np.ndarray]:
    """All layers of `graph` by their names, from its steps and nothing else."""
    found = {PICTURE: x}
    for step in graph.steps:
        source = found[step.source]
        assert source.shape[1] == step.c_in, step
        y = found[step.path] = KINDS[step.kind](step, source, params, graph)
        assert y.shape[1] == step.c_out, step
        if step.kind != "global_pool":
            sizes = tuple(map(step.output_size, source.shape[2:]))
            assert sizes == y.shape[2:], (step, sizes)
        if step.shortcut:
            y = found[step.block] = y + found[step.shortcut]
        if step.norm:
            found[step.norm] = normalise(step.norm, y, params)
    del found[PICTURE]
    return found | {alias: found[first] for alias, first in graph.aliases.items()}


# --- against PyTorch ------------------------------------------------------------------------------


@cache
def state_of(variant: Variant, in_chans: int, num_classes: int, global_pool: str) -> dict:
    """Random tensors for PyTorch's names and shapes."""
    twin = TorchResNetV2(variant.depths, basic=variant.block == "basic", stem=variant.stem,
                         avg=variant.avg_down, width=variant.width, in_chans=in_chans,
                         num_classes=num_classes, global_pool=global_pool)
    shapes = {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}
    return random_state(shapes, seed=len(variant.name))


def check(variant: Variant, x: np.ndarray, *, in_chans: int = 3, num_classes: int = 7,
          global_pool: str = "avg", output_stride: int = 32) -> None:
    """Folded and unfolded: all of PyTorch's layers, in float64, and no others."""
    state = state_of(variant, in_chans, num_classes, global_pool)
    options = dict(in_chans=in_chans, num_classes=num_classes, global_pool=global_pool,
                   output_stride=output_stride)
    twin = twin_of(variant, state, **options).double()
    theirs = torch_trace(twin, x.astype(np.float64))
    containers = {path for path, module in twin.named_modules() if isinstance(module, CONTAINERS)}
    layers = {path: y for path, y in theirs.items() if path not in containers}
    if not global_pool:
        layers["head.global_pool"] = theirs["norm"]
    for fold_norms in (True, False):
        graph = build_graph(variant, **options, fold_norms=fold_norms)
        found = run(graph, state, x)
        assert set(found) == set(layers) == {layer.path for layer in graph.layers}
        assert_layers(found, layers, TOLERANCE)


def narrow(name: str, **changes) -> Variant:
    return dataclasses.replace(VARIANTS[name], **dict(width=0.125) | changes)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variants_steps_are_pytorchs(name, output_stride):
    x = random_pictures(1, 3, 33, 46, seed=output_stride)
    check(narrow(name), x, output_stride=output_stride)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (32, 32), (35, 63)], ids=str)
@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_34d", "resnetv2_50", "resnetv2_50t"])
def test_steps_at_other_sizes(name, size):
    for output_stride in (8, 32):
        x = random_pictures(2, 3, *size, seed=sum(size))
        check(narrow(name, depths=(1, 2, 2, 1)), x, output_stride=output_stride)


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("global_pool", ["avg", "max", "avgmax", "catavgmax", ""])
def test_steps_of_every_head(global_pool, num_classes):
    x = random_pictures(2, 4, 40, 70)
    variant = narrow("resnetv2_18", depths=(1, 1, 1, 1))
    check(variant, x, in_chans=4, num_classes=num_classes, global_pool=global_pool)


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_steps_at_other_widths(width):
    x = random_pictures(1, 1, 32, 33)
    check(narrow("resnetv2_50d", width=width, depths=(1, 1, 1, 2)), x, in_chans=1)
