"""What a backend is, and which ones there are. A model hands its work to one of them.

To add one, write a class with this interface and a line in `BACKENDS`: see CONTRIBUTING.md. Nothing
else in npresnet asks a backend for its name.

Axes: N pictures, C channels, H×W pixels in, K channels of a layer, P×Q pixels of a layer.
"""
from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from .errors import BackendWarning, DeviceError, NpresnetError
from .lower.crew import apart

if TYPE_CHECKING:                                                 # every command reads the table
    from .graph import Graph

Params: TypeAlias = Mapping[str, np.ndarray]


class Backend(ABC):
    """The network `graph` with the tensors `params` (timm's name → float32 array), ready to run.

    All arrays are NCHW float32. Layers go by their timm paths. It may be called from several
    threads, leaves its inputs untouched, and takes any number of pictures of any size, none
    included.

    exact: no Winograd and no split arithmetic. A backend that has neither takes it and does
    nothing. What else a subclass takes stands under `options` in `BACKENDS`.
    """

    def __init__(self, graph: Graph, params: Params, *, exact: bool = False):
        self.graph, self.params, self.exact = graph, params, exact

    def accept(self, what: str, x: Any) -> Any:
        """x, given as `what`, as this backend takes it. Raises ValueError if it can't be taken.

        The default takes all that NumPy takes, and refuses what lies in a GPU's memory.
        """
        if hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__"):
            raise ValueError(f"the {what} lie in a GPU's memory: create the model with "
                             "backend='cuda', or copy them to the host")
        return np.asarray(x)

    @abstractmethod
    def maps(self, x: Any, paths: Sequence[str]) -> list[Any]:
        """The layers called `paths` for pictures x (N, C, H, W), each (N, K, P, Q). Nothing behind
        the last of them is run."""

    @abstractmethod
    def head(self, features: Any, path: str) -> Any:
        """From the last feature map (N, C, H, W) to `path`, "head.global_pool" or "head.fc":
        (N, K, 1, 1), or (N, K, H, W) without a global pool."""

    @abstractmethod
    def trace(self, x: Any, last: str) -> dict[str, np.ndarray]:
        """Every layer up to `last` that this backend computes: path → array, in the graph's
        order."""

    def plan(self, input_size: tuple[int, int, int]) -> Any:
        """What it does with a picture (C, H, W), layer by layer, and the time that takes.

        Raises ValueError if it plans nothing.
        """
        raise ValueError("this backend plans nothing: create the model with backend='numba' or "
                         "'cuda'")


class Tolerance(NamedTuple):
    """The largest Δ from timm that is allowed: the largest difference in a layer, or of the logits,
    as a share of its largest magnitude."""
    layers: float
    logits: float


class Pace(NamedTuple):
    """Roughly how soon a backend answers, in a new process on two cores. start: seconds until it
    begins. rate: multiply-adds a second from then on. compiling: seconds more, where the function
    `kept` ("module:name") says that its compiled code isn't there yet."""
    start: float
    rate: float
    compiling: float = 0.0
    kept: str = ""

    def seconds(self, macs: float) -> float:
        """For `macs` multiply-adds."""
        compiled = not self.kept or _named(self.kept)()
        return self.start + macs / self.rate + (0 if compiled else self.compiling)


class Entry(NamedTuple):
    """A backend, before it is imported. target: its class, and check: a function that raises an
    NpresnetError, in one line, where it can't run; each as "module:name". options: what its class
    takes beyond `Backend`'s own. load: another check, of what is costly to look at, before its
    class is imported. pretence: an environment variable; where it is set, something pretends to be
    the device that the backend needs."""
    target: str
    tolerance: Tolerance
    exact_tolerance: Tolerance
    pace: Pace
    options: tuple[str, ...] = ()
    check: str = ""
    load: str = ""
    pretence: str = ""

    def check_available(self) -> None:
        """Raise an NpresnetError, in one line, if the backend can't run on this machine."""
        if self.check:
            apart(lambda: _named(self.check)())          # noqa: PLW0108  (it imports, too)

    def check_chosen(self) -> None:
        """The same, and if the device is none: nobody asked for the backend by its name."""
        if self.pretence and os.environ.get(self.pretence, "0").strip() not in ("", "0"):
            raise DeviceError(f"{self.pretence} is set: there is no device")
        self.check_available()

    def make(self, graph: Graph, params: Params, **options: Any) -> Backend:
        """The backend for a network. options: of its class. Raises MissingDependencyError if what
        it needs doesn't load."""
        if self.load:
            _named(self.load)()
        made: Backend = _named(self.target)(graph, params, **options)
        return made


REFERENCE = "numpy"                                               # what the others are held against
BACKENDS = {
    REFERENCE: Entry("npresnet.reference:Reference", Tolerance(5e-6, 5e-6), Tolerance(5e-6, 5e-6),
                     Pace(0.0, 20e9)),
    "numba": Entry("npresnet.fast.engine:Engine", Tolerance(1e-4, 5e-5), Tolerance(1e-5, 1e-5),
                   Pace(0.25, 120e9, 8.0, "npresnet.fast:compiled_code_is_kept"),
                   options=("num_threads",), check="npresnet.fast:check_available",
                   load="npresnet.fast:check_loads"),
    "cuda": Entry("cuda_kernels.runner:Runner", Tolerance(1e-5, 1e-5), Tolerance(1e-5, 1e-5),
                  Pace(1.0, 4e12), check="cuda_kernels:check_available",
                  pretence="NUMBA_ENABLE_CUDASIM"),
}
AUTO = ("cuda", "numba", REFERENCE)                                 # the first that can run here


def choose_backend(name: str) -> str:
    """The backend to use for a name; for "auto" that of the environment variable NPRESNET_BACKEND,
    else the first of AUTO that can run here; if that is the last, with a BackendWarning.

    Raises ValueError if there is none of that name; for "numba" MissingDependencyError where Numba
    can't compile; for "cuda" MissingDependencyError without numba-cuda, DeviceError without a GPU
    for it.
    """
    return choose_backends(name)[0]


def choose_backends(name: str) -> tuple[str, ...]:
    """As `choose_backend`, and behind it what can take its place if it turns out not to load."""
    if name == "auto":
        name = os.environ.get("NPRESNET_BACKEND") or name
        if name == "auto":
            return _first_that_can_run()
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    BACKENDS[name].check_available()
    return name,


def quickest(name: str, macs: float) -> str:
    """The backend `name`, or the reference if that is sooner done with `macs` multiply-adds in a
    new process. The environment variable NPRESNET_BACKEND forbids to choose."""
    if os.environ.get("NPRESNET_BACKEND"):
        return name
    return min(name, REFERENCE, key=lambda each: BACKENDS[each].pace.seconds(macs))


def _first_that_can_run() -> tuple[str, ...]:
    why = ""
    for number, name in enumerate(AUTO):
        try:
            BACKENDS[name].check_chosen()
        except NpresnetError as error:
            why = str(error)
            continue
        if name == AUTO[-1]:
            warnings.warn(f"{why}; going on with backend {name!r}", BackendWarning, stacklevel=5)
        return AUTO[number:]
    raise NpresnetError(why)


def check_threads(num_threads: int | None, backend: str) -> None:
    """Raise ValueError if `num_threads` is given and isn't a number of threads for this backend."""
    if num_threads is None:
        return
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}")
    if "num_threads" not in BACKENDS[backend].options:
        those = [name for name, entry in BACKENDS.items() if "num_threads" in entry.options]
        raise ValueError(f"num_threads is for the backend {', '.join(those)}, not for {backend} "
                         "(NumPy takes its threads from the environment variable "
                         "OPENBLAS_NUM_THREADS)")


def _named(target: str) -> Any:
    """What "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def describe_misfit(what: str, x: Any, channels: int) -> str:
    """What is wrong with x, given as `what`, where (N, channels, H, W) float32 is wanted, and what
    to give instead. Nothing if it fits.

    x: an array, wherever it lies. Pixels aren't told to become float32, which would be another
    picture to the network, but to go through the model's transform.
    """
    shape = tuple(x.shape)
    fits = len(shape) == 4 and shape[1] == channels and 0 not in shape[1:]
    if fits and x.dtype == np.float32:
        return ""
    problem = f"expected {what} of shape (N, {channels}, H, W), got {shape}"
    if fits:
        problem = f"expected {what} of dtype float32, got {x.dtype} of shape {shape}"
    if what == "pictures" and np.dtype(x.dtype).kind in "bui":
        return (f"{problem}; these are pixels, each picture goes through the model's transform: "
                "npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))"
                "(npresnet.load_image(pixels))[None]")
    if 0 in shape[-3:] or np.dtype(x.dtype).kind != "f":
        return problem
    as_float = "" if x.dtype == np.float32 else ".astype(np.float32)"
    if fits:
        return f"{problem}; convert with x{as_float}"
    if len(shape) == 3 and shape[0] == channels:
        return f"{problem}; add the batch axis with x[None]{as_float}"
    if len(shape) in (3, 4) and shape[-1] == channels:
        first = "transpose(2, 0, 1)[None]" if len(shape) == 3 else "transpose(0, 3, 1, 2)"
        return f"{problem}; the channels come last, put them first with x.{first}{as_float}"
    return problem
