"""The network on a GPU, from the first layer to the last: what `backend="cuda"` runs. It explains no network; its readable twin is
`npresnet/network.py`.

NumPy arrays go up once and come down once; arrays that lie on the device already (anything with `__cuda_array_interface__`) are read where they lie, and
answered with such. Between, everything stays there: the weights, uploaded when first needed, and one workspace that all activations of
all plans share. The launches of a plan are recorded as a CUDA graph on its second use, because Python takes longer to launch a kernel
than most of them run.

What one picture gives depends in its last digits on how many came with it: how a sum is split among blocks (split-K) is chosen by how many
pixels there are. With the same number it is the same, to the last bit.
"""
from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import ceil
from typing import Any

import numpy as np

from npresnet.backend import Backend, Params
from npresnet.errors import DeviceError, NpresnetError, printable
from npresnet.graph import Graph
from npresnet.lower.folding import scale_and_shift
from npresnet.lower.recent import Recent
from npresnet.weights import release

from . import check_available
from .backend import (
    SIMULATOR,
    announced,
    as_device_array,
    configured,
    cuda,
    current_device,
    device_of,
    record,
    replay,
)
from .conv2d import pack_weight
from .performance import GPU, Forecast, gpu_like
from .plan import LARGEST, Activation, Constant, Plan

GROUP = 64                                                        # pictures at a time, at most: more of them wouldn't be faster
KEPT_PLANS = 16                                                   # plans (and graphs) that are kept, the latest first


class Ready:
    """A plan whose launches are bound to their places on the device: `launches` of (kernel, grid, arguments), and `calls`, the same ready
    to be called. The first reads `source` (n, C, H, W); `views` (n, K, P, Q) are of what is put out, by path."""

    def __init__(self, plan: Plan, launches: list[tuple], source, views: dict[str, object], stream):
        self.plan, self.launches, self.source, self.views = plan, launches, source, views
        self.calls = [configured(kernel, grid, stream) for kernel, grid, _ in launches]
        self.graph, self.passes = None, 0


class Runner(Backend):
    """The `"cuda"` backend: the network on the current CUDA device. Callers from several threads take turns. Sums are always exact.

    Raises DeviceError if there is no device that can run it.
    """

    def __init__(self, graph: Graph, params: Params, *, exact: bool = False):
        super().__init__(graph, params, exact=exact)
        self.lock = threading.Lock()
        check_available()
        with device_errors():
            self.gpu, self.device, self.stream = this_gpu(), current_device(), cuda.stream()
            self.nothing = cuda.to_device(np.full(4, np.nan, np.float32))                 # stands where a kernel has nothing to read
        self.workspace: Any = None
        self.constants: dict[Constant, object] = {}
        self.plans = Recent[Ready](KEPT_PLANS)
        self.limits: dict[tuple, int] = {}                        # how many pictures of a size fit, where memory set the limit

    # --- a backend's methods --------------------------------------------------------------------------------------------------

    def maps(self, x, paths: Sequence[str]) -> list:
        """As `Backend.maps`."""
        return self._maps(x, list(paths))

    def head(self, features, path: str):
        """As `Backend.head`."""
        return self._maps(features, [path], head_only=True)[0]

    def trace(self, x, last: str) -> dict[str, np.ndarray]:
        """As `Backend.trace`: every layer. The kernels are those of `maps`; they only write more."""
        parts: dict[str, list] = {}
        with self._device():
            for _, ready in self._groups(x, None, False):
                self.stream.synchronize()
                for path, y in ready.plan.tensors.items():
                    whole = self._slice(y).copy_to_host().reshape(y.n, y.h, y.w, y.pitch)                # (N, H, W, pitch)
                    parts.setdefault(path, []).append(np.ascontiguousarray(whole[..., :y.c].transpose(0, 3, 1, 2)))
        if not len(x):
            empty = self._plan(1, x.shape[1:], None, False).tensors
            parts = {path: [np.empty((0, y.c, y.h, y.w), np.float32)] for path, y in empty.items()}
        order = list(parts)
        return {path: np.concatenate(parts[path]) for path in order[:order.index(last) + 1]}

    def plan(self, input_size: tuple[int, int, int], n: int = 1, runs: int = 21) -> Forecast:
        """The launches for n pictures of `input_size` (C, H, W), what they should take, and what they take together here, median of `runs`."""
        with self._device():
            ready, times = self._ready(n, input_size, [self.graph.last], False), []
            start, end = cuda.event(), cuda.event()
            for _ in range(0 if SIMULATOR else runs + 2):
                start.record(self.stream)
                self._run(ready)
                end.record(self.stream)
                end.synchronize()
                times.append(cuda.event_elapsed_time(start, end))
        return ready.plan.forecast(float(np.median(times[2:])) if times else None)

    def accept(self, what: str, x):
        """As `Backend.accept`: an array on the device, anything with `__cuda_array_interface__`, is taken where it lies. Raises ValueError
        if it lies on another GPU. Waits for all that is under way there: x may be what it makes."""
        if not (hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__")):
            return super().accept(what, x)
        with self._device():
            x = as_device_array(x)
            if device_of(x) not in (None, self.device):
                raise ValueError(f"the {what} lie on GPU {device_of(x)}, the model on GPU {self.device}")
            cuda.synchronize()
        return x

    # --- inside ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _device(self):
        """This thread's turn, on the device that the runner was made for."""
        with self.lock, device_errors(), cuda.gpus[self.device]:
            yield

    def _maps(self, x, wanted: list[str], head_only: bool = False) -> list:
        """What is called `wanted`, each (N, C, P, Q), of the pictures x, or of the feature maps x."""
        with self._device():
            here = isinstance(x, np.ndarray)
            maps: list = []
            empty = np.empty if here else cuda.device_array
            if not len(x):
                plan = self._plan(1, x.shape[1:], wanted, head_only)
                return [empty((0, *plan.outputs[path][1][1:]), np.float32) for path in wanted]
            for start, ready in self._groups(x, wanted, head_only):
                n = ready.plan.n
                maps = maps or [empty((len(x), *ready.views[path].shape[1:]), np.float32) for path in wanted]
                for y, path in zip(maps, wanted):
                    part = y if n == len(x) else y[start:start + n]
                    if here:
                        ready.views[path].copy_to_host(part, stream=self.stream)
                    else:
                        part.copy_to_device(ready.views[path], stream=self.stream)
        return maps

    def _groups(self, x, wanted: list[str] | None, head_only: bool):
        """Run the plan on the pictures x, as many at a time as fit: gives (number of the first, Ready) after each."""
        start = 0
        while start < len(x):
            ready = self._ready(len(x) - start, x.shape[1:], wanted, head_only)
            if isinstance(x, np.ndarray):
                part = np.ascontiguousarray(x[start:start + ready.plan.n])
                ready.source.copy_to_device(part, stream=self.stream)
                self._run(ready)
            else:
                self._run(ready, x, start)
            yield start, ready
            self.stream.synchronize()                             # until then `part` has to stay, and what is put out may not be read
            start += ready.plan.n

    def _plan(self, n: int, size: tuple, wanted: list[str] | None, head_only: bool) -> Plan:
        c, h, w = size
        return Plan(self.graph, n, c, h, w, self.gpu, wanted=wanted, head_only=head_only)

    def _ready(self, n: int, size: tuple, wanted: list[str] | None, head_only: bool) -> Ready:
        """A bound plan for n pictures of `size` (C, H, W), or for as many as fit at a time. Raises DeviceError if not even one does."""
        what = (tuple(size), None if wanted is None else tuple(wanted), head_only)
        limit = self.limits.get(what, GROUP)
        n = ceil(n / ceil(n / limit))                             # groups of like size need one plan
        while True:
            try:
                bind = partial(self._planned, n, size, wanted, head_only)
                return self.plans.get_or_make((n, what), bind)
            except Exception as error:
                full = out_of_memory(error)
                if n == 1 and full:
                    needed = 4 * self._plan(1, size, wanted, head_only).size / 1e6
                    raise DeviceError(f"out of memory on the GPU: a picture of {'×'.join(map(str, size))} needs {needed:.0f} MB beside "
                                      "the weights; backend='numba' runs on the CPU") from error
                if n == 1 or not (full or isinstance(error, DeviceError)):
                    raise
                n = self.limits[what] = ceil(n / 2)

    def _planned(self, n: int, size: tuple, wanted: list[str] | None, head_only: bool) -> Ready:
        return self._bind(self._plan(n, size, wanted, head_only))

    def _bind(self, plan: Plan) -> Ready:
        """Allocate what the plan needs and isn't there, give its launches their arguments. A larger workspace makes older plans void.
        Raises DeviceError if an array is longer than the kernels count."""
        if plan.largest >= LARGEST:
            raise DeviceError(f"too large for the cuda backend: an array of {plan.largest:,} numbers, which counts to {LARGEST:,}")
        if self.workspace is None or self.workspace.size < plan.size:
            self.plans.clear()
            self.workspace = None                                 # the old one's memory first
            self.workspace = cuda.device_array(plan.size, np.float32)
        launches = [(launch.kernel, launch.grid, [self._argument(arg) for arg in launch.args]) for launch in plan.launches]
        source = self._slice(plan.source, plan.shape)
        return Ready(plan, launches, source, {path: self._slice(y, shape) for path, (y, shape) in plan.outputs.items()}, self.stream)

    def _argument(self, arg):
        if isinstance(arg, Activation):
            return self._slice(arg)
        if isinstance(arg, Constant):
            return self._constant(arg)
        return self.nothing if arg is None else np.int32(arg)

    def _slice(self, y: Activation, shape: tuple | None = None):
        """Its place in the workspace: flat, or of a shape."""
        flat = self.workspace[y.base:y.base + (y.floats if shape is None else int(np.prod(shape)))]
        return flat if shape is None else flat.reshape(*shape)

    def _constant(self, constant: Constant):
        """On the device, uploaded when it is first asked for."""
        if constant not in self.constants:
            kind, path = constant.kind, constant.path
            if kind in ("weight", "rows"):
                array = pack_weight(self.params[f"{path}.weight"], rows=kind == "rows")
                release(self.params[f"{path}.weight"])
            else:
                vector = self.params[f"{path}.bias"] if kind == "bias" else scale_and_shift(self.params, path)[kind == "shift"]
                array = np.pad(vector, (0, -len(vector) % 4)).astype(np.float32)
            self.constants[constant] = cuda.to_device(array, stream=self.stream)
            self.stream.synchronize()                             # `array` has to stay until then
        return self.constants[constant]

    def _run(self, ready: Ready, pictures=None, start: int = 0) -> None:
        """All launches of a plan, on the pictures from number `start` on, which are on the device, or on what lies in `ready.source`."""
        (entry, *calls), ((kernel, _, args), *others) = ready.calls, ready.launches
        if ready.passes == 1:                                     # the first pass has compiled and loaded every kernel
            ready.graph = record(others)
        with nullcontext() if ready.passes else compiled_code(kernel):
            entry(ready.source if pictures is None else pictures, *args[1:-1], np.int32(start))
            if not ready.graph:
                for call, (_, _, args) in zip(calls, others):
                    call(*args)
        if ready.graph:
            replay(ready.graph, self.stream)
        ready.passes += 1


def this_gpu() -> GPU:
    """The current device."""
    if SIMULATOR:                                                 # few multiprocessors: fewer blocks to simulate
        return gpu_like("Numba's simulator", (8, 0), 4)
    device = cuda.get_current_device()
    return gpu_like(device.name, tuple(device.compute_capability), device.MULTIPROCESSOR_COUNT)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of the driver's says that the device's memory is full."""
    return isinstance(error, MemoryError) or "OUT_OF_MEMORY" in str(error).upper().replace(" ", "_")


def of_the_driver(error: BaseException) -> bool:
    """Whether it is an error of the driver's, or of what numba-cuda makes of one."""
    return type(error).__module__.startswith(("numba.cuda.cudadrv", "cuda."))


@contextmanager
def compiled_code(kernel):
    """Where kernels are loaded for the first time: tells the user if they are compiled, and names the folder of compiled code, some of
    which is `kernel`'s, if it can't be used."""
    try:
        with announced():
            yield
    except Exception as error:                                    # from unpickling something damaged, anything can come
        if of_the_driver(error) or out_of_memory(error) or type(error).__module__.startswith("numba."):
            raise
        raise NpresnetError(f"{printable(kernel.stats.cache_path)}: the compiled code that numba-cuda keeps there can't be used "
                            f"({type(error).__name__}); delete that folder") from error


@contextmanager
def device_errors():
    """Turn what the driver raises into a DeviceError of one line."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise DeviceError("out of memory on the GPU; backend='numba' runs on the CPU") from error
        if of_the_driver(error):
            raise DeviceError(f"the GPU's driver: {type(error).__name__}: {' '.join(str(error).split())}") from error
        raise
