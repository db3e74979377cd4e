"""Planning: from a variant and a picture size to a list of kernel launches, and places for what they read and write. Needs no GPU.

    bottleneck:    P ──conv1──▶ A ──conv2──▶ B ──conv3──▶ + ──▶ X (raw: the next shortcut)
                   │         (with norm2)  (with norm3)   ▲ └─▶ P = max(X · scale + shift, 0): the next norm1
                   └──raw X, or downsample────────────────┘

Every batch norm and ReLU happens behind the sum that it follows. The CPU's plan (`npresnet/fast/plan.py`) folds norm2 and norm3 into
the weights before them; here scale and shift are applied to the sum, which costs nothing beside it and leaves the weights timm's own. So
a plan that keeps every layer, for `trace`, runs the same kernels on the same weights and only writes more.

All pictures of a batch are one long row of pixels, so a plan is for a number of pictures, too.
"""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil, prod

from npresnet.fast.memory import FOREVER, place, up
from npresnet.ops.conv import output_size
from npresnet.variants import BASIC, StagePlan, Variant, conv_padding

from . import conv2d as C
from . import layout, pool
from .norm import BIAS, NORM, RAW, RESIDUAL, THREADS, sum_splits
from .performance import GPU, LAUNCH, Expected, Forecast

POOLS = {"avg": pool.MEAN, "max": pool.MAX, "avgmax": pool.MEANMAX, "catavgmax": pool.CATMEANMAX}
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LARGEST = 2**31                                                   # floats of an array must be fewer: kernels count in int32


@dataclass(eq=False)
class Activation:
    """An activation (N, H, W, C), C filled up to `pitch`. It is in use from launch `first` to `last`, and begins at float `base` of the
    workspace, once `place` has put it there."""
    n: int
    h: int
    w: int
    c: int
    first: int = FOREVER
    last: int = -1
    base: int = 0

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w

    @property
    def pitch(self) -> int:
        return up(self.c, 4)

    @property
    def floats(self) -> int:
        return self.pixels * self.pitch

    @property
    def size(self) -> int:
        """Floats of workspace: whole lines of 256 bytes, so that the next one begins at such, too."""
        return up(self.floats, 64)


@dataclass(frozen=True)
class Constant:
    """A vector or weight on the device: kind "weight" (of a convolution; "rows" if packed for that form), "bias", "scale" or "shift" (of a
    batch norm)."""
    kind: str
    path: str


@dataclass(frozen=True)
class Launch:
    """A kernel and what it is launched with. args: Activation, Constant, int, or None (nothing is read or written there)."""
    kernel: object
    grid: tuple[int, ...]
    args: tuple
    expected: Expected


class Plan:
    """A forward pass over n pictures (c, h, w): the tensors called in `wanted` (timm's paths) are put out, and nothing behind the last of
    them is done; None: all layers are kept, each by itself.

    shapes: of the parameters, by name. gpu: for which kernels are chosen. head_only: the pictures are feature maps, and only the head
    runs. source: where the pictures lie, (N, C, H, W); the first launch reads it. launches: in order. tensors: path → Activation, in
    forward order. outputs: of what is wanted, path → where it is put out as (N, C, H, W), contiguous, and that shape. size: floats of
    workspace. largest: floats of the largest array.
    """

    def __init__(self, variant: Variant, shapes: Mapping[str, tuple], n: int, c: int, h: int, w: int, gpu: GPU, *, output_stride: int = 32,
                 global_pool: str = "avg", wanted: Collection[str] | None = None, head_only: bool = False):
        self.variant, self.shapes, self.gpu, self.global_pool = variant, shapes, gpu, global_pool
        self.n, self.shape, self.keep = n, (n, c, h, w), wanted is None
        self.launches: list[Launch] = []
        self.tensors: dict[str, Activation] = {}
        self.outputs: dict[str, tuple[Activation, tuple]] = {}
        self.source, x = Activation(1, 1, 1, n * c * h * w), Activation(n, h, w, c)
        self._launch("pictures", layout.channels_last, (ceil(h * w / layout.SIDE), ceil(x.pitch / layout.SIDE), n),
                     (self.source, x, x.pitch, 0), moved=self.source.floats + x.floats)
        if head_only:
            self.tensors["norm"] = x
            self._head(x)
        else:
            self._build(x, output_stride)
        self._finish(wanted)

    def forecast(self, measured: float | None = None) -> Forecast:
        """What its launches should take; measured: ms that they took, if anybody knows."""
        return Forecast(self.variant.name, self.shape, self.gpu, [launch.expected for launch in self.launches], measured)

    # --- the network --------------------------------------------------------------------------------------------------------------

    def _build(self, x: Activation, output_stride: int) -> None:
        stages = self.variant.stages(output_stride)
        for i, path in enumerate(self.variant.stem_convs[:-1]):
            x = self._conv(path, x, stride=2 if i == 0 else 1, norm=f"stem.norm{i + 1}")
        x = self._conv(self.variant.stem_convs[-1], x, stride=1 if self.variant.stem else 2)
        raw, pre = self._max_pool("stem.pool", x, "stages.0.blocks.0.norm1")
        for s, stage in enumerate(stages):
            raw, pre = self._stage(s, stage, "norm" if stage is stages[-1] else f"stages.{s + 1}.blocks.0.norm1", raw, pre)
        self.tensors["norm"] = pre
        self._head(pre)

    def _stage(self, s: int, stage: StagePlan, follows: str, raw: Activation, pre: Activation) -> tuple[Activation, Activation]:
        """Stage s of raw and pre, the same after its norm1: the same of its output. follows: the norm behind the stage."""
        for b in range(stage.depth):
            path, first, basic = f"stages.{s}.blocks.{b}", b == 0, self.variant.block == BASIC
            stride, dilation = (stage.stride, stage.first_dilation) if first else (1, stage.dilation)
            self.tensors[f"{path}.norm1"] = pre
            if basic:
                last, y = f"{path}.conv2", self._conv(f"{path}.conv1", pre, stride=stride, dilation=dilation, norm=f"{path}.norm2")
            else:
                y = self._conv(f"{path}.conv1", pre, norm=f"{path}.norm2")
                last, y = f"{path}.conv3", self._conv(f"{path}.conv2", y, stride=stride, dilation=dilation, norm=f"{path}.norm3")
            spread = stage.dilation if basic else 1
            if self.keep:                                         # without the shortcut it exists for `trace` alone
                self._conv(last, y, dilation=spread)
            if first and self.variant.has_downsample(stage):
                raw = self._downsample(path, pre, stage)
            after = follows if b + 1 == stage.depth else f"stages.{s}.blocks.{b + 1}.norm1"
            raw, pre = self._sums(last, y, 1, spread, norm=after, residual=raw)
            self.tensors[path] = raw
        self.tensors[f"stages.{s}"] = raw
        return raw, pre

    def _downsample(self, path: str, pre: Activation, stage: StagePlan) -> Activation:
        """The projection on a shortcut, with the average pool that the d and t variants have before it."""
        stride = stage.stride
        if self.variant.avg_down and (stride > 1 or stage.dilation > 1):
            pre, stride = self._avg_pool(f"{path}.downsample.pool", pre, stride, all_count=stage.dilation > 1), 1
        return self._conv(f"{path}.downsample.conv", pre, stride=stride)

    def _head(self, x: Activation) -> None:
        if self.global_pool:
            x = self._global_pool("head.global_pool", x)
        else:
            self.tensors["head.global_pool"] = x
        if "head.fc.weight" in self.shapes:
            self._conv("head.fc", x)

    # --- its layers ---------------------------------------------------------------------------------------------------------------

    def _conv(self, path: str, x: Activation, *, stride: int = 1, dilation: int = 1, norm: str | None = None) -> Activation:
        """Convolution `path` of x, plus its bias if it has one; with `norm` and its ReLU behind it if named."""
        y, y2 = self._sums(path, x, stride, dilation, norm=norm, raw=self.keep or not norm)
        self.tensors |= {name: made for name, made in ((path, y), (norm, y2)) if made}
        return y2 or y

    def _sums(self, path: str, x: Activation, stride: int, dilation: int, *, norm: str | None, raw: bool = True,
              residual: Activation | None = None) -> tuple[Activation | None, Activation | None]:
        """Convolution `path` of x plus `residual`, if `raw`, and the same after `norm`, if named: the launch of rung 4 that should take
        least, and the one behind it that adds up, if its products are shared out."""
        k, c, r, s = self.shapes[f"{path}.weight"]
        pad = conv_padding(r, stride, dilation)
        out = Activation(x.n, output_size(x.h, r, stride, pad, dilation), output_size(x.w, s, stride, pad, dilation), k)
        y, y2 = replace(out) if raw else None, replace(out) if norm else None
        kernels = C.form(c, r, s, pad, dilation)
        steps = C.count_steps(kernels, c, r, s)
        bias = Constant("bias", path) if f"{path}.bias" in self.shapes else None
        scale, shift = (Constant("scale", norm), Constant("shift", norm)) if norm else (None, None)
        flags = BIAS * bool(bias) + RESIDUAL * bool(residual) + RAW * raw + NORM * bool(norm)
        behind = bias, residual, scale, shift, y, y2
        around = out.floats * (bool(residual) + raw + bool(norm))         # floats that are moved behind the sum
        inputs, gflop = x.floats + out.pitch * steps * C.DEPTH, 2 * out.pixels * k * c * r * s / 1e9

        choices = []
        for tile in C.TILES:
            blocks = ceil(out.pixels / tile[0]) * ceil(out.pitch / tile[1])
            for splits in SPLITS:
                share = ceil(steps / splits)
                splits = ceil(steps / share)                              # so that none is left without a step
                if splits > 1 and splits * out.floats >= LARGEST:
                    break
                kernel, partial = kernels[tile], out.floats * splits if splits > 1 else 0
                sums = self.gpu.sums_us(kernel.threads, kernel.resident, blocks * splits, share)
                memory = self.gpu.moved_us(inputs + (partial or around))
                adding = LAUNCH + self.gpu.moved_us(partial + around) if splits > 1 else 0.0
                choices.append((max(sums, memory) + adding, tile, splits, share, sums, partial))
        _, tile, splits, share, sums, partial = min(choices)
        geometry = out.pixels, x.h, x.w, x.pitch, out.pitch, out.h, out.w, r, s, stride, pad, dilation, share
        grid = ceil(out.pixels / tile[0]), ceil(out.pitch / tile[1]), splits
        weight = Constant("rows" if kernels is C.ROWS else "weight", path)
        if splits == 1:
            self._launch(path, kernels[tile], grid, (x, weight, *behind, *geometry, flags), moved=inputs + around, gflop=gflop, sums=sums)
        else:
            sums_apart = Activation(splits, out.pixels, 1, out.pitch)
            self._launch(path, kernels[tile], grid, (x, weight, None, None, None, None, sums_apart, None, *geometry, RAW),
                         moved=inputs + partial, gflop=gflop, sums=sums, splits=splits)
            self._launch(path, sum_splits, (ceil(out.floats / 4 / THREADS),), (sums_apart, *behind, out.floats, out.pitch, splits, flags),
                         moved=partial + around)
        return y, y2

    def _max_pool(self, path: str, x: Activation, norm: str) -> tuple[Activation, Activation]:
        """The stem's pool of x, 3×3 with stride 2, and the same after `norm`."""
        p, q = output_size(x.h, 3, 2, 1), output_size(x.w, 3, 2, 1)
        y, y2 = Activation(x.n, p, q, x.c), Activation(x.n, p, q, x.c)
        self._launch(path, pool.max_pool, (ceil(y.floats / 4 / THREADS),),
                     (x, Constant("scale", norm), Constant("shift", norm), y, y2, y.floats, x.h, x.w, y.pitch, p, q, 3, 2, 1, RAW + NORM),
                     moved=x.floats + 2 * y.floats)
        self.tensors[path] = y
        return y, y2

    def _avg_pool(self, path: str, x: Activation, stride: int, all_count: bool) -> Activation:
        y = self.tensors[path] = Activation(x.n, (x.h - 1) // stride + 1, (x.w - 1) // stride + 1, x.c)
        self._launch(path, pool.avg_pool, (ceil(y.floats / 4 / THREADS),),
                     (x, y, y.floats, x.h, x.w, y.pitch, y.h, y.w, stride, int(all_count)), moved=x.floats + y.floats)
        return y

    def _global_pool(self, path: str, x: Activation) -> Activation:
        y = self.tensors[path] = Activation(x.n, 1, 1, x.c * (2 if self.global_pool == "catavgmax" else 1))
        self._launch(path, pool.global_pool, (ceil(x.pitch / 4 / pool.QUADS), x.n),
                     (x, y, x.h * x.w, x.pitch, y.pitch, POOLS[self.global_pool]), moved=x.floats + y.floats)
        return y

    # --- launches and places ------------------------------------------------------------------------------------------------------

    def _launch(self, layer: str, kernel, grid: tuple, args: tuple, *, moved: int, gflop: float = 0.0, sums: float = 0.0,
                splits: int = 1) -> None:
        """moved: floats to and from memory. sums: µs of arithmetic. splits: how many blocks share a sum."""
        memory = self.gpu.moved_us(moved)
        bound = "sums" if sums > max(memory, LAUNCH) else "memory" if memory > LAUNCH else "launch"
        expected = Expected(layer, kernel.name, prod(grid) // splits, splits, gflop, 4 * moved / 1e6, max(sums, memory) + LAUNCH, bound)
        self.launches.append(Launch(kernel, grid, args, expected))

    def _finish(self, wanted: Collection[str] | None) -> None:
        """Leave out the launches that `wanted` doesn't need, add those that put it out, and give everything a place."""
        written: dict[int, int] = {}                              # of every activation the launch that it first appears in
        for i, launch in enumerate(self.launches):
            for arg in launch.args:
                written.setdefault(id(arg), i)
        kept = self.tensors if wanted is None else wanted
        del self.launches[1 + max((written[id(self.tensors[path])] for path in kept), default=0):]
        for path in () if wanted is None else wanted:
            x = self.tensors[path]
            y = x
            if x.h * x.w > 1 or x.pitch > x.c:                    # else either order is the same
                y = Activation(1, 1, 1, x.pixels * x.c)
                self._launch(path, layout.channels_first, (ceil(x.h * x.w / layout.SIDE), ceil(x.c / layout.SIDE), x.n),
                             (x, y, x.h * x.w, x.c, x.pitch), moved=2 * x.floats)
            self.outputs[path] = y, (x.n, x.c, x.h, x.w)
        used: dict[int, Activation] = {}
        for i, launch in enumerate(self.launches):
            for arg in launch.args:
                if isinstance(arg, Activation):
                    arg.first, arg.last = min(arg.first, i), i
                    used[id(arg)] = arg
        for y in self.tensors.values() if wanted is None else [y for y, _ in self.outputs.values()]:
            y.last = FOREVER
        self.size, self.largest = place(list(used.values())), max(y.floats for y in used.values())
