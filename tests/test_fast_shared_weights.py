"""Plans of all sizes share packed weights, but not where they choose other algorithms."""
from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from helpers import assert_close, random_pictures, random_state
from twins import assert_layers, torch_run, torch_trace, twin_of

from npresnet.fast.engine import Engine
from npresnet.fast.packing import Packed
from npresnet.fast.plan import Plan
from npresnet.graph import build_graph
from npresnet.variants import VARIANTS

SIZES = [(h, h + more) for h in (1, 20, 33, 40, 56, 64, 97) for more in (0, 30)]
DEPTHS = (1, 2, 1, 1)


def network(name: str):
    """(graph, state, PyTorch's twin) of a narrow network with few blocks."""
    variant = dataclasses.replace(VARIANTS[name], width=0.25, depths=DEPTHS)
    graph = build_graph(variant, num_classes=7)
    state = random_state(graph.parameter_shapes(), len(name))
    return graph, state, twin_of(variant, state, num_classes=7)


def choices(graph, state, size: tuple[int, int]) -> dict[str, tuple[str, bool]]:
    """Of each convolution how it is computed at a picture size, and whether with a projection."""
    found = {}
    for work in Plan(graph, state, Packed(), *size, [graph.last]).work:
        layer, _, projection = work.layer.partition(" + ")
        if work.algorithm.startswith(("direct", "F(")):
            found[layer] = work.algorithm.split()[0], bool(projection)
    return found


def telling_sizes(graph, state) -> list[tuple[int, int]]:
    """Those of SIZES at which a layer is computed in a way that it wasn't before."""
    seen: dict[str, set] = defaultdict(set)
    sizes = []
    for size in SIZES:
        ways = choices(graph, state, size)
        if any(how not in seen[layer] for layer, how in ways.items()):
            sizes.append(size)
        for layer, how in ways.items():
            seen[layer].add(how)
    for layer, ways in seen.items():
        if len(ways) > 1:
            print(layer, sorted(ways))
    algorithms = [{algorithm for algorithm, _ in ways} for ways in seen.values()]
    assert any(some >= {"direct", "F(2×2)", "F(4×4)"} for some in algorithms), "sizes chosen badly"
    return sizes


def check(engine: Engine, twin, size: tuple[int, int], n: int) -> None:
    x = random_pictures(n, 3, *size, seed=sum(size))
    got, = engine.maps(x, [engine.graph.last])
    assert_close(f"{n}×{size}", got[:, :, 0, 0], torch_run(twin, x), 5e-5)


# --- algorithms that the planner chooses ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1, -1], ids=["small first", "large first"])
@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50"])
def test_one_engine_for_sizes_that_choose_other_algorithms(name, turn):
    graph, state, twin = network(name)
    sizes = telling_sizes(graph, state)[::turn]
    engine = Engine(graph, state, num_threads=2)
    for size in [*sizes, *sizes[::-1]]:
        check(engine, twin, size, 1)
        check(engine, twin, size, 2)
    x = random_pictures(1, 3, *sizes[0])
    assert_layers(engine.trace(x, graph.last), torch_trace(twin, x), 1e-4)


@pytest.mark.slow
def test_downsampling_is_fused_at_one_size_and_apart_at_another():
    """Where the planner takes a projection into the convolution that it is added to, or doesn't."""
    graph, state, twin = network("resnetv2_50")
    ways = {size: choices(graph, state, size) for size in SIZES}
    both = [conv for conv in ways[SIZES[0]] if len({ways[size][conv][1] for size in SIZES}) == 2]
    assert both, "no projection of this network is now fused and now apart"
    for conv in both:
        fused = [size for size in SIZES if ways[size][conv][1]]
        apart = [size for size in SIZES if not ways[size][conv][1]]
        print(f"{conv}: fused at {fused[-1]}, apart at {apart[-1]}")
        for first, second in ((fused[-1], apart[-1]), (apart[-1], fused[-1])):
            engine = Engine(graph, state, num_threads=2)
            for size in (first, second, first):
                check(engine, twin, size, 1)


# --- every algorithm, forced ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 2, 4), (4, 2, 0), (2, 0, 2)], ids=str)
@pytest.mark.parametrize("name", ["resnetv2_18d", "resnetv2_50"])
def test_each_algorithm_has_weights_of_its_own(name, order, monkeypatch):
    """Every 3×3 layer in one algorithm at one size, in another at the next, on one engine."""
    graph, state, twin = network(name)
    engine = Engine(graph, state, num_threads=1)
    for m, size in zip(order, [(40, 33), (33, 40), (48, 40)], strict=True):
        monkeypatch.setattr(Plan, "_winograd", lambda *_, m=m: m)
        check(engine, twin, size, 1)
        x = random_pictures(1, 3, *size)
        assert_layers(engine.trace(x, graph.last), torch_trace(twin, x), 1e-4)


@pytest.mark.parametrize("order", [(True, False, True), (False, True, False)], ids=str)
def test_a_fused_projection_has_weights_of_its_own(order, monkeypatch):
    """All projections fused at one size, apart at the next, on one engine."""
    graph, state, twin = network("resnetv2_50")
    engine = Engine(graph, state, num_threads=1)
    for fuse, size in zip(order, [(40, 33), (33, 40), (48, 40)], strict=True):
        def joins(self, step, *_, fuse=fuse):
            return fuse and step.path.endswith("downsample.conv")
        monkeypatch.setattr(Plan, "_joins", joins)
        check(engine, twin, size, 1)
        (ready,) = list(engine.plans.values())[-1]
        assert any("downsample" in work.layer and "+" in work.layer
                   for work in ready.plan.work) == fuse


def test_what_is_packed_the_same_way_lies_once(monkeypatch):
    """A second size that computes every layer as the first did packs nothing, and moves nothing."""
    monkeypatch.setattr(Plan, "_winograd", lambda *_: 2)
    graph, state, twin = network("resnetv2_18")
    engine = Engine(graph, state, num_threads=1)
    check(engine, twin, (40, 33), 1)
    places, data = dict(engine.packed.places), engine.packed.data.copy()
    check(engine, twin, (56, 64), 1)
    assert engine.packed.places == places
    np.testing.assert_array_equal(engine.packed.data, data)
