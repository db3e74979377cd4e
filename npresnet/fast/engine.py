"""The fast CPU engine: plans once for each picture size, then runs without allocating. It explains no network; its readable twin is
`npresnet/network.py`.

A single picture is computed by all threads together. Of a batch each thread takes pictures of its own, which spares the cores all
traffic among their caches; those left over are again computed together. Either way a picture is computed by itself, in the same order of
operations, so that its result doesn't depend on its batch.

It has threads of its own, that run one compiled function together (`loops.run`): no Numba threading layer takes part, and a forked
or spawned worker starts its own.
"""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
from numba import config
from numba.core.event import Listener
from numba.core.event import install_listener as announced

from .. import ops
from ..backend import Backend, Params
from ..errors import NpresnetError, printable
from ..graph import Graph
from ..lower.announcement import Announcement
from ..lower.placement import FOREVER
from ..lower.recent import Recent
from . import loops as L
from .memory import aligned
from .packing import Packed
from .plan import HeadPlan, Plan
from .report import LayerPlan, PlanReport, bandwidth, peak

Listener.register(Announcement)
KEPT_PLANS = 8                                                    # plans and workspaces that are kept, the latest first
ALONE = 32 * 2**20                                                # bytes of workspace that each thread may have for a picture of its own


class Ready:
    """A plan with a workspace of its own, for `threads` threads together. views: the plan's outputs, each (C, P, Q)."""

    def __init__(self, plan: Plan, threads: int):
        self.plan, self.threads, self.workspace = plan, threads, aligned(plan.size)
        self.sync = np.zeros((len(plan.ops) + 1, threads + 1, 16), np.int64)
        self.views = {path: tensor.view(self.workspace)[0] for path, tensor in plan.tensors.items() if tensor.last >= FOREVER}


class Engine(Backend):
    """The `"numba"` backend: the network on `num_threads` threads (default: NUMBA_NUM_THREADS, else one a core; never more than there
    are cores for this process). Callers from several threads take turns.
    """

    def __init__(self, graph: Graph, params: Params, *, exact: bool = False, num_threads: int | None = None):
        super().__init__(graph, params, exact=exact)
        self.threads = min(num_threads or config.NUMBA_NUM_THREADS, config.NUMBA_DEFAULT_NUM_THREADS)     # more than cores only wait
        self.packed, self.plans = Packed(), Recent[list[Ready]](KEPT_PLANS)
        self.lock, self.pid = threading.Lock(), 0
        self.pool: ThreadPoolExecutor

    def maps(self, x: np.ndarray, paths: Sequence[str]) -> list[np.ndarray]:
        """As `Backend.maps`."""
        apart = [path for path in paths if self._planned(path) != path]
        if not apart:
            return self._maps(x, paths)
        planned = dict.fromkeys(["norm", *(path for path in paths if path not in apart)])
        found = dict(zip(planned, self._maps(x, list(planned))))
        return [self.head(found["norm"], path) if path in apart else found[path] for path in paths]

    def head(self, features: np.ndarray, path: str) -> np.ndarray:
        """As `Backend.head`."""
        y = ops.global_pool(features, self.graph.global_pool)             # (N, C, 1, 1)
        n, c, p, q = y.shape
        if path == "head.global_pool" or not n:
            return y if path == "head.global_pool" else np.empty((0, self.graph.num_classes, p, q), np.float32)
        with self.lock:                                                   # the pixels of all pictures, as one picture of N·P rows
            ready, = self._ready(("head", n * p, q), lambda: [Ready(HeadPlan(self.graph, self.params, self.packed, n * p, q), 1)])
            ready.plan.tensors["head.global_pool"].view(ready.workspace)[0] = y.transpose(1, 0, 2, 3).reshape(c, n * p, q)
            self._run(ready, np.empty(0, np.float32))
            logits = ready.views["head.fc"].reshape(-1, n, p, q).transpose(1, 0, 2, 3)
            return logits.copy()                                          # (N, K, P, Q)

    def trace(self, x: np.ndarray, last: str) -> dict[str, np.ndarray]:
        """As `Backend.trace`: what a convolution gives before its batch norm is folded away and isn't among the layers."""
        planned = self._planned(last)
        with self.lock:
            plan = self._plan(x.shape[1:], [planned], self.threads, keep=True)
            ready, = self._load([Ready(plan, self.threads)])
            order = list(ready.plan.tensors)
            layers = {path: np.empty((len(x), *ready.views[path].shape), np.float32) for path in order[:order.index(planned) + 1]}
            self._run_each(ready, x, range(len(x)), list(layers), list(layers.values()))
        for path in ("head.global_pool", self.graph.last) if planned != last else ():
            layers[path] = self.head(layers["norm"], path)
        return layers

    def plan(self, input_size: tuple[int, int, int], runs: int = 21) -> PlanReport:
        """What it does with a picture of `input_size` (C, H, W), and the times that each layer took in `runs` passes."""
        with self.lock:
            ready, = self._load([Ready(self._plan(input_size, [self._planned(self.graph.last)], self.threads), self.threads)])
            x, times = np.zeros(int(np.prod(input_size)), np.float32), []
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
            own = LayerPlan(**asdict(work), ms=ms)
            layers[work.layer] = own if before is None else LayerPlan(
                work.layer, work.algorithm, before.tile or work.tile,
                *(getattr(before, name) + getattr(own, name) for name in ("gflop", "computed", "megabytes", "ms")))
        return PlanReport(self.graph.variant.name, input_size, self.threads, *rates, tuple(layers.values()))

    def _maps(self, x: np.ndarray, paths: Sequence[str]) -> list[np.ndarray]:
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

    def _planned(self, path: str) -> str:
        """How far a plan goes for `path`: only the average pool and what follows it are part of one."""
        return path if self.graph.global_pool == "avg" or not path.startswith("head.") else "norm"

    def _plan(self, size: tuple[int, ...], wanted: Sequence[str], threads: int, keep: bool = False) -> Plan:
        """A plan for one picture of `size` (C, H, W)."""
        _, h, w = size
        return Plan(self.graph, self.params, self.packed, h, w, wanted, threads=threads, exact=self.exact, keep=keep)

    def _ready(self, key: tuple, make: Callable[[], list[Ready]]) -> list[Ready]:
        """What `make()` gives, made when `key` is first asked for, with all that it needs to run."""
        return self.plans.get_or_make(key, lambda: self._load(make()))

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

    def _run_each(self, ready: Ready, x: np.ndarray, which: Iterable[int], paths: Sequence[str], maps: list[np.ndarray]) -> None:
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
