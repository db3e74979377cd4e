"""Pooling on a GPU: the stem's max pool, the average pool on a shortcut, and the global pools of the head.

A pool does almost nothing to what it reads, so its time is the memory's: every float should be read once, and together with its
neighbours. A thread has four channels of one pixel out (one load of 128 bits a pixel in), and a pixel that two windows share comes from
the cache the second time. The stem's pool is followed by a batch norm that is also needed beside it, so it writes both.

`npresnet/ops/pool.py` is the same operations to read. Axes: N pictures, H×W pixels in, P×Q pixels out, C channels, side by side.
"""
from __future__ import annotations

import numpy as np

from .backend import ALIGN, FLAT, INT, cuda, jit, load4, store4
from .norm import THREADS, finish, plus

i32, f32 = np.int32, np.float32
MEAN, MAX, MEANMAX, CATMEANMAX = 0, 1, 2, 3                       # kinds of global pool
QUADS, SLICES = 8, 16                                             # a block of a global pool: 32 channels, 16 shares of the pixels
SHARED = QUADS * SLICES * 4
LOWEST = (f32(-np.inf),) * 4
NOTHING = (f32(0),) * 4


@cuda.jit(device=True)
def larger(a, b):
    """The larger one; NaN wins, as in PyTorch."""
    return b if b > a or b != b else a


@cuda.jit(device=True)
def larger4(a, b):
    """`larger` of four floats each."""
    return larger(a[0], b[0]), larger(a[1], b[1]), larger(a[2], b[2]), larger(a[3], b[3])


@jit((FLAT,) * 5 + (INT,) * 10, THREADS)
def max_pool(x, scale, shift, y, y2, floats, h, w, channels, p, q, kernel, stride, pad, flags):
    """x (N, H, W, C) → y = the largest of kernel×kernel pixels (border −∞), y2 = max(y · scale + shift, 0): (N, P, Q, C), flat.
    floats = N·P·Q·C; flags RAW for y, NORM for y2."""
    at = i32(cuda.grid(1) * 4)
    if at < floats:
        k, pixel = i32(at % channels), i32(at // channels)
        column, row, picture = i32(pixel % q), i32(pixel // q % p), i32(pixel // (p * q))
        best = LOWEST
        for y_in in range(max(row * stride - pad, 0), min(row * stride - pad + kernel, h)):
            for x_in in range(max(column * stride - pad, 0), min(column * stride - pad + kernel, w)):
                best = larger4(best, load4(x, i32(((picture * h + y_in) * w + x_in) * channels + k)))
        finish(best, at, k, x, x, scale, shift, y, y2, flags)


@jit((FLAT, FLAT) + (INT,) * 8, THREADS)
def avg_pool(x, y, floats, h, w, channels, p, q, stride, all_count):
    """x (N, H, W, C) → the mean of 2×2 pixels: y (N, P, Q, C), flat. Windows may hang over at the right and below; what lies outside
    counts as 0 if all_count, else not. floats = N·P·Q·C."""
    at = i32(cuda.grid(1) * 4)
    if at < floats:
        k, pixel = i32(at % channels), i32(at // channels)
        column, row, picture = i32(pixel % q * stride), i32(pixel // q % p * stride), i32(pixel // (p * q))
        bottom, right = min(row + 2, h), min(column + 2, w)
        total = NOTHING
        for y_in in range(row, bottom):
            for x_in in range(column, right):
                total = plus(total, load4(x, i32(((picture * h + y_in) * w + x_in) * channels + k)))
        count = f32(4) if all_count else f32((bottom - row) * (right - column))
        store4(y, at, total[0] / count, total[1] / count, total[2] / count, total[3] / count)


@jit((FLAT, FLAT) + (INT,) * 4, (QUADS, SLICES))
def global_pool(x, y, pixels, channels, pitch, kind):
    """x (N, pixels, channels) → y (N, pitch), flat: mean, largest, half the sum of both, or one behind the other, by `kind`.

    Block (channels / 32, N) of 8×16 threads: thread (i, j) takes four channels of every 16th pixel from j on, then the first row of
    threads adds up the 16 shares, always in the same order.
    """
    sums = cuda.shared.array(SHARED, f32, ALIGN)
    bests = cuda.shared.array(SHARED, f32, ALIGN)
    quad, slice0 = i32(cuda.threadIdx.x), i32(cuda.threadIdx.y)
    k, picture = i32((cuda.blockIdx.x * QUADS + quad) * 4), i32(cuda.blockIdx.y)
    total, best = NOTHING, LOWEST
    if k < channels:
        for pixel in range(slice0, pixels, SLICES):
            v = load4(x, i32((picture * pixels + pixel) * channels + k))
            total, best = plus(total, v), larger4(best, v)
    mine = i32((slice0 * QUADS + quad) * 4)
    store4(sums, mine, total[0], total[1], total[2], total[3])
    store4(bests, mine, best[0], best[1], best[2], best[3])
    cuda.syncthreads()
    if slice0 == 0 and k < channels:
        for j in range(1, SLICES):
            theirs = i32((j * QUADS + quad) * 4)
            total, best = plus(total, load4(sums, theirs)), larger4(best, load4(bests, theirs))
        count, at = f32(pixels), i32(picture * pitch + k)
        mean = total[0] / count, total[1] / count, total[2] / count, total[3] / count
        half = f32(0.5)
        if kind == MEANMAX:
            both = plus(mean, best)
            mean = both[0] * half, both[1] * half, both[2] * half, both[3] * half
        if kind == MAX:
            mean = best
        store4(y, at, mean[0], mean[1], mean[2], mean[3])
        if kind == CATMEANMAX:
            store4(y, i32(at + channels), best[0], best[1], best[2], best[3])
