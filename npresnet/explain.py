"""Why the network says what it says: maps of the places in a picture that a class rests on.

`class_activation_map` takes the last feature map apart, exactly; `occlusion` covers the picture
piece by piece and looks what happens; `overlay` lays such a map over the photograph. All work on
any backend.

Axes: N pictures, C channels, H×W pixels in, K classes, P×Q places of a map.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .ops import softmax

if TYPE_CHECKING:
    from .data import EvalTransform
    from .model import ResNetV2

SCORES = ("probability", "logit")


# --- maps -----------------------------------------------------------------------------------------


def class_activation_map(model: ResNetV2, x: Any,
                         classes: int | Sequence[int] | None = None) -> np.ndarray:
    """How much each place of the last feature map says for a class: (N, K, P, Q) float32.

    x: pictures (N, C, H, W) float32, a NumPy array as the model takes it. With an output stride of
        32, P×Q is H/32×W/32, rounded up. classes: K numbers of classes, or one; by default each
        picture's own first, so K = 1.
    Place (p, q) of class k has Σ_c weight[k, c]·feature[c, p, q] + bias[k]. The mean of a map is
    exactly the class's logit, since the average pool and the linear classifier may change places:
    nothing is approximated.

    Raises ValueError on pictures that the model can't take, on classes that it hasn't, and if its
    head isn't an average pool and a classifier: the largest value (global_pool "max", "avgmax",
    "catavgmax") is no sum over places; without a pool (""), model(x) is the map already.
    Source: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", arXiv
    1512.04150, section 2; they leave out the bias, which is the same everywhere.
    """
    _check_classifier(model)
    if model.global_pool != "avg":
        why = ("model(x) is the map already" if model.global_pool == "" else
               "its head takes the largest value of a channel, which is no sum over places; "
               "use occlusion")
        raise ValueError(f"the class activation map needs global_pool='avg', this model has "
                         f"{model.global_pool!r}: {why}")
    features = np.asarray(model.forward_features(x))                      # (N, C, P, Q)
    state = model.state_dict()
    weight = state["head.fc.weight"][:, :, 0, 0]                          # (all classes, C)
    logits = np.asarray(model.forward_head(features))                     # (N, all classes)
    chosen = _choose(classes, logits)                                     # (N, K)
    n, c, p, q = features.shape
    flat = features.reshape(n, c, p * q)                                  # (N, C, P·Q)
    maps: np.ndarray = weight[chosen] @ flat                              # (N, K, P·Q)
    maps += state["head.fc.bias"][chosen][:, :, None]
    return maps.reshape(*chosen.shape, p, q)                              # (N, K, P, Q)


def occlusion(model: ResNetV2, x: Any, classes: int | Sequence[int] | None = None, *,
              window: int | tuple[int, int] | None = None,
              stride: int | tuple[int, int] | None = None, fill: float | Sequence[float] = 0.0,
              score: str = "probability", batch_size: int = 32) -> np.ndarray:
    """How much a class loses when a place of the picture is covered: (N, K, P, Q) float32.

    x: pictures (N, C, H, W) float32, a NumPy array as the model takes it. classes: K numbers of
        classes, or one; by default each picture's own first, so K = 1.
    window: height and width in pixels of what covers the picture, or one edge; by default a fifth
        of the shorter edge. stride: from one place to the next; by default half of the window.
        There are P = ⌈H / stride⌉ by Q = ⌈W / stride⌉ places, which divide the picture evenly; the
        window's middle lies over the place's (half to even), and what of it hangs over the
        picture's edge covers nothing.
    fill: what it is filled with, in the numbers that the network takes: one, or one a channel. 0 is
        the mean colour that the transform subtracts.
    score: "probability" or "logit". A map holds the score of the picture as it is, minus that of
        the covered one: large where the class rests, below 0 where the place spoke against it.
    batch_size: how many covered pictures a call of the model gets. There are N·P·Q of them.

    Raises ValueError on pictures that the model can't take, on classes that it hasn't, on a model
    without a classifier or pool, and on bad numbers.
    Source: Zeiler & Fergus 2013, "Visualizing and Understanding Convolutional Networks", arXiv
    1311.2901, section 4.2, which shows the score itself, not what it loses.
    """
    _check_classifier(model)
    if model.global_pool == "":
        raise ValueError("occlusion needs one score a class, and without a pool the model gives a "
                         "map: create it with global_pool='avg'")
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}: choose one of {', '.join(map(repr, SCORES))}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    whole = np.asarray(model(x))                                          # (N, all classes)
    chosen = _choose(classes, whole)                                      # (N, K)
    x = np.asarray(x)
    n, c, h, w = x.shape
    r, s = _pair("window", max(1, min(h, w) // 5) if window is None else window)
    down, across = _pair("stride", (max(1, r // 2), max(1, s // 2)) if stride is None else stride)
    cover = np.broadcast_to(np.asarray(fill, np.float32), (c,))[:, None, None]
    rows, columns = _windows(h, r, down), _windows(w, s, across)
    covers = [(top, left) for top in rows for left in columns]            # P·Q of them
    lost = np.empty((n, chosen.shape[1], len(covers)), np.float32)        # (N, K, P·Q)
    for i in range(n):
        before = _score(whole[i:i + 1], score)[0, chosen[i]]              # (K)
        for first in range(0, len(covers), batch_size):
            part = covers[first:first + batch_size]
            covered = np.repeat(x[i:i + 1], len(part), axis=0)            # (part, C, H, W)
            for one, (top, left) in zip(covered, part):
                one[:, top, left] = cover
            after = _score(np.asarray(model(covered)), score)[:, chosen[i]]          # (part, K)
            lost[i, :, first:first + len(part)] = (before - after).T
    return lost.reshape(*chosen.shape, len(rows), len(columns))           # (N, K, P, Q)


def _check_classifier(model: ResNetV2) -> None:
    if model.features_only or not model.num_classes:
        raise ValueError("this model has no classifier, so there is no class to explain: create it "
                         "without features_only=True and num_classes=0")


def _choose(classes: int | Sequence[int] | None, logits: np.ndarray) -> np.ndarray:
    """Numbers of classes for each picture, (N, K); by default the first of each, (N, 1)."""
    if classes is None:
        first: np.ndarray = logits.argmax(axis=1)[:, None]
        return first
    chosen = np.atleast_1d(np.asarray(classes))
    count = logits.shape[1]
    whole = chosen.ndim == 1 and chosen.dtype.kind in "iu" and chosen.size > 0
    if not whole or chosen.min() < 0 or chosen.max() >= count:
        raise ValueError(f"classes are whole numbers from 0 to {count - 1}, one or several, "
                         f"not {classes!r}")
    return np.broadcast_to(chosen, (len(logits), chosen.size))


def _score(logits: np.ndarray, score: str) -> np.ndarray:
    return softmax(logits) if score == "probability" else logits          # (N, all classes)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """(down, across) of one number for both, or of two."""
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and v > 0 for v in pair):
        raise ValueError(f"{name} is a number of pixels of at least 1, or (height, width), "
                         f"not {value!r}")
    return pair


def _windows(length: int, window: int, stride: int) -> list[slice]:
    """What the window covers at each of the ⌈length / stride⌉ places along an axis."""
    places = math.ceil(length / stride)
    starts = [round((place + 0.5) * length / places - window / 2) for place in range(places)]
    return [slice(max(start, 0), max(start + window, 0)) for start in starts]


# --- pictures -------------------------------------------------------------------------------------


def overlay(photo: Image.Image, heat: Any, *, transform: EvalTransform | None = None,
            opacity: float = 0.5, limits: tuple[float, float] | None = None) -> Image.Image:
    """A map (P, Q) over a photograph, in colours: a picture in RGB of the photograph's size.

    photo: a Pillow picture. It is the one that the map covers as a whole, `transform.crop(photo)`
        for instance; or, with `transform`, the photograph that went into it: the map then lies over
        the part that the network saw, `transform.seen(photo)`, and the rest stays as it is.
    opacity: of the colours, from 0, the photograph alone, to 1. limits: the values that get the
        first colour and the last, by default the map's smallest and largest.
    Between the middles of the map's places values are interpolated linearly, beyond the outermost
    they go on as they are.
    Raises ValueError if the map isn't two-dimensional, has no places, or holds NaN or Inf, and on
    bad limits or opacity.
    """
    heat = np.asarray(heat, np.float64)
    if heat.ndim != 2 or 0 in heat.shape or not np.isfinite(heat).all():
        raise ValueError(f"expected one map (P, Q) of finite numbers, got shape {heat.shape}"
                         + ("; take one with maps[n, k]" if heat.ndim == 4 else ""))
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity goes from 0 to 1, not {opacity}")
    low, high = (heat.min(), heat.max()) if limits is None else limits
    if not low <= high or not math.isfinite(high - low):
        raise ValueError(f"limits are the smallest value and the largest, not {limits}")
    pixels = np.asarray(photo.convert("RGB"))                             # (H, W, 3)
    box = (0, 0, photo.width, photo.height) if transform is None else transform.seen(photo)
    left, top, right, bottom = box
    rows, down = _along(photo.height, top, bottom, heat.shape[0])         # which, (rows, P)
    columns, across = _along(photo.width, left, right, heat.shape[1])     # which, (columns, Q)
    shown = np.clip((down @ heat @ across.T - low) / ((high - low) or 1), 0, 1)
    table = colours()
    coloured = table[np.round(shown * (len(table) - 1)).astype(int)]      # (rows, columns, 3)
    mixed = pixels.copy()
    part = pixels[rows, columns]
    mixed[rows, columns] = np.round(part + opacity * (coloured.astype(np.float64) - part))
    return Image.fromarray(mixed)


def _along(length: int, first: float, last: float, places: int) -> tuple[slice, np.ndarray]:
    """Along one axis of a photograph: which of its pixels lie in first…last, and how much of each
    place of a map that is stretched over first…last each of them shows, (pixels, places)."""
    middles = np.arange(length) + 0.5
    inside = np.flatnonzero((middles > first) & (middles < last))
    at = (middles[inside] - first) / (last - first) * places - 0.5        # in places of the map
    at = np.clip(at, 0, places - 1)
    shares = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(places)))   # (pixels, places)
    start, stop = (inside[0], inside[-1] + 1) if len(inside) else (0, 0)
    return slice(start, stop), shares


def colours(count: int = 256) -> np.ndarray:
    """From dark violet over red to light yellow: (count, 3) uint8, sRGB.

    The lightness that people see grows in even steps, so neither edges nor plateaus appear that
    aren't in the map, and it is right in grey, too. The path lies in Oklab (Ottosson 2020,
    https://bottosson.github.io/posts/oklab/): lightness 0.25 to 0.95, hue 290° to 465°.
    """
    t = np.linspace(0, 1, count)
    hue = np.radians(290 + 175 * t)
    chroma = 0.04 + 0.14 * np.sin(np.pi * t)
    lab = np.stack([0.25 + 0.7 * t, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    cones = lab @ [[1, 1, 1], [0.3963377774, -0.1055613458, -0.0894841775],
                   [0.2158037573, -0.0638541728, -1.2914855480]]          # cube roots of l, m, s
    linear = cones**3 @ [[4.0767416621, -1.2684380046, -0.0041960863],
                         [-3.3077115913, 2.6097574011, -0.7034186147],
                         [0.2309699292, -0.3413193965, 1.7076147010]]
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear**(1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)
