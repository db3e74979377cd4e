"""The network's operations as CUDA kernels, written in Python and compiled by Numba. npresnet imports this when asked for a GPU.

`conv2d` is a ladder of convolutions, `inspect` prints what the compiler made of them (no GPU needed); the other layers and the runner
are still to come. Importing this package is cheap and works without numba-cuda; `backend` is the one place that imports it.
"""
from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple


class Availability(NamedTuple):
    """Whether CUDA kernels can run here, and in one line why not, or on which device. True or False as `available` is."""
    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


def is_available() -> Availability:
    """Look for the `numba_cuda` package, an NVIDIA driver and a device of compute capability 7.5 or newer. Never raises."""
    if find_spec("numba_cuda") is None:
        return Availability(False, "the package numba-cuda is not installed: pip install 'numba-cuda[cu13]' (or [cu12])")
    try:
        from numba import cuda
        if not cuda.is_available():
            return Availability(False, "numba-cuda found no NVIDIA driver or no GPU on this machine")
        if getattr(cuda.config, "ENABLE_CUDASIM", False):
            return Availability(True, "Numba's CUDA simulator")
        device = cuda.get_current_device()
        name, capability = device.name, tuple(device.compute_capability)
    except Exception as error:                                    # a broken driver or toolkit can raise anything
        return Availability(False, f"numba-cuda can't use the GPU: {type(error).__name__}: {error}")
    name = name.decode() if isinstance(name, bytes) else name
    if capability < (7, 5):
        return Availability(False, f"{name} has compute capability {capability[0]}.{capability[1]}; 7.5 or newer is needed")
    return Availability(True, f"{name}, compute capability {capability[0]}.{capability[1]}")
