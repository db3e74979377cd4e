"""Compare two runs of a network layer by layer, and name the first layer that diverges."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from ..table import Row, Table, Tabular


@dataclass(frozen=True)
class LayerDifference:
    """One layer in two runs.

    max_delta, p99_delta, mean_delta: the largest absolute difference, the smallest that 99 % of the
    differences don't exceed, and their mean, each as a share of `scale`, the largest finite
    magnitude in either run. Places where both are NaN, or the same Inf, are equal; where only one
    is, the difference is Inf.
    """
    path: str
    shape: tuple[int, ...]
    max_delta: float
    p99_delta: float
    mean_delta: float
    scale: float


@dataclass(frozen=True)
class Comparison(Tabular):
    """Two runs, layer by layer; shown as a table that names the first layer to diverge.

    layers: those that both have, in forward order. only_a, only_b: paths of those that the first or
    the second alone has: they were not compared. order: the paths of all of them, in forward order.
    names: of the two runs.
    """
    layers: tuple[LayerDifference, ...]
    tolerance: float
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    order: tuple[str, ...]
    names: tuple[str, str]

    @property
    def max_delta(self) -> float:
        """The largest difference of all layers that were compared."""
        return max((layer.max_delta for layer in self.layers), default=0.0)

    @property
    def first_divergence(self) -> str | None:
        """Path of the first layer that differs by more than `tolerance`; None if all agree."""
        return next((layer.path for layer in self.layers if self._diverges(layer)), None)

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Paths of the layers that only one of the runs has, in forward order."""
        alone = {*self.only_a, *self.only_b}
        return tuple(path for path in self.order if path in alone)

    def as_dict(self) -> dict:
        """All of it in plain types, for JSON; an infinite difference is the string "inf"."""
        layers = [{key: _plain(value) for key, value in asdict(layer).items()}
                  for layer in self.layers]
        return dict(tolerance=self.tolerance, max_delta=_plain(self.max_delta),
                    first_divergence=self.first_divergence, only_a=list(self.only_a),
                    only_b=list(self.only_b), not_compared=list(self.not_compared), layers=layers)

    def table(self) -> Table:
        """One row a layer, in forward order, and the verdict."""
        rows: list[Row] = [("layer", "shape", "max Δ", "p99 Δ", "mean Δ", "largest |x|", "")]
        diverging = []
        compared = {layer.path: layer for layer in self.layers}
        for path in self.order:
            layer = compared.get(path)
            if layer is None:
                rows.append((path, "", "", "", "", "", "not compared"))
                continue
            if self._diverges(layer):
                diverging.append(len(rows))
            shape = "×".join(map(str, layer.shape))
            deltas = (layer.max_delta, layer.p99_delta, layer.mean_delta)
            rows.append((path, shape, *(f"{delta:.1e}" for delta in deltas), f"{layer.scale:.4g}",
                         self._mark(layer)))
        return Table(rows, right=2, below=[self._verdict()], marked=diverging)

    def _diverges(self, layer: LayerDifference) -> bool:
        return not layer.max_delta <= self.tolerance

    def _mark(self, layer: LayerDifference) -> str:
        if not self._diverges(layer):
            return ""
        return "◀ first to diverge" if layer.path == self.first_divergence else "◀"

    def _verdict(self) -> str:
        every = "" if self.not_compared else "all "
        if self.first_divergence is None:
            verdict = (f"{every}{len(self.layers)} layers agree within {self.tolerance:g}; "
                       f"the largest Δ is {self.max_delta:.1e}")
        else:
            verdict = f"first to diverge: {self.first_divergence} (tolerance {self.tolerance:g})"
        lacking = [f"{len(paths)} that {name} does not compute"
                   for paths, name in ((self.only_a, self.names[1]), (self.only_b, self.names[0]))
                   if paths]
        return verdict + (f"; not compared: {', '.join(lacking)}" if lacking else "")


def compare(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: float = 5e-6,
            names: tuple[str, str] = ("the first run", "the second run")) -> Comparison:
    """Two traces (path → array) against each other, in the order of `a`.

    A layer diverges where its largest difference is more than `tolerance` of the layer's largest
    magnitude. One that only one of the two has is not compared. names: what to call the two.
    Raises ValueError if a layer has different shapes in the two, or they have no layer in common.
    """
    layers = []
    for path in a:
        if path not in b:
            continue
        x, y = np.asarray(a[path]), np.asarray(b[path])
        if x.shape != y.shape:
            raise ValueError(f"{path}: shapes {x.shape} and {y.shape} differ; compare runs on the "
                             "same pictures")
        layers.append(_difference(path, x, y))
    if not layers:
        raise ValueError("the two have no layer in common: give two traces, as model.trace(x) "
                         "returns them")
    only_a = tuple(path for path in a if path not in b)
    only_b = tuple(path for path in b if path not in a)
    return Comparison(tuple(layers), tolerance, only_a, only_b, _merge(a, b), names)


def _merge(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """All paths in the order of `a`, those of `b` alone before the one that follows them in `b`."""
    before: dict[str, list[str]] = {}
    alone: list[str] = []
    for path in b:
        if path in a:
            before[path] = alone
            alone = []
        else:
            alone.append(path)
    order: list[str] = []
    for path in a:
        order += [*before.get(path, []), path]
    return (*order, *alone)


def _difference(path: str, x: np.ndarray, y: np.ndarray) -> LayerDifference:
    if x.size == 0:
        return LayerDifference(path, x.shape, 0.0, 0.0, 0.0, 0.0)
    with np.errstate(invalid="ignore"):
        delta = np.abs(np.subtract(x, y, dtype=np.float64))
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    delta = np.where(same, 0.0, np.where(np.isfinite(delta), delta, np.inf))
    scale = max(float(np.abs(z[np.isfinite(z)]).max(initial=0.0)) for z in (x, y))
    share = delta.ravel() / (scale or 1.0)
    rank = ceil(99 * share.size / 100) - 1                        # no interpolation: Inf stays Inf
    p99 = np.partition(share, rank)[rank]
    return LayerDifference(path, x.shape, max_delta=float(share.max()), p99_delta=float(p99),
                           mean_delta=float(share.mean()), scale=scale)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return "inf" if value == np.inf else value
