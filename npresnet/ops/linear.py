"""What stands at the end of the network, in plain NumPy: the linear layer, softmax and top-k.

Axes: N rows, C features in, K features (classes) out.
"""
from __future__ import annotations

import numpy as np


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """x·weightᵀ + bias: x (..., C), weight (K, C), bias (K,) or None → (..., K).

    As `torch.nn.functional.linear`. Raises ValueError on shapes that don't fit.
    """
    fits = weight.ndim == 2 and x.ndim >= 1 and x.shape[-1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        got = f"x {x.shape}, weight {weight.shape}"
        if bias is not None:
            got += f", bias {bias.shape}"
        raise ValueError(f"expected x (..., C), weight (K, C), bias (K,), got {got}")
    y = x.astype(np.float64) @ weight.T.astype(np.float64)      # (..., K)
    if bias is not None:
        y += bias
    return y.astype(x.dtype)                                    # rounded once


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """eˣ / Σ eˣ along `axis`: logits to probabilities, of x's shape and dtype.

    The largest logit is taken off first: the result is the same, and e can't overflow. NaN spreads
    along its row, as in PyTorch.
    """
    with np.errstate(invalid="ignore"):                         # inf − inf is NaN, as it should be
        e = np.exp(x - x.max(axis, keepdims=True))
    probabilities: np.ndarray = e / e.sum(axis, keepdims=True)
    return probabilities


def topk(x: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of the last axis, largest first.

    x (..., K) → values (..., k), indices (..., k) int64. Equal values come in order of index; NaN
    counts as larger than any number, as in `torch.topk`.
    Raises ValueError if k is not between 0 and K.
    """
    if x.ndim < 1 or not 0 <= k <= x.shape[-1]:
        raise ValueError(f"k = {k} is not between 0 and the last axis of {x.shape}")
    floating = np.issubdtype(x.dtype, np.floating)
    descending = -x if floating else ~x                         # ~ turns integers' order round
    order = np.lexsort((descending, ~np.isnan(x)), axis=-1)     # (..., K), NaN first, then by value
    order = order[..., :k]                                      # (..., k)
    return np.take_along_axis(x, order, -1), order
