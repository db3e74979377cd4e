"""One model used again and again, with new tensors, new heads and other pictures, is PyTorch's."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from helpers import (
    BACKENDS,
    LAYER_TOLERANCE,
    LOGITS_TOLERANCE,
    assert_close,
    random_pictures,
    random_state,
)
from twins import assert_layers, pair, torch_run, torch_trace, twin_of

from npresnet.errors import WeightsError
from npresnet.fast.engine import KEPT_PLANS

pytestmark = pytest.mark.parametrize("backend", BACKENDS)
X = random_pictures(3, 3, 33, 40)
SHORT = dict(depths=(1, 2, 1, 1), num_classes=7)


def renewed(model, twin, seed: int) -> dict[str, np.ndarray]:
    """Random tensors under another seed; none of them is what `model` has now."""
    state = random_state(model.graph.parameter_shapes(), seed)
    assert not np.array_equal(state["stem.conv.weight"], model.state_dict()["stem.conv.weight"])
    return state


def check_everything(model, twin, x, backend: str) -> None:
    """Every way to call `model` against PyTorch: logits, features, maps, head and trace."""
    layers = torch_trace(twin, x)
    features = layers["norm"]
    tolerance = LAYER_TOLERANCE[backend]
    assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])
    assert_close("features", model.forward_features(x), features, tolerance)
    assert_close("head", model.forward_head(features), torch_run(twin, x), tolerance)
    maps = model.forward_intermediates(x, [0, 2], intermediates_only=True)
    for path, y in zip(("stem.conv", "stages.1"), maps, strict=True):
        assert_close(path, y, layers[path], tolerance)
    assert_layers(model.trace(x), layers, tolerance)


# --- new tensors ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50"])
def test_tensors_loaded_after_a_forward_pass_are_used(name, backend):
    model, twin = pair(name, backend, **SHORT)
    check_everything(model, twin, X, backend)
    for seed in (5, 6):
        state = renewed(model, twin, seed)
        model.load_state_dict(state)
        twin = twin_of(model.variant, state, num_classes=7)
        check_everything(model, twin, X, backend)
        assert_close("one", model(X[:1]), torch_run(twin, X[:1]), LOGITS_TOLERANCE[backend])


@pytest.mark.parametrize("path", ["stem.conv.weight", "stages.1.blocks.0.downsample.conv.weight",
                                  "stages.0.blocks.0.norm1.bias", "stages.2.blocks.0.norm3.weight",
                                  "norm.running_var", "head.fc.weight", "head.fc.bias"])
def test_a_single_tensor_loaded_after_a_forward_pass_is_used(path, backend):
    model, _ = pair("resnetv2_50", backend, **SHORT)
    before = model(X)
    model.trace(X[:1])
    new = random_state(model.graph.parameter_shapes(), 9)[path]
    model.load_state_dict({path: new}, strict=False)
    twin = twin_of(model.variant, model.state_dict(), num_classes=7)
    np.testing.assert_array_equal(model.state_dict()[path], new)
    want = torch_run(twin, X)
    moved = np.abs(want - before).max() / np.abs(want).max()
    print(f"{path}: the logits move by {moved:.1e} of the largest")
    assert moved > 10 * LOGITS_TOLERANCE[backend], "the tensor has to matter for this to test it"
    assert_close("logits", model(X), want, LOGITS_TOLERANCE[backend])
    assert_layers(model.trace(X), torch_trace(twin, X), LAYER_TOLERANCE[backend])


def test_what_did_not_fit_leaves_the_forward_pass_as_it_was(backend):
    model, twin = pair("resnetv2_18", backend, **SHORT)
    model(X)
    with pytest.raises(WeightsError, match="head.fc.bias"):
        model.load_state_dict(renewed(model, twin, 5) | {"head.fc.bias": np.zeros(8, np.float32)})
    check_everything(model, twin, X, backend)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_made_after_a_forward_pass_has_tensors_of_its_own(clone, backend):
    model, twin = pair("resnetv2_18", backend, **SHORT)
    model(X)
    other = clone(model)
    other(X)
    state = renewed(model, twin, 5)
    other.load_state_dict(state)
    check_everything(other, twin_of(model.variant, state, num_classes=7), X, backend)
    check_everything(model, twin, X, backend)


# --- new heads ------------------------------------------------------------------------------------


def test_a_classifier_reset_after_a_forward_pass_is_used(backend):
    """Another number of classes, other pools, none, and back, with a call before and after each."""
    model, twin = pair("resnetv2_18", backend, **SHORT)
    features = torch_run(twin.forward_features, X)
    heads = [(5, None), (5, "max"), (0, None), (3, "catavgmax"), (4, ""), (0, ""), (7, "avg")]
    pool = "avg"
    for num_classes, change in heads:
        model.reset_classifier(num_classes, change)
        pool = pool if change is None else change
        twin = twin_of(model.variant, model.state_dict(), num_classes=num_classes, global_pool=pool)
        want = torch_run(twin, X)
        print(f"{num_classes} classes, pool {pool!r}: {want.shape}")
        assert_close("output", model(X), want, LOGITS_TOLERANCE[backend])
        assert_close("head", model.forward_head(features), want, LAYER_TOLERANCE[backend])
        assert_layers(model.trace(X[:1]), torch_trace(twin, X[:1]), LAYER_TOLERANCE[backend])


# --- other pictures -------------------------------------------------------------------------------


SHAPES = [(1, 40, 56), (3, 40, 56), (2, 33, 33), (1, 97, 64), (5, 16, 40), (1, 1, 1), (4, 56, 20),
          (2, 64, 97), (3, 7, 90), (1, 99, 36), (2, 40, 56)]


@pytest.mark.slow
def test_sizes_and_batches_in_any_order(backend):
    """More sizes than plans are kept, forwards, backwards, and the same one over and over."""
    assert len(SHAPES) > KEPT_PLANS
    model, twin = pair("resnetv2_50", backend, **SHORT)
    for n, h, w in [*SHAPES, *SHAPES[::-1], *[SHAPES[1]] * 3]:
        x = random_pictures(n, 3, h, w, seed=n + h + w)
        assert_close(f"{n}×{h}×{w}", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


def test_one_size_asked_for_in_many_ways(backend):
    """What is planned for some maps doesn't stand in for others of the same size."""
    model, twin = pair("resnetv2_18", backend, **SHORT)
    paths = ["stem.conv", "stages.0", "stages.1", "stages.2", "stages.3"]
    for x in (X, X[:1], X, X[1:]):
        layers = torch_trace(twin, x)
        for take in ([0], [4], [1, 3], [0, 1, 2, 3, 4], [3]):
            options = dict(stop_early=True, intermediates_only=True)
            for i, y in zip(take, model.forward_intermediates(x, take, **options), strict=True):
                assert_close(f"map {i} of {take}", y, layers[paths[i]], LAYER_TOLERANCE[backend])
        features = model.forward_features(x)
        assert_close("features", features, layers["norm"], LAYER_TOLERANCE[backend])
        assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


def test_what_was_given_out_is_not_written_to_again(backend):
    """Results of an earlier call stay as they were, whatever is computed later."""
    model, _ = pair("resnetv2_18", backend, **SHORT)
    given = [model(X), model.forward_features(X), *model.forward_intermediates(X)[1],
             *model.trace(X).values()]
    kept = [y.copy() for y in given]
    other = random_pictures(3, 3, 33, 40, seed=1)
    model(other)
    model.forward_features(other)
    model.forward_intermediates(other)
    model.trace(other)
    for y, was in zip(given, kept, strict=True):
        np.testing.assert_array_equal(y, was)
