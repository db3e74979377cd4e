"""What users call, against PyTorch: whole networks at whole depth, with every option, on every
backend.

`trace` runs a plan of its own, which keeps every layer. What is fused, shared and left out shows
only in the calls themselves: `model(x)`, `forward_features`, `forward_intermediates`,
`forward_head`.
"""
from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from helpers import (
    BACKENDS,
    LAYER_TOLERANCE,
    LOGITS_TOLERANCE,
    assert_close,
    random_pictures,
    slow_unless,
)
from twins import pair, torch_run, torch_trace

import npresnet
from npresnet.variants import VARIANTS

pytestmark = pytest.mark.parametrize("backend", BACKENDS)
EVERY_CHOICE = [list(some) for n in range(1, 6) for some in combinations(range(5), n)]


def tapped(twin, x) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """PyTorch's five feature maps, what follows the stem's pool, and the normed last map."""
    layers = torch_trace(twin, x)
    stem = [path for path in layers if path.startswith("stem.conv")][-1]
    maps = [layers[path] for path in (stem, *(f"stages.{s}" for s in range(4)))]
    return maps, layers["stem.pool"], layers["norm"]


def check_maps(model, twin, x, backend: str, choices) -> None:
    """`forward_intermediates` with each of `choices`, every flag on and off."""
    maps, pooled, normed = tapped(twin, x)
    tolerance = LAYER_TOLERANCE[backend]
    for take, norm, stop_early in product(choices, (False, True), (False, True)):
        want = [normed if norm and i == 4 else maps[i] for i in take]
        last = max(take) if stop_early else 4
        end = {0: pooled, 4: normed}.get(last, maps[last])
        what = f"maps {take}, norm {norm}, stop_early {stop_early}"
        options = dict(norm=norm, stop_early=stop_early)
        got_end, got = model.forward_intermediates(x, take, **options)
        alone = model.forward_intermediates(x, take, intermediates_only=True, **options)
        assert_close(f"{what}: end", got_end, end, tolerance)
        for i, a, b, c in zip(take, got, alone, want, strict=True):
            assert_close(f"{what}: map {i}", a, c, tolerance)
            assert_close(f"{what}: map {i} alone", b, c, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", slow_unless([8], [8, 16, 32]))
@pytest.mark.parametrize("name", slow_unless(["resnetv2_18d", "resnetv2_50"], VARIANTS))
def test_whole_depth(name, output_stride, backend):
    model, twin = pair(name, backend, output_stride=output_stride, num_classes=7)
    for shape in ((1, 3, 75, 66), (3, 3, 32, 97)):
        x = random_pictures(*shape, seed=output_stride)
        assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])
        features = torch_run(twin.forward_features, x)
        assert_close("features", model.forward_features(x), features, LAYER_TOLERANCE[backend])
    check_maps(model, twin, x[:1], backend, [[0, 1, 2, 3, 4], [2]])


@pytest.mark.slow
@pytest.mark.parametrize("name, output_stride", [("resnetv2_50", 8), ("resnetv2_34d", 32)])
def test_every_choice_of_maps(name, output_stride, backend):
    model, twin = pair(name, backend, output_stride=output_stride)
    check_maps(model, twin, random_pictures(2, 3, 48, 65), backend, EVERY_CHOICE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", slow_unless([0, 1], range(12)))
def test_options_together(seed, backend):
    """Options drawn at random, all at once, on one model that is used again and again."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(VARIANTS)))
    options = dict(in_chans=int(rng.choice([1, 3, 5])), num_classes=int(rng.choice([0, 3, 65])),
                   output_stride=int(rng.choice([8, 16, 32])),
                   global_pool=str(rng.choice(["avg", "max", "avgmax", "catavgmax", ""])))
    own = dict(exact=bool(rng.integers(2)))
    if backend == "numba":
        own["num_threads"] = int(rng.integers(1, 3))
    model, twin = pair(name, backend, own=own, seed=seed, **options)
    print(name, options, own)
    for _ in range(3):
        h, w = (int(edge) for edge in rng.integers(1, 80, 2))
        x = random_pictures(int(rng.integers(1, 4)), options["in_chans"], h, w, seed=seed)
        got, features = model(x), model.forward_features(x)
        assert_close("output", got, torch_run(twin, x), LOGITS_TOLERANCE[backend])
        assert_close("features", features, torch_run(twin.forward_features, x),
                     LAYER_TOLERANCE[backend])
        assert_close("head", model.forward_head(features), got, LOGITS_TOLERANCE[backend])
        embedding = twin.head.global_pool(torch_features(twin, x)).detach().numpy()
        embedding = embedding.reshape(embedding.shape[:2]) if options["global_pool"] else embedding
        assert_close("embedding", model.forward_head(features, pre_logits=True), embedding,
                     LOGITS_TOLERANCE[backend])
        check_maps(model, twin, x, backend, [sorted(rng.choice(5, 2, replace=False).tolist())])


def torch_features(twin, x):
    import torch
    with torch.no_grad():
        return twin.forward_features(torch.from_numpy(x))


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", slow_unless([8], [8, 16, 32]))
def test_features_only(output_stride, backend):
    """Any choice of maps, and no stage runs behind the last of them."""
    options = dict(features_only=True, output_stride=output_stride, backend=backend)
    full = npresnet.create_model("demo", output_stride=output_stride, backend=backend)
    x = random_pictures(1, 3, 64, 80)
    want = full.forward_intermediates(x, intermediates_only=True)
    for out_indices in EVERY_CHOICE:
        model = npresnet.create_model("demo", out_indices=out_indices, **options)
        for got, i in zip(model(x), out_indices, strict=True):
            np.testing.assert_array_equal(got, want[i])
