"""Planning: from the network's graph and a picture size to a list of kernel launches, and places for what they read and write. Needs no
GPU.

The steps are `npresnet/graph.py`'s. Every batch norm and ReLU is part of the epilogue of what it follows. The CPU's plan
(`npresnet/fast/plan.py`) folds norm2 and norm3 into the weights before them; here scale and shift are applied to the sum, which costs
nothing beside it and leaves the weights timm's own. So a plan that keeps every layer, for `trace`, runs the same kernels on the same
weights and only writes more.

All pictures of a batch are one long row of pixels, so a plan is for a number of pictures, too.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import ceil, prod

from npresnet.graph import PICTURE, Graph, Step
from npresnet.lower.placement import FOREVER, place, up

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
    """A forward pass over n pictures (C, h, w): the layers called `wanted` (timm's paths) are put out, and nothing behind the last of
    them is done; None: all layers are kept, each by itself.

    gpu: for which kernels are chosen. head_only: the pictures are last feature maps, and only the head runs. source: where the pictures
    lie, (N, C, H, W); the first launch reads it. launches: in order. tensors: path → Activation, in forward order. outputs: of what is
    wanted, path → where it is put out as (N, C, H, W), contiguous, and that shape. size: floats of workspace. largest: floats of the
    largest array.
    """

    def __init__(self, graph: Graph, n: int, c: int, h: int, w: int, gpu: GPU, *, wanted: Collection[str] | None = None,
                 head_only: bool = False):
        self.graph, self.gpu = graph, gpu
        self.n, self.shape, self.keep = n, (n, c, h, w), wanted is None
        self.launches: list[Launch] = []
        self.tensors: dict[str, Activation] = {}
        self.outputs: dict[str, tuple[Activation, tuple]] = {}
        self.source, x = Activation(1, 1, 1, n * c * h * w), Activation(n, h, w, c)
        self._launch("pictures", layout.channels_last, (ceil(h * w / layout.SIDE), ceil(x.pitch / layout.SIDE), n),
                     (self.source, x, x.pitch, 0), moved=self.source.floats + x.floats)
        self.tensors["norm" if head_only else PICTURE] = x
        kinds = {"conv": self._convolution, "max_pool": self._max_pool, "avg_pool": self._avg_pool, "global_pool": self._global_pool}
        for step in graph.steps:
            if not head_only or step.path.startswith("head."):
                kinds[step.kind](step, self.tensors[step.source])
        self.tensors = graph.in_order(self.tensors)
        self._finish(wanted)

    def forecast(self, measured: float | None = None) -> Forecast:
        """What its launches should take; measured: ms that they took, if anybody knows."""
        return Forecast(self.graph.variant.name, self.shape, self.gpu, [launch.expected for launch in self.launches], measured)

    # --- the steps ----------------------------------------------------------------------------------------------------------------

    def _convolution(self, step: Step, x: Activation) -> None:
        """A convolution with all that follows it. Its raw result is written only if somebody reads it."""
        if self.keep and step.shortcut:                           # without the shortcut it exists for `trace` alone
            self._convolution(step._replace(shortcut="", block="", norm=""), x)
        raw, normed = self._sums(step, x, raw=self.keep or not self.graph.folds(step))
        self.tensors |= {name: made for name, made in ((step.raw, raw), (step.norm, normed)) if made}

    def _sums(self, step: Step, x: Activation, raw: bool = True) -> tuple[Activation | None, Activation | None]:
        """Convolution `step` of x and its shortcut, if `raw`, and the same after its norm: the launch of rung 4 that should take least,
        and the one behind it that adds up, if its products are split (split-K)."""
        path, norm, k, c, r, s = step.path, step.norm, step.c_out, step.c_in, step.kernel, step.kernel
        stride, pad, dilation = step.stride, step.padding, step.dilation
        out = Activation(x.n, step.output_size(x.h), step.output_size(x.w), k)
        residual = self.tensors[step.shortcut] if step.shortcut else None
        y, y2 = replace(out) if raw else None, replace(out) if norm else None
        kernels = C.form(c, r, s, pad, dilation)
        steps = C.count_steps(kernels, c, r, s)
        bias = Constant("bias", path) if step.bias else None
        scale, shift = (Constant("scale", norm), Constant("shift", norm)) if norm else (None, None)
        flags = BIAS * bool(bias) + RESIDUAL * bool(residual) + RAW * raw + NORM * bool(norm)
        behind = bias, residual, scale, shift, y, y2
        around = out.floats * (bool(residual) + raw + bool(norm))         # floats that the epilogue moves
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

    def _max_pool(self, step: Step, x: Activation) -> None:
        """The stem's pool of x, and the same after its norm."""
        p, q = step.output_size(x.h), step.output_size(x.w)
        y, y2 = Activation(x.n, p, q, x.c), Activation(x.n, p, q, x.c)
        self._launch(step.path, pool.max_pool, (ceil(y.floats / 4 / THREADS),),
                     (x, Constant("scale", step.norm), Constant("shift", step.norm), y, y2, y.floats, x.h, x.w, y.pitch, p, q,
                      step.kernel, step.stride, step.padding, RAW + NORM), moved=x.floats + 2 * y.floats)
        self.tensors |= {step.path: y, step.norm: y2}

    def _avg_pool(self, step: Step, x: Activation) -> None:
        y = self.tensors[step.path] = Activation(x.n, step.output_size(x.h), step.output_size(x.w), x.c)
        self._launch(step.path, pool.avg_pool, (ceil(y.floats / 4 / THREADS),),
                     (x, y, y.floats, x.h, x.w, y.pitch, y.h, y.w, step.stride, int(step.same)), moved=x.floats + y.floats)

    def _global_pool(self, step: Step, x: Activation) -> None:
        if not self.graph.global_pool:
            self.tensors[step.path] = x
            return
        y = self.tensors[step.path] = Activation(x.n, 1, 1, step.c_out)
        self._launch(step.path, pool.global_pool, (ceil(x.pitch / 4 / pool.QUADS), x.n),
                     (x, y, x.h * x.w, x.pitch, y.pitch, POOLS[self.graph.global_pool]), moved=x.floats + y.floats)

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
