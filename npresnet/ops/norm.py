"""Batch normalisation at inference and ReLU, in plain NumPy: the forms to read.

Axes: N pictures, C channels, H×W pixels.
"""
from __future__ import annotations

import numpy as np


def batch_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, running_mean: np.ndarray,
               running_var: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """(x − mean) / √(var + eps) · weight + bias, with the statistics kept from training.

    x (N, C, ...) float; weight, bias, running_mean, running_var (C,), one number a channel; returns
    x's shape and dtype.
    Nothing depends on the batch any more, so the four vectors collapse into one scale and one shift
    a channel. That is how PyTorch computes it too, and why a fast engine can fold it into the
    convolution next to it. The sums go through float64 and are rounded once, as the processor's
    fused multiply-add does in PyTorch: the results are the same to the last bit.
    Raises ValueError if the vectors don't fit x's channels.
    Source: Ioffe & Szegedy 2015, "Batch Normalization", algorithm 2;
    `torch.nn.functional.batch_norm(training=False)`.
    """
    vectors = (weight, bias, running_mean, running_var)
    if x.ndim < 2 or any(vector.shape != (x.shape[1],) for vector in vectors):
        raise ValueError(f"expected x (N, C, ...) and four vectors (C,), got x {x.shape}, "
                         f"weight {weight.shape}, bias {bias.shape}, "
                         f"running_mean {running_mean.shape}, running_var {running_var.shape}")
    number = running_var.dtype.type             # 1 and eps stay in the arrays' own precision
    scale = number(1) / np.sqrt(running_var + number(eps)) * weight           # (C,)
    shift = (bias - running_mean.astype(np.float64) * scale).astype(x.dtype)  # (C,), rounded once
    channels = (1, -1) + (1,) * (x.ndim - 2)
    y: np.ndarray = x * scale.reshape(channels).astype(np.float64)            # (N, C, H, W) float64
    y += shift.reshape(channels)                                              # in place: y is ours
    return y.astype(x.dtype)                                                  # rounded once


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0), element by element, of x's shape and dtype. NaN stays NaN, as in PyTorch."""
    y: np.ndarray = np.maximum(x, x.dtype.type(0))
    return y
