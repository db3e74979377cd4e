"""The whole network, layer by layer: against a PyTorch twin with the same keys, and against golden activations from timm.

The same tests run on every backend in `helpers.BACKENDS`.
"""
from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BACKENDS, LAYER_TOLERANCE, LOGITS_TOLERANCE, assert_close, random_pictures, random_state
from torch_twin import TorchResNetV2

import npresnet
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, Variant, pretrained_cfg

GOLDENS = Path(__file__).parent / "goldens"
ALL = list(VARIANTS)
PICTURES = [(1, 3, 64, 64), (3, 3, 97, 131), (1, 3, 225, 33), (2, 3, 32, 32), (1, 3, 33, 40)]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def twin_of(variant: Variant, state, **options) -> TorchResNetV2:
    """The PyTorch model with the same tensors."""
    twin = TorchResNetV2(variant.depths, basic=variant.block == "basic", stem=variant.stem, avg=variant.avg_down, width=variant.width,
                         **options).eval()
    twin.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return twin


def pair(name: str, backend: str, *, width: float = 0.125, seed: int = 0, own: dict | None = None, **options):
    """(npresnet's model, PyTorch's twin) with the same random tensors; narrow, so that tests are quick."""
    variant = dataclasses.replace(VARIANTS[name], width=width)
    options = dict(num_classes=1000) | options
    model = ResNetV2(variant, pretrained_cfg(variant, "test"), backend=backend, **options, **own or {})
    model.load_state_dict(random_state(model._shapes(), seed))
    return model, twin_of(variant, model.state_dict(), **options)


def torch_trace(twin, x) -> dict[str, np.ndarray]:
    """Every module's output, by its path."""
    layers = {}
    hooks = [m.register_forward_hook(lambda _m, _x, y, path=path: layers.__setitem__(path, y.numpy()))
             for path, m in twin.named_modules() if path]
    with torch.no_grad():
        twin(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return layers


def torch_run(function, *arrays, **options):
    with torch.no_grad():
        return function(*(torch.from_numpy(np.array(a)) for a in arrays), **options).numpy()


def assert_layers(ours, theirs, tolerance):
    """All of our layers are among theirs and within tolerance; prints the worst."""
    result = npresnet.compare(ours, theirs, tolerance)
    worst = max(result.layers, key=lambda layer: layer.max_delta)
    print(f"{len(result.layers)} layers, worst {worst.path}: Δ = {worst.max_delta:.1e}, "
          f"{100 * worst.max_delta / tolerance:.0f} % of the tolerance")
    assert not result.only_a and result.first_divergence is None, str(result)
    for path in ours:
        assert ours[path].shape == theirs[path].shape and ours[path].dtype == np.float32


@pytest.mark.parametrize("shape", PICTURES, ids=lambda s: "×".join(map(str, s)))
@pytest.mark.parametrize("name", ALL)
def test_every_layer_is_pytorchs(name, shape, backend):
    model, twin = pair(name, backend, seed=len(name))
    x = random_pictures(*shape, seed=shape[2])
    assert_layers(model.trace(x), torch_trace(twin, x), LAYER_TOLERANCE[backend])
    assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_34d"])
def test_full_width(name, backend):
    model, twin = pair(name, backend, width=1.0)
    x = random_pictures(1, 3, 97, 131)
    assert_layers(model.trace(x), torch_trace(twin, x), LAYER_TOLERANCE[backend])


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_34d", "resnetv2_50", "resnetv2_50t"])
def test_output_stride(name, output_stride, backend):
    model, twin = pair(name, backend, output_stride=output_stride)
    x = random_pictures(2, 3, 75, 66)
    assert_layers(model.trace(x), torch_trace(twin, x), LAYER_TOLERANCE[backend])
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8] + [min(r, output_stride) for r in (16, 32)]


@pytest.mark.parametrize("global_pool", ["avg", "max", "avgmax", "catavgmax", ""])
@pytest.mark.parametrize("num_classes", [0, 7])
def test_heads(global_pool, num_classes, backend):
    model, twin = pair("resnetv2_18", backend, global_pool=global_pool, num_classes=num_classes)
    x = random_pictures(2, 3, 64, 50)
    assert_close("output", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])
    features = model.forward_features(x)
    assert_close("features", features, torch_run(twin.forward_features, x), LAYER_TOLERANCE[backend])
    np.testing.assert_array_equal(model.forward_head(features), model(x))
    width = 64 * (2 if global_pool == "catavgmax" else 1)
    assert model.forward_head(features, pre_logits=True).shape == ((2, width) if global_pool else (2, 64, 2, 2))
    assert model.head_hidden_size == width and model.num_features == 64 and model.num_classes == num_classes


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channel_counts(in_chans, backend):
    model, twin = pair("resnetv2_18d", backend, in_chans=in_chans)
    x = random_pictures(1, in_chans, 40, 56)
    assert_close("logits", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


def test_feature_maps_are_raw_and_in_order(backend):
    model, twin = pair("resnetv2_50", backend)
    x = random_pictures(2, 3, 96, 64)
    theirs = torch_trace(twin, x)
    maps = [theirs[path] for path in ("stem.conv", "stages.0", "stages.1", "stages.2", "stages.3")]
    last, ours = model.forward_intermediates(x)
    for i in range(5):
        assert_close(f"map {i}", ours[i], maps[i], LAYER_TOLERANCE[backend])
    assert_close("last", last, theirs["norm"], LAYER_TOLERANCE[backend])
    assert_close("normed", model.forward_intermediates(x, norm=True)[1][4], theirs["norm"], LAYER_TOLERANCE[backend])
    assert np.shares_memory(model.forward_intermediates(x, 1, norm=True)[1][0], last) is False
    assert maps[0].min() < 0, "the first map has to be raw for this to test anything"

    for indices, wanted in ((2, [3, 4]), ([0], [0]), ([-1, 1], [1, 4]), ((1, 3), [1, 3]), ([3, 1], [1, 3]), ([-5, 0], [0])):
        got = model.forward_intermediates(x, indices, intermediates_only=True)
        assert len(got) == len(wanted)
        for have, i in zip(got, wanted):
            np.testing.assert_array_equal(have, ours[i])
        stopped, early = model.forward_intermediates(x, indices, stop_early=True)
        np.testing.assert_array_equal(early[-1], ours[wanted[-1]])
        if 0 < wanted[-1] < 4:
            np.testing.assert_array_equal(stopped, ours[wanted[-1]])
    stopped, _ = model.forward_intermediates(x, [0], stop_early=True)
    assert_close("behind the pool", stopped, theirs["stem.pool"], LAYER_TOLERANCE[backend])
    for bad in (0, 6, [5], [-6], []):
        with pytest.raises(ValueError, match="maps"):
            model.forward_intermediates(x, bad)


def test_features_only(backend):
    x = random_pictures(1, 3, 64, 64)
    full = npresnet.create_model("demo", backend=backend)
    model = npresnet.create_model("demo", features_only=True, backend=backend)
    for got, want in zip(model(x), full.forward_intermediates(x)[1], strict=True):
        np.testing.assert_array_equal(got, want)
    assert model.feature_info.channels() == [16, 64, 128, 256, 512] and model.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert model.feature_info.module_name() == ["stem.conv", *(f"stages.{i}" for i in range(4))]
    two = npresnet.create_model("demo", features_only=True, out_indices=(1, -2), backend=backend)
    assert [y.shape for y in two(x)] == [(1, 64, 16, 16), (1, 256, 4, 4)] and two.feature_info.channels() == [64, 256]
    assert list(two.trace(x))[-1] == "stages.2"
    with pytest.raises(ValueError, match="features_only=True"):
        npresnet.create_model("demo", out_indices=(1,), backend=backend)


def test_a_picture_doesnt_depend_on_its_batch(backend):
    model, _ = pair("resnetv2_18", backend)
    x = random_pictures(3, 3, 49, 63)
    together, alone = model(x), np.concatenate([model(picture[None]) for picture in x])
    if backend == "cuda":                                         # how blocks share out a sum depends on the number of pictures
        assert_close("alone", together, alone, 1e-6)
    else:
        np.testing.assert_array_equal(together, alone)
    assert model(x[:0]).shape == (0, 1000)


def test_inputs_are_left_alone_and_may_lie_anyhow(backend):
    model, _ = pair("resnetv2_18", backend)
    x = random_pictures(2, 3, 40, 48)
    want, before = model(x), x.copy()
    np.testing.assert_array_equal(x, before)
    wide = np.zeros((2, 3, 40, 96), np.float32)
    wide[..., ::2] = x
    for layout in (wide[..., ::2], np.asfortranarray(x), np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        layout.flags.writeable = False
        np.testing.assert_array_equal(model(layout), want)


def test_nan_reaches_the_logits(backend):
    model, twin = pair("resnetv2_18", backend)
    x = random_pictures(2, 3, 40, 48)
    x[1, 0, 5, 5] = np.nan
    got, want = model(x), torch_run(twin, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    assert np.isnan(got[1]).all() and not np.isnan(got[0]).any()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_tiny_pictures(size, backend):
    model, twin = pair("resnetv2_50", backend)
    x = random_pictures(1, 3, size, 1)
    assert_close(f"{size}×1", model(x), torch_run(twin, x), LOGITS_TOLERANCE[backend])


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
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    for i, got in enumerate(results):
        np.testing.assert_array_equal(got, model(random_pictures(1, 3, 64, 64, seed=i)))


def test_reset_classifier(backend):
    model, twin = pair("resnetv2_18", backend)
    x = random_pictures(1, 3, 40, 40)
    features = model.forward_features(x)
    model.reset_classifier(5, "max")
    assert model.eval() is model and model(x).shape == (1, 5) and model.num_classes == 5
    np.testing.assert_array_equal(model.forward_features(x), features)
    model.reset_classifier(0)
    np.testing.assert_array_equal(model(x), features.max((2, 3)))
    assert "head.fc.weight" not in model.state_dict()


def test_seeds_and_initialisation(backend):
    a, b, c = (npresnet.create_model("resnetv2_18", seed=seed, backend=backend).state_dict() for seed in (0, 0, 1))
    assert all(np.array_equal(a[name], b[name]) for name in a) and not np.array_equal(a["stem.conv.weight"], c["stem.conv.weight"])
    weight = a["stages.3.blocks.1.conv2.weight"]                  # He, fan out: σ² = 2 / (K·R·S)
    assert abs(weight.std() * np.sqrt(512 * 9 / 2) - 1) < 0.01 and abs(weight.mean()) < 1e-4


def test_summary_has_the_model_cards_totals(backend):
    table = npresnet.create_model("resnetv2_50", backend=backend).summary()
    assert table.params == 25_549_352 and f"{table.macs / 1e9:.1f} {table.activations / 1e6:.1f}" == "4.1 11.1"
    assert str(table).splitlines()[-1].split()[-6:] == ["25.5", "M", "4.1", "G", "11.1", "M"]


@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50t", "resnetv2_152d"])
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


def test_compare_names_the_first_to_diverge(backend):
    model = npresnet.create_model("demo", backend=backend)
    x = random_pictures(1, 3, 64, 64)
    a = model.trace(x)
    state = dict(model.state_dict())
    state["stages.1.blocks.2.conv2.weight"] = state["stages.1.blocks.2.conv2.weight"] * np.float32(1.01)
    model.load_state_dict(state)
    result = npresnet.compare(a, model.trace(x))
    assert result.first_divergence == "stages.1.blocks.2.conv2"
    assert 0.005 < result.max_delta and "◀ first to diverge" in str(result) and json.dumps(result.as_dict(), allow_nan=False)
    assert npresnet.compare(a, a).first_divergence is None


def test_compare_by_hand(backend):
    a = {"x": np.array([1.0, -4.0, 2.0]), "y": np.array([np.nan, np.inf]), "z": np.zeros(2)}
    b = {"x": np.array([1.0, -4.0, 3.0]), "y": np.array([np.nan, np.inf]), "z": np.array([0.0, np.nan]), "w": np.zeros(1)}
    result = npresnet.compare(a, b, tolerance=0.3)
    x, y, z = result.layers
    assert (x.max_delta, x.mean_delta, x.scale) == (0.25, 0.25 / 3, 4.0)
    assert y.max_delta == 0 and z.max_delta == np.inf and result.first_divergence == "z" and result.only_b == ("w",)
    with pytest.raises(ValueError, match="x: shapes"):
        npresnet.compare(a, {"x": np.zeros(2)})
    with pytest.raises(ValueError, match="no layer in common"):
        npresnet.compare(a, {"q": np.zeros(2)})


def test_unknown_names_and_options_are_named(backend):
    for name, words in (("resnetv2_51", "choose one of demo, resnetv2_18"), ("resnetv2_50.b2", "resnetv2_50.a1h_in1k"), ("", "unknown model")):
        with pytest.raises(ValueError, match=words):
            npresnet.create_model(name, backend=backend)
    for options, words in ((dict(output_stride=4), "output_stride"), (dict(global_pool="mean"), "global_pool"), (dict(in_chans=0), "in_chans"),
                           (dict(backend="tpu"), "unknown backend 'tpu'")):
        with pytest.raises(ValueError, match=words):
            npresnet.create_model("resnetv2_18", **dict(backend=backend) | options)
    assert npresnet.list_models()[0] == "demo" and "resnetv2_50.a1h_in1k" in npresnet.list_models(pretrained=True)


@pytest.mark.parametrize("name", ALL)
def test_goldens_from_timm(name, backend):
    """Sampled activations of timm itself, every layer: full width for resnetv2_50, an eighth of it for every variant."""
    golden = np.load(GOLDENS / "activations.npz")
    meta = json.loads(str(golden["meta"]))
    print(f"goldens by timm {meta['timm']}, torch {meta['torch']}")
    for width in (0.125, 1.0) if name == "resnetv2_50" else (0.125,):
        variant = dataclasses.replace(VARIANTS[name], width=width)
        model = ResNetV2(variant, pretrained_cfg(variant, "test"), num_classes=1000, backend=backend)
        model.load_state_dict(random_state(model._shapes(), meta["seed"]))
        x = random_pictures(*meta["shape"], seed=meta["seed"])
        layers = model.trace(x)
        key = f"{name}@{width}"
        assert list(layers) == sorted(golden[f"{key}/paths"].tolist(), key=list(layers).index)
        scales, samples = golden[f"{key}/scales"], golden[f"{key}/samples"]
        deltas = {}
        for i, path in enumerate(golden[f"{key}/paths"]):
            flat = layers[path].ravel()
            at = np.linspace(0, flat.size - 1, meta["samples"]).astype(np.int64)
            deltas[path] = max(np.abs(flat[at] - samples[i]).max(), abs(np.abs(flat).max() - scales[i])) / scales[i]
        worst = max(deltas, key=deltas.get)
        print(f"{key}: {len(deltas)} layers, worst {worst}: Δ = {deltas[worst]:.1e}")
        assert deltas[worst] <= LAYER_TOLERANCE[backend], worst
        assert_close(f"{key} logits", model(x), golden[f"{key}/logits"], LOGITS_TOLERANCE[backend])
