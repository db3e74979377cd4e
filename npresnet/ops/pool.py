"""Pooling in plain NumPy: the reference forms, written to be read, and the textbook loops to check them against.

A pool of R×S pixels is R·S shifted copies of the picture laid over each other: take their maximum, or their sum divided by how
many of them were real. Padding is −∞ for the maximum, so that a border pixel never wins. (ResNetV2 pools raw, possibly negative
convolution outputs in its stem: padding with 0 there would be wrong.)

Axes: N pictures, C channels, H×W pixels in, R×S kernel, P×Q pixels out.
Source: `torch.nn.functional.max_pool2d`, `avg_pool2d` and their rules for `ceil_mode` and `count_include_pad`.
"""
from __future__ import annotations

import numpy as np

from .conv import Pair, output_size, pad2d, pair


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """Stops along one axis; with `ceil_mode` the last one may hang over the edge, if it starts inside the padded picture."""
    if padding > kernel // 2:
        raise ValueError(f"padding {padding} is more than half of the kernel {kernel}")
    if not ceil_mode:
        return output_size(size, kernel, stride, padding, dilation)
    reach = dilation * (kernel - 1) + 1
    out = -(-(size + 2 * padding - reach) // stride) + 1                                  # rounded up
    return out - 1 if (out - 1) * stride >= size + padding else out


def _overlay(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], out: tuple[int, int],
             combine: np.ufunc) -> np.ndarray:
    """The R·S shifted pictures of padded x (N, C, H, W), combined one after the other: (N, C, P, Q)."""
    (p, q), y = out, None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            shifted = x[:, :, top:top + (p - 1) * stride[0] + 1:stride[0], left:left + (q - 1) * stride[1] + 1:stride[1]]
            y = shifted.copy() if y is None else combine(y, shifted, out=y)               # (N, C, P, Q)
    return y


def _geometry(x, kernel, stride, padding, dilation, ceil_mode):
    """(P, Q), and the border (top, bottom, left, right) that lets every stop find its pixels."""
    if x.ndim != 4:
        raise ValueError(f"expected x of shape (N, C, H, W), got {x.shape}")
    out, border = [], []
    for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation):
        stops = pooled_size(size, k, s, p, d, ceil_mode)
        if stops < 1:
            raise ValueError(f"a pool of {k} pixels doesn't fit into {size} + 2·{p} padded pixels")
        out.append(stops)
        border += [p, max((stops - 1) * s + d * (k - 1) + 1 - size - p, 0)]
    return tuple(out), border


def max_pool2d(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1,
               ceil_mode: bool = False) -> np.ndarray:
    """The largest pixel under the kernel at every stop: (N, C, H, W) → (N, C, P, Q), of x's dtype; NaN wins, as in PyTorch.

    stride defaults to the kernel. Raises ValueError if the kernel doesn't fit or the padding is over half of it.
    """
    kernel, padding, dilation = pair(kernel), pair(padding), pair(dilation)
    stride = kernel if stride is None else pair(stride)
    out, border = _geometry(x, kernel, stride, padding, dilation, ceil_mode)
    return _overlay(pad2d(x, *border, value=-np.inf), kernel, stride, dilation, out, np.maximum)


def avg_pool2d(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
               count_include_pad: bool = True) -> np.ndarray:
    """The mean of the pixels under the kernel at every stop: (N, C, H, W) → (N, C, P, Q), of x's dtype.

    stride defaults to the kernel. Padding counts as pixels of value 0 unless `count_include_pad` is False; what hangs over the edge
    through `ceil_mode` never counts. Raises ValueError if the kernel doesn't fit or the padding is over half of it.
    """
    kernel, padding, ones = pair(kernel), pair(padding), (1, 1)
    stride = kernel if stride is None else pair(stride)
    out, border = _geometry(x, kernel, stride, padding, ones, ceil_mode)
    total = _overlay(pad2d(x, *border), kernel, stride, ones, out, np.add)                # (N, C, P, Q)
    top, bottom, left, right = border
    counts = np.zeros((1, 1, top + x.shape[2] + bottom, left + x.shape[3] + right), x.dtype)
    grow = padding if count_include_pad else (0, 0)
    counts[:, :, top - grow[0]:top + x.shape[2] + grow[0], left - grow[1]:left + x.shape[3] + grow[1]] = 1
    return total / _overlay(counts, kernel, stride, ones, out, np.add)                    # divided by (1, 1, P, Q)


def max_pool2d_naive(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1,
                     ceil_mode: bool = False) -> np.ndarray:
    """`max_pool2d` by its definition, one pixel at a time: the oracle for tests."""
    def largest(pixels, _):
        return float("nan") if any(np.isnan(pixels)) else max(pixels, default=-np.inf)
    return _pool_naive(x, kernel, stride, padding, dilation, ceil_mode, largest)


def avg_pool2d_naive(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
                     count_include_pad: bool = True) -> np.ndarray:
    """`avg_pool2d` by its definition, one pixel at a time, summed in float64: the oracle for tests."""
    return _pool_naive(x, kernel, stride, padding, 1, ceil_mode,
                       lambda pixels, padded: sum(pixels) / (padded if count_include_pad else len(pixels)))


def _pool_naive(x, kernel, stride, padding, dilation, ceil_mode, reduce):
    """At every stop, `reduce` of the pixels inside the picture and of how many places lie inside the padded picture."""
    kernel, padding, dilation = pair(kernel), pair(padding), pair(dilation)
    stride = kernel if stride is None else pair(stride)
    (p, q), _ = _geometry(x, kernel, stride, padding, dilation, ceil_mode)
    n, c, h, w = x.shape
    y = np.zeros((n, c, p, q), x.dtype)
    for picture, channel, row, column in np.ndindex(y.shape):
        pixels, padded = [], 0
        for i, j in np.ndindex(kernel):
            y_in, x_in = row * stride[0] + i * dilation[0] - padding[0], column * stride[1] + j * dilation[1] - padding[1]
            padded += y_in < h + padding[0] and x_in < w + padding[1]
            if 0 <= y_in < h and 0 <= x_in < w:
                pixels.append(float(x[picture, channel, y_in, x_in]))
        y[picture, channel, row, column] = reduce(pixels, padded)
    return y


def global_avg_pool(x: np.ndarray) -> np.ndarray:
    """The mean over all pixels: (N, C, H, W) → (N, C, 1, 1)."""
    return x.mean((2, 3), keepdims=True, dtype=x.dtype)


def global_max_pool(x: np.ndarray) -> np.ndarray:
    """The largest of all pixels: (N, C, H, W) → (N, C, 1, 1)."""
    return x.max((2, 3), keepdims=True)


def global_pool(x: np.ndarray, kind: str = "avg") -> np.ndarray:
    """timm's choices of global pool: (N, C, H, W) → (N, C, 1, 1).

    "avg", "max", "avgmax" (half their sum), "catavgmax" (one behind the other: (N, 2·C, 1, 1)), "" (x as it is).
    Raises ValueError on another kind. Source: timm `layers/adaptive_avgmax_pool.py`.
    """
    if kind == "":
        return x
    if kind == "avg":
        return global_avg_pool(x)
    if kind == "max":
        return global_max_pool(x)
    if kind == "avgmax":
        return x.dtype.type(0.5) * (global_avg_pool(x) + global_max_pool(x))
    if kind == "catavgmax":
        return np.concatenate([global_avg_pool(x), global_max_pool(x)], 1)
    raise ValueError(f"unknown global_pool {kind!r}: choose 'avg', 'max', 'avgmax', 'catavgmax' or ''")
