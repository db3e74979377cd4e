"""What a plan does and how long each layer takes, beside what the machine could do."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..lower import crew as crews
from ..lower.crew import Crew
from ..table import Row, Table, Tabular
from .loops import tile
from .memory import aligned
from .plan import Work
from .target import MR, NR, compiled


@dataclass(frozen=True)
class LayerPlan(Work):
    """One layer of a forward pass of one picture: its work, and its time within the whole pass, median, in ms."""
    ms: float


@dataclass(frozen=True)
class PlanReport(Tabular):
    """A plan, measured; shown as a table. peak: GFLOP/s that all threads reach together on numbers in their first-level caches.
    bandwidth: GB/s at which they read from memory."""
    model: str
    input_size: tuple[int, int, int]
    threads: int
    peak: float
    bandwidth: float
    layers: tuple[LayerPlan, ...]

    @property
    def ms(self) -> float:
        """Milliseconds for one picture."""
        return sum(layer.ms for layer in self.layers)

    def as_dict(self) -> dict:
        """All of it in plain types, for JSON."""
        return asdict(self) | dict(input_size=list(self.input_size), layers=[asdict(layer) for layer in self.layers], ms=self.ms)

    def table(self) -> Table:
        """One row a layer, the totals, and what the machine could do."""
        rows: list[Row] = [("layer", "algorithm", "tile", "GFLOP", "computed", "MB", "ms", "GFLOP/s", "of peak")]
        figures = ("gflop", "computed", "megabytes", "ms")
        total = LayerPlan("total", "", "", *(sum(getattr(layer, name) for layer in self.layers) for name in figures))
        for layer in (*self.layers, total):
            rate = layer.computed / layer.ms * 1e3
            rows += [None] if layer is total else []
            rows.append((layer.layer, layer.algorithm, layer.tile, f"{layer.gflop:.3f}", f"{layer.computed:.3f}",
                         f"{layer.megabytes:.2f}", f"{layer.ms:.2f}", f"{rate:.0f}", f"{rate / self.peak:.0%}"))
        size = "×".join(map(str, self.input_size))
        return Table(rows, right=3, below=[f"{self.model}, {size}, {self.threads} threads: they reach {self.peak:.0f} GFLOP/s, "
                                           f"and read {self.bandwidth:.0f} GB/s from memory"])


@compiled
def spin(a, b, c, offs, times):
    """A tile, over and over, on operands that stay in the first-level cache: a (MR, K), b (K, NR), c (MR, NR)."""
    K, at = a.shape[1], a.ctypes.data
    for _ in range(times):
        tile(MR, at, K, offs.ctypes.data, 1, K, at, K, 1, b.ctypes.data, b.ctypes.data, c.ctypes.data, 1, c.ctypes.data, NR, 0, 0, 0, 0, 0, 0)


def _seconds(crew: Crew, work: Callable[[int], Any]) -> float:
    """Seconds that `work(i)` takes in all threads at once; the best of five."""
    def once() -> float:
        start = time.perf_counter()
        crew.together(work, crew.threads)
        return time.perf_counter() - start
    return min(once() for _ in range(5))


def peak(crew: Crew) -> float:
    """GFLOP/s that tiles reach in all threads together. Called by a job."""
    K, times = 128, 40000
    offs = np.zeros(1, np.int64)
    own = [(aligned(MR * K).reshape(MR, K), aligned(K * NR).reshape(K, NR), aligned(MR * NR).reshape(MR, NR)) for _ in range(crew.threads)]
    with crews.MAKING:
        spin(*own[0], offs, 1)
    return 2 * MR * NR * K * times * crew.threads / _seconds(crew, lambda i: spin(*own[i], offs, times)) / 1e9


def bandwidth(crew: Crew) -> float:
    """GB/s at which all threads together read 128 MB, which few caches hold. Called by a job."""
    whole = aligned(32_000_000, np.ones)
    parts = np.array_split(whole, crew.threads)
    return whole.nbytes / _seconds(crew, lambda i: parts[i].max()) / 1e9
