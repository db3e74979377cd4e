"""Of each question of the course: wrong answers that students give.

Those that a hint of its own is for come with a word of that hint.
"""
from __future__ import annotations

import numpy as np
from questions.chapter_2 import _weighted_row
from questions.chapter_6 import damage, post_activation
from questions.chapter_8 import _least
from questions.chapter_11 import threshold

import npresnet
from npresnet import ops


def changed(**shifts):
    """A planted bug: parts of stages.1.blocks.2 (`norm3__bias`), their first number shifted."""
    def plant(params):
        new = dict(params)
        for part, shift in shifts.items():
            name = "stages.1.blocks.2." + part.replace("__", ".")
            new[name] = params[name].copy()
            new[name].flat[0] += np.float32(shift)
        return new
    return plant


def in_place(params):
    """A planted bug that doesn't copy what it changes."""
    params["stages.1.blocks.2.norm3.bias"][0] += 0.1
    return params


SMALL = (np.arange(30) ** 2 % 11).reshape(5, 6).astype(np.float32)
BLUR = np.full((1, 1, 5, 5), 1 / 25, np.float32)


def blurred(**pad) -> np.ndarray:
    return ops.conv2d(np.pad(SMALL, 2, **pad)[None, None], BLUR)[0, 0]


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def head_slopes(factor=1.0, spread=None, smooth=True):
    """An answer to 8e. spread: which share each other name gets of the smoothing; 1/K is right."""
    def gradient(weight, bias, x, labels, smoothing):
        k, right = len(weight), np.eye(len(weight))[labels]
        smoothing = smoothing if smooth else 0
        t = right * (1 - smoothing) + smoothing / k
        if spread is not None:
            t = right * (1 - smoothing) + (1 - right) * smoothing * spread
        d = factor * (npresnet.softmax(x @ weight.T + bias) - t) / len(x)
        return d.T @ x, d.sum(axis=0)
    return gradient


WRONG: dict[str, list] = {
    "12a": [(83, "two operations"), (664, "four bytes"), (159, "border"), (288, "weights"), 500, 0,
            "166 FLOP"],
    "12b": ["a", "b", "memory"], "12c": ["a", "b", 2], "12e": ["a", "c", ""],
    "12d": [(10.9, "two operations"), (24.2, "1×1"), (87.5, "four bytes"), (20.7, "border"),
            (204.8, "weights"), 140],
    "13a": [(36, "direct"), (4, "whole rows"), (8, "add up"), (24, "within"), 12],
    "13b": [(409600, "moved"), (819200, "two"), (1228800, "again"), (1.6384, "megabytes"),
            102400, 204800],
    "13c": [(460800, "six"), (102400, "More"), (230400, "crowded"), (204800, "both"),
            (1228800, "bytes"), 153600],
    "13d": [([0, 1, 1, 4], "Five"), ([0, 1, 1, 4, 0], "sees"), ([1, 1, 1, 4, 1], "0²"),
            ([0, 1, -1, 2, 0], "y₁"), ([0, 1, -1, 2, 1], "powers"), ([0, 1, -1, 8, 1], "many"),
            [0, 1, -1, 4, 1]],
    "13e": [(400, "Four"), ([0, 100, 0, 150], "overlap"), ([-100, 0, 0, 200], "below"),
            ([400, 0, 2, 0], "overlap"), ([400, 0, 250, 0], "end"), ([0, 100, 300, 0], "end"),
            ([0, 0, 0, 0], "overlap"), ([450, 0, 250, 0], "less")],
    "13f": [(921600, "parts"), (589824, "cover"), (3686400, "direct"), (221184, "row"),
            (1638400, "F(2×2)"), (324, "pair"), 36],
    "10a": [((2**24 + 4, 2**24 + 4), "real numbers"), ((2**24, 2**24), "each other"),
            ((2**24 + 4, 2**24), "other way"), ((2**24, 2**24 + 4, 0), "Two"), 2**24],
    "10b": [((0.01, 1.0), "Three"), ((0.01, 1e-4, 1e-4), "second output"),
            ((0.01, 1.0, 1.0), "largest number"), ((0.001, 1.0, 1e-4), "larger"),
            ((0.01, 0.5, 1e-4), "was b's"),
            [1, 0.01, 1e-4]],
    "10c": [("conv1", "list"), (["conv1", "conv2"], "third"), (["norm2", "norm3"], "own output"),
            (["norm1", "norm2", "norm3"], "Whose"), (["conv1", "conv2", "norm3"], "conv3 read"),
            (["conv1", "conv2", "conv3", "block"], "next block"), ["conv3"], ["conv1", "block"]],
    "10d": [(0.2, "Both"), (0.3, "share"), (0.6, "lead"), (1 / 9, "as well"), 0.8],
    "10e": [("stem.pool", "Two things"), (("norm1", "d"), "no layer"),
            (("stem.conv", "j"), "rounding"), (("stages.0.blocks.0.norm1", "b"), "earlier"),
            (("stem.pool", "h"), "where on the map"), (("stem.pool", "pool"), "letter"),
            (("stem.pool", "k"), "ends")],
    "10f": [(("stages.1.blocks.1.conv2", "f"), "fifth digit"),
            (("stages.1.blocks.1.norm3", "e"), "earlier")],
    "10g": [(("stages.2.blocks.1.norm1", "a"), "clipped"),
            (("stages.2.blocks.1.norm1", "c"), "Which sign"),
            (("stages.2.blocks.0", "b"), "rounding")],
    "10h": [(("stages.2.blocks.0.downsample.conv", "h"), "padding"),
            (("stages.2.blocks.0.downsample.conv", "g"), "weights are"),
            (("stages.2.blocks.0", "i"), "earlier")],
    "10i": [(("stages.3.blocks.1.conv2", "f"), "which sign"), (("norm", "g"), "earlier")],
    "10j": [(3, "list"), ([1, 3, 5], "logits"), ([5], "more"), ([1, 2, 4], "fail"), [1, 2],
            [3, 3, 5], []],
    "10k": [({}, "called"), (lambda params: params, "Nothing"), (in_place, "Copy"),
            (lambda params: {"head.fc.bias": params["head.fc.bias"]}, "missing"),
            (changed(conv3__weight=0.1), "Another"),
            (changed(norm3__bias=0.1, norm3__weight=0.1), "More"),
            (changed(norm3__bias=1e-6), "show"), (changed(norm3__bias=50), "smaller"),
            lambda params: {}],
    "10l": [([1e-4], "One number"), (1e-7, "innocent"), (0.01, "bug"), 1.0, 0],
    "10m": [(1e-5, "should be"), (0.0316, "root"), ("b", "measured"), 0.1],
    "11a": [([6, -3, 3], "bias is missing"), (np.array([6.5, -2.5, 3.5]) - 1 / 3, "whole bias"),
            (np.array([6.5, -2.5, 3.5]) / 3, "divide"), (2.5, "Three"),
            ([6.5, 3.5, 3.5], "negative"), ([2.5, 3.5, 1.5], "weight"), [-6.5, 2.5, 3.5]],
    "11b": [(1, "square it stands for"), (9, "box"), (13, "side by side"), 0, 427, 160, 24],
    "11c": [("a", "scale"), ("c", "stretching"), "d"],
    "11d": [(-1, "ReLU"), (1, "largest"), 0.5],
    "11e": [("a", "targets"), ("b", "honest"), 55],
    "11f": [((1, 0), "row"), ((1, 1), "standardised"), ((4, 2), "direction"), ((1, 2), "from 0"),
            (1, "unravel_index"), ((4, 4),), [0, 1, 0]],
    "11g": [(0.0775, "by its pictures"), (0.065, "cancel"), (16, "Divide"), (8, "percent"), 0.1],
    "11h": [(threshold()[0], "share reaches"), (threshold()[2], "of all"),
            (threshold()[1] * threshold()[2], "Wrong ones"), (1000 * threshold()[1], "number of"),
            (100 * threshold()[1], "percent"), 0.5],
    "1a": [((160, 160),), ((160, 160, 3), "axis"), ((1, 3, 160, 160), "batch"),
           ((251, 320, 3), "configuration"), ((3, 251, 320), "configuration")],
    "1c": [0.7, (0, "positive"), (100, "percent"), (0.1, "ten")],
    "1b": [("a", "sum"), ("c", "factor"), "d"],
    "1d": [("a", "knows"), ("c", "range"), "d"],
    "1e": [("a", "another name"), "c"],
    "1f": [([("tench", 0.73)], "function"), (lambda picture: [("tench", 0.7)], "Five"),
           (lambda picture: [("tench", 73)] * 5, "given"),
           (lambda picture: [("tench", np.mean(npresnet.load_image(picture)))] * 5, "between 0"),
           (lambda picture: [(0.7, "tench")] * 5, "as text"),
           (lambda picture: [("tench", np.mean(npresnet.load_image(picture)) / 1e5 + i / 10)
                             for i in range(5)], "largest"),
           lambda picture: [("tench", np.mean(npresnet.load_image(picture)) / 1e5)] * 5],
    "1g": [(["mirrored", "without colour", "a little closer"], "keep"), ("quarter turn", "list"),
           ["quarter turn", "mirrored"], []],
    "1h": [("a", "among"), ("b", "alike"), "d"],
    "6a": [(1, "out"), (0.1 ** 30, "shortcuts"), (-(0.1 ** 30), "shortcuts"), (0.99, "pair"),
           (1.1 ** 30, "below 1"), 1.5, 0.5],
    "6b": [(16, "all"), (4, "others"), (13, "Stage 0"), 50, 15],
    "6c": [("stages.0.blocks.0", "terms"), ("stages.0.blocks.0.conv2", "branch"),
           ("norm1", "branch"), ("stages.1.blocks.0.downsample.conv", "first"), "stem.pool", 0],
    "6d": [("stages.0.blocks.0", "leaves it alone"), ("stages.0.blocks.0.conv3", "leaves it alone"),
           ("stages.0.blocks.1.norm1", "meet"), ("stages.0.blocks.1.conv3", "meet"),
           ("stages.1.blocks.1", "earlier"), "head.fc", 1],
    "6e": [(7, "together"), (25, "variance"), (1, "whenever"), 3.5, 12],
    "6f": [([2, -1, 4], "v2"), ([2, 0, 4], "gave"), (5, "Three"), [1, 0, 5]],
    "6g": [(np.zeros(12), "function"), (lambda x: np.ones(16), "shape"),
           (lambda x: np.ones(12)[12], "fails"),
           (lambda x: 0.3, "Twelve"), (lambda x: damage(x, relative=False), "these logits"),
           (lambda x: damage(x)[::-1], "trace")],
    "6h": [(post_activation("nowhere"), "negative"),
           (post_activation("before the sum")[0], "belongs"), (post_activation("both"), "too many"),
           (np.zeros((1, 4, 1, 1)), "padding"), np.zeros((1, 4, 3, 3))],
    "7a": [4, (10, "missing"), (20, "stem"), (40, "Stages"), (7, "smaller")],
    "7b": [1, (2, "blocks"), (0, "pixels")],
    "7c": [((3.5, 3.5),), ((2, 2), "inputs"), ((4, 4), "estimate"), ((4, 3.8), "decimals"),
           ((3.79, 3.97), "first")],
    "7d": ["head.fc", ("stages.3.blocks.0.conv2", "stops"), ("stem", "path")],
    "7e": [7, (49, "kernel"), (1600, "pool"), (80, "axis")],
    "2a": [((3000, 4000, 3), "quarter turn"), ((4000, 3000), "channels"), [3, 4000, 3000]],
    "2b": [(45, "even"), (44.5, "whole"), (89, "left over"), (138, "resized"), 0, 46],
    "2c": [("a", "antialiasing"), ("C", "centres"), ("grey", "letter")],
    "2d": [([-4.5, 96, 246], "centres"), ([0, 150], "Three"), (_weighted_row(1), "stretched"),
           (_weighted_row(2, share=False), "border"), (_weighted_row(2, shift=0.5), "i + ½"),
           (2 * _weighted_row(2, share=False), "isn't 1"), (_weighted_row(2).clip(0), "clip"),
           (np.round(_weighted_row(2)).clip(0, 255), "round")],
    "2e": [((10, 0), "surer"), ((2, 4), "other way"), (4, "picture by picture"), ([4], "Two")],
    "2f": [(np.arange(256.0), "dtype"), (np.arange(255, dtype=np.uint8), "256"),
           (np.maximum(np.arange(256), 1).astype(np.uint8) - np.uint8(1), "astype"),
           (np.zeros(256, np.uint8), "reverse")],
    "3a": [(4, "signs"), (0, "falls"), 10, -10],
    "3b": [(9, "zeros"), (6, "edge"), 5, 3],
    "3c": [(5, "unfinished"), (4.5, "last"), (3, "both sides"), (8, "stride 1")],
    "3d": [(np.zeros(3), "3×3"), (np.ones((3, 3)), "add up"), (SOBEL, "transpose"),
           (SOBEL.T, "transpose"), (-SOBEL - SOBEL.T, "smaller"), (np.zeros((3, 3)), "smaller"),
           np.eye(3)],
    "3e": [(blurred(), "zeros"), (blurred(mode="symmetric"), "twice"),
           (blurred(mode="edge"), "behind"), (blurred()[1:-1], "as large"), SMALL,
           (blurred(mode="reflect")[None, None], "batch"),
           (25 * blurred(mode="reflect"), "1/25")],
    "4a": [((2, 4, 4), "Four"), ((2, 12, 4, 3), "apart"), ((2, 3, 4, 3), "counts maps"),
           ((2, 4, 3, 4), "Height"), ((2, 4, 7, 6), "stride 1"), [2, 4, 3, 2], [2, 4, 4, 4]],
    "4b": [(9, "stops see"), (1, "corner"), (2, "rim"), 3, 16],
    "4c": [(0, "normalised"), (3, "white"), -1],
    "4d": [(np.arange(16), "4×4"), (np.arange(1, 17).reshape(4, 4), "overwritten"),
           np.ones((4, 4)), np.arange(1, 17).reshape(4, 4) * 4],
    "4e": [(115605504, "Three"), ([2 * 115605504, 1392640, 3612672], "not two"),
           ([903168, 1392640, 3612672], "input channels"),
           ([115605504, 348160, 3612672], "float32"), ([115605504, 1392640, 903168], "columns"),
           ([115605504, 802816, 3612672], "weights count"),
           ([115605504, 991232, 3612672], "output both"),
           ([115605504, 1392640, 28224], "all input"), [115605504, 1392640, 401408]],
    "5a": [(1.2, "one layer"), (24, "added"), (9.6 ** 20, "root"), 0.15 ** 20, 20],
    "5b": [((8, 4, 1, 1), "round"), ((8, 4), "round"), ((4, 32, 1, 1), "between"), [4, 8, 3, 3], 4],
    "5c": [(49, "all"), (48, "norm1"), (33, "last"), (16, "More"), 17, 0, "thirty-two"],
    "5d": [("conv1", "compared"), ("norm1", "Is norm1"), ("norm3", "earlier"), "stem.conv", 2],
    "5e": [([-1, 3, 3.5], "missing"), ([-0.5, 1, 5.5], "through"), (-0.5, "Three"),
           ([-0.25, -3, 1.5], "square"), [1, 2, 3]],
    "5f": [(0, "added"), 0.7, 1.5, "nan"],
    "5g": [("a", "divided"), ("c", "first"), (0.25, "first"), ("inf", "divided"),
           (np.nan, "text"), "d"],
    "5h": [(150_000, "root"), (316.2278, "weight"), 1.5, 0],
    "8a": [(0.1, "share p"), (-2.3026, "negative"), (1, "base 10"), (3.3219, "base 2"),
           (10, "1/p"), (0.10536, "nine wrong"), 0.9],
    "8b": [(-0.3, "uphill"), (0.8, "moves"), (8.5, "whole slope"), (1.5, "bottom"), 0.5],
    "8c": [("a", "other kernels"), ("c", "slope"), "d"],
    "8d": [("a", "guessing"), ("b", "pixels"), 100],
    "8e": [(np.zeros((10, 512)), "function"), (lambda *given: head_slopes()(*given)[0], "Two"),
           (lambda *given: head_slopes()(*given)[::-1], "shapes"), (head_slopes(-1), "sign"),
           (head_slopes(7), "mean"), (head_slopes(smooth=False), "without smoothing"),
           (head_slopes(spread=1 / 3), "as well"), (head_slopes(spread=1 / 4), "sum to 1"),
           (lambda *given: (head_slopes()(*given)[0], head_slopes(2)(*given)[1]), "bias"),
           (lambda *given: head_slopes(spread=1 / 9)(*given[:-1], 0.09), "ten classes"),
           (head_slopes(2), "p − t")],
    "8f": [(0.2, "Two numbers"), ((0.1, -1.375), "one step"), ((0.4, -1.375), "2 in it"),
           ((0.25, -1.375), "which number"), ((0.2, -3.375), "bottom"), ((0.2, 44.875), "uphill"),
           ((0.2, 1), "with 0.25"), ((0.2, 5.375), "side"), ((0.2, 3.5), "three steps"),
           ((-1.375, 0.2),)],
    "8g": [(0, "cost"), (0.500288, "ten classes"), (_least(1000)[0], "right name's part"),
           (_least(1000, spared=True).sum(), "every name"), (-_least(1000).sum(), "negative"),
           (_least(1000).sum() / np.log(2), "base"), (1.01, "three decimals"),
           (_least(1000)[:2].sum(), "how many"), (46.0915, "sum to 1"), (0.10525, "share t"),
           0.9],
    "9a": [(2986780, "start of the data"), (2986780 + 28928, "itself"), (2991484 + 28936, "ends"),
           28936, 0],
    "9b": [(2048, "infinity"), (1023, "sign"), (1, "Many"), (1024, "Which fraction"), 65536],
    "9c": [(257, "9 binary"), (258, "last stored bit"), 255, "256.5"],
    "9d": [(2**23, "in front"), (2**24 - 1, "One more"), (2**25, "4 apart"),
           (np.finfo(np.float32).max, "largest"), 2**32],
    "9e": [(("exponent", 16), "other way"), (("fraction", 1 / 16), "ten bits"),
           (("sign", -1), "ten bits"), ("exponent", "Two things"), (1 / 16, "Two things"),
           (("exponent", 1 / 4), "formula"), (("exponent", 4), "formula"),
           (("exponent", 2), "number 10"), (("exponent", 1 / 2), "number 10"),
           (("exponent", 2**12),)],
    "9f": [(0, "Nothing moved"), 1.0, 1e-7],
}
