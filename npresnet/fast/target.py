"""Which vectors this machine has, and so what shape a tile is: as many pixels × channels as its registers hold."""
from __future__ import annotations

import llvmlite.binding as llvm
import numba
from numba import config, njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from ..lower.cache import KeptCode, Locator
from ..lower.sources import named_by_sources


def features() -> set[str]:
    """The instruction sets that Numba compiles for: the host's, or those of NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.

    Every 64-bit ARM has NEON and its fused multiply-add. LLVM is not asked: of a Mac it reports no features at all, nor where
    /proc/cpuinfo is missing.
    """
    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return {"neon"}
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    if config.CPU_NAME not in (None, "host", llvm.get_host_cpu_name()):
        return KNOWN.get(config.CPU_NAME, set())
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


KNOWN = {"x86-64-v4": {"avx512f", "avx2", "fma"}, "skylake-avx512": {"avx512f", "avx2", "fma"}, "znver4": {"avx512f", "avx2", "fma"},
         "x86-64-v3": {"avx2", "fma"}, "haswell": {"avx2", "fma"}, "skylake": {"avx2", "fma"}, "znver2": {"avx2", "fma"},
         "znver3": {"avx2", "fma"}}

SIZES: tuple[int, ...]
# floats a vector, vectors a tile is wide, and how many pixels high a tile may be
if "avx512f" in features():
    VL, NV, SIZES = 16, 2, (14, 8, 7, 4)                          # 28 of 32 registers hold sums
elif {"avx2", "fma"} <= features():
    VL, NV, SIZES = 8, 2, (6, 4, 3)                               # 12 of 16
elif "neon" in features():
    VL, NV, SIZES = 4, 4, (6, 4, 3)                               # 24 of 32
else:
    VL, NV, SIZES = 4, 2, (4, 2)                                  # 8 of 16; the compiler's own idea of a fused multiply-add
FMA = bool({"avx512f", "fma", "neon"} & features())
MR, NR = SIZES[0], VL * NV                                        # the largest tile: MR pixels × NR channels

# Numba imports all that it can compile before it loads what is compiled already: 0.25 s, more than all else together. Code needs only
# the runtime that counts references. Where there is no code to load, the compiler makes up for it. Tried with these versions of Numba.
SHORT_WAY = (0, 62) <= numba.version_info.short <= (0, 68)


class Impl(CompileResultCacheImpl):
    """Numba's way to store a compiled function, with a place of ours."""
    _locator_classes = [Locator]


class Cache(FunctionCache):
    """Numba's cache of one function's code, whose file is looked at before it is believed."""
    _impl_class = Impl

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = KeptCode(function.__qualname__, numba.__version__, dumps)

    def load_overload(self, sig, target_context):
        try:
            if not SHORT_WAY:
                return super().load_overload(sig, target_context)
            rtsys.initialize(target_context)
            return self._load_overload(sig, target_context)
        except MemoryError:
            raise
        except Exception:                                         # whole, and yet it doesn't fit this Numba: compile anew
            return None


def compiled(function):
    """`function` compiled by Numba, free of the interpreter's lock; kept on disk where there is a folder
    to keep it in (`lower/cache.py`), under a name that says from which sources it was made."""
    dispatcher = njit(nogil=True)(named_by_sources(function, __package__))
    dispatcher._cache = Cache(function)
    return dispatcher
