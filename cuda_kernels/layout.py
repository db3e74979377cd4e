"""From (N, C, H, W), which NumPy and PyTorch hold, to the channels-last order of the kernels, and back.

    (N, C, H, W) ──channels_last──▶ (N, H·W, C filled up with zeros to a multiple of 4) ──channels_first──▶ (N, C, H, W)

Either way it is a transposition, and those have a difficulty: threads side by side should read floats that lie side by side, and also
write such, but one of the two runs across. So a tile of 32×32 goes through shared memory, read by rows and written by columns; its rows
are 33 floats long, so that a column's floats lie in 32 different banks.

Source: M. Harris 2013, "An efficient matrix transpose in CUDA C/C++".
"""
from __future__ import annotations

import numpy as np

from .backend import FLAT, INT, STRIDED, cuda, jit

f32 = np.float32
SIDE, ROWS = 32, 8                                                # a block of 32×8 threads moves a tile of 32×32: four rows a thread
PITCH = SIDE + 1
AREA = SIDE * PITCH


@jit((STRIDED, FLAT, INT, INT), (SIDE, ROWS))
def channels_last(x, y, pitch, first):
    """x (…, C, H, W), however it lies, from picture `first` on → y flat (N, H·W, pitch); channels from C to pitch are 0.
    Block (pixels / 32, pitch / 32, N)."""
    tile = cuda.shared.array(AREA, f32)
    channels, h, w = x.shape[1], x.shape[2], x.shape[3]
    pixels = h * w
    column, row = cuda.threadIdx.x, cuda.threadIdx.y
    pixel0, channel0, picture = cuda.blockIdx.x * SIDE, cuda.blockIdx.y * SIDE, cuda.blockIdx.z
    for i in range(row, SIDE, ROWS):
        pixel, channel = pixel0 + column, channel0 + i
        value = f32(0)
        if pixel < pixels and channel < channels:
            value = x[first + picture, channel, pixel // w, pixel % w]
        tile[i * PITCH + column] = value
    cuda.syncthreads()
    for i in range(row, SIDE, ROWS):
        pixel, channel = pixel0 + i, channel0 + column
        if pixel < pixels and channel < pitch:
            y[(picture * pixels + pixel) * pitch + channel] = tile[column * PITCH + i]


@jit((FLAT, FLAT, INT, INT, INT), (SIDE, ROWS))
def channels_first(x, y, pixels, channels, pitch):
    """x flat (N, pixels, pitch) → y flat (N, channels, pixels). Block (pixels / 32, channels / 32, N)."""
    tile = cuda.shared.array(AREA, f32)
    column, row = cuda.threadIdx.x, cuda.threadIdx.y
    pixel0, channel0, picture = cuda.blockIdx.x * SIDE, cuda.blockIdx.y * SIDE, cuda.blockIdx.z
    for i in range(row, SIDE, ROWS):
        pixel, channel = pixel0 + i, channel0 + column
        if pixel < pixels and channel < channels:
            tile[i * PITCH + column] = x[(picture * pixels + pixel) * pitch + channel]
    cuda.syncthreads()
    for i in range(row, SIDE, ROWS):
        pixel, channel = pixel0 + column, channel0 + i
        if pixel < pixels and channel < channels:
            y[(picture * channels + channel) * pixels + pixel] = tile[column * PITCH + i]
