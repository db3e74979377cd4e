"""The graph against the network written by hand, and its parameters against PyTorch's."""
from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from torch_twin import TorchResNetV2

from npresnet.graph import Graph, build_graph, is_parameter
from npresnet.network import Network
from npresnet.variants import DEMO, VARIANTS, Variant

POOLS = ["avg", "max", "avgmax", "catavgmax", ""]
SIZES = [(64, 64), (33, 50)]


def narrow(name: str, width: float = 0.125) -> Variant:
    return dataclasses.replace(VARIANTS[name], width=width)


def torch_of(variant: Variant, **options) -> TorchResNetV2:
    return TorchResNetV2(variant.depths, basic=variant.block == "basic", stem=variant.stem,
                         avg=variant.avg_down, width=variant.width, **options)


def parameters(variant: Variant, **options) -> dict[str, np.ndarray]:
    """Tensors of PyTorch's names and shapes, all zero: only shapes matter here."""
    state = torch_of(variant, **options).state_dict()
    return {name: np.zeros(tuple(tensor.shape), np.float32) for name, tensor in state.items()}


def check_against_network(variant: Variant, sizes=SIZES, **options) -> None:
    """Names, order and shapes of all layers are what the network written by hand computes."""
    params = parameters(variant, **options)
    own = {key: options[key] for key in ("output_stride", "global_pool") if key in options}
    graphs = [build_graph(variant, **options, fold_norms=fold) for fold in (True, False)]
    for h, w in sizes:
        traced: dict[str, tuple[int, ...]] = {}

        def tap(path, y, traced=traced):
            assert path not in traced, f"{path} was computed twice"
            traced[path] = y.shape[1:]

        network = Network(variant, params, tap=tap, **own)
        network.forward(np.zeros((1, options.get("in_chans", 3), h, w), np.float32))
        for graph in graphs:
            assert [layer.path for layer in graph.layers] == list(traced)
            assert list(graph.shapes(h, w).items()) == list(traced.items())
        print(f"{variant.name}@{variant.width}, {options}, {h}×{w}: {len(traced)} layers")


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant(name, output_stride):
    check_against_network(narrow(name), output_stride=output_stride, num_classes=7)


@pytest.mark.parametrize("width", [0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_50t"])
def test_every_width(name, width):
    """Rounded channels too: three tenths of 64 are 24, not 19."""
    variant = dataclasses.replace(narrow(name, width), depths=(1, 1, 1, 1))
    check_against_network(variant, [(32, 33)], num_classes=3)
    if width == 1.0:
        whole = narrow(name, width)
        assert list(build_graph(whole).parameter_shapes()) == list(torch_of(whole).state_dict())


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize("in_chans", [1, 3, 4])
@pytest.mark.parametrize("global_pool", POOLS)
def test_every_head_and_number_of_channels(global_pool, in_chans, num_classes):
    for name in ("resnetv2_18", "resnetv2_18d"):
        check_against_network(narrow(name), [(40, 70)], global_pool=global_pool,
                              in_chans=in_chans, num_classes=num_classes)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 5)], ids=str)
def test_tiny_pictures(size):
    for name in ("resnetv2_50d", "resnetv2_34"):
        for output_stride in (8, 32):
            check_against_network(narrow(name), [size], output_stride=output_stride, num_classes=2)


def test_the_embedded_network():
    variant = dataclasses.replace(DEMO, depths=(1, 1, 1, 1))
    check_against_network(variant, [(64, 40)], num_classes=10)
    assert DEMO.depths == VARIANTS["resnetv2_50"].depths and DEMO.width == 0.25


# --- steps ----------------------------------------------------------------------------------------


@cache
def graph_of(name: str, output_stride: int, fold_norms: bool) -> Graph:
    return build_graph(narrow(name), output_stride=output_stride, fold_norms=fold_norms)


@pytest.mark.parametrize("output_stride", [8, 32])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_unfolded_each_step_is_one_layer(name, output_stride):
    """But for a sum, which is the epilogue of the convolution before it."""
    graph = graph_of(name, output_stride, False)
    steps = {step.path: step for step in graph.steps}
    assert not [step for step in graph.steps if step.norm]
    assert all(bool(step.block) == bool(step.shortcut) for step in graph.steps)
    sums = [step.block for step in graph.steps if step.block]
    assert len(sums) == sum(graph.variant.depths)
    own = [layer for layer in graph.layers if layer.path not in graph.aliases]
    assert [layer.path for layer in own if layer.kind == "sum"] == sums
    for layer in own:
        if layer.kind == "sum":
            assert layer.step.block == layer.path
        else:
            assert steps[layer.path] is layer.step
            linear = layer.path == "head.fc"
            assert layer.kind == ("linear" if linear else layer.step.kind)
    assert len(own) == len(graph.steps) + len(sums)


@pytest.mark.parametrize("fold_norms", [False, True])
@pytest.mark.parametrize("output_stride", [8, 32])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_what_a_step_reads_was_made_before(name, output_stride, fold_norms):
    """Each layer is made by one step, and all that a step reads by earlier ones."""
    graph = graph_of(name, output_stride, fold_norms)
    made = ["picture"]
    for step in graph.steps:
        assert step.source in made, step
        assert not step.shortcut or step.shortcut in made, step
        made += filter(None, [step.path, step.block, step.norm])
    assert len(made) == len(set(made))
    assert set(made) - {"picture"} == {layer.path for layer in graph.layers} - set(graph.aliases)
    for alias, first in graph.aliases.items():
        assert first in made and alias not in made


def test_folding_changes_only_where_norms_stand():
    for name in VARIANTS:
        folded, apart = (graph_of(name, 16, fold) for fold in (True, False))
        norms = sum(layer.kind == "norm" for layer in folded.layers)
        assert len(apart.steps) == len(folded.steps) + norms
        assert sum(bool(step.norm) for step in folded.steps) == norms
        without = [step._replace(norm="") for step in folded.steps]
        assert without == [step for step in apart.steps if step.kind != "norm"]
        assert folded.parameter_shapes() == apart.parameter_shapes()
        assert folded.feature_maps == apart.feature_maps and folded.aliases == apart.aliases


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {}, dict(num_classes=0), dict(num_classes=7, in_chans=1), dict(global_pool="catavgmax"),
    dict(output_stride=8)], ids=str)
@pytest.mark.parametrize("name", list(VARIANTS))
def test_parameters_are_pytorchs(name, options):
    """Names, shapes, and their order."""
    variant = narrow(name)
    graph, twin = build_graph(variant, **options), torch_of(variant, **options)
    wanted = [(key, tuple(tensor.shape)) for key, tensor in twin.state_dict().items()]
    shapes = graph.parameter_shapes()
    assert list(shapes.items()) == wanted
    learned = [key for key, _ in twin.named_parameters()]
    assert [key for key in shapes if is_parameter(key)] == learned
    assert graph.count_parameters() == sum(p.numel() for p in twin.parameters())


def test_parameters_at_full_width():
    """As the model card and timm have them."""
    graph = build_graph(VARIANTS["resnetv2_50"])
    assert graph.count_parameters() == 25_549_352
    assert len(graph.parameter_shapes()) == 300
    first = list(graph.parameter_shapes())[:7]
    assert first == ["stem.conv.weight", "stages.0.blocks.0.downsample.conv.weight",
                     *(f"stages.0.blocks.0.norm1.{part}" for part in (
                         "weight", "bias", "running_mean", "running_var", "num_batches_tracked"))]
