"""A batch norm as one multiplication and one addition a channel, to be folded into what comes
before."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

EPS = 1e-5


def scale_and_shift(params: Mapping[str, np.ndarray],
                    path: str) -> tuple[np.ndarray, np.ndarray]:
    """The batch norm called `path` as y = x · scale + shift: two vectors (K,), float64.

    Source: Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.1 (inference).
    """
    weight, bias, mean, var = (params[f"{path}.{part}"].astype(np.float64)
                               for part in ("weight", "bias", "running_mean", "running_var"))
    scale = weight / np.sqrt(var + EPS)                                                    # (K,)
    return scale, bias - mean * scale
