"""Columns of a table, a row a picture, that have the same types and shapes whatever is in them."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def as_objects(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(N,) of any objects; NumPy alone would make a table of lists of one length."""
    column = np.empty(len(values), object)
    for i, value in enumerate(values):
        column[i] = value
    return column


def stack(values: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray:
    """(N, *shape) float32, NaN where there is no value."""
    column = np.full((len(values), *shape), np.nan, np.float32)
    for row, value in zip(column, values):
        if value is not None:
            row[...] = value
    return column
