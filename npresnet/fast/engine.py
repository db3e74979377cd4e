"""The fast CPU engine: plans once for each picture size, then runs without allocating. It explains no network; its readable twin is
`npresnet/network.py`.

A single picture is computed by all threads together. Of a batch each thread takes pictures of its own, which spares the cores all
traffic among their caches; those left over are again computed together. Either way a picture is computed by itself, in the same order of
operations, so that its result doesn't depend on its batch.

It has threads of its own, that run one compiled function together (`loops.run`): no Numba threading layer takes part, and a forked
or spawned worker starts its own. All that is done here is done in these threads (`lower/crew.py`); a caller waits, and may be interrupted.
"""
from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numba.core.errors import NumbaError
from numba.core.event import Listener
from numba.core.event import install_listener as announced

from .. import ops
from ..backend import Backend, Params
from ..errors import NpresnetError, printable
from ..graph import Graph
from ..lower import crew as crews
from ..lower.announcement import Announcement
from ..lower.cores import cores, default_threads
from ..lower.crew import Crew, Job
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
    """The `"numba"` backend: the network on `num_threads` threads (default: `lower.cores.default_threads`; never more than there are
    cores for this process, nor than can be started). Callers from several threads take turns.
    """

    def __init__(self, graph: Graph, params: Params, *, exact: bool = False, num_threads: int | None = None):
        super().__init__(graph, params, exact=exact)
        self.threads = min(num_threads or default_threads(), cores())     # more than cores only wait
        self.packed, self.plans = Packed(), Recent[list[Ready]](KEPT_PLANS)
        self.crews: dict[tuple, Crew] = {}
        weakref.finalize(self, _dismiss, self.crews).atexit = False

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

        def classify(job: Job, crew: Crew) -> np.ndarray:                 # the pixels of all pictures, as one picture of N·P rows
            plan = lambda: [Ready(HeadPlan(self.graph, self.params, self.packed, n * p, q), 1)]
            ready, = self._ready(crew, ("head", n * p, q), plan)
            ready.plan.tensors["head.global_pool"].view(ready.workspace)[0] = y.transpose(1, 0, 2, 3).reshape(c, n * p, q)
            self._run(crew, ready, np.empty(0, np.float32))
            logits = ready.views["head.fc"].reshape(-1, n, p, q).transpose(1, 0, 2, 3)
            return logits.copy()                                          # (N, K, P, Q)
        return self._do(classify)

    def trace(self, x: np.ndarray, last: str) -> dict[str, np.ndarray]:
        """As `Backend.trace`: what a convolution gives before its batch norm is folded away and isn't among the layers."""
        planned = self._planned(last)

        def trace(job: Job, crew: Crew) -> dict[str, np.ndarray]:
            plan = self._plan(x.shape[1:], [planned], crew.threads, keep=True)
            ready, = self._load(crew, [Ready(plan, crew.threads)])
            order = list(ready.plan.tensors)
            layers = {path: np.empty((len(x), *ready.views[path].shape), np.float32) for path in order[:order.index(planned) + 1]}
            self._run_each(job, crew, ready, x, range(len(x)), list(layers), list(layers.values()))
            return layers
        layers = self._do(trace)
        for path in ("head.global_pool", self.graph.last) if planned != last else ():
            layers[path] = self.head(layers["norm"], path)
        return layers

    def plan(self, input_size: tuple[int, int, int], runs: int = 21) -> PlanReport:
        """What it does with a picture of `input_size` (C, H, W), and the times that each layer took in `runs` passes."""
        return self._do(lambda job, crew: self._report(job, crew, input_size, runs))

    def _report(self, job: Job, crew: Crew, input_size: tuple[int, int, int], runs: int) -> PlanReport:
        threads = crew.threads
        ready, = self._load(crew, [Ready(self._plan(input_size, [self._planned(self.graph.last)], threads), threads)])
        x, times = np.zeros(int(np.prod(input_size)), np.float32), []
        for i in range(runs + 2):                                         # the first two warm up
            job.go_on()
            start = time.perf_counter()
            self._run(crew, ready, x)
            took = time.perf_counter() - start
            ends = ready.sync[[-1, *range(len(ready.plan.ops))], [0, *[threads] * len(ready.plan.ops)], 1]
            if i > 1:
                times.append(np.diff(ends) * took * 1e3 / (ends[-1] - ends[0]))
        rates = peak(crew), bandwidth(crew)
        layers: dict[str, LayerPlan] = {}
        for work, ms in zip(ready.plan.work, np.median(times, axis=0).tolist()):          # a layer's operations follow each other
            before = layers.get(work.layer)
            own = LayerPlan(**asdict(work), ms=ms)
            layers[work.layer] = own if before is None else LayerPlan(
                work.layer, work.algorithm, before.tile or work.tile,
                *(getattr(before, name) + getattr(own, name) for name in ("gflop", "computed", "megabytes", "ms")))
        return PlanReport(self.graph.variant.name, input_size, threads, *rates, tuple(layers.values()))

    def _maps(self, x: np.ndarray, paths: Sequence[str]) -> list[np.ndarray]:
        """The feature maps called `paths` of the pictures x, each (N, C, P, Q)."""
        return self._do(lambda job, crew: self._run_all(job, crew, x, paths))

    def _run_all(self, job: Job, crew: Crew, x: np.ndarray, paths: Sequence[str]) -> list[np.ndarray]:
        size, threads, alone = x.shape[1:], crew.threads, 0               # how many pictures are computed by one thread each
        ready, = self._ready(crew, (*size, threads, *paths), lambda: [Ready(self._plan(size, paths, threads), threads)])
        maps = [np.empty((len(x), *ready.views[path].shape), np.float32) for path in paths]
        if threads > 1 and ready.workspace.nbytes <= ALONE:
            alone = len(x) // threads * threads
        if alone:
            plan = lambda: self._plan(size, paths, 1)
            own = self._ready(crew, (*size, threads, *paths, "alone"), lambda: [Ready(p, 1) for p in [plan()] for _ in range(threads)])
            dealt = iter(range(alone))                                    # who is held up takes fewer of them
            crew.together(lambda me: self._run_each(job, crew, own[me], x, dealt, paths, maps), threads)
        self._run_each(job, crew, ready, x, range(alone, len(x)), paths, maps)
        return maps

    def _do(self, work: Callable[[Job, Crew], Any]) -> Any:
        """What work(job, crew) gives, done by the crew of this process."""
        key = *crews.this_process(), self.threads
        crew = self.crews.get(key) or self.crews.setdefault(key, Crew(self.threads))
        return crew.do(lambda job: work(job, crew))

    def _planned(self, path: str) -> str:
        """How far a plan goes for `path`: only the average pool and what follows it are part of one."""
        return path if self.graph.global_pool == "avg" or not path.startswith("head.") else "norm"

    def _plan(self, size: tuple[int, ...], wanted: Sequence[str], threads: int, keep: bool = False) -> Plan:
        """A plan for one picture of `size` (C, H, W)."""
        _, h, w = size
        return Plan(self.graph, self.params, self.packed, h, w, wanted, threads=threads, exact=self.exact, keep=keep)

    def _ready(self, crew: Crew, key: tuple, make: Callable[[], list[Ready]]) -> list[Ready]:
        """What `make()` gives, made when `key` is first asked for, with all that it needs to run."""
        return self.plans.get_or_make(key, lambda: self._load(crew, make()))

    def _load(self, crew: Crew, made: list[Ready]) -> list[Ready]:
        """Pack the weights and load the compiled function, or compile it, before threads need them."""
        try:
            with crews.MAKING, announced("numba:compile", Announcement("the fast engine")):
                weights = self.packed.array(lambda work: crew.together(work, crew.threads))
                L.run(made[0].plan.ops[:0], made[0].plan.offs, weights, made[0].workspace, made[0].workspace, made[0].sync, 1, 0)
        except (NumbaError, OSError) as error:
            said = printable(" ".join(str(error).split()))[:300]
            raise NpresnetError(f"the fast engine can't be made ready: {type(error).__name__}: {said}; backend='numpy' needs no "
                                "compiler") from error
        return made

    def _run_each(self, job: Job, crew: Crew, ready: Ready, x: np.ndarray, which: Iterable[int], paths: Sequence[str],
                  maps: list[np.ndarray]) -> None:
        """Run the plan on the pictures number `which` of x; what is called `paths` goes to the same places of `maps`."""
        for i in which:
            job.go_on()
            self._run(crew, ready, np.ascontiguousarray(x[i]).reshape(-1))
            for y, path in zip(maps, paths):
                y[i] = ready.views[path]

    def _run(self, crew: Crew, ready: Ready, x: np.ndarray) -> None:
        """All operations of a plan, on its threads."""
        ready.sync[:] = 0
        args = ready.plan.ops, ready.plan.offs, self.packed.data, ready.workspace, x, ready.sync, ready.threads

        def part(me: int) -> None:
            try:
                L.run(*args, me)
            except BaseException:                                         # it didn't come: the others needn't wait
                ready.sync[-1, 0, 0] = 1
                raise
        crew.together(part, ready.threads)


def _dismiss(crews: dict[tuple, Crew]) -> None:
    for crew in crews.values():
        crew.dismiss()
