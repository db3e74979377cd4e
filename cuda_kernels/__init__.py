"""The network on a GPU: its operations as CUDA kernels, written in Python and compiled by Numba. npresnet imports this when asked for one.

    conv2d         convolution as a ladder of four kernels: read this first
    norm           batch norm and ReLU, alone and as an epilogue; what adds up the parts of split-K
    pool, layout   pools; (N, C, H, W) to channels last, and back
    plan           from a variant and a picture size to a list of launches
    runner         weights, activations and launches on the device: the `"cuda"` backend
    performance    what a launch should take on a GPU: chooses between kernels
    inspect        what the compiler made of each kernel, without a GPU: python -m cuda_kernels.inspect
    backend        the one place that imports numba-cuda, and what its language lacks

Importing this package is cheap and works without numba-cuda. What was run on which GPU: see the README.
"""
from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from importlib.util import find_spec
from typing import NamedTuple

DRIVERS = ("libcuda.so.1", "libcuda.so", "/usr/lib/libcuda.so", "/usr/lib64/libcuda.so", "nvcuda.dll")


class Availability(NamedTuple):
    """Whether CUDA kernels can run here, and in one line why not, or on which device. True or False as `available` is."""
    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


def is_available() -> Availability:
    """Look for the `numba_cuda` package, an NVIDIA driver and a device of compute capability 7.5 or newer. Never raises."""
    if find_spec("numba_cuda") is None:
        return Availability(False, "the package numba-cuda is not installed: pip install \"numba-cuda[cu13]\" (or [cu12])")
    if not has_driver():
        return Availability(False, "there is no NVIDIA driver on this machine")
    try:
        from .backend import SIMULATOR, cuda
        if not cuda.is_available():
            return Availability(False, "numba-cuda found no NVIDIA driver or no GPU on this machine")
        if SIMULATOR:
            return Availability(True, "Numba's CUDA simulator")
        device = cuda.get_current_device()
        name, capability = device.name, tuple(device.compute_capability)
    except Exception as error:                                    # a broken driver or toolkit can raise anything
        return Availability(False, f"numba-cuda can't use the GPU: {type(error).__name__}: {error}")
    name = name.decode() if isinstance(name, bytes) else name
    if capability < (7, 5):
        return Availability(False, f"{name} has compute capability {capability[0]}.{capability[1]}; 7.5 or newer is needed")
    return Availability(True, f"{name}, compute capability {capability[0]}.{capability[1]}")


def has_driver() -> bool:
    """Whether there may be a driver: looking for its library takes no time, and importing numba-cuda to ask it half a second. True if
    that is told to look elsewhere, or to simulate."""
    if os.environ.get("NUMBA_CUDA_DRIVER") or os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        return True
    for name in DRIVERS:
        with suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def check_available() -> None:
    """Raise MissingDependencyError without numba-cuda, DeviceError where there is no GPU for it, each in one line."""
    from npresnet.errors import DeviceError, MissingDependencyError
    found = is_available()
    if not found:
        kind = MissingDependencyError if find_spec("numba_cuda") is None else DeviceError
        raise kind(f"backend 'cuda' can't be used: {found.reason}; 'numba' runs on the CPU")
