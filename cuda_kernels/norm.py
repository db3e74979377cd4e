"""Batch norm and ReLU on a GPU: by themselves, and where the network has them, in the epilogue of a convolution.

A batch norm in inference is one multiply-add a value, y = max(x · scale + shift, 0), with scale = weight / √(variance + ε) and
shift = bias − mean · scale. As a kernel of its own (`norm_act`) it reads and writes 8 bytes for that one operation: 256 channels of 56×56
pixels should take 4 µs on a GPU that moves 1,500 GB/s, and could do 50 multiply-adds for each value meanwhile. So the network doesn't
run it: `finish` does the same to numbers that are in registers anyway, with the bias and the shortcut, and it costs its writing.

`npresnet/ops/norm.py` is the same operation to read. Axes: pixels N·P·Q, K channels, the channels of a pixel side by side.
Source: Ioffe & Szegedy 2015, "Batch Normalization", arXiv 1502.03167, section 3.1 (inference).
"""
from __future__ import annotations

import numpy as np

from .backend import FLAT, INT, cuda, jit, load4, store4

i32, f32 = np.int32, np.float32
BIAS, RESIDUAL, RAW, NORM = 1, 2, 4, 8                            # flags of `finish`, added up
THREADS = 128                                                     # a block, where each thread has four channels of a pixel


@cuda.jit(device=True)
def relu(a):
    """max(a, 0), but NaN stays NaN."""
    return f32(0) if a < f32(0) else a


@cuda.jit(device=True)
def normed(a, scale, shift, k):
    """Batch norm and ReLU of four channels of a pixel, from k on."""
    s, b = load4(scale, k), load4(shift, k)
    return relu(a[0] * s[0] + b[0]), relu(a[1] * s[1] + b[1]), relu(a[2] * s[2] + b[2]), relu(a[3] * s[3] + b[3])


@cuda.jit(device=True)
def plus(a, b):
    """a + b, four floats each."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@cuda.jit(device=True)
def finish(sums, at, k, bias, residual, scale, shift, y, y2, flags):
    """The epilogue of a sum, for four channels of one pixel, from k on, that belong at y[at].

    BIAS adds bias, RESIDUAL the shortcut; RAW writes that to y, NORM writes max(that · scale + shift, 0) to y2. An array that no flag asks
    for is not touched.
    """
    if flags & BIAS:
        sums = plus(sums, load4(bias, k))
    if flags & RESIDUAL:
        sums = plus(sums, load4(residual, at))
    if flags & RAW:
        store4(y, at, sums[0], sums[1], sums[2], sums[3])
    if flags & NORM:
        n = normed(sums, scale, shift, k)
        store4(y2, at, n[0], n[1], n[2], n[3])


@jit((FLAT, FLAT, FLAT, FLAT, INT, INT), THREADS)
def norm_act(x, scale, shift, y, floats, channels):
    """x (pixels, channels) → y = max(x · scale + shift, 0), both flat; channels a multiple of 4, floats = pixels · channels.
    A thread has four channels of a pixel: a warp reads and writes 512 bytes that lie side by side."""
    at = i32(cuda.grid(1) * 4)
    if at < floats:
        n = normed(load4(x, at), scale, shift, i32(at % channels))
        store4(y, at, n[0], n[1], n[2], n[3])


@jit((FLAT,) * 7 + (INT,) * 4, THREADS)
def sum_splits(partial, bias, residual, scale, shift, y, y2, floats, channels, splits, flags):
    """partial (splits, pixels, channels) → their sum, in order, finished: what a convolution of few pixels leaves behind whose products
    were split among blocks (split-K). floats = pixels · channels."""
    at = i32(cuda.grid(1) * 4)
    if at < floats:
        sums = load4(partial, at)
        for split in range(1, splits):
            sums = plus(sums, load4(partial, i32(split * floats + at)))
        finish(sums, at, i32(at % channels), bias, residual, scale, shift, y, y2, flags)
