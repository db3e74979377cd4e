"""Every CUDA kernel and whole networks against NumPy, in Numba's simulator or, unchanged, on a GPU.

    NUMBA_ENABLE_CUDASIM=1 python tests/cuda_cases.py              all of CASES; or some, by name
    NUMBA_ENABLE_CUDASIM=1 python tests/cuda_cases.py fuzz 1 100   100 random convolutions, seed 1

The simulator has to be chosen before numba is imported, so `test_cuda.py` runs this file in a
process of its own. On a machine with a GPU it calls the same functions directly. The cases stand in
`cuda_convolutions.py`, `cuda_layers.py`, `cuda_networks.py` and `cuda_kept_plans.py`; what they run
on, in `cuda_memory.py`.
"""
from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from cuda_convolutions import fuzz, im2col, implicit, naive, network_rung, split_k
from cuda_kept_plans import kept_plans
from cuda_layers import layouts, norms, pools
from cuda_memory import stricter_simulator
from cuda_networks import basic_blocks, bottlenecks, heads

# `test_cuda.py` reads these names from the text, because not every machine has numba-cuda.
CASES = {case.__name__: case for case in (
    naive, im2col, implicit, network_rung, split_k, norms, pools, layouts, bottlenecks,
    basic_blocks, heads, kept_plans)}

if __name__ == "__main__":
    stricter_simulator()
    if sys.argv[1:2] == ["fuzz"]:
        fuzz(*map(int, sys.argv[2:]))
    else:
        for name in sys.argv[1:] or CASES:
            CASES[name]()
