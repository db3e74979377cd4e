"""Planning: from the network's graph, its tensors and a picture size to a table of operations, packed weights and a workspace.

The steps are `npresnet/graph.py`'s. A norm that is all that is needed of a convolution is folded into its weights (norm2, norm3). One
that follows a sum that is also needed raw (norm1) is a second output of the tile that makes the sum. conv3 and downsample are one
product: their sum is one long scalar product, over the channels of both inputs.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from ..graph import PICTURE, Graph, Step
from ..lower.folding import scale_and_shift
from ..lower.placement import FOREVER, place, up
from ..weights import release
from . import loops as L
from .memory import Tensor
from .packing import Packed, pack, pack_winograd, pad_channels
from .target import MR, NR, SIZES, VL
from .winograd import MATRICES

WEIGHT_COST = 40                                                  # operations in the time that a weight takes to come from memory, where
                                                                  # others use it too (27 on an idle machine: 222 GFLOP/s, 33 GB/s)
ACTIVATION_COST = 20                                              # and an activation to go to the cache and back
NEAR = 640 * 1024                                                 # bytes of weights that stay in the second-level cache


def computed(pixels: int, step: int) -> int:
    """Pixels that tiles of `step` pixels compute for a row of `pixels`; the last tile is as small as will do."""
    whole, rest = divmod(pixels, step)
    return whole * step + min((size for size in SIZES if size >= rest), default=0) * (rest > 0)


def best_step(pixels: int) -> int:
    """The tile height that wastes least on a row of `pixels`."""
    return min(SIZES, key=lambda size: computed(pixels, size))


def tile_name(pixels: int, step: int) -> str:
    """Pixels × channels of the tiles that most of a row is made of."""
    return f"{min(size for size in SIZES if size >= min(pixels, step))}×{NR}"


def role_of(path: str, part: str = "") -> str:
    """The same for all blocks of a stage: stages.0.blocks.1.conv2 → stages.0.conv2."""
    return re.sub(r"blocks\.\d+\.", "", path) + part


@dataclass(frozen=True)
class Work:
    """What an operation is and costs.

    algorithm: "direct 3×3", "F(4×4)" (Winograd), "max pool", … tile: pixels × channels that are summed up in registers. gflop: 10⁹
    floating-point operations by the layer's definition; computed: those that are carried out, fewer with Winograd, more where tiles only
    fill up. megabytes: inputs, outputs and weights, each once.
    """
    layer: str
    algorithm: str
    tile: str
    gflop: float
    computed: float
    megabytes: float


class Plan:
    """All that a forward pass over a picture (C, h, w) needs, up to the layers called `wanted`.

    ops (n, loops.COLUMNS) int64, offs int64, size: floats of workspace. tensors: where layers lie, by timm path. Those that are wanted
    still hold their layer at the end; no step behind the last of them is planned. keep: all layers that are computed up to there still
    do, and are wanted. exact: no Winograd.
    """

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], packed: Packed, h: int, w: int, wanted: Collection[str], *,
                 threads: int = 1, exact: bool = False, keep: bool = False):
        self.graph, self.params, self.packed = graph, params, packed
        self.threads, self.exact, self.keep = threads, exact, keep
        self.wanted = {graph.aliases.get(path, path) for path in wanted}  # by their first names
        self.rows: list[dict[str, int]] = []                              # of each operation its columns,
        self.places: list[dict[str, tuple]] = []                          # those that wait for a tensor's place: (tensor, y, x),
        self.work: list[Work] = []                                        # and its cost
        self.runs: list[int] = []                                         # where convolutions' runs begin
        self.tensors: dict[str, Tensor] = {}
        self.all: list[Tensor] = []
        self.roles: dict[tuple, Tensor] = {}
        self.fused: dict[str, Step] = {}                                  # projections that are computed with the sum they belong to
        self._build(h, w)
        self.tensors = graph.in_order(self.tensors)
        self._finish(self.tensors if keep else wanted)

    # --- the network --------------------------------------------------------------------------------------------------------------

    def _build(self, h: int, w: int) -> None:
        steps = self.graph.steps_to(self.wanted)
        x = self.tensors[PICTURE] = self._tensor(h, w, self.graph.in_chans, border=self.graph.borders[PICTURE], tight=True)
        self._op("input", L.INPUT, h, "channels last", dst=x, CHANNELS=x.c, H=h, W=w)
        kinds = {"conv": self._convolution, "max_pool": self._max_pool, "avg_pool": self._avg_pool, "global_pool": self._global_pool}
        for step in steps:
            kinds[step.kind](step, self.tensors[step.source])

    def _convolution(self, step: Step, x: Tensor) -> None:
        """A convolution with all that follows it: folded norm, shortcut, second output."""
        p, q = step.output_size(x.h), step.output_size(x.w)
        if self._joins(step, p, q):
            self.fused[step.path] = step
            return
        if self.graph.folds(step):
            y = self._tensor(p, q, step.c_out, border=self._border(step.norm), role=role_of(step.path))
            self._conv(step, x, y, norm=step.norm)
            self.tensors[step.norm] = y
            return
        plus, residual = self.fused.get(step.shortcut), self.tensors.get(step.shortcut)
        y = residual if residual and self._replaces(step) else self._tensor(p, q, step.c_out, border=self._border(step.raw))
        two = None
        if step.norm:
            two = self._tensor(p, q, step.c_out, border=self._border(step.norm), role=role_of(f"{step.raw}.sum"))
        self._conv(step, x, y, residual=residual, plus=plus, two=two)
        self.tensors |= {step.raw: y} | ({step.norm: two} if two else {})

    def _joins(self, step: Step, p: int, q: int) -> bool:
        """Whether a projection is computed by the convolution that it is added to, as more of its channels. Not where its stride would
        make that convolution's tiles end with each row, and they would compute too much for nothing."""
        sums = [other for other in self.graph.steps if other.shortcut == step.path]
        if not sums or step.norm or step.kernel > 1:
            return False
        waste = p * computed(q, best_step(q)) - computed(p * q, best_step(p * q))
        return step.stride == 1 or sums[0].kernel > 1 or waste * sums[0].c_in <= p * q * ACTIVATION_COST

    def _replaces(self, step: Step) -> bool:
        """Whether a sum may be written over its shortcut, place by place: if nobody else reads that."""
        readers = sum((other.source, other.shortcut).count(step.shortcut) for other in self.graph.steps)
        return readers == 1 and not self.keep and step.shortcut not in self.wanted

    def _max_pool(self, step: Step, x: Tensor) -> None:
        p, q = step.output_size(x.h), step.output_size(x.w)
        raw, pre = self._tensor(p, q, x.c), self._tensor(p, q, x.c, border=self._border(step.norm))
        self._op(step.path, L.MAXPOOL, p, "max pool", src=x, dst=raw, two=pre, CHANNELS=x.c, H=x.h, W=x.w, **self._norm(step.norm))
        self.tensors |= {step.path: raw, step.norm: pre}

    def _avg_pool(self, step: Step, x: Tensor) -> None:
        y = self.tensors[step.path] = self._tensor(step.output_size(x.h), step.output_size(x.w), x.c)
        self._op(step.path, L.AVGPOOL, y.h, "average pool", src=x, dst=y, CHANNELS=x.c, H=x.h, W=x.w, STRIDE=step.stride,
                 ALL_COUNT=int(step.same))

    def _global_pool(self, step: Step, x: Tensor) -> None:
        """The mean; other pools are the engine's."""
        y = self.tensors[step.path] = self._tensor(1, 1, x.c)
        self._op(step.path, L.GLOBALPOOL, -(-x.c // VL), "mean", src=x, dst=y, CHANNELS=x.c, H=x.h, W=x.w)

    # --- its parts ----------------------------------------------------------------------------------------------------------------

    def _border(self, layer: str) -> int:
        """The border of zeros that those who read a layer want."""
        return self.graph.borders.get(layer, 0)

    def _tensor(self, h: int, w: int, c: int, *, pictures: int = 1, border: int = 0, tight: bool = False, role: str = "") -> Tensor:
        """A new activation; or, if it has a role, the one of this shape that has it in other blocks of the stage. So within a stage every
        place belongs to one tensor, and every part of that to one thread: no core writes where another one has just written."""
        key = role, h, w, c, pictures, border                             # what a border of zeros surrounds must lie apart
        if key in self.roles:
            return self.roles[key]
        self.all.append(Tensor(pictures, h, w, c, border, extra=3 if border == 1 and not tight else 0, tight=tight))
        if role and not self.keep:
            self.roles[key] = self.all[-1]
        return self.all[-1]

    def _norm(self, path: str) -> dict[str, Any]:
        """Places of a batch norm's scale and shift, as columns of an operation."""
        scale, shift = scale_and_shift(self.params, path)
        return dict(SCALE=self._vector((path, "scale"), scale), SHIFT=self._vector((path, "shift"), shift))

    def _vector(self, key, vector: np.ndarray) -> int:
        """Place of a vector over output channels."""
        padded = pad_channels(vector)
        return self.packed.add(key, padded.shape, lambda out: np.copyto(out, padded, casting="same_kind"))

    def _conv(self, step: Step, x: Tensor, y: Tensor, *, norm: str = "", residual: Tensor | None = None, plus: Step | None = None,
              two: Tensor | None = None) -> None:
        """Convolution `step` of x into y: with `norm` and its ReLU folded in, or raw; or raw plus `residual`, or plus a second
        convolution (1×1), and `two` = the step's norm and ReLU of that."""
        path, k, c, r, s = step.path, step.c_out, step.c_in, step.kernel, step.kernel
        p, q, pad, stride, dilation = y.h, y.w, step.padding, step.stride, step.dilation
        if norm and x.extra and (r, stride, dilation) == (3, 1, 1):
            m = self._winograd(p, q, k, c)
            if m:
                self._winograd_conv(path, x, y, norm, m)
                return
        starts, run = self._runs(x, r, s, dilation)
        starts2, x2, columns = list[int](), None, dict[str, Any]()
        if plus:                                                          # its channels follow on those of x
            path2, x2, stride2 = plus.path, self.tensors[plus.source], plus.stride
            run = gcd(run, x2.c)
            starts2 = list(range(0, x2.c, run))
            columns = dict(SRC2_ROW=stride2 * x2.row, SRC2_PIXEL=stride2 * x2.pitch)
        starts = [start + i for start in starts for i in range(0, r * s * c // len(starts), run)]
        steps = len(starts + starts2) * run

        panels = up(k, NR) // NR
        scale, shift = scale_and_shift(self.params, norm) if norm else (np.ones(k), self.params.get(f"{path}.bias", np.zeros(k)))

        def fill(out):
            pack(self.params[f"{path}.weight"].reshape(k, c, r * s), scale, 0, out)
            if plus and x2:
                pack(self.params[f"{path2}.weight"].reshape(k, x2.c, 1), np.ones(k), r * s * c, out)
                release(self.params[f"{path2}.weight"])
            release(self.params[f"{path}.weight"])
        place = self.packed.add((path, norm, plus.path if plus else ""), (panels, steps, NR), fill)

        far = up(k, NR) * steps * 4 > NEAR                                # the weights don't stay in the cache: walk them once
        strided = stride > 1 or any(t.border for t in (x, y, residual, two, x2) if t) or (plus and stride2 > 1)
        rows, across = (p, q) if r > 1 or strided else (1, p * q)         # else all pixels are one long row
        height = best_step(across)
        tiles = rows * -(-across // height)
        if not far:
            panels_a_task, tiles_a_task = panels, max(1, tiles // 64)
        elif tiles >= 4 * self.threads:                                   # each thread has pixels of its own, that no other core touches
            panels_a_task, tiles_a_task = panels, -(-tiles // self.threads)
        else:                                                             # too few for that: channels of its own
            panels_a_task, tiles_a_task = 1, tiles
        columns |= dict(P=rows, Q=across, STEP=height, SRC_ROW=stride * x.row, SRC_PIXEL=stride * x.pitch, WEIGHT=place, PANELS=panels,
                        PANEL=steps * NR, BIAS=self._vector((path, norm, "bias"), shift), LINEAR=int(not norm), OFFS=len(self.runs),
                        NRUNS=len(starts + starts2), RUN=run, FIRST2=len(starts), TILES_A_TASK=tiles_a_task,
                        PANELS_A_TASK=panels_a_task, PANELS_OUTER=int(far))
        if two:
            columns |= self._norm(step.norm)
        self._op(f"{path} + downsample.conv" if plus else path, L.CONV, -(-panels // panels_a_task) * -(-tiles // tiles_a_task),
                 f"direct {r}×{s}", src=x, src2=x2, dst=y, res=residual, two=two, start=(-pad, -pad), tile=tile_name(across, height),
                 flops=2 * p * q * k * steps, computed=2 * rows * computed(across, height) * panels * NR * steps, weights=k * steps, **columns)
        self.runs += starts + starts2

    def _runs(self, x: Tensor, r: int, s: int, dilation: int) -> tuple[list[int], int]:
        """Where the runs of an r×s kernel begin, and how long they are."""
        if x.pitch == x.c and dilation == 1:                              # a kernel row's taps lie behind one another: one run
            return [i * x.row for i in range(r)], s * x.c
        return [(i * x.row + j * x.pitch) * dilation for i in range(r) for j in range(s)], x.c

    def _winograd(self, p: int, q: int, k: int, c: int) -> int:
        """Which F(m×m, 3×3) to use for an output of p×q, 0 for none: the least of arithmetic plus traffic, in float operations.

        Arithmetic: what the tiles compute, pixels they only fill up with included, or the time that the weights take to come from memory
        meanwhile, if that is longer. Traffic: the transformed activations, written and read from the cache.
        """
        if self.exact:
            return 0
        costs = {0: 9 * c * k * max(2 * p * computed(q, best_step(q)), WEIGHT_COST)}
        for m in (2, 4):
            places, tiles = (m + 2) ** 2, -(-p // m) * -(-q // m)
            costs[m] = places * (c * k * max(2 * computed(tiles, best_step(tiles)), WEIGHT_COST) + tiles * (c + k) * ACTIVATION_COST)
        return min(costs, key=costs.__getitem__)

    def _winograd_conv(self, path: str, x: Tensor, y: Tensor, norm: str, m: int) -> None:
        """A 3×3 convolution as transform, n² matrix products (places stand for pictures, each with weights of its own), transform."""
        weight, places = self.params[f"{path}.weight"], (m + 2) ** 2
        k, c = weight.shape[:2]
        down, across = -(-y.h // m), -(-y.w // m)
        tiles, panels = down * across, up(k, NR) // NR
        scale, shift = scale_and_shift(self.params, norm)
        def fill(out):
            pack_winograd(weight.reshape(k, c, 9), scale, np.array(MATRICES[m]["G"], np.float64), out)
            release(weight)
        zero, bias, half = self._vector(("zero", k), np.zeros(k)), self._vector((path, norm, "bias"), shift), -(-panels // 2)
        ends: dict[str, Any]
        ends, shape = dict(M=m, Q=across, CHANNELS=c, CHANNELS_OUT=k, BIAS=bias), dict(H=y.h, W=y.w)
        product = dict(WEIGHT=self.packed.add((path, norm, m), (places, panels, c, NR), fill), WEIGHT_PICTURE=panels * c * NR, PANELS=panels,
                       PANEL=c * NR, OFFS=len(self.runs), RUN=c)
        cost: dict[str, Any] = dict(flops=2 * 9 * y.h * y.w * c * k, weights=places * k * c)
        name = f"F({m}×{m})"
        self.runs.append(0)
        size = places * panels * NR * c * 4
        if size <= 4 * NEAR:                                              # each thread walks over all weights, for tiles of its own
            each = -(-tiles // self.threads) if size > NEAR else min(MR, tiles)
            step, tasks = best_step(each), -(-tiles // each)
            v, z = (self._tensor(1, each, n, pictures=places * self.threads, role=role_of(path, part))
                    for n, part in ((c, "in"), (NR, "out")))
            self._op(path, L.WINOGRAD, tasks, name, src=x, dst=y, res=v, two=z, start=(-1, -1), tile=tile_name(each, step), scratch=(v, z),
                     computed=2 * places * tasks * computed(each, step) * panels * NR * c, **cost, **ends | shape | product, P=down,
                     TILES_A_TASK=each, STEP=step, SHIFT=zero)
            return
        step = best_step(tiles)
        v, z = (self._tensor(1, tiles, n, pictures=places, role=role_of(path, part)) for n, part in ((c, "in"), (k, "out")))
        self._op(path, L.WINOGRAD_IN, (m + 2) * down, name, src=x, dst=v, start=(-1, -1), scratch=(v,), **ends, P=down)
        self._op(path, L.CONV, places * -(-panels // half), name, src=v, dst=z, tile=tile_name(tiles, step), scratch=(v, z), **cost,
                 computed=2 * places * computed(tiles, step) * panels * NR * c, **product, PICTURES=places, BIAS=zero, LINEAR=1, NRUNS=1,
                 FIRST2=1, STEP=step, TILES_A_TASK=-(-tiles // step), PANELS_A_TASK=half, PANELS_OUTER=1)
        self._op(path, L.WINOGRAD_OUT, down, name, src=z, dst=y, scratch=(z,), **(ends | shape))

    def _op(self, layer: str, kind: int, tasks: int, algorithm: str, *, src: Tensor | None = None, src2: Tensor | None = None,
            dst: Tensor, res: Tensor | None = None, two: Tensor | None = None, start: tuple[int, int] = (0, 0), tile: str = "",
            flops: int = 0, computed: int = 0, weights: int = 0, scratch: Collection[Tensor] = (), **columns: Any) -> None:
        """Append an operation. Places and strides come from its tensors, unless given; of src it reads from pixel `start` on. The cost: flops
        and those computed, floats of weights, and its tensors but those that are only `scratch`."""
        for tensor in (dst, two):
            if tensor and tensor.border and kind != L.BORDER:
                self._op(layer, L.BORDER, tensor.h + 2 * tensor.border + tensor.extra, algorithm, dst=tensor, H=tensor.h, W=tensor.w,
                         WIDTH=tensor.border, scratch=(tensor,))
        row, places = {"KIND": kind, "TASKS": tasks, "PICTURES": 1, "P": dst.h, "Q": dst.w, "RES": -1, "TWO": -1}, {}
        for role, tensor in (("SRC", src), ("SRC2", src2), ("DST", dst), ("RES", res), ("TWO", two)):
            if tensor:
                tensor.use(len(self.rows))
                row |= {f"{role}_PICTURE": tensor.picture, f"{role}_ROW": tensor.row, f"{role}_PIXEL": tensor.pitch}
                places[role] = (tensor, *(start if role == "SRC" else (0, 0)))
                weights += tensor.pictures * tensor.h * tensor.w * tensor.c * (tensor not in scratch)
        self.rows.append(row | columns)
        self.places.append(places)
        self.work.append(Work(layer, algorithm, tile, flops / 1e9, computed / 1e9, weights * 4 / 1e6))

    def _finish(self, wanted: Collection[str]) -> None:
        """Leave out the operations that `wanted` doesn't need, and give the tensors their places."""
        outputs = [self.tensors[path] for path in wanted]
        count = 1 + max(i for i, places in enumerate(self.places) for role in ("DST", "TWO") if role in places and places[role][0] in outputs)
        for tensor in outputs:
            tensor.last = FOREVER
        self.offs = np.array(self.runs, np.int64)
        behind = 2 * MR * max(t.pitch for t in self.all)                  # a tile reads all its pixels, even where fewer are left
        self.size = place([t for t in self.all if t.first < count]) + behind
        self.ops, self.work = np.zeros((count, L.COLUMNS), np.int64), self.work[:count]
        for op, columns, places in zip(self.ops, self.rows, self.places):
            for column, value in (columns | {role: tensor.at(y, x) for role, (tensor, y, x) in places.items()}).items():
                op[getattr(L, column)] = value


class HeadPlan(Plan):
    """The classifier alone: pooled features (C, h, w), as one picture → logits, one 1×1 convolution with bias."""

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], packed: Packed, h: int, w: int):
        super().__init__(graph, params, packed, h, w, ["head.fc"])

    def _build(self, h: int, w: int) -> None:
        step = self.graph.steps[-1]
        self.tensors[step.source] = self._tensor(h, w, step.c_in)
        self._convolution(step, self.tensors[step.source])
