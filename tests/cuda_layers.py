"""CUDA cases: batch norm, pools and changes of layout, against NumPy."""
from __future__ import annotations

import numpy as np
from cuda_memory import Memory, ceil_div, channels_last, draw, run
from helpers import assert_close

from cuda_kernels import layout, norm, pool
from npresnet import ops


def blocks_for(size: int) -> tuple[int]:
    """The grid for a kernel whose threads each make four of `size` floats."""
    return ceil_div(size, 4 * norm.THREADS),


def channels_first(flat, shape: tuple[int, ...]) -> np.ndarray:
    """A flat device array, channels last → an array of `shape` (N, C, H, W)."""
    n, c, h, w = shape
    return flat.copy_to_host().reshape(n, h, w, c).transpose(0, 3, 1, 2)


# --- batch norm -----------------------------------------------------------------------------------

def norms():
    for pixels, channels in ((1, 4), (37, 20), (129, 8)):
        rng = np.random.default_rng(pixels)
        x, scale, shift = draw(rng, (pixels, channels), (channels,), (channels,))
        x[0, 0] = np.nan
        memory = Memory()
        y = memory.empty(pixels * channels)
        run(norm.norm_act, blocks_for(x.size), memory.put(x.ravel()), memory.put(scale),
            memory.put(shift), y, pixels * channels, channels)
        memory.check("norm_act")
        got, want = y.copy_to_host().reshape(x.shape), np.maximum(x * scale + shift, 0)
        assert_close(f"norm_act {pixels}×{channels}", got, want, 1e-6)


# --- pools ----------------------------------------------------------------------------------------

def pools():
    for n, c, h, w in ((2, 8, 7, 6), (1, 8, 4, 7), (1, 4, 1, 1), (1, 36, 5, 2)):
        x, scale, shift = draw(np.random.default_rng([n, c]), (n, c, h, w), (c,), (c,))
        x[:, 0] = -np.abs(x[:, 0]) - 1                            # a border of 0 would win here
        x[0, 1, 0, 0] = np.nan
        max_pools(x, scale, shift)
        avg_pools(x)
        global_pools(x)


def max_pools(x, scale, shift):
    """3×3 at stride 2: raw, normed, and both."""
    c, h, w = x.shape[1:]
    want = ops.max_pool2d(x, 3, 2, 1)
    normed = np.maximum(want * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1), 0)
    p, q = want.shape[2:]
    for flags in (norm.RAW, norm.NORM, norm.RAW + norm.NORM):
        memory = Memory()
        y, y2 = memory.empty(want.size), memory.empty(want.size)
        run(pool.max_pool, blocks_for(want.size), memory.put(channels_last(x)), memory.put(scale),
            memory.put(shift), y, y2, want.size, h, w, c, p, q, 3, 2, 1, flags)
        memory.check("max_pool")
        for flag, out, right in ((norm.RAW, y, want), (norm.NORM, y2, normed)):
            if flags & flag:
                assert_close(f"max_pool {x.shape}", channels_first(out, right.shape), right, 1e-6)
            else:
                assert np.isnan(out.copy_to_host()).all()


def avg_pools(x):
    """2×2: at stride 2 windows hang over, at stride 1 the zeros of the border count."""
    c, h, w = x.shape[1:]
    hanging_over = ops.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    zeros_count = ops.avg_pool2d(np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), 2, 1)
    for stride, all_count, want in ((2, 0, hanging_over), (1, 1, zeros_count)):
        p, q = want.shape[2:]
        memory = Memory()
        y = memory.empty(want.size)
        run(pool.avg_pool, blocks_for(want.size), memory.put(channels_last(x)), y,
            want.size, h, w, c, p, q, stride, all_count)
        memory.check("avg_pool")
        got = channels_first(y, want.shape)
        assert_close(f"avg_pool {x.shape} stride {stride}", got, want, 1e-6)


def global_pools(x):
    """Every kind of global pool."""
    n, c, h, w = x.shape
    for name, kind in (("avg", pool.MEAN), ("max", pool.MAX), ("avgmax", pool.MEANMAX),
                       ("catavgmax", pool.CATMEANMAX)):
        want = ops.global_pool(x, name)
        memory = Memory()
        y = memory.empty(want.size)
        run(pool.global_pool, (ceil_div(c, 4 * pool.QUADS), n), memory.put(channels_last(x)), y,
            h * w, c, want.shape[1], kind)
        memory.check("global_pool")
        got = channels_first(y, want.shape)
        assert_close(f"global_pool {x.shape} {name}", got, want, 1e-6)


# --- layouts --------------------------------------------------------------------------------------

def layouts():
    for n, c, h, w in ((2, 3, 5, 7), (1, 37, 6, 9), (3, 4, 1, 1)):
        memory = Memory()
        pitch, tiles = c + -c % 4, ceil_div(h * w, layout.SIDE)
        x, = draw(np.random.default_rng(c), (n, c, h, w))
        wide = np.full((n, c, 2 * h, w + 2), np.nan, np.float32)
        wide[:, :, ::2, 1:-1] = x
        flat = channels_last(x)
        contiguous, with_gaps = memory.put(x), memory.put(wide)[:, :, ::2, 1:w + 1]
        for there in (contiguous, with_gaps):
            for first in {0, n - 1}:
                y = memory.empty(flat.size // n * (n - first))
                run(layout.channels_last, (tiles, ceil_div(pitch, layout.SIDE), n - first),
                    there, y, pitch, first)
                wanted = flat[flat.size // n * first:]
                np.testing.assert_array_equal(y.copy_to_host(), wanted)
        back = memory.empty(x.size)
        run(layout.channels_first, (tiles, ceil_div(c, layout.SIDE), n),
            memory.put(flat), back, h * w, c, pitch)
        memory.check("layouts")
        np.testing.assert_array_equal(back.copy_to_host().reshape(x.shape), x)
