"""CUDA cases: every rung of the convolution's ladder of kernels, against NumPy."""
from __future__ import annotations

from math import prod

import numpy as np
from cuda_memory import Memory, ceil_div, channels_last, draw, run
from helpers import assert_close

from cuda_kernels import conv2d as ladder
from cuda_kernels import norm
from npresnet import ops

TOLERANCE = 1e-5

# n, c, h, w, k, kernel, stride, padding, dilation
GEOMETRIES = [
    (1, 3, 5, 7, 5, 3, 1, 1, 1), (2, 8, 6, 5, 12, 1, 1, 0, 1), (1, 5, 9, 4, 70, 3, 2, 1, 1),
    (1, 12, 6, 7, 9, 3, 1, 2, 2), (1, 2, 8, 7, 8, 7, 2, 3, 1), (2, 9, 7, 6, 4, 1, 2, 0, 1),
    (1, 4, 1, 1, 68, 1, 1, 0, 1),
]


def problem(geometry):
    """A geometry's x, weight and bias, and its output without the bias."""
    n, c, h, w, k, r, stride, pad, dilation = geometry
    rng = np.random.default_rng(geometry)
    x, weight, bias = draw(rng, (n, c, h, w), (k, c, r, r), (k,))
    weight /= np.float32(np.sqrt(c * r * r))
    return x, weight, bias, ops.conv2d(x, weight, None, stride, pad, dilation)


def per_channel(vector):
    """(K,) → (K, 1, 1), to go with (N, K, P, Q)."""
    return vector.reshape(-1, 1, 1)


# --- the rungs to learn from ----------------------------------------------------------------------

def naive():
    for geometry in GEOMETRIES:
        x, weight, bias, want = problem(geometry)
        n, k, p, q = want.shape
        memory = Memory()
        y = memory.empty(n, k, p, q)
        block = 4, 4, 1                                           # small: fewer threads to simulate
        grid = ceil_div(q, 4), ceil_div(p, 4), n * k
        ladder.naive[grid, block](memory.put(x), memory.put(weight), memory.put(bias), y,
                                  *map(np.int32, geometry[6:]))
        memory.check(f"naive {geometry}")
        assert_close(f"naive {geometry}", y.copy_to_host(), want + per_channel(bias), TOLERANCE)


def im2col():
    for geometry in GEOMETRIES:
        x, weight, bias, want = problem(geometry)
        r = geometry[5]
        n, k, p, q = want.shape
        pixels, products = n * p * q, prod(weight.shape[1:])
        memory = Memory()
        columns, y = memory.empty(products, pixels), memory.empty(k, pixels)
        run(ladder.im2col, (ceil_div(pixels, 32), ceil_div(products, 8)),
            memory.put(x), columns, r, r, p, q, *geometry[6:])
        run(ladder.tiled_gemm, (ceil_div(pixels, ladder.SIDE), ceil_div(k, ladder.SIDE)),
            memory.put(weight.reshape(k, -1)), columns, memory.put(bias), y)
        memory.check(f"im2col {geometry}")
        got = y.copy_to_host().reshape(k, n, p, q).transpose(1, 0, 2, 3)
        assert_close(f"im2col {geometry}", got, want + per_channel(bias), TOLERANCE)


def implicit():
    for geometry in GEOMETRIES:
        x, weight, bias, want = problem(geometry)
        r = geometry[5]
        n, k, p, q = want.shape
        memory = Memory()
        y = memory.empty(n, k, p * q)
        grid = ceil_div(n * p * q, ladder.TILE), ceil_div(k, ladder.TILE)
        run(ladder.implicit_gemm, grid, memory.put(x), memory.put(weight.reshape(k, -1)),
            memory.put(bias), y, r * r, r, p, q, *geometry[6:])
        memory.check(f"implicit {geometry}")
        got = y.copy_to_host().reshape(want.shape)
        assert_close(f"implicit {geometry}", got, want + per_channel(bias), TOLERANCE)


# --- the rung that the network runs ---------------------------------------------------------------

def rung_4(geometry, flags, tile=(64, 64), splits=1):
    """One convolution, and behind its sum what `flags` ask for.

    The sum's products are split among at most `splits` blocks (split-K).
    """
    n, c, h, w, k, r, stride, pad, dilation = geometry
    x, weight, bias, want = problem(geometry)
    p, q = want.shape[2:]
    pixels, wide, deep = n * p * q, k + -k % 4, c + -c % 4
    rng = np.random.default_rng([7, *geometry])
    residual, scale, shift = draw(rng, want.shape, (wide,), (wide,))
    kernels = ladder.form(c, r, r, pad, dilation)
    kernel = kernels[tile]
    steps = ladder.count_steps(kernels, c, r, r)
    share = ceil_div(steps, splits)
    splits = ceil_div(steps, share)

    memory = Memory()
    vectors = [np.pad(vector, (0, wide - len(vector))) for vector in (bias, scale, shift)]
    bias_there, scale_there, shift_there = (memory.put(vector) for vector in vectors)
    behind = bias_there, memory.put(channels_last(residual)), scale_there, shift_there
    y, y2, nothing = memory.empty(pixels * wide), memory.empty(pixels * wide), memory.empty(4)
    packed = ladder.pack_weight(weight, kernels is ladder.ROWS)
    inputs = memory.put(channels_last(x)), memory.put(packed)
    sizes = pixels, h, w, deep, wide, p, q, r, r, stride, pad, dilation, share
    grid = ceil_div(pixels, tile[0]), ceil_div(wide, tile[1]), splits
    if splits == 1:
        run(kernel, grid, *inputs, *behind, y, y2, *sizes, flags)
    else:
        partial = memory.empty(splits * pixels * wide)
        run(kernel, grid, *inputs, nothing, nothing, nothing, nothing, partial, nothing, *sizes,
            norm.RAW)
        run(norm.sum_splits, (ceil_div(pixels * wide, 4 * norm.THREADS),),
            partial, *behind, y, y2, pixels * wide, wide, splits, flags)
    what = f"{kernel.name} {geometry} flags {flags} splits {splits}"
    memory.check(what)

    if flags & norm.BIAS:
        want = want + per_channel(bias)
    if flags & norm.RESIDUAL:
        want = want + residual
    normed = np.maximum(want * per_channel(scale[:k]) + per_channel(shift[:k]), 0)
    for flag, out, right in ((norm.RAW, y, want), (norm.NORM, y2, normed)):
        got = out.copy_to_host()
        if flags & flag:
            got = got.reshape(n, p, q, wide)[..., :k].transpose(0, 3, 1, 2)
            assert_close(what, got, right, TOLERANCE)
        else:
            assert np.isnan(got).all(), f"{what}: an output was written that nobody asked for"


def network_rung():
    B, S, R, N = norm.BIAS, norm.RESIDUAL, norm.RAW, norm.NORM
    rung_4(GEOMETRIES[0], B + R)
    rung_4(GEOMETRIES[0], N, (128, 64))
    rung_4(GEOMETRIES[1], S + R + N, (128, 64))
    rung_4(GEOMETRIES[2], B + S + R + N)
    rung_4(GEOMETRIES[3], N)
    rung_4(GEOMETRIES[4], R, (128, 64))
    rung_4(GEOMETRIES[5], B + N)
    rung_4(GEOMETRIES[6], R)
    rung_4((1, 4, 12, 11, 8, 3, 1, 1, 1), R, (128, 64))
    rung_4((5, 8, 3, 3, 4, 3, 1, 1, 1), R)                        # top rows are second pixels
    rung_4((1, 8, 17, 15, 8, 3, 2, 1, 1), R)                      # and with a stride
    rung_4((1, 8, 3, 3, 36, 1, 1, 0, 1), B + R)                   # channels end in the second half
    rung_4((1, 8, 4, 3, 8, 1, 1, 1, 1), R)                        # 1×1 with a border


def split_k():
    B, S, R, N = norm.BIAS, norm.RESIDUAL, norm.RAW, norm.NORM
    rung_4((1, 24, 3, 5, 68, 3, 1, 1, 1), S + R + N, (64, 64), 5)
    rung_4((2, 20, 3, 3, 8, 3, 2, 1, 1), N, (128, 64), 2)
    rung_4((1, 72, 1, 2, 12, 1, 1, 0, 1), B + R, (64, 64), 9)
    rung_4((1, 3, 9, 8, 8, 7, 2, 3, 1), R, (64, 64), 3)
    rung_4((1, 16, 5, 4, 8, 3, 1, 2, 2), R, (128, 64), 4)
    rung_4((1, 12, 5, 9, 8, 1, 1, 0, 1), R, (64, 64), 2)


def fuzz(seed, count):
    """Convolutions that nobody has chosen."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        r = int(rng.choice([1, 1, 2, 3, 3, 5, 7]))
        stride, dilation = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        pad = int(rng.integers(0, r * dilation // 2 + 1))
        n, c, k = int(rng.integers(1, 4)), int(rng.integers(1, 30)), int(rng.integers(1, 90))
        least = dilation * (r - 1) + 1
        h, w = (int(rng.integers(max(1, least - 2 * pad), least + 9)) for _ in range(2))
        flags = int(rng.integers(1, 16)) | norm.RAW
        splits = int(rng.integers(1, 6))
        geometry = n, c, h, w, k, r, stride, pad, dilation
        rung_4(geometry, flags, ladder.TILES[i % 2], splits)
