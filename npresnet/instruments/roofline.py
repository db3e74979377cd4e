"""A picture of where the fast engine's time goes: its layers, under the two roofs that a machine sets, its arithmetic and its memory.

A layer that carries out I operations for each byte it moves does at most I times the memory's bandwidth, and at most the cores' peak.
Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model", Communications of the ACM 52 (4).
"""
from __future__ import annotations

import io
import math
import os
from typing import NamedTuple

from ..errors import MissingDependencyError, NpresnetError, printable
from ..weights import write_whole

KINDS = {"1×1": "#0072B2", "3×3": "#E69F00", "Winograd": "#009E73", "other": "#CC79A7"}   # colours that nobody confuses
LABELLED = 6                                                      # layers that get their names: the slowest
AREA = 55                                                         # square points of a dot for each percent of the time


class Dot(NamedTuple):
    """A layer. intensity: FLOP for each byte. rate: GFLOP/s. share: percent of the time."""
    layer: str
    kind: str
    intensity: float
    rate: float
    share: float
    ms: float


def draw_roofline(plan, title: str, path: str | os.PathLike) -> None:
    """Draw what `model.plan()` found as a PNG: the operations that each layer carries out, in a second and for each byte moved.

    The file appears whole or not at all. Raises MissingDependencyError without matplotlib, NpresnetError if it can't be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ImportError:
        raise MissingDependencyError("drawing a picture needs matplotlib: pip install 'npresnet[tutorials]'") from None
    dots = [Dot(layer.layer, kind_of(layer.algorithm), 1e3 * layer.computed / layer.megabytes, 1e3 * layer.computed / layer.ms,
                100 * layer.ms / plan.ms, layer.ms) for layer in plan.layers if layer.computed]
    ridge = plan.peak / plan.bandwidth                                                    # FLOP for each byte, where the roofs meet
    left, right = min(ridge, *(d.intensity for d in dots)) / 3, max(ridge, *(d.intensity for d in dots)) * 2
    low, high = min(d.rate for d in dots) / 1.5, plan.peak * 1.4
    figure = Figure(figsize=(11, 6), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high), ylabel="GFLOP/s carried out",
             xlabel="FLOP carried out for each byte of weights and activations")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.grid(color="0.93")
    axes.set_title(f"{title}: {plan.ms:.1f} ms", loc="left")

    axes.plot([left, ridge, right], [left * plan.bandwidth, plan.peak, plan.peak], color="black", lw=1.3)
    axes.annotate(f"all cores: {plan.peak:.0f} GFLOP/s", (right, plan.peak), (-6, 5), textcoords="offset points", ha="right")
    axes.annotate(f"memory: {plan.bandwidth:.0f} GB/s", (ridge, plan.peak), (-10, 0), textcoords="offset points", ha="right", va="center")
    for kind, colour in KINDS.items():
        own = [d for d in dots if d.kind == kind]
        if own:
            axes.scatter([d.intensity for d in own], [d.rate for d in own], [AREA * d.share for d in own], colour, alpha=0.65,
                         edgecolors="white", linewidths=0.6, zorder=3, label=f"{kind}: {sum(d.share for d in own):.0f} % of the time")
    for handle in axes.legend(title="a dot's area: its share of the time", loc="lower right").legend_handles:
        handle.set_sizes([60])
    slowest, place = sorted(dots, key=lambda d: -d.share)[:LABELLED], 1.0
    slowest.sort(key=lambda d: -d.rate)
    for i, d in enumerate(slowest, 1):                            # their names in a column beside the axes, where no dot hides them
        place = max(0.09 * (len(slowest) - i), min(place - 0.09, math.log(d.rate / low) / math.log(high / low)))
        axes.annotate(f"{d.layer}\n{d.ms:.2f} ms, {d.share:.1f} %", (d.intensity, d.rate), (1.02, place), textcoords="axes fraction",
                      va="center", fontsize=9, arrowprops=dict(arrowstyle="-", color="0.5", lw=0.7, relpos=(0, 0.5)))
    figure.supxlabel(f"What multiplies nothing takes {100 - sum(d.share for d in dots):.0f} % of the time and isn't drawn. "
                     "A dot above the slope finds its data in the caches.", fontsize=9, color="0.35")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    try:
        write_whole(path, png.getvalue())
    except OSError as error:
        raise NpresnetError(f"{printable(path)}: can't be written ({error.strerror})") from None


def kind_of(algorithm: str) -> str:
    """Which of KINDS an algorithm belongs to: "direct 1×1" to "1×1", "F(4×4)" to "Winograd", "direct 7×7" to "other"."""
    return "Winograd" if algorithm.startswith("F(") else next((kind for kind in KINDS if algorithm.endswith(kind)), "other")
