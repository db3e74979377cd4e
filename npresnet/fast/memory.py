"""How activations lie in the workspace that all of them share (`lower/placement.py`).

An activation lies as (picture, row, column, channel), each pixel `pitch` floats after the one before. The pitch is a little more than
the channels: were it a power of two, the pixels of a tile would fall into the same few places of the first-level cache. A tensor that
a 3×3 convolution reads has a border of zeros; what writes it writes inside.

        ┌ border ───────────────┐
        │ 0  0  0  0  0  0 ┆ 0  │         ┆ extra: zeros under the Winograd tiles that hang over the edge
        │ 0  ▓  ▓  ▓  ▓  0 ┆ 0  │
        │ 0  ▓  ▓  ▓  ▓  0 ┆ 0  │         ▓ a pixel: c floats, then pitch − c that nobody reads
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..lower.placement import FOREVER, up
from .target import NR


def aligned(size: int, make=np.zeros) -> np.ndarray:
    """A float32 array (size,) that begins where a cache line does, so that no vector lies across two; a large one where a huge page
    (2 MiB) does, which saves the processor most of its look-ups of addresses."""
    edge = 2 ** 21 if size * 4 > 2 ** 21 else 64
    whole = make(size + edge // 4, np.float32)
    start = -whole.ctypes.data % edge // 4
    return whole[start:start + size]


@dataclass(eq=False)
class Tensor:
    """An activation of `pictures` pictures; places and distances are in floats. It is in use from operation `first` to `last`, and
    begins at `base` of the workspace, once `place` has put it there."""
    pictures: int
    h: int
    w: int
    c: int
    border: int = 0
    extra: int = 0
    tight: bool = False                                               # pixels one behind the other: pitch = c
    first: int = FOREVER
    last: int = -1
    base: int = 0

    @property
    def pitch(self) -> int:
        return self.c if self.tight else up(self.c, NR) + 16

    @property
    def row(self) -> int:
        return (self.w + 2 * self.border + self.extra) * self.pitch

    @property
    def picture(self) -> int:
        return (self.h + 2 * self.border + self.extra) * self.row

    @property
    def size(self) -> int:
        return up(self.pictures * self.picture, 16)

    def at(self, y: int = 0, x: int = 0) -> int:
        """Where pixel (y, x) of the first picture begins; −border is the first."""
        return self.base + (y + self.border) * self.row + (x + self.border) * self.pitch

    def use(self, operation: int) -> None:
        """Note that it is in use in `operation`."""
        self.first, self.last = min(self.first, operation), max(self.last, operation)

    def view(self, workspace: np.ndarray) -> np.ndarray:
        """The activation as (N, C, H, W), a view of the workspace."""
        strides = np.array((self.picture, 1, self.row, self.pitch)) * workspace.itemsize
        return np.lib.stride_tricks.as_strided(workspace[self.at():], (self.pictures, self.c, self.h, self.w), strides)
