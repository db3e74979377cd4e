"""Compare two runs of a network layer by layer, and name the first layer that diverges."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ..table import format_table


@dataclass(frozen=True)
class LayerDifference:
    """One layer in two runs. max_delta, mean_delta: largest and mean absolute difference as a share of `scale`, the largest finite
    magnitude in either run. Places where both are NaN, or the same Inf, are equal; where only one is, the difference is Inf."""
    path: str
    shape: tuple[int, ...]
    max_delta: float
    mean_delta: float
    scale: float


@dataclass(frozen=True)
class Comparison:
    """The layers two runs have in common, in forward order; `str()` is a table that names the first to diverge."""
    layers: tuple[LayerDifference, ...]
    tolerance: float
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    @property
    def max_delta(self) -> float:
        """The largest difference of all layers."""
        return max((layer.max_delta for layer in self.layers), default=0.0)

    @property
    def first_divergence(self) -> str | None:
        """Path of the first layer that differs by more than `tolerance`; None if all agree."""
        return next((layer.path for layer in self.layers if not layer.max_delta <= self.tolerance), None)

    def as_dict(self) -> dict:
        """All of it in plain types, for JSON; an infinite difference is the string "inf"."""
        plain = lambda v: list(v) if isinstance(v, tuple) else "inf" if v == np.inf else v
        return dict(tolerance=self.tolerance, max_delta=plain(self.max_delta), first_divergence=self.first_divergence,
                    only_a=list(self.only_a), only_b=list(self.only_b),
                    layers=[{key: plain(value) for key, value in asdict(layer).items()} for layer in self.layers])

    def __str__(self) -> str:
        rows = [("layer", "shape", "max Δ", "mean Δ", "largest |x|", "")]
        rows += [(l.path, "×".join(map(str, l.shape)), f"{l.max_delta:.1e}", f"{l.mean_delta:.1e}", f"{l.scale:.4g}",
                  "" if l.max_delta <= self.tolerance else "◀ first to diverge" if l.path == self.first_divergence else "◀")
                 for l in self.layers]
        verdict = (f"all {len(self.layers)} layers agree within {self.tolerance:g}; the largest Δ is {self.max_delta:.1e}"
                   if self.first_divergence is None else f"first to diverge: {self.first_divergence} (tolerance {self.tolerance:g})")
        extra = [f"only in the {which}: {', '.join(paths[:5])}" + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
                 for which, paths in (("first", self.only_a), ("second", self.only_b)) if paths]
        return "\n".join([format_table(rows, right=2), *extra, verdict])


def compare(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: float = 5e-6) -> Comparison:
    """Two traces (path → array) against each other, in the order of `a`.

    A layer diverges where its largest difference is more than `tolerance` of the layer's largest magnitude.
    Raises ValueError if a layer has different shapes in the two, or they have no layer in common.
    """
    common = [path for path in a if path in b]
    if not common:
        raise ValueError("the two have no layer in common: give two traces, as model.trace(x) returns them")
    layers = []
    for path in common:
        x, y = np.asarray(a[path]), np.asarray(b[path])
        if x.shape != y.shape:
            raise ValueError(f"{path}: shapes {x.shape} and {y.shape} differ; compare runs on the same pictures")
        layers.append(_difference(path, x, y))
    return Comparison(tuple(layers), tolerance, tuple(p for p in a if p not in b), tuple(p for p in b if p not in a))


def _difference(path: str, x: np.ndarray, y: np.ndarray) -> LayerDifference:
    if x.size == 0:
        return LayerDifference(path, x.shape, 0.0, 0.0, 0.0)
    with np.errstate(invalid="ignore"):
        delta = np.abs(np.subtract(x, y, dtype=np.float64))
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    delta = np.where(same, 0.0, np.where(np.isfinite(delta), delta, np.inf))
    scale = max(float(np.abs(z[np.isfinite(z)]).max(initial=0.0)) for z in (x, y))
    share = delta / (scale or 1.0)
    return LayerDifference(path, x.shape, float(share.max()), float(share.mean()), scale)
