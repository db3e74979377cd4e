"""Maps of what a class rests on: exact where they can be, and laid over the right places."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import BACKENDS, LAYER_TOLERANCE, assert_close, awkward_picture, random_pictures
from PIL import Image
from test_preprocessing import CONFIGS, SIZES

import npresnet
from npresnet import data, explain
from npresnet.data import create_transform
from npresnet.explain import class_activation_map, occlusion, overlay

# --- class activation maps ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 3, 96, 70), (1, 3, 32, 33)])
def test_the_mean_of_a_map_is_the_logit_and_each_place_the_classifiers(backend, shape):
    model = npresnet.create_model("demo", backend=backend)
    x = random_pictures(*shape)
    maps = class_activation_map(model, x, range(10))
    logits = model(x)
    assert maps.shape == (shape[0], 10, -(-shape[2] // 32), -(-shape[3] // 32))
    assert_close("means", maps.mean(axis=(2, 3)), logits, 2 * LAYER_TOLERANCE[backend])
    poolless = npresnet.create_model("demo", backend=backend, global_pool="")
    assert_close("places", maps, poolless(x), 2 * LAYER_TOLERANCE[backend])
    first = class_activation_map(model, x)
    assert first.shape == (shape[0], 1, *maps.shape[2:]) and first.dtype == np.float32
    for i, k in enumerate(logits.argmax(axis=1)):
        np.testing.assert_allclose(first[i, 0], maps[i, k], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(class_activation_map(model, x, [7, 0, 7]), maps[:, [7, 0, 7]],
                               rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(class_activation_map(model, x, 3)[:, 0], maps[:, 3], rtol=1e-5,
                               atol=1e-5)


def test_a_map_by_hand():
    features = np.array([[[[1, 2], [3, 4]], [[10, 0], [0, -10]]]], np.float32)       # (1, 2, 2, 2)
    weight = np.array([[1, 0.5], [0, -1]], np.float32)[:, :, None, None]
    model = SimpleNamespace(
        features_only=False, num_classes=2, global_pool="avg", forward_features=lambda x: features,
        forward_head=lambda f: np.array([[2, 8]], np.float32),
        state_dict=lambda: {"head.fc.weight": weight, "head.fc.bias": np.array([100, 7], "f")})
    want = [[[[106, 102], [103, 99]], [[-3, 7], [7, 17]]]]
    assert class_activation_map(model, None, [0, 1]).tolist() == want
    assert class_activation_map(model, None).tolist() == [want[0][1:]]
    features = np.concatenate([features, 2 * features])           # the second is of the first class
    model.forward_head = lambda f: np.array([[2, 8], [9, 8]], np.float32)
    model.forward_features = lambda x: features
    assert class_activation_map(model, None)[:, 0, 0, 0].tolist() == [-3, 112]


@pytest.mark.parametrize("options, says", [
    (dict(global_pool="max"), "'max': its head takes the largest value"),
    (dict(global_pool="avgmax"), "use occlusion"),
    (dict(global_pool="catavgmax", num_classes=3), "use occlusion"),
    (dict(global_pool=""), "model(x) is the map already"),
    (dict(num_classes=0), "has no classifier"), (dict(features_only=True), "has no classifier")])
@pytest.mark.filterwarnings("ignore:.*randomly initialised")
def test_heads_that_have_no_map(options, says):
    model = npresnet.create_model("demo", backend="numpy", **options)
    with pytest.raises(ValueError) as caught:
        class_activation_map(model, random_pictures(1, 3, 32, 32))
    assert says in str(caught.value)
    if "use occlusion" not in says and "largest" not in says:
        with pytest.raises(ValueError, match="classifier|one score a class"):
            occlusion(model, random_pictures(1, 3, 32, 32))


@pytest.mark.parametrize("classes", [10, -1, [3, 10], [], "tench", [1.0], [[1]], True])
def test_classes_that_there_are_not(classes):
    model = npresnet.create_model("demo", backend="numpy")
    for explained in (class_activation_map, occlusion):
        with pytest.raises(ValueError, match="classes are whole numbers from 0 to 9"):
            explained(model, random_pictures(1, 3, 32, 32), classes)


def test_pictures_that_do_not_fit():
    model = npresnet.create_model("demo", backend="numpy")
    for explained in (class_activation_map, occlusion):
        with pytest.raises(ValueError, match="expected pictures of shape"):
            explained(model, np.zeros((3, 32, 32), "f"))
        assert explained(model, np.zeros((0, 3, 32, 32), "f")).shape[:2] == (0, 1)


# --- occlusion ------------------------------------------------------------------------------------


def naive_occlusion(model, x, classes, window, stride, fill, probability) -> np.ndarray:
    """Pixel by pixel: every window is centred on its place, and covers what is inside."""
    h, w = x.shape[2:]
    p, q = -(-h // stride[0]), -(-w // stride[1])
    lost = np.zeros((len(x), len(classes), p, q))
    for n in range(len(x)):
        for i in range(p):
            for j in range(q):
                covered = x[n:n + 1].copy()
                top = round((i + 0.5) * h / p - window[0] / 2)
                left = round((j + 0.5) * w / q - window[1] / 2)
                for y in range(top, top + window[0]):
                    for column in range(left, left + window[1]):
                        if 0 <= y < h and 0 <= column < w:
                            covered[0, :, y, column] = fill
                both = [model(each)[0].astype(np.float64) for each in (x[n:n + 1], covered)]
                if probability:
                    both = [np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in both]
                lost[n, :, i, j] = (both[0] - both[1])[classes]
    return lost.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("window, stride, fill, score", [
    (16, 16, 0.0, "probability"), ((20, 7), (12, 30), 0.5, "logit"),
    (11, 13, [0.1, -0.2, 0.3], "logit"), (64, 40, 0.0, "probability")])
def test_occlusion_is_the_naive_loop(window, stride, fill, score):
    model = npresnet.create_model("demo", backend="numba")
    x = random_pictures(2, 3, 40, 50)
    kept = x.copy()
    got = occlusion(model, x, [3, 0], window=window, stride=stride, fill=fill, score=score,
                    batch_size=3)
    pairs = [v if isinstance(v, tuple) else (v, v) for v in (window, stride)]
    want = naive_occlusion(model, x, [3, 0], *pairs, fill, score == "probability")
    np.testing.assert_array_equal(x, kept)
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 2e-4, np.abs(got - want).max()


def corner(x) -> np.ndarray:
    """Logits 0 and the sum of the 4×4 pixels at (8, 4)."""
    total = x[:, :, 8:12, 4:8].sum(axis=(1, 2, 3))
    return np.stack([np.zeros_like(total), total], axis=1)


class Corner(SimpleNamespace):
    """A model that looks at one place alone."""
    features_only, num_classes, global_pool = False, 2, "avg"

    def __call__(self, x):
        self.sizes = [*getattr(self, "sizes", []), len(x)]
        return corner(x)


def test_only_the_place_that_matters_is_lost():
    """16×12 pixels, windows of 4 at every 4: place (2, 1) alone."""
    model = Corner()
    x = np.ones((1, 3, 16, 12), np.float32)
    lost = occlusion(model, x, window=4, stride=4, score="logit", batch_size=5)
    want = np.zeros((1, 1, 4, 3))
    want[0, 0, 2, 1] = 48                                         # 3 · 4 · 4 ones
    assert lost.tolist() == want.tolist()
    assert model.sizes == [1, 5, 5, 2]
    filled = occlusion(model, x, [0, 1], window=4, stride=4, score="logit", fill=2)
    assert filled[0, 0].tolist() == np.zeros((4, 3)).tolist()
    assert filled[0, 1].tolist() == (-want[0, 0]).tolist()        # what is covered says more
    half = occlusion(model, x, 1, window=(4, 2), stride=(4, 2), score="logit")
    assert half[0, 0, 2].tolist() == [0, 0, 24, 24, 0, 0]
    p = occlusion(model, x / 48, 1, window=4, stride=4)
    assert p[0, 0, 2, 1] == pytest.approx(np.e / (1 + np.e) - 0.5)


def test_the_usual_window_is_a_fifth_of_the_shorter_edge():
    assert occlusion(Corner(), np.zeros((1, 3, 100, 60), "f")).shape == (1, 1, 17, 10)     # 12, 6
    assert occlusion(Corner(), np.zeros((1, 3, 13, 12), "f")).shape == (1, 1, 13, 12)      # 2, 1


@pytest.mark.parametrize("options, says", [
    (dict(window=0), "window is a number of pixels"), (dict(stride=(1, 2, 3)), "stride is a numb"),
    (dict(window=2.5), "window is"), (dict(score="p"), "unknown score 'p'"),
    (dict(batch_size=0), "batch_size must be"), (dict(fill=[1, 2]), "shape|broadcast")])
def test_bad_numbers(options, says):
    with pytest.raises(ValueError, match=says):
        occlusion(Corner(), np.zeros((1, 3, 16, 12), "f"), **options)


# --- over the photograph --------------------------------------------------------------------------


@pytest.mark.parametrize("config", [c for c in CONFIGS if c["interpolation"] != "nearest"])
def test_the_part_that_was_seen(config, monkeypatch):
    """On a picture whose pixels say where they lie, the cut shows what `seen` says."""
    cut_out = data._centre_crop
    monkeypatch.setattr(data, "_centre_crop", lambda image, h, w, _: cut_out(image, h, w, 0))
    transform = create_transform(**config)
    h, w = transform.size
    for width, height in SIZES:
        ramp = np.arange(width, dtype=np.float32) + 0.5
        across = Image.fromarray(np.broadcast_to(ramp, (height, width)).copy())
        ramp = np.arange(height, dtype=np.float32) + 0.5
        down = Image.fromarray(np.broadcast_to(ramp[:, None], (height, width)).copy())
        left, top, right, bottom = transform.seen(across)
        wants = (left + (np.arange(w) + 0.5) / w * (right - left),
                 top + (np.arange(h) + 0.5) / h * (bottom - top))
        cuts = [np.asarray(transform.crop(each)) for each in (across, down)]
        for cut, want, length in ((cuts[0][h // 2], wants[0], width),
                                  (cuts[1][:, w // 2], wants[1], height)):
            scale = abs(want[-1] - want[0]) / max(len(want) - 1, 1)           # pixels a pixel
            inner = (want > 3 * max(scale, 1)) & (want < length - 3 * max(scale, 1))
            off = np.abs(cut - want)[inner].max(initial=0)
            assert off <= 0.1 * max(scale, 1), (width, height, off)


SIMPLE = create_transform(4, crop_pct=1.0, interpolation="bicubic")


def test_over_the_photograph_by_hand():
    """8×4 pixels, of which the middle 4×4 were seen: a map of two places covers columns 2…5."""
    photo = Image.new("RGB", (8, 4), (10, 20, 30))
    assert SIMPLE.seen(photo) == (2, 0, 6, 4)
    table = explain.colours()
    got = np.asarray(overlay(photo, [[0.0, 1.0]], transform=SIMPLE, opacity=1.0))
    want = np.full((4, 8, 3), [10, 20, 30])
    # middles of places at columns 3 and 5; of pixels at 2.5, 3.5, 4.5, 5.5
    want[:, 2:6] = table[[0, round(0.25 * 255), round(0.75 * 255), 255]]
    np.testing.assert_array_equal(got, want)
    half = np.asarray(overlay(photo, [[0.0], [1.0]], opacity=0.5))
    rows = table[[0, round(0.25 * 255), round(0.75 * 255), 255]][:, None]
    wanted = np.round((np.array([10, 20, 30]) + rows) / 2)
    assert np.abs(half - wanted).max() <= 1 and half.shape == (4, 8, 3)
    np.testing.assert_array_equal(overlay(photo, [[5.0, -3.0]], opacity=0), photo)


def test_a_photograph_that_got_a_border():
    """With crop_mode="border" a 4×8 picture is seen whole, and the network saw more than it."""
    transform = create_transform(8, crop_pct=1.0, interpolation="bicubic", crop_mode="border")
    photo = Image.new("RGB", (4, 8))
    assert transform.seen(photo) == (-2, 0, 6, 8)
    got = np.asarray(overlay(photo, [[0.0, 1.0, 0.0, 1.0]], transform=transform, opacity=1.0))
    # middles of places at columns -1, 1, 3, 5; of pixels at 0.5, 1.5, 2.5, 3.5
    assert got[0].tolist() == explain.colours()[[191, 191, 64, 64]].tolist()


def test_limits():
    photo = Image.new("RGB", (2, 1))
    table = explain.colours()
    for heat, limits, places in (([[2, 4]], None, [0, 255]), ([[7, 7]], None, [0, 0]),
                                 ([[2, 4]], (0, 4), [128, 255]), ([[-2, 9]], (0, 4), [0, 255])):
        got = np.asarray(overlay(photo, heat, opacity=1.0, limits=limits))
        assert got[0].tolist() == table[places].tolist()


def test_what_the_network_saw_is_what_is_coloured():
    photo = Image.fromarray(awkward_picture(97, 61))
    transform = create_transform(32, crop_pct=0.9, interpolation="bicubic")
    heat = np.arange(6).reshape(2, 3)
    changed = (np.asarray(overlay(photo, heat, transform=transform)) != photo).any(axis=2)
    left, top, right, bottom = transform.seen(photo)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.subtract(edges, (left, top, right, bottom))).max() <= 0.5
    assert overlay(transform.crop(photo), heat).size == (32, 32)
    assert overlay(photo.convert("L"), heat).mode == "RGB"


@pytest.mark.parametrize("heat, options, says", [
    (np.zeros((1, 1, 2, 2)), {}, "take one with maps"), (np.zeros(3), {}, "one map"),
    (np.zeros((0, 2)), {}, "one map"), ([[np.nan]], {}, "finite"), ([[np.inf]], {}, "finite"),
    ([[1]], dict(opacity=1.1), "opacity"), ([[1]], dict(limits=(2, 1)), "limits"),
    ([[1]], dict(limits=(0, np.nan)), "limits"), ([[1]], dict(limits=(0, np.inf)), "limits")])
def test_bad_maps(heat, options, says):
    with pytest.raises(ValueError, match=says):
        overlay(Image.new("RGB", (4, 4)), heat, **options)


def test_lightness_grows_evenly():
    """Oklab's, from the way back: sRGB → cones → lightness."""
    srgb = explain.colours() / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055)**2.4)
    cones = linear @ np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                               [0.2119034982, 0.6806995451, 0.1073969566],
                               [0.0883024619, 0.2817188376, 0.6299787005]]).T
    lightness = np.cbrt(cones) @ [0.2104542553, 0.7936177850, -0.0040720468]
    assert np.abs(lightness - np.linspace(0.25, 0.95, 256)).max() < 0.003
    assert (np.diff(lightness) > 0).all() and explain.colours(2).shape == (2, 3)
