"""New heads, and what random tensors are: from the model's seed, of He's σ or a classifier's."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import BACKENDS, LAYER_TOLERANCE, LOGITS_TOLERANCE, assert_close, random_pictures
from twins import pair, torch_run, twin_of

import npresnet
from npresnet.graph import build_graph
from npresnet.loading import initial_state
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, pretrained_cfg

SMALL = dataclasses.replace(VARIANTS["resnetv2_18"], width=0.125, depths=(1, 1, 1, 1))


def small_model(seed: int = 0, **options) -> ResNetV2:
    """A random model: tensors from `seed`."""
    options = dict(num_classes=4, backend="numpy") | options
    return ResNetV2(SMALL, pretrained_cfg(SMALL, "test"), seed=seed, **options)


def head_of(model: ResNetV2) -> np.ndarray:
    return model.state_dict()["head.fc.weight"]


# --- reset_classifier -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("before", ["avg", "catavgmax", ""])
@pytest.mark.parametrize("backend", BACKENDS)
def test_reset_to_no_global_pool(backend, before, num_classes):
    """"" is a pool of its own, and not "leave it as it is": an answer for every pixel."""
    model, twin = pair("resnetv2_18", backend, depths=(1, 1, 1, 1), global_pool=before)
    features = random_pictures(2, 64, 2, 3)
    model.reset_classifier(num_classes, "")
    assert (model.global_pool, model.head_hidden_size) == ("", 64)
    twin = twin_of(model.variant, model.state_dict(), num_classes=num_classes, global_pool="")
    x = random_pictures(2, 3, 40, 70)
    want = torch_run(twin, x)
    assert want.shape == (2, num_classes or 64, 2, 3)
    assert_close("output", model(x), want, LOGITS_TOLERANCE[backend])
    want = torch_run(twin.head, features)
    assert_close("head", model.forward_head(features), want, LAYER_TOLERANCE[backend])
    np.testing.assert_array_equal(model.forward_head(features, pre_logits=True), features)


def test_reset_without_a_pool_leaves_it():
    for pool in ("avg", "max", "avgmax", "catavgmax", ""):
        model = small_model(global_pool=pool)
        model.reset_classifier(3)
        assert model.global_pool == pool
        assert head_of(model).shape == (3, 128 if pool == "catavgmax" else 64, 1, 1)


def test_the_configuration_knows_the_number_of_classes():
    model = small_model()
    assert model.pretrained_cfg["num_classes"] == model.num_classes == 4
    for num_classes in (9, 0, 2):
        model.reset_classifier(num_classes)
        assert model.pretrained_cfg["num_classes"] == model.num_classes == num_classes
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier(-1)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(7, "mean")
    assert model.pretrained_cfg["num_classes"] == model.num_classes == 2
    assert head_of(model).shape == (2, 64, 1, 1)
    other = npresnet.create_model("resnetv2_18", num_classes=6, backend="numpy")
    assert other.pretrained_cfg["num_classes"] == 6
    bare = npresnet.create_model("resnetv2_18", features_only=True, backend="numpy")
    assert bare.pretrained_cfg["num_classes"] == bare.num_classes == 0


# --- seeds ----------------------------------------------------------------------------------------


def test_a_new_head_comes_from_the_models_seed():
    one, two, other = small_model(seed=3), small_model(seed=3), small_model(seed=4)
    trunk = one.state_dict()
    for model in (one, two, other):
        model.reset_classifier(6)
    np.testing.assert_array_equal(head_of(one), head_of(two))
    assert np.abs(head_of(one) - head_of(other)).max() > 0.01
    assert not one.state_dict()["head.fc.bias"].any()
    for name, array in one.state_dict().items():
        assert name.startswith("head.") or array is trunk[name]


@pytest.mark.slow
def test_create_models_seed():
    """Every random tensor comes from it; with a file, only a new classifier does."""
    options = dict(num_classes=5, backend="numpy")
    states = [npresnet.create_model("resnetv2_18", seed=seed, **options).state_dict()
              for seed in (7, 7, 8)]
    drawn = [name for name, array in states[0].items() if array.ndim == 4]
    assert len(drawn) == 21                                       # 1 stem, 16, 3 shortcuts, 1 head
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name])
        assert np.array_equal(states[0][name], states[2][name]) == (name not in drawn)
    assert len({states[0][name].ravel()[0] for name in drawn}) == len(drawn)
    with pytest.warns(UserWarning, match="randomly initialised"):
        heads = [npresnet.create_model("demo", seed=seed, **options) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(head_of(heads[0]), head_of(heads[1]))
    assert np.abs(head_of(heads[0]) - head_of(heads[2])).max() > 0.01
    default = npresnet.create_model("resnetv2_18", **options).state_dict()
    zero = npresnet.create_model("resnetv2_18", seed=0, **options).state_dict()
    assert all(np.array_equal(default[name], zero[name]) for name in default)


# --- the distributions ----------------------------------------------------------------------------


def test_convolutions_are_drawn_with_hes_fan_out():
    """σ² = 2 / (K·R·S): of K channels out, whatever comes in. Most layers here are not square."""
    graph = build_graph(VARIANTS["resnetv2_50d"])
    state = initial_state(graph.parameter_shapes(), 1)
    by_hand = {"stem.conv1": 32 * 9, "stem.conv3": 64 * 9, "stages.0.blocks.0.conv1": 64,
               "stages.0.blocks.0.conv3": 256, "stages.0.blocks.1.conv1": 64,
               "stages.1.blocks.0.conv1": 128, "stages.1.blocks.0.conv2": 128 * 9,
               "stages.3.blocks.0.downsample.conv": 2048, "stages.3.blocks.2.conv1": 512}
    for path, fan_out in by_hand.items():
        weight = state[f"{path}.weight"]
        share = weight.std() / np.sqrt(2 / fan_out)
        deviation = 1 / np.sqrt(2 * weight.size)                  # of a standard deviation
        print(f"{path} {weight.shape}: σ is {share:.4f} of what it should be, ±{deviation:.4f}")
        assert abs(share - 1) < 5 * deviation, path
        assert abs(weight.mean()) < 5 * weight.std() / np.sqrt(weight.size), path


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [3, 1000])
def test_the_classifier_is_drawn_with_a_hundredth(num_classes):
    shapes = build_graph(VARIANTS["resnetv2_50"], num_classes=num_classes).parameter_shapes()
    state = initial_state(shapes, 2)
    weight = state["head.fc.weight"]
    print(f"{weight.shape}: σ = {weight.std():.5f}, mean {weight.mean():.1e}")
    assert abs(weight.std() - 0.01) < 5 * 0.01 / np.sqrt(2 * weight.size)
    assert abs(weight.mean()) < 5 * 0.01 / np.sqrt(weight.size)
    assert state["head.fc.bias"].shape == (num_classes,) and not state["head.fc.bias"].any()


def test_batch_norm_begins_as_the_identity():
    state = initial_state(build_graph(VARIANTS["resnetv2_18d"]).parameter_shapes(), 2)
    values = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    checked = 0
    for name, array in state.items():
        path, _, part = name.rpartition(".")
        if path.rpartition(".")[2].startswith("norm"):
            checked += 1
            assert (array == values[part]).all(), name
            assert array.dtype == (np.int64 if part == "num_batches_tracked" else np.float32), name
        assert not array.flags.writeable, name
    assert checked == 5 * 19                                      # stem 2, blocks 2 each, and norm
