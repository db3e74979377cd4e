"""The fast CPU engine, in NumPy and Numba: the same network and weights as `npresnet/network.py`, arranged for the machine.

    target.py     which vectors the machine has, and what shape a tile is
    kernels.py    the inner loop: a tile of a convolution in vector instructions
    winograd.py   the 3×3 convolution with fewer multiplications
    loops.py      the one compiled function, run by all threads together
    plan.py       from a network and a picture size to a table of operations
    engine.py     what the model holds: plans, runs, gives NCHW back
"""
from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

from ..errors import MissingDependencyError, printable

MISSING = "backend 'numba' can't be used: {}"
NO_JIT = MISSING.format("NUMBA_DISABLE_JIT is set, and without its compiler there is no engine")


def check_available() -> None:
    """Raise MissingDependencyError, in one line, where it is plain without importing Numba that it can't run."""
    if os.environ.get("NUMBA_DISABLE_JIT", "").strip() not in ("", "0"):
        raise MissingDependencyError(NO_JIT)
    if find_spec("numba") is None:
        raise MissingDependencyError(MISSING.format("Numba isn't installed: pip install numba"))


def check_loads() -> None:
    """Import Numba. Raise MissingDependencyError, in one line, if it can't be: with a NumPy that it refuses, say, or without its LLVM."""
    try:
        config = import_module("numba").config
    except Exception as error:                                        # ImportError, and from its libraries OSError, AttributeError, …
        said = printable(" ".join(str(error).split()))[:300]
        raise MissingDependencyError(MISSING.format(f"Numba doesn't load here ({type(error).__name__}: {said})")) from error
    if config.DISABLE_JIT:
        raise MissingDependencyError(NO_JIT)


def compiled_code_is_kept() -> bool:
    """Whether compiled code of this engine is likely on disk: of exactly these sources, for this Python, Numba and machine. Takes
    milliseconds, and doesn't import Numba."""
    from ..lower.cache import is_kept
    from ..lower.sources import digest

    return is_kept(f"{name}_{digest(__name__)}" for name in ("run", "pack", "pack_winograd"))
