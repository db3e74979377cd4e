"""One workspace for all activations: where each lies, so that none overlaps one in use at the same
time.

Tensors that are never needed at the same time share a place. That is less for the memory's size
than for its speed: what was used a moment ago is still in the cache, a new place has to be fetched
from memory before it is written to.

Source: Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", arXiv
2001.03288 (greedy by size).
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

FOREVER = 1 << 30                                                 # in use to the end


class Placed(Protocol):
    """What wants a place: `size` floats, in use from operation `first` to `last`; gets its
    `base`."""
    first: int
    last: int
    base: int

    @property
    def size(self) -> int:
        """Floats."""


def up(n: int, to: int) -> int:
    """n, rounded up to a multiple of `to`."""
    return -(-n // to) * to


def place(tensors: Iterable[Placed]) -> int:
    """Give every tensor its base; returns the floats needed. Largest first, each as far down as it
    fits."""
    placed: list[Placed] = []
    for tensor in sorted(tensors, key=lambda t: -t.size):
        tensor.base = 0
        for other in sorted(placed, key=lambda t: t.base):
            together = tensor.first <= other.last and other.first <= tensor.last
            below, above = other.base, other.base + other.size
            if together and tensor.base + tensor.size > below and tensor.base < above:
                tensor.base = above
        placed.append(tensor)
    return max(t.base + t.size for t in placed)
