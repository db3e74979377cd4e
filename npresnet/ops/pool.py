"""Pooling in plain NumPy: the reference forms, written to be read, and the loops to check them by.

A pool of R×S pixels is R·S shifted copies of the picture laid over each other: take their maximum,
or their sum divided by how many of them were real. Padding is −∞ for the maximum, so that a border
pixel never wins. (ResNetV2 pools raw, possibly negative convolution outputs in its stem: padding
with 0 there would be wrong.)

Axes: N pictures, C channels, H×W pixels in, R×S kernel, P×Q pixels out.
Source: `torch.nn.functional.max_pool2d`, `avg_pool2d` and their rules for `ceil_mode` and
`count_include_pad`.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .conv import Pair, output_size, pad2d, pair


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1,
                ceil_mode: bool = False) -> int:
    """Stops along one axis.

    With `ceil_mode` the last one may hang over the edge, if it starts inside the padded picture.
    """
    if padding > kernel // 2:
        raise ValueError(f"padding {padding} is more than half of the kernel {kernel}")
    if not ceil_mode:
        return output_size(size, kernel, stride, padding, dilation)
    reach = dilation * (kernel - 1) + 1
    out = -(-(size + 2 * padding - reach) // stride) + 1                # rounded up
    return out - 1 if (out - 1) * stride >= size + padding else out


def _overlay(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int],
             dilation: tuple[int, int], out: tuple[int, int], combine: np.ufunc) -> np.ndarray:
    """The R·S shifted pictures of padded x (N, C, H, W), combined one by one: (N, C, P, Q)."""
    (sh, sw), (dh, dw), (p, q) = stride, dilation, out
    shifted = []
    for i, j in np.ndindex(kernel):
        rows = slice(i * dh, i * dh + (p - 1) * sh + 1, sh)
        columns = slice(j * dw, j * dw + (q - 1) * sw + 1, sw)
        shifted.append(x[:, :, rows, columns])                          # (N, C, P, Q), a view
    y = shifted[0].copy()                                               # (N, C, P, Q)
    for picture in shifted[1:]:
        combine(y, picture, out=y)
    return y


def _geometry(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int],
              padding: tuple[int, int], dilation: tuple[int, int],
              ceil_mode: bool) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """(P, Q), and the border (top, bottom, left, right) that lets every stop find its pixels."""
    if x.ndim != 4:
        raise ValueError(f"expected x of shape (N, C, H, W), got {x.shape}")
    (h, w), (r, s), (top, left) = x.shape[2:], kernel, padding
    p, bottom = _geometry_1d(h, r, stride[0], top, dilation[0], ceil_mode)
    q, right = _geometry_1d(w, s, stride[1], left, dilation[1], ceil_mode)
    return (p, q), (top, bottom, left, right)


def _geometry_1d(size: int, kernel: int, stride: int, padding: int, dilation: int,
                 ceil_mode: bool) -> tuple[int, int]:
    """Stops along one axis, and the border that the last of them needs at the far end."""
    stops = pooled_size(size, kernel, stride, padding, dilation, ceil_mode)
    if stops < 1:
        raise ValueError(f"a pool of {kernel} pixels doesn't fit into "
                         f"{size} + 2·{padding} padded pixels")
    end = (stops - 1) * stride + dilation * (kernel - 1) + 1            # of the last stop's pixels
    return stops, max(end - size - padding, 0)


def max_pool2d(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0,
               dilation: Pair = 1, ceil_mode: bool = False) -> np.ndarray:
    """The largest pixel under the kernel at every stop: (N, C, H, W) → (N, C, P, Q).

    stride defaults to the kernel. The result has x's dtype; NaN wins, as in PyTorch.
    Raises ValueError if the kernel doesn't fit or the padding is over half of it.
    """
    kernel, padding, dilation = pair(kernel), pair(padding), pair(dilation)
    stride = kernel if stride is None else pair(stride)
    out, border = _geometry(x, kernel, stride, padding, dilation, ceil_mode)
    top, bottom, left, right = border
    padded = pad2d(x, top, bottom, left, right, -np.inf)                # (N, C, top+H+bottom, …)
    return _overlay(padded, kernel, stride, dilation, out, np.maximum)  # (N, C, P, Q)


def avg_pool2d(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> np.ndarray:
    """The mean of the pixels under the kernel at every stop: (N, C, H, W) → (N, C, P, Q).

    stride defaults to the kernel. The result has x's dtype. Padding counts as pixels of value 0
    unless `count_include_pad` is False; what hangs over the edge through `ceil_mode` never counts.
    Raises ValueError if the kernel doesn't fit or the padding is over half of it.
    """
    kernel, padding, ones = pair(kernel), pair(padding), (1, 1)
    stride = kernel if stride is None else pair(stride)
    out, border = _geometry(x, kernel, stride, padding, ones, ceil_mode)
    total = _overlay(pad2d(x, *border), kernel, stride, ones, out, np.add)  # (N, C, P, Q)
    # One picture with 1 where a pixel counts and 0 elsewhere: its sums are what to divide by.
    (h, w), (top, bottom, left, right) = x.shape[2:], border
    counts = np.zeros((1, 1, top + h + bottom, left + w + right), x.dtype)
    grow_h, grow_w = padding if count_include_pad else (0, 0)
    counts[:, :, top - grow_h:top + h + grow_h, left - grow_w:left + w + grow_w] = 1
    divisor = _overlay(counts, kernel, stride, ones, out, np.add)           # (1, 1, P, Q)
    mean: np.ndarray = total / divisor                                      # (N, C, P, Q)
    return mean


def max_pool2d_naive(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0,
                     dilation: Pair = 1, ceil_mode: bool = False) -> np.ndarray:
    """`max_pool2d` by its definition, one pixel at a time: the oracle for tests."""
    def largest(pixels: list[float], _: int) -> float:
        return float("nan") if any(np.isnan(pixels)) else max(pixels, default=-np.inf)

    return _pool_naive(x, kernel, stride, padding, dilation, ceil_mode, largest)


def avg_pool2d_naive(x: np.ndarray, kernel: Pair, stride: Pair | None = None, padding: Pair = 0,
                     ceil_mode: bool = False, count_include_pad: bool = True) -> np.ndarray:
    """`avg_pool2d` by its definition, pixel by pixel, summed in float64: the oracle for tests."""
    def mean(pixels: list[float], padded: int) -> float:
        return sum(pixels) / (padded if count_include_pad else len(pixels))

    return _pool_naive(x, kernel, stride, padding, 1, ceil_mode, mean)


def _pool_naive(x: np.ndarray, kernel: Pair, stride: Pair | None, padding: Pair, dilation: Pair,
                ceil_mode: bool, reduce: Callable[[list[float], int], float]) -> np.ndarray:
    """At every stop, `reduce` of the pixels inside the picture and of a count.

    The count says how many of the stop's places lie inside the padded picture.
    """
    kernel, padding, dilation = pair(kernel), pair(padding), pair(dilation)
    stride = kernel if stride is None else pair(stride)
    (p, q), _ = _geometry(x, kernel, stride, padding, dilation, ceil_mode)
    n, c, h, w = x.shape
    y = np.zeros((n, c, p, q), x.dtype)
    for picture, channel, row, column in np.ndindex(y.shape):
        pixels, padded = [], 0
        for i, j in np.ndindex(kernel):
            y_in = row * stride[0] + i * dilation[0] - padding[0]
            x_in = column * stride[1] + j * dilation[1] - padding[1]
            padded += y_in < h + padding[0] and x_in < w + padding[1]
            if 0 <= y_in < h and 0 <= x_in < w:
                pixels.append(float(x[picture, channel, y_in, x_in]))
        y[picture, channel, row, column] = reduce(pixels, padded)
    return y


def global_avg_pool(x: np.ndarray) -> np.ndarray:
    """The mean over all pixels: (N, C, H, W) → (N, C, 1, 1)."""
    mean: np.ndarray = x.mean((2, 3), keepdims=True, dtype=x.dtype)
    return mean


def global_max_pool(x: np.ndarray) -> np.ndarray:
    """The largest of all pixels: (N, C, H, W) → (N, C, 1, 1)."""
    largest: np.ndarray = x.max((2, 3), keepdims=True)
    return largest


def global_pool(x: np.ndarray, kind: str = "avg") -> np.ndarray:
    """timm's choices of global pool: (N, C, H, W) → (N, C, 1, 1).

    "avg", "max", "avgmax" (half their sum), "catavgmax" (one behind the other: (N, 2·C, 1, 1)),
    "" (x as it is).
    Raises ValueError on another kind. Source: timm `layers/adaptive_avgmax_pool.py`.
    """
    if kind == "":
        return x
    if kind == "avg":
        return global_avg_pool(x)
    if kind == "max":
        return global_max_pool(x)
    if kind == "avgmax":
        half: np.ndarray = x.dtype.type(0.5) * (global_avg_pool(x) + global_max_pool(x))
        return half
    if kind == "catavgmax":
        return np.concatenate([global_avg_pool(x), global_max_pool(x)], 1)
    raise ValueError(f"unknown global_pool {kind!r}: "
                     "choose 'avg', 'max', 'avgmax', 'catavgmax' or ''")
