"""Weights as the tiles read them: folded with the batch norm that follows, in panels of NR output channels, all in one array.

    direct     (K, C, R, S)  →  [panel][r, s, c][NR]             what one step of a tile multiplies with lies side by side
    Winograd   (K, C, 3, 3)  →  [place][panel][c][NR]            G g Gᵀ of every kernel g, place by place: see winograd.py

Every product is computed in float64 and rounded once.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from ..lower.placement import up
from .memory import aligned
from .target import NR, compiled

BLOCK = 64                                                        # steps at a time, so that what is written stays in the cache


class Packed:
    """Packed weights, one behind the other, each under a key. Shared by the plans of all picture sizes.

    Each change is one step, so that a process that is forked in the midst of it has a whole one.
    """

    def __init__(self):
        self.data = np.empty(0, np.float32)                           # holds what begins before its end; the rest is still missing
        self.places: dict[Hashable, tuple[int, tuple[int, ...], Callable]] = {}

    @property
    def size(self) -> int:
        """Floats of all that was added."""
        if not self.places:
            return 0
        start, shape, _ = self.places[next(reversed(self.places))]
        return start + up(int(np.prod(shape)), 16)

    def add(self, key: Hashable, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> int:
        """Where the array `key` of `shape` begins, a multiple of 16 floats. It is filled in when `array` is next called."""
        if key not in self.places:
            self.places[key] = self.size, shape, fill
        return self.places[key][0]

    def array(self, together: Callable[[Callable[[int], None]], None]) -> np.ndarray:
        """Everything that was added so far, float32. together(work): work(0), work(1), … in as many threads as there are."""
        missing = [place for place in self.places.values() if place[0] >= self.data.size]
        if missing:
            whole = aligned(self.size, np.empty)
            whole[:self.data.size] = self.data
            # Large ones first, or one thread would be left with one at the end; Winograd's last, which grow, when most of the file is let go.
            jobs = iter(sorted(missing, key=lambda job: -np.prod(job[1][-3:])))

            def work(_me: int) -> None:
                for start, shape, fill in jobs:                       # each job is drawn by one thread
                    fill(whole[start:start + int(np.prod(shape))].reshape(shape))
            together(work)
            self.data = whole
        return self.data


def pad_channels(vector: np.ndarray) -> np.ndarray:
    """A vector (K,) filled up with zeros to whole panels."""
    return np.concatenate([vector, np.zeros(-vector.size % NR)])


@compiled
def pack(weight, scale, first, out):
    """weight (K, C, R·S) float32 times scale (K,) float64 → steps first … first + R·S·C of out (panels, steps, NR)."""
    K, C, taps = weight.shape
    for panel in range(out.shape[0]):
        steps, count = out[panel, first:first + taps * C], min(NR, K - panel * NR)
        for start in range(0, C, BLOCK):
            for n in range(count):
                own, factor = weight[panel * NR + n], scale[panel * NR + n]
                for tap in range(taps):
                    for c in range(start, min(start + BLOCK, C)):
                        steps[tap * C + c, n] = np.float32(own[c, tap] * factor)
        steps[:, count:] = 0


@compiled
def pack_winograd(weight, scale, G, out):
    """weight (K, C, 9) float32 times scale (K,) float64, transformed with G (n, 3) float64 → out (n·n, panels, C, NR)."""
    K, C, _ = weight.shape
    n = len(G)
    g, half = np.zeros((9, NR)), np.zeros((3, NR))
    for panel in range(out.shape[1]):
        count = min(NR, K - panel * NR)
        for c in range(C):
            for m in range(count):
                for tap in range(9):
                    g[tap, m] = weight[panel * NR + m, c, tap] * scale[panel * NR + m]
            for i in range(n):
                for s in range(3):
                    for m in range(NR):
                        half[s, m] = G[i, 0] * g[s, m] + G[i, 1] * g[3 + s, m] + G[i, 2] * g[6 + s, m]
                for j in range(n):
                    for m in range(NR):
                        out[i * n + j, panel, c, m] = np.float32(half[0, m] * G[j, 0] + half[1, m] * G[j, 1] + half[2, m] * G[j, 2])
        g[:] = 0
