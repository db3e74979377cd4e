"""The fast CPU engine: plans once for each picture size, then runs without allocating. It explains no network; its readable twin is
`npresnet/network.py`.

`Engine` has the four methods of a backend (`forward`, `forward_features`, `forward_intermediates`, `forward_head`) and takes and
gives NCHW float32 like the reference. Pictures of a batch are walked one by one, so that activations stay in the cache and a
picture's result doesn't depend on its batch.

It has threads of its own, that run one compiled function together (`loops.run`): no Numba threading layer takes part, and a forked
or spawned worker starts its own.
"""
from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import config
from numba.core.event import Listener
from numba.core.event import install_listener as announced

from .. import ops
from ..variants import Variant
from . import loops as L
from .memory import FOREVER, aligned
from .packing import Packed
from .plan import HeadPlan, Plan
from .report import PlanReport

KEPT_PLANS = 8                                                    # picture sizes whose plan and workspace are kept, the latest first


@dataclass
class Ready:
    """A plan with its own workspace."""
    plan: Plan
    workspace: np.ndarray
    sync: np.ndarray
    views: dict[str, np.ndarray]

    @classmethod
    def of(cls, plan: Plan, threads: int) -> Ready:
        workspace = aligned(plan.size)
        views = {path: tensor.view(workspace)[0] for path, tensor in plan.tensors.items() if tensor.last >= FOREVER}
        return cls(plan, workspace, np.zeros((len(plan.ops) + 1, threads + 1, 16), np.int64), views)


class Engine:
    """The network `variant` with `params`, ready to run on `num_threads` threads (default: NUMBA_NUM_THREADS, else one a core).

    May be called from several threads: they take turns.
    """

    def __init__(self, variant: Variant, params: Mapping[str, np.ndarray], *, output_stride: int = 32, global_pool: str = "avg",
                 exact: bool = False, num_threads: int | None = None):
        self.variant, self.params, self.output_stride, self.global_pool = variant, params, output_stride, global_pool
        self.exact = exact
        self.threads = num_threads or config.NUMBA_NUM_THREADS
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
        paths = [self.variant.stem_convs[-1], *(f"stages.{s}" for s in range(len(self.variant.depths)))]
        last = len(self.variant.depths)
        wanted = [paths[i] if not (norm and i == last) else "norm" for i in take]
        count = max(take) if stop_early else last
        final = "norm" if count == last else paths[count] if count else "stem.pool"
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
                    ready = self._ready(("head", *y.shape), lambda: HeadPlan(self.variant, self.params, self.packed, *y.shape))
                    ready.plan.source.view(ready.workspace)[0] = y.transpose(1, 0, 2, 3).reshape(c, n * p, q)
                    self._run(ready, np.empty(0, np.float32))
                    logits[:] = ready.views["head.fc"].reshape(-1, n, p, q).transpose(1, 0, 2, 3)
            y = logits
        return y.reshape(y.shape[:2]) if self.global_pool else y          # (N, 1000)

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The layers that exist here, by timm path: what a convolution gives before its batch norm is folded away and not among them."""
        with self.lock:
            ready = Ready.of(self._plan(x.shape[1:], None), self.threads)
            layers = dict(zip(ready.plan.tensors, self._run_each(ready, x, list(ready.plan.tensors))))
        if self.global_pool != "avg":
            layers["head.global_pool"] = ops.global_pool(layers["norm"], self.global_pool)
            layers["head.fc"] = self.forward_head(layers["norm"])
        return layers

    def plan(self, size: tuple[int, int, int], runs: int = 21) -> PlanReport:
        """What it does with a picture of `size` (C, H, W), and the times that each layer took in `runs` passes."""
        from .report import LayerPlan, PlanReport, bandwidth, peak
        with self.lock:
            ready = Ready.of(self._plan(size, [self._last()]), self.threads)
            x, times, scales = np.zeros(int(np.prod(size)), np.float32), [], []
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
            own = LayerPlan(work.layer, work.algorithm, work.tile, work.gflop, work.computed, work.megabytes, ms)
            layers[work.layer] = own if before is None else LayerPlan(
                work.layer, work.algorithm, before.tile or work.tile,
                *(getattr(before, name) + getattr(own, name) for name in ("gflop", "computed", "megabytes", "ms")))
        return PlanReport(self.variant.name, tuple(size), self.threads, *rates, tuple(layers.values()))

    def _last(self) -> str:
        """The last layer of a forward pass."""
        return "norm" if self.global_pool != "avg" else "head.fc" if "head.fc.weight" in self.params else "head.global_pool"

    def _maps(self, x: np.ndarray, paths: list[str]) -> list[np.ndarray]:
        """The feature maps called `paths` of the pictures x, each (N, C, P, Q)."""
        with self.lock:
            return self._run_each(self._ready((*x.shape[1:], *paths), lambda: self._plan(x.shape[1:], paths)), x, paths)

    def _plan(self, size: tuple[int, int, int], wanted: list[str] | None) -> Plan:
        """A plan for one picture of `size` (C, H, W)."""
        return Plan(self.variant, self.params, self.packed, *size, output_stride=self.output_stride, global_pool=self.global_pool, threads=self.threads,
                    exact=self.exact, wanted=wanted)

    def _run_each(self, ready: Ready, x: np.ndarray, paths: list[str]) -> list[np.ndarray]:
        """Run the plan on each picture of x; the tensors called `paths`, each (N, C, P, Q)."""
        views = [ready.views[path] for path in paths]
        maps = [np.empty((len(x), *view.shape), np.float32) for view in views]
        for i, picture in enumerate(x):
            self._run(ready, np.ascontiguousarray(picture).reshape(-1))
            for y, view in zip(maps, views):
                y[i] = view
        return maps

    def _ready(self, key: tuple, make) -> Ready:
        """The plan for `key`, made when it is first asked for; the ones used longest ago go."""
        if key not in self.plans:
            self.plans[key] = Ready.of(make(), self.threads)
            if len(self.plans) > KEPT_PLANS:
                self.plans.popitem(last=False)
        self.plans.move_to_end(key)
        return self.plans[key]

    def _run(self, ready: Ready, x: np.ndarray) -> None:
        """All operations of a plan, on all threads."""
        ready.sync[:] = 0
        if self.pool is None and not L.run.signatures:                    # not loaded yet
            with announced("numba:compile", Announcement()):
                self.packed.array(self.threads)
                L.run(ready.plan.ops[:0], ready.plan.offs, ready.workspace[:0], ready.workspace[:0], x, ready.sync, 1)
                ready.sync[:] = 0
        args = ready.plan.ops, ready.plan.offs, self.packed.array(self.threads), ready.workspace, x, ready.sync, self.threads
        if self.threads == 1:
            L.run(*args)
            return
        if self.pid != os.getpid():                                       # first call, or in a forked child, whose threads are gone
            self.pool, self.pid = ThreadPoolExecutor(self.threads - 1, "npresnet"), os.getpid()
        helpers = [self.pool.submit(L.run, *args) for _ in range(self.threads - 1)]
        L.run(*args)
        for helper in helpers:
            helper.result()


class Announcement(Listener):
    """Tells the user what takes so long, when Numba begins to compile."""

    def __init__(self):
        self.told = False

    def on_start(self, event) -> None:
        if not self.told:
            print("npresnet: compiling the fast engine for this machine; this takes some seconds, once", file=sys.stderr, flush=True)
        self.told = True

    def on_end(self, event) -> None:
        pass
