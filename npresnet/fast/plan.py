"""Planning: from a variant, its tensors and a picture size to a table of operations, packed weights and a workspace.

Activations lie as (picture, row, column, channel), each pixel `pitch` floats after the one before. The pitch is a little more than
the channels: were it a power of two, the pixels of a tile would fall into the same few places of the first-level cache. A tensor
that a 3×3 convolution reads has a border of zeros, written once; what writes it writes inside.

    bottleneck:    P ──conv1──▶ A ──conv2──▶ B ──conv3──▶ + ──▶ X (raw: the next shortcut)
                   │         (with norm2)  (with norm3)   ▲ └─▶ P = max(X · scale + shift, 0): the next norm1
                   └──downsample or raw X────────────────┘

norm2 and norm3 follow a convolution and are folded into its weights; norm1 follows a sum that is also needed raw, so it is a second
output of the tile that makes the sum.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..variants import BASIC, StagePlan, Variant, conv_padding
from . import loops as L
from .target import MR, MR_SMALL, NR
from .winograd import transform_kernels

EPS = 1e-5
WEIGHT_COST = 40                                                  # operations in the time that a weight takes to come from memory
ACTIVATION_COST = 20                                              # and a transformed activation to go to the cache and back


@dataclass(frozen=True)
class Tensor:
    """Where an activation lies in the workspace; numbers are floats. border: pixels of zeros around each picture,
    and `extra` more of them on the right and below, for Winograd tiles that hang over the edge."""
    base: int
    h: int
    w: int
    c: int
    border: int
    pitch: int
    extra: int = 0

    @property
    def row(self) -> int:
        return (self.w + 2 * self.border + self.extra) * self.pitch

    @property
    def picture(self) -> int:
        return (self.h + 2 * self.border + self.extra) * self.row

    def at(self, y: int, x: int) -> int:
        """Where pixel (y, x) of the first picture begins; −border is the first."""
        return self.base + (y + self.border) * self.row + (x + self.border) * self.pitch

    def view(self, workspace: np.ndarray, pictures: int) -> np.ndarray:
        """The activation as (N, C, H, W), a view of the workspace."""
        strides = np.array((self.picture, 1, self.row, self.pitch)) * workspace.itemsize
        return np.lib.stride_tricks.as_strided(workspace[self.at(0, 0):], (pictures, self.c, self.h, self.w), strides)


@dataclass
class Packed:
    """Weights as the tiles read them, all in one array, and the runs' offsets in another. Shared by the plans of all picture sizes."""
    parts: list[np.ndarray] = field(default_factory=list)
    size: int = 0
    places: dict = field(default_factory=dict)

    def add(self, key, make) -> int:
        """The place of what `make()` gives, packed once for each key; a multiple of 16 floats."""
        if key not in self.places:
            array = np.ascontiguousarray(make(), np.float32).ravel()
            self.places[key] = self.size
            self.parts.append(np.concatenate([array, np.zeros(-array.size % 16, np.float32)]))
            self.size += self.parts[-1].size
        return self.places[key]

    def array(self) -> np.ndarray:
        """Everything that was added so far."""
        if len(self.parts) > 1:
            self.parts = [np.concatenate(self.parts)]
        return self.parts[0]


def up(n: int, to: int) -> int:
    return -(-n // to) * to


def pad_channels(vector: np.ndarray) -> np.ndarray:
    """A vector (K,) filled up with zeros to whole panels."""
    return np.concatenate([vector, np.zeros(-vector.size % NR)])


def pack(weight: np.ndarray) -> np.ndarray:
    """(K, C, R, S) → panels (⌈K / NR⌉, R·S·C, NR): the NR weights of one step lie behind one another."""
    k, c, r, s = weight.shape
    rows = np.zeros((up(k, NR), r * s * c), np.float32)
    rows[:k] = weight.transpose(0, 2, 3, 1).reshape(k, -1)
    return rows.reshape(-1, NR, r * s * c).transpose(0, 2, 1)


def scale_and_shift(params: Mapping[str, np.ndarray], path: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm as y = x · scale + shift, float64."""
    weight, bias, mean, var = (params[f"{path}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var"))
    scale = weight / np.sqrt(var + EPS)
    return scale, bias - mean * scale


class Plan:
    """All that a forward pass needs, for `pictures` pictures of h×w at a time.

    ops (n, loops.COLUMNS) int64, offs int64, size: floats of workspace. tensors: where layers lie, by timm path. Without `keep` blocks of
    a stage overwrite each other, and only the feature maps stay until the end. exact: no Winograd.
    """

    def __init__(self, variant: Variant, params: Mapping[str, np.ndarray], packed: Packed, pictures: int, in_chans: int, h: int, w: int,
                 output_stride: int, exact: bool = False, keep: bool = False):
        self.exact, self.keep = exact, keep
        self.variant, self.params, self.packed, self.pictures = variant, params, packed, pictures
        self.rows: list[np.ndarray] = []
        self.names: list[str] = []
        self.flops: list[int] = []
        self.offs: list[int] = []
        self.size = 0
        self.tensors: dict[str, Tensor] = {}
        self.scratch: dict[tuple, Tensor] = {}
        self.all: list[Tensor] = []
        self._build(in_chans, h, w, output_stride)
        self.size += 2 * MR * max(t.pitch for t in self.all)              # a tile reads MR pixels, even where fewer are left
        self.ops, self.offs = np.stack(self.rows), np.array(self.offs, np.int64)

    # --- the network --------------------------------------------------------------------------------------------------------------

    def _build(self, in_chans: int, h: int, w: int, output_stride: int) -> None:
        stages = self.variant.stages(output_stride)
        basic = self.variant.block == BASIC
        wide = stages[0].dilation if basic else 0                         # the border that a block's first convolution wants
        kernel = 3 if self.variant.stem else 7
        x = self._tensor(h, w, in_chans, conv_padding(kernel, 2), tight=True)
        self._op("input", L.INPUT, self.pictures * h, dst=x, CHANNELS=in_chans, H=h, W=w)
        if self.variant.stem:
            for i, path in enumerate(self.variant.stem_convs[:-1]):
                x = self._conv(path, x, stride=2 if i == 0 else 1, norm=f"stem.norm{i + 1}", border=1)
        last = self.variant.stem_convs[-1]
        stem = self.tensors[last] = self._conv(last, x, stride=1 if self.variant.stem else 2)
        p, q = (stem.h - 1) // 2 + 1, (stem.w - 1) // 2 + 1
        raw, pre = self._tensor(p, q, stem.c, 0), self._tensor(p, q, stem.c, wide)
        scale, shift = self._norm("stages.0.blocks.0.norm1")
        self._op("stem.pool", L.MAXPOOL, self.pictures * p, src=stem, dst=raw, two=pre, CHANNELS=stem.c, H=stem.h, W=stem.w, SCALE=scale,
                 SHIFT=shift)
        self.tensors |= {"stem.pool": raw, "stages.0.blocks.0.norm1": pre}
        for s, stage in enumerate(stages):
            after = stages[s + 1] if s + 1 < len(stages) else None
            raw, pre = self._stage(s, stage, after, raw, pre)
            self.tensors[f"stages.{s}"] = raw

    def _stage(self, s: int, stage: StagePlan, after: StagePlan | None, raw: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        basic = self.variant.block == BASIC
        out_h, out_w = (pre.h - 1) // stage.stride + 1, (pre.w - 1) // stage.stride + 1
        border = max(stage.dilation, after.first_dilation if after else 0) if basic else 0
        x = p = None
        for b in range(stage.depth):
            path, first = f"stages.{s}.blocks.{b}", b == 0
            stride, dilation = (stage.stride, stage.first_dilation) if first else (1, stage.dilation)
            follows = (f"stages.{s}.blocks.{b + 1}.norm1" if b + 1 < stage.depth else f"stages.{s + 1}.blocks.0.norm1" if after else "norm")
            if first or self.keep:
                x, p = self._tensor(out_h, out_w, stage.c_out, 0), self._tensor(out_h, out_w, stage.c_out, border)
            shortcut = raw
            if first and self.variant.has_downsample(stage):              # into x, where the sum replaces it place by place
                shortcut = self._downsample(path, pre, stage, self._tensor(out_h, out_w, stage.c_out, 0) if self.keep else x)
            if basic:
                y = self._conv(f"{path}.conv1", pre, stride=stride, dilation=dilation, norm=f"{path}.norm2", border=stage.dilation)
                self._conv(f"{path}.conv2", y, dilation=stage.dilation, residual=shortcut, into=x, then=follows, two=p)
            else:
                y = self._conv(f"{path}.conv1", pre, norm=f"{path}.norm2", border=dilation)
                y = self._conv(f"{path}.conv2", y, stride=stride, dilation=dilation, norm=f"{path}.norm3")
                self._conv(f"{path}.conv3", y, residual=shortcut, into=x, then=follows, two=p)
            self.tensors |= {path: x, follows: p}
            raw, pre = x, p
        return raw, pre

    def _downsample(self, path: str, pre: Tensor, stage: StagePlan, into: Tensor) -> Tensor:
        stride = stage.stride
        if self.variant.avg_down and (stride > 1 or stage.dilation > 1):
            pooled = self.tensors[f"{path}.downsample.pool"] = self._tensor(into.h, into.w, pre.c, 0)
            self._op(f"{path}.downsample.pool", L.AVGPOOL, self.pictures * into.h, src=pre, dst=pooled, CHANNELS=pre.c, H=pre.h, W=pre.w,
                     STRIDE=stride, ALL_COUNT=int(stage.dilation > 1))
            pre, stride = pooled, 1
        self.tensors[f"{path}.downsample.conv"] = into
        return self._conv(f"{path}.downsample.conv", pre, stride=stride, into=into)

    # --- its parts ----------------------------------------------------------------------------------------------------------------

    def _tensor(self, h: int, w: int, c: int, border: int, tight: bool = False, extra: int = 0) -> Tensor:
        """A new activation. Its place is its own, so borders and feature maps stay what they are."""
        pitch = c if tight else up(c, NR) + 16
        tensor = Tensor(self.size, h, w, c, border, pitch, extra)
        self.size += up(self.pictures * tensor.picture, 16)
        self.all.append(tensor)
        return tensor

    def _norm(self, path: str) -> tuple[int, int]:
        """Places of a batch norm's scale and shift."""
        scale, shift = scale_and_shift(self.params, path)
        return (self.packed.add((path, "scale"), lambda: pad_channels(scale)), self.packed.add((path, "shift"), lambda: pad_channels(shift)))

    def _conv(self, path: str, x: Tensor, *, stride: int = 1, dilation: int = 1, norm: str | None = None, border: int = 0,
              into: Tensor | None = None, residual: Tensor | None = None, then: str | None = None, two: Tensor | None = None) -> Tensor:
        """Convolution `path` of x: with `norm` and its ReLU folded in, or raw; or raw plus `residual`, and `two` = ReLU(`then`) of that."""
        weight = self.params[f"{path}.weight"]
        k, c, r, s = weight.shape
        pad = conv_padding(r, stride, dilation)
        p, q = ((n + 2 * pad - dilation * (r - 1) - 1) // stride + 1 for n in (x.h, x.w))
        y = into or self._tensor(p, q, k, border, extra=3 if border == 1 else 0)
        m = 0 if residual or norm is None or (r, stride, dilation) != (3, 1, 1) or not x.extra else self._winograd(p, q, k, c)
        if norm:
            self.tensors[norm] = y
        if m:
            return self._winograd_conv(path, x, y, norm, m)

        def folded():
            return weight if norm is None else weight * scale_and_shift(self.params, norm)[0].reshape(-1, 1, 1, 1)
        place = self.packed.add((path, norm), lambda: pack(folded().astype(np.float32)))
        def shifted():
            own = self.params.get(f"{path}.bias", np.zeros(k))            # only the classifier has one
            return pad_channels(own if norm is None else scale_and_shift(self.params, norm)[1])
        bias = self.packed.add((path, norm, "bias"), shifted)
        rows_touch = x.pitch == x.c and dilation == 1                     # a kernel row's taps lie behind one another: one run
        taps = [(i, 0) for i in range(r)] if rows_touch else [(i, j) for i in range(r) for j in range(s)]
        run = s * c if rows_touch else c
        offsets = [(i * x.row + j * x.pitch) * dilation for i, j in taps]
        scale, shift = self._norm(then) if then else (0, 0)
        flat = r == 1 and stride == 1 and not any(t.border for t in (x, y, residual, two) if t)
        rows, columns = (1, self.pictures * p * q) if flat else (p, q)
        pictures = 1 if flat else self.pictures
        tiles, panels = pictures * rows * -(-columns // MR), up(k, NR) // NR
        outer = up(k, NR) * r * s * c * 4 > 512 * 1024                     # the weights don't stay in the second-level cache: walk them once
        panels_a_task = 1 if outer else panels
        tiles_a_task = tiles if outer else max(1, tiles // 64)
        self._op(path, L.CONV, -(-panels // panels_a_task) * -(-tiles // tiles_a_task), src=x, dst=y, res=residual, two=two, P=rows, Q=columns,
                 PICTURES=pictures, SRC=x.at(-pad, -pad), SRC_ROW=stride * x.row, SRC_PIXEL=stride * x.pitch, SCALE=scale, SHIFT=shift,
                 WEIGHT=place, PANELS=panels, PANEL=r * s * c * NR, BIAS=bias, LINEAR=int(norm is None), OFFS=len(self.offs), NRUNS=len(taps),
                 RUN=run, TILES_A_TASK=tiles_a_task, PANELS_A_TASK=panels_a_task, PANELS_OUTER=int(outer))
        self.offs += offsets
        self.flops[-1] = 2 * self.pictures * p * q * weight.size
        return y

    def _winograd(self, p: int, q: int, k: int, c: int) -> int:
        """Which F(m×m, 3×3) to use for an output of p×q, 0 for none: the least of arithmetic plus traffic, in float operations.

        Arithmetic: what the tiles compute, pixels they only fill up with included. Traffic: the transformed weights, read once from
        memory, and the transformed activations, written and read from the cache.
        """
        if self.exact or self.pictures > 1:
            return 0
        def computed(pixels):
            whole, rest = divmod(pixels, MR)
            return whole * MR + (0 if not rest else MR if rest > MR_SMALL else MR_SMALL)
        costs = {0: 9 * p * computed(q) * c * k * 2 + 9 * c * k * WEIGHT_COST}
        for m in (2, 4):
            places, tiles = (m + 2) ** 2, -(-p // m) * -(-q // m)
            costs[m] = places * (computed(tiles) * c * k * 2 + c * k * WEIGHT_COST + tiles * (c + k) * ACTIVATION_COST)
        return min(costs, key=costs.get)

    def _winograd_conv(self, path: str, x: Tensor, y: Tensor, norm: str, m: int) -> Tensor:
        """A 3×3 convolution as transform, n² matrix products (places stand for pictures, each with weights of its own), transform."""
        weight, places = self.params[f"{path}.weight"], (m + 2) ** 2
        k, c = weight.shape[:2]
        down, across = -(-y.h // m), -(-y.w // m)
        v, product = self._scratch(places, down * across, c, "in"), self._scratch(places, down * across, k, "out")
        scale, shift = scale_and_shift(self.params, norm)
        self._op(f"{path} (in)", L.WINOGRAD_IN, down, src=x, dst=v, SRC=x.at(-1, -1), Q=across, CHANNELS=c, M=m)
        u = self.packed.add((path, norm, m), lambda: np.stack([pack(place) for place in transform_kernels(weight * scale.reshape(-1, 1, 1, 1), m)]))
        zero = self.packed.add(("zero", up(k, NR)), lambda: np.zeros(up(k, NR)))
        panels = up(k, NR) // NR
        halves = -(-panels // 2)
        self._op(path, L.CONV, places * -(-panels // halves), src=v, dst=product, PICTURES=places, P=1, Q=down * across, WEIGHT=u,
                 WEIGHT_PICTURE=panels * c * NR, PANELS=panels, PANEL=c * NR, BIAS=zero, LINEAR=1, OFFS=len(self.offs), NRUNS=1, RUN=c,
                 TILES_A_TASK=-(-down * across // MR), PANELS_A_TASK=halves, PANELS_OUTER=1)
        self.offs.append(0)
        self.flops[-1] = 2 * 9 * y.h * y.w * c * k
        bias = self.packed.add((path, norm, "bias"), lambda: pad_channels(shift))
        self._op(f"{path} (out)", L.WINOGRAD_OUT, down, src=product, dst=y, Q=across, CHANNELS=k, M=m, H=y.h, W=y.w, BIAS=bias)
        return y

    def _scratch(self, places: int, tiles: int, c: int, role: str) -> Tensor:
        """Transformed activations, `places` "pictures" of one row of tiles. Layers of one shape share theirs."""
        key = places, tiles, c, role
        if key not in self.scratch:
            kept, self.pictures = self.pictures, places
            self.scratch[key] = self._tensor(1, tiles, c, 0)
            self.pictures = kept
        return self.scratch[key]

    def _op(self, name: str, kind: int, tasks: int, *, src: Tensor | None = None, dst: Tensor | None = None, res: Tensor | None = None,
            two: Tensor | None = None, **columns: int) -> None:
        """Append an operation; places and strides come from its tensors, unless given."""
        row = {"KIND": kind, "TASKS": tasks, "PICTURES": self.pictures, "TWO": -1}
        if dst:
            row |= {"P": dst.h, "Q": dst.w}
        for role, tensor in (("SRC", src), ("DST", dst), ("RES", res), ("TWO", two)):
            if tensor:
                row |= {role: tensor.at(0, 0), f"{role}_PICTURE": tensor.picture, f"{role}_ROW": tensor.row, f"{role}_PIXEL": tensor.pitch}
        values = np.zeros(L.COLUMNS, np.int64)
        for column, value in (row | columns).items():
            values[getattr(L, column)] = value
        self.rows.append(values)
        self.names.append(name)
        self.flops.append(0)


class HeadPlan(Plan):
    """The classifier alone: pooled features (N, C, P, Q) → logits (N, K, P, Q), one 1×1 convolution with bias over all pictures."""

    def __init__(self, variant: Variant, params: Mapping[str, np.ndarray], packed: Packed, n: int, c: int, p: int, q: int):
        super().__init__(variant, params, packed, n, c, p, q, 32)

    def _build(self, in_chans: int, h: int, w: int, output_stride: int) -> None:
        self.source = self._tensor(h, w, in_chans, 0)
        self.tensors["head.fc"] = self._conv("head.fc", self.source)
