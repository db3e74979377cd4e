"""What a user holds, on every backend: copies, heads, seeds, summaries, comparisons and errors."""
from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
import torch
from helpers import BACKENDS, random_pictures
from twins import pair, torch_run

import npresnet
from npresnet.model import ResNetV2
from npresnet.variants import find_variant, pretrained_cfg

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


# --- models ---------------------------------------------------------------------------------------

def test_pickling_copying_and_threads(backend):
    model = npresnet.create_model("demo", backend=backend)
    x = random_pictures(1, 3, 64, 64)
    want = model(x)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other(x), want)
        assert not other.state_dict()["norm.bias"].flags.writeable
    results = [None] * 4

    def work(i):
        results[i] = model(random_pictures(1, 3, 64, 64, seed=i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, got in enumerate(results):
        np.testing.assert_array_equal(got, model(random_pictures(1, 3, 64, 64, seed=i)))


def test_reset_classifier(backend):
    model, _ = pair("resnetv2_18", backend)
    x = random_pictures(1, 3, 40, 40)
    features = model.forward_features(x)
    model.reset_classifier(5, "max")
    assert model.eval() is model and model(x).shape == (1, 5) and model.num_classes == 5
    np.testing.assert_array_equal(model.forward_features(x), features)
    model.reset_classifier(0)
    np.testing.assert_array_equal(model(x), features.max((2, 3)))
    assert "head.fc.weight" not in model.state_dict()


@pytest.mark.slow
def test_seeds_and_initialisation(backend):
    a, b, c = (npresnet.create_model("resnetv2_18", seed=seed, backend=backend).state_dict()
               for seed in (0, 0, 1))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["stem.conv.weight"], c["stem.conv.weight"])
    unasked = npresnet.create_model("resnetv2_18", backend=backend).state_dict()
    assert all(np.array_equal(a[name], unasked[name]) for name in a)
    assert abs(a["head.fc.weight"].std() / 0.01 - 1) < 0.01
    weight = a["stages.3.blocks.1.conv2.weight"]                  # He, fan out: σ² = 2 / (K·R·S)
    assert abs(weight.std() * np.sqrt(512 * 9 / 2) - 1) < 0.01 and abs(weight.mean()) < 1e-4


def test_a_models_configuration_is_its_own(backend):
    variant, _ = find_variant("resnetv2_18")
    cfg = pretrained_cfg(variant, "test")
    model = ResNetV2(variant, cfg, num_classes=5, backend=backend)
    assert model.pretrained_cfg["num_classes"] == 5 and cfg["num_classes"] == 1000
    other = ResNetV2(variant, model.pretrained_cfg, num_classes=7, backend=backend)
    assert (model.pretrained_cfg["num_classes"], other.pretrained_cfg["num_classes"]) == (5, 7)


def test_repr_says_what_it_gives(backend):
    for options, gives in ((dict(), "1000 classes"), (dict(num_classes=0), "embeddings"),
                           (dict(features_only=True), "feature maps")):
        model = npresnet.create_model("resnetv2_18", backend=backend, **options)
        count = sum(a.size for n, a in model.state_dict().items()
                    if not n.endswith(("running_mean", "running_var", "num_batches_tracked")))
        assert repr(model) == (f"<npresnet.ResNetV2 resnetv2_18, {count:,} parameters, {gives}, "
                               f"backend {backend}>")


# --- summary --------------------------------------------------------------------------------------

def test_summary_has_the_model_cards_totals(backend):
    table = npresnet.create_model("resnetv2_50", backend=backend).summary()
    assert table.params == 25_549_352
    assert f"{table.macs / 1e9:.1f} {table.activations / 1e6:.1f}" == "4.1 11.1"
    assert str(table).splitlines()[-1].split()[-6:] == ["25.5", "M", "4.1", "G", "11.1", "M"]


@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50t",
                                  pytest.param("resnetv2_152d", marks=pytest.mark.slow)])
def test_summary_counts_what_pytorch_runs(name, backend):
    model, twin = pair(name, backend)
    counted = dict(macs=0, activations=0)

    def count(module, x, y):
        counted["macs"] += y[0].numel() * module.weight[0].numel()
        counted["activations"] += y[0].numel()

    for module in twin.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    torch_run(twin, random_pictures(2, 3, 75, 99))
    table = model.summary((3, 75, 99))
    assert dict(macs=table.macs, activations=table.activations) == counted
    assert table.params == sum(p.numel() for p in twin.parameters())


def test_summary_ends_with_the_last_map_that_is_put_out(backend):
    options = dict(features_only=True, out_indices=(0, 2))
    model = npresnet.create_model("demo", backend=backend, **options)
    reference = npresnet.create_model("demo", backend="numpy", **options)
    ran = reference.trace(random_pictures(1, 3, 64, 96))
    summary = model.summary((3, 64, 96))
    sums = {path for path in ran if path.startswith("stages") and path[-1].isdigit()
            and not path.rpartition(".")[2].startswith(("conv", "norm"))}
    assert [layer.path for layer in summary.layers] == [path for path in ran if path not in sums]
    assert all(layer.output == ran[layer.path].shape[1:] for layer in summary.layers)


# --- compare --------------------------------------------------------------------------------------

def test_compare_names_the_first_to_diverge(backend):
    model = npresnet.create_model("demo", backend=backend)
    x = random_pictures(1, 3, 64, 64)
    a = model.trace(x)
    state = dict(model.state_dict())
    name = "stages.1.blocks.2.conv2.weight"
    state[name] = state[name] * np.float32(1.01)
    model.load_state_dict(state)
    result = npresnet.compare(a, model.trace(x))
    fused = "norm3" if backend == "numba" else "conv2"            # conv2 isn't computed there
    assert result.first_divergence == f"stages.1.blocks.2.{fused}"
    assert 0.005 < result.max_delta and "◀ first to diverge" in str(result)
    assert json.dumps(result.as_dict(), allow_nan=False)
    assert npresnet.compare(a, a).first_divergence is None


def test_compare_by_hand(backend):
    a = {"x": np.array([1.0, -4.0, 2.0]), "y": np.array([np.nan, np.inf]), "z": np.zeros(2)}
    b = {"x": np.array([1.0, -4.0, 3.0]), "y": np.array([np.nan, np.inf]),
         "z": np.array([0.0, np.nan]), "w": np.zeros(1)}
    result = npresnet.compare(a, b, tolerance=0.3)
    x, y, z = result.layers
    assert (x.max_delta, x.mean_delta, x.scale) == (0.25, 0.25 / 3, 4.0)
    assert y.max_delta == 0 and z.max_delta == np.inf
    assert result.first_divergence == "z" and result.only_b == ("w",)
    with pytest.raises(ValueError, match="x: shapes"):
        npresnet.compare(a, {"x": np.zeros(2)})
    with pytest.raises(ValueError, match="no layer in common"):
        npresnet.compare(a, {"q": np.zeros(2)})


# --- errors ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("x, words", [
    (np.zeros((3, 32, 32), "f"), r"\(N, 3, H, W\), got \(3, 32, 32\); add the batch axis"),
    (np.zeros((1, 1, 32, 32), "f"), r"\(N, 3, H, W\), got \(1, 1, 32, 32\)"),
    (np.zeros((1, 3, 0, 32), "f"), r"got \(1, 3, 0, 32\)"),
    (np.zeros((1, 3, 32, 32)), "dtype float32, got float64"),
    (np.zeros((1, 3, 32, 32), np.uint8), "dtype float32, got uint8"),
    ([[1.0]], r"got \(1, 1\)"),
])
def test_wrong_arrays_are_named(x, words, backend):
    model = npresnet.create_model("demo", backend=backend)
    for call in (model, model.trace, model.forward_features, model.forward_intermediates):
        with pytest.raises(ValueError, match=words):
            call(x)
    with pytest.raises(ValueError, match=r"expected features of shape \(N, 512, H, W\)"):
        model.forward_head(np.zeros((1, 3, 2, 2), "f"))


def test_unknown_names_and_options_are_named(backend):
    for name, words in (("resnetv2_51", "choose one of demo, resnetv2_18"),
                        ("resnetv2_50.b2", "resnetv2_50.a1h_in1k"), ("", "unknown model")):
        with pytest.raises(ValueError, match=words):
            npresnet.create_model(name, backend=backend)
    for options, words in ((dict(output_stride=4), "output_stride"),
                           (dict(global_pool="mean"), "global_pool"),
                           (dict(in_chans=0), "in_chans"),
                           (dict(backend="tpu"), "unknown backend 'tpu'")):
        with pytest.raises(ValueError, match=words):
            npresnet.create_model("resnetv2_18", **dict(backend=backend) | options)
    assert npresnet.list_models()[0] == "demo"
    assert "resnetv2_50.a1h_in1k" in npresnet.list_models(pretrained=True)
