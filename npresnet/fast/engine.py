"""The fast CPU engine: plans once for each picture size, then runs without allocating. It explains no network; its readable twin is
`npresnet/network.py`.

`Engine` has the four methods of a backend (`forward`, `forward_features`, `forward_intermediates`, `forward_head`) and takes and
gives NCHW float32 like the reference. A single picture is computed by all threads together. Of a batch each thread takes pictures of its
own, which spares the cores all traffic among their caches; those left over are again computed together. Either way a picture is computed
by itself, in the same order of operations, so that its result doesn't depend on its batch.

It has threads of its own, that run one compiled function together (`loops.run`): no Numba threading layer takes part, and a forked
or spawned worker starts its own.
"""
from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import numpy as np
from numba import config
from numba.core.event import Listener
from numba.core.event import install_listener as announced

from .. import ops
from ..errors import NpresnetError, printable
from ..variants import Variant
from . import loops as L
from .memory import FOREVER, aligned
from .packing import Packed
from .plan import HeadPlan, Plan
from .report import LayerPlan, PlanReport, bandwidth, peak

KEPT_PLANS = 8                                                    # plans and workspaces that are kept, the latest first
ALONE = 32 * 2**20                                                # bytes of workspace that each thread may have for a picture of its own


class Ready:
    """A plan with a workspace of its own, for `threads` threads together. views: the plan's outputs, each (C, P, Q)."""

    def __init__(self, plan: Plan, threads: int):
        self.plan, self.threads, self.workspace = plan, threads, aligned(plan.size)
        self.sync = np.zeros((len(plan.ops) + 1, threads + 1, 16), np.int64)
        self.views = {path: tensor.view(self.workspace)[0] for path, tensor in plan.tensors.items() if tensor.last >= FOREVER}


class Engine:
    """The network `variant` with `params`, ready to run on `num_threads` threads (default: NUMBA_NUM_THREADS, else one a core; never
    more than there are cores for this process).

    May be called from several threads: they take turns.
    """

    def __init__(self, variant: Variant, params: Mapping[str, np.ndarray], *, output_stride: int = 32, global_pool: str = "avg",
                 exact: bool = False, num_threads: int | None = None):
        self.variant, self.params, self.output_stride, self.global_pool = variant, params, output_stride, global_pool
        self.exact = exact
        self.threads = min(num_threads or config.NUMBA_NUM_THREADS, config.NUMBA_DEFAULT_NUM_THREADS)     # more than cores only wait
        self.packed, self.plans = Packed(), OrderedDict()
        self.lock, self.pool, self.pid = threading.Lock(), None, 0

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x (N, 3, H, W) float32 → logits (N, 1000)."""
        if self.global_pool != "avg":
            return self.forward_head(self.forward_features(x))
        last = self._maps(x, [self._last()])[0]                           # (N, 1000, 1, 1)
        return last.reshape(last.shape[:2])

    def forward_features(self, x: np.ndarray) -> np.ndarray:
        """x (N, 3, H, W) → the last feature map (N, 2048, H/32, W/32), after the final batch norm and ReLU."""
        return self._maps(x, ["norm"])[0]

    def forward_intermediates(self, x: np.ndarray, take: list[int], norm: bool = False, stop_early: bool = False,
                              intermediates_only: bool = False):
        """As `Network.forward_intermediates`."""
        wanted, final = self.variant.taps(take, norm, stop_early)
        if intermediates_only:
            return self._maps(x, wanted)
        *maps, end = self._maps(x, [*wanted, final])
        return end, maps

    def forward_head(self, features: np.ndarray, pre_logits: bool = False) -> np.ndarray:
        """Feature map (N, 2048, 7, 7) → logits (N, 1000), or with `pre_logits` or without a classifier the embedding (N, 2048)."""
        y = ops.global_pool(features, self.global_pool)                   # (N, 2048, 1, 1)
        if not pre_logits and "head.fc.weight" in self.params:
            n, c, p, q = y.shape
            logits = np.empty((n, self.params["head.fc.bias"].size, p, q), np.float32)
            with self.lock:
                if n:
                    ready, = self._ready(("head", *y.shape), lambda: [Ready(HeadPlan(self.variant, self.params, self.packed, *y.shape), 1)])
                    ready.plan.source.view(ready.workspace)[0] = y.transpose(1, 0, 2, 3).reshape(c, n * p, q)
                    self._run(ready, np.empty(0, np.float32))
                    logits[:] = ready.views["head.fc"].reshape(-1, n, p, q).transpose(1, 0, 2, 3)
            y = logits
        return y.reshape(y.shape[:2]) if self.global_pool else y          # (N, 1000)

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The layers that exist here, by timm path: what a convolution gives before its batch norm is folded away and not among them."""
        with self.lock:
            ready, = self._load([Ready(self._plan(x.shape[1:], None, self.threads), self.threads)])
            layers = {path: np.empty((len(x), *view.shape), np.float32) for path, view in ready.views.items()}
            self._run_each(ready, x, range(len(x)), list(layers), list(layers.values()))
        if self.global_pool != "avg":
            layers["head.global_pool"] = ops.global_pool(layers["norm"], self.global_pool)
            layers["head.fc"] = self.forward_head(layers["norm"])
        return layers

    def plan(self, size: tuple[int, int, int], runs: int = 21) -> PlanReport:
        """What it does with a picture of `size` (C, H, W), and the times that each layer took in `runs` passes."""
        with self.lock:
            ready, = self._load([Ready(self._plan(size, [self._last()], self.threads), self.threads)])
            x, times = np.zeros(int(np.prod(size)), np.float32), []
            for i in range(runs + 2):                                     # the first two warm up
                start = time.perf_counter()
                self._run(ready, x)
                took = time.perf_counter() - start
                ends = ready.sync[[-1, *range(len(ready.plan.ops))], [0, *[self.threads] * len(ready.plan.ops)], 1]
                if i > 1:
                    times.append(np.diff(ends) * took * 1e3 / (ends[-1] - ends[0]))
            rates = peak(self.threads), bandwidth(self.threads)
        layers: dict[str, LayerPlan] = {}
        for work, ms in zip(ready.plan.work, np.median(times, axis=0).tolist()):          # a layer's operations follow each other
            before = layers.get(work.layer)
            own = LayerPlan(*astuple(work), ms)
            layers[work.layer] = own if before is None else LayerPlan(
                work.layer, work.algorithm, before.tile or work.tile,
                *(getattr(before, name) + getattr(own, name) for name in ("gflop", "computed", "megabytes", "ms")))
        return PlanReport(self.variant.name, tuple(size), self.threads, *rates, tuple(layers.values()))

    def _last(self) -> str:
        """The last layer of a forward pass."""
        return "norm" if self.global_pool != "avg" else "head.fc" if "head.fc.weight" in self.params else "head.global_pool"

    def _maps(self, x: np.ndarray, paths: list[str]) -> list[np.ndarray]:
        """The feature maps called `paths` of the pictures x, each (N, C, P, Q)."""
        size, alone = x.shape[1:], 0                                      # how many pictures are computed by one thread each
        with self.lock:
            ready, = self._ready((*size, *paths), lambda: [Ready(self._plan(size, paths, self.threads), self.threads)])
            maps = [np.empty((len(x), *ready.views[path].shape), np.float32) for path in paths]
            if self.threads > 1 and ready.workspace.nbytes <= ALONE:
                alone = len(x) // self.threads * self.threads
            if alone:
                plan = lambda: self._plan(size, paths, 1)
                crew = self._ready((*size, *paths, "alone"), lambda: [Ready(p, 1) for p in [plan()] for _ in range(self.threads)])
                self._together(lambda me: self._run_each(crew[me], x, range(me, alone, self.threads), paths, maps), self.threads)
            self._run_each(ready, x, range(alone, len(x)), paths, maps)
        return maps

    def _plan(self, size: tuple[int, int, int], wanted: list[str] | None, threads: int) -> Plan:
        """A plan for one picture of `size` (C, H, W)."""
        return Plan(self.variant, self.params, self.packed, *size, output_stride=self.output_stride, global_pool=self.global_pool,
                    threads=threads, exact=self.exact, wanted=wanted)

    def _ready(self, key: tuple, make: Callable[[], list[Ready]]) -> list[Ready]:
        """What `make()` gives, made when `key` is first asked for, with all that it needs to run; those used longest ago go."""
        if key not in self.plans:
            self.plans[key] = self._load(make())
            if len(self.plans) > KEPT_PLANS:
                self.plans.popitem(last=False)
        self.plans.move_to_end(key)
        return self.plans[key]

    def _load(self, crew: list[Ready]) -> list[Ready]:
        """Pack the weights and load the compiled function, or compile it, before threads need them."""
        try:
            with announced("numba:compile", Announcement("the fast engine")):
                L.run(crew[0].plan.ops[:0], crew[0].plan.offs, self.packed.array(self.threads), crew[0].workspace, crew[0].workspace,
                      crew[0].sync, 1, 0)
        except Exception as error:                                        # from unpickling something damaged, anything can come
            raise NpresnetError(f"{printable(L.run.stats.cache_path)}: the compiled code that Numba keeps there can't be used "
                                f"({type(error).__name__}); delete that folder") from error
        return crew

    def _run_each(self, ready: Ready, x: np.ndarray, which: Iterable[int], paths: list[str], maps: list[np.ndarray]) -> None:
        """Run the plan on the pictures number `which` of x; what is called `paths` goes to the same places of `maps`."""
        for i in which:
            self._run(ready, np.ascontiguousarray(x[i]).reshape(-1))
            for y, path in zip(maps, paths):
                y[i] = ready.views[path]

    def _run(self, ready: Ready, x: np.ndarray) -> None:
        """All operations of a plan, on its threads."""
        ready.sync[:] = 0
        args = ready.plan.ops, ready.plan.offs, self.packed.data, ready.workspace, x, ready.sync, ready.threads
        self._together(lambda me: L.run(*args, me), ready.threads)

    def _together(self, work: Callable[[int], None], threads: int) -> None:
        """Call work(0), work(1), … in as many threads; this one is the first."""
        if threads == 1:
            return work(0)
        if self.pid != os.getpid():                                       # first call, or in a forked child, whose threads are gone
            self.pool, self.pid = ThreadPoolExecutor(threads - 1, "npresnet"), os.getpid()
        others = [self.pool.submit(work, me) for me in range(1, threads)]
        try:
            work(0)
        finally:
            for other in others:
                other.result()


class Announcement(Listener):
    """Tells the user what takes so long, when Numba begins to compile `what`."""

    def __init__(self, what: str):
        self.what, self.told = what, False

    def on_start(self, event) -> None:
        if not self.told:
            print(f"npresnet: compiling {self.what} for this machine; this takes some seconds, once", file=sys.stderr, flush=True)
        self.told = True

    def on_end(self, event) -> None:
        pass
