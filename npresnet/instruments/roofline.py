"""A picture of where the fast engine's time goes: its layers under the two roofs of a machine.

The roofs are its arithmetic and its memory: a layer that carries out I operations for each byte it
moves does at most I times the memory's bandwidth, and at most the cores' peak.
Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model",
Communications of the ACM 52 (4).
"""
from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING, NamedTuple

from ..errors import MissingDependencyError, NpresnetError, printable
from ..weights import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..fast.report import PlanReport

# Colours that nobody confuses.
KINDS = {"1×1": "#0072B2", "3×3": "#E69F00", "Winograd": "#009E73", "other": "#CC79A7"}
LABELLED = 6                                          # layers that get their names: the slowest
AREA = 55                                             # square points for each percent of the time


class Dot(NamedTuple):
    """A layer.

    intensity: FLOP for each byte. rate: GFLOP/s. share: percent of the time.
    """
    layer: str
    kind: str
    intensity: float
    rate: float
    share: float
    ms: float


def draw_roofline(plan: PlanReport, title: str, path: str | os.PathLike) -> None:
    """Draw what `model.plan()` found as a PNG.

    It shows the operations that each layer carries out, in a second and for each byte moved. The
    file appears whole or not at all.
    Raises MissingDependencyError without matplotlib, NpresnetError if it can't be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("drawing a picture needs matplotlib: "
                                     "pip install \"npresnet[tutorials]\"") from None
    dots = [Dot(layer.layer, kind_of(layer.algorithm), 1e3 * layer.computed / layer.megabytes,
                1e3 * layer.computed / layer.ms, 100 * layer.ms / plan.ms, layer.ms)
            for layer in plan.layers if layer.computed]
    figure = Figure(figsize=(11, 6), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{title}: {plan.ms:.1f} ms", loc="left")
    draw_roofs(axes, plan, dots)
    draw_dots(axes, dots)
    name_slowest(axes, dots)
    rest = 100 - sum(dot.share for dot in dots)
    figure.supxlabel(f"What multiplies nothing takes {rest:.0f} % of the time and isn't drawn. "
                     "A dot above the slope finds its data in the caches.",
                     fontsize=9, color="0.35")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    try:
        write_whole(path, png.getvalue())
    except OSError as error:
        raise NpresnetError(f"{printable(path)}: can't be written ({error.strerror})") from None


def draw_roofs(axes: Axes, plan: PlanReport, dots: list[Dot]) -> None:
    """The axes, wide enough for all dots, and the two roofs."""
    from matplotlib.ticker import LogLocator

    ridge = plan.peak / plan.bandwidth                # FLOP for each byte, where the roofs meet
    left = min(ridge, *(dot.intensity for dot in dots)) / 3
    right = max(ridge, *(dot.intensity for dot in dots)) * 2
    low, high = min(dot.rate for dot in dots) / 1.5, plan.peak * 1.4
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high),
             xlabel="FLOP carried out for each byte of weights and activations",
             ylabel="GFLOP/s carried out")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.grid(color="0.93")
    axes.plot([left, ridge, right], [left * plan.bandwidth, plan.peak, plan.peak],
              color="black", lw=1.3)
    axes.annotate(f"all cores: {plan.peak:.0f} GFLOP/s", (right, plan.peak), (-6, 5),
                  textcoords="offset points", ha="right")
    axes.annotate(f"memory: {plan.bandwidth:.0f} GB/s", (ridge, plan.peak), (-10, 0),
                  textcoords="offset points", ha="right", va="center")


def draw_dots(axes: Axes, dots: list[Dot]) -> None:
    """A dot for each layer, and the legend of their colours."""
    from matplotlib.collections import PathCollection

    for kind, colour in KINDS.items():
        own = [dot for dot in dots if dot.kind == kind]
        if not own:
            continue
        share = sum(dot.share for dot in own)
        axes.scatter([dot.intensity for dot in own], [dot.rate for dot in own],
                     [AREA * dot.share for dot in own], colour, alpha=0.65, edgecolors="white",
                     linewidths=0.6, zorder=3, label=f"{kind}: {share:.0f} % of the time")
    legend = axes.legend(title="a dot's area: its share of the time", loc="lower right")
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([60])


def name_slowest(axes: Axes, dots: list[Dot]) -> None:
    """Names of the slowest layers in a column beside the axes, where no dot hides them."""
    slowest = sorted(dots, key=lambda dot: -dot.share)[:LABELLED]
    slowest.sort(key=lambda dot: -dot.rate)
    low, high = axes.get_ylim()
    place = 1.0                                       # 0: the foot of the axes, 1: their top
    for i, dot in enumerate(slowest):
        wanted = math.log(dot.rate / low) / math.log(high / low)
        lowest = 0.09 * (len(slowest) - 1 - i)        # leaves room for the others
        place = max(lowest, min(place - 0.09, wanted))
        axes.annotate(f"{dot.layer}\n{dot.ms:.2f} ms, {dot.share:.1f} %",
                      (dot.intensity, dot.rate), (1.02, place), textcoords="axes fraction",
                      va="center", fontsize=9,
                      arrowprops=dict(arrowstyle="-", color="0.5", lw=0.7, relpos=(0, 0.5)))


def kind_of(algorithm: str) -> str:
    """Which of KINDS an algorithm belongs to.

    "direct 1×1" → "1×1", "F(4×4)" → "Winograd", "direct 7×7" → "other".
    """
    if algorithm.startswith("F("):
        return "Winograd"
    return next((kind for kind in KINDS if algorithm.endswith(kind)), "other")
