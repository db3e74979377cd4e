"""The CUDA kernels without a GPU: every rung in the simulator against the reference, on guarded memory, and what the compiler makes of them.

The simulator is switched on before numba is imported, so its part runs in a process of its own (this file as a script).
"""
from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
GUARDS = 64                                                       # floats of NaN before and behind every buffer
needs_numba_cuda = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed (extra cuda): no CUDA kernel is tested")

# n, c, h, w, k, kernel, stride, padding, dilation
CASES = [(1, 3, 5, 7, 5, 3, 1, 1, 1), (2, 8, 6, 5, 12, 1, 1, 0, 1), (1, 5, 9, 4, 70, 3, 2, 1, 1), (1, 12, 6, 7, 9, 3, 1, 2, 2),
         (1, 2, 8, 7, 8, 7, 2, 3, 1), (2, 9, 7, 6, 4, 1, 2, 0, 1), (1, 4, 1, 1, 68, 1, 1, 0, 1)]


class Guarded:
    """A float32 array between two bands of NaN: what reads them gives NaN, what writes them is found by `check`."""

    def __init__(self, values):
        values = np.asarray(values, np.float32)
        self.whole = np.full(values.size + 2 * GUARDS, np.nan, np.float32)
        self.array = self.whole[GUARDS:GUARDS + values.size].reshape(values.shape)
        self.array[:] = values

    def check(self, what):
        assert np.isnan(self.whole[:GUARDS]).all() and np.isnan(self.whole[-GUARDS:]).all(), f"{what}: a guard band was written to"


def run_case(rung, case, flags=0, tile=None, seed=0):
    """One convolution on one rung, on guarded memory: (what came, what should)."""
    from cuda_kernels import conv2d as ladder
    from npresnet import ops
    n, c, h, w, k, r, stride, pad, dilation = case
    rng = np.random.default_rng([seed, *case])
    x, weight, bias = rng.standard_normal((n, c, h, w)), rng.standard_normal((k, c, r, r)) / np.sqrt(c * r * r), rng.standard_normal(k)
    x, weight, bias = (v.astype(np.float32) for v in (x, weight, bias))
    want = ops.conv2d(x, weight, bias, stride, pad, dilation)
    p, q = want.shape[2:]
    kept = []

    def guard(values):
        kept.append(Guarded(values))
        return kept[-1].array

    empty = lambda *shape: guard(np.full(shape, np.nan))
    if rung == "naive":
        y = empty(n, k, p, q)
        ladder.naive[(-(-q // 4), -(-p // 4), n * k), (4, 4, 1)](guard(x), guard(weight), guard(bias), y, stride, pad, dilation)
    elif rung == "im2col":
        columns, out = empty(c * r * r, n * p * q), empty(k, n * p * q)
        ladder.im2col[(-(-n * p * q // 16), -(-c * r * r // 4)), (16, 4)](guard(x), columns, r, r, p, q, stride, pad, dilation)
        grid = -(-n * p * q // ladder.SIDE), -(-k // ladder.SIDE)
        ladder.tiled_gemm[grid, (ladder.SIDE, ladder.SIDE)](guard(weight.reshape(k, -1)), columns, guard(bias), out)
        y = out.reshape(k, n, p, q).transpose(1, 0, 2, 3)
    elif rung == "implicit":
        y = empty(n, k, p * q)
        grid = -(-n * p * q // ladder.TILE), -(-k // ladder.TILE)
        ladder.implicit_gemm[grid, ladder.TILE](guard(x), guard(weight.reshape(k, -1)), guard(bias), y, r * r, r, p, q, stride, pad, dilation)
        y = y.reshape(n, k, p, q)
    else:
        tile_m, tile_k = tile or (64, 64)
        wide, pixels = k + -k % 4, n * p * q
        residual, (scale, shift) = rng.standard_normal((n, k, p, q)).astype(np.float32), rng.standard_normal((2, wide)).astype(np.float32)
        y, y2 = empty(pixels * wide), empty(pixels * wide if flags & ladder.SECOND else 4)
        kernel = ladder.KERNELS[tile_m, tile_k, r == 1]
        kernel[(-(-pixels // tile_m), -(-wide // tile_k)), tile_m * tile_k // 64](
            guard(ladder.channels_last(x)), guard(ladder.pack_weight(weight)), guard(np.pad(bias, (0, -k % 4))), guard(ladder.channels_last(residual)),
            guard(scale), guard(shift), y, y2, pixels, h, w, c + -c % 4, wide, p, q, r, r, stride, pad, dilation, flags)
        first = lambda flat: flat.reshape(n, p, q, wide)[..., :k].transpose(0, 3, 1, 2)
        y = first(y)
        if flags & ladder.RESIDUAL:
            want = want + residual
        if flags & ladder.RELU:
            want = np.maximum(want, 0)
        if flags & ladder.SECOND:
            y2, want2 = first(y2), np.maximum(want * scale[:k].reshape(-1, 1, 1) + shift[:k].reshape(-1, 1, 1), 0)
            y, want = np.stack([y, y2]), np.stack([want, want2])
        else:
            assert np.isnan(y2).all(), "the second output was written without being asked for"
    for i, buffer in enumerate(kept):
        buffer.check(f"{rung} {case}, buffer {i}")
    return y, want


def simulate(rung):
    """All cases of one rung; fails on the first that is not within 1e-5."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from helpers import assert_close
    runs = [(case, 0, None) for case in CASES]
    if rung == "network":
        from cuda_kernels.conv2d import RELU, RESIDUAL, SECOND
        runs += [(CASES[0], RELU, (128, 64)), (CASES[1], RESIDUAL | SECOND, (128, 64)), (CASES[2], RESIDUAL | RELU, None),
                 (CASES[3], SECOND, None), (CASES[5], RELU | RESIDUAL | SECOND, None), ((1, 4, 12, 11, 8, 3, 1, 1, 1), RELU, (128, 64)),
                 ((5, 4, 3, 3, 4, 3, 1, 1, 1), RELU, None)]         # top rows among each thread's second pixels, too
    for case, flags, tile in runs:
        y, want = run_case(rung, case, flags, tile)
        assert_close(f"{rung} {case} flags {flags} tile {tile}", y, want, 1e-5)


@needs_numba_cuda
@pytest.mark.parametrize("rung", ["naive", "im2col", "implicit", "network"])
def test_rung_in_the_simulator(rung):
    done = subprocess.run([sys.executable, __file__, rung], env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_numba_cuda
@pytest.mark.parametrize("cc", ["7.5", "8.0", "9.0", "10.0"])
def test_compiled_kernels(cc):
    from cuda_kernels.conv2d import signatures
    from cuda_kernels.inspect import MissingTool, inspect, tool
    try:
        tool("ptxas"), tool("nvdisasm")
    except MissingTool as missing:
        pytest.skip(str(missing))
    for name in signatures():
        row = inspect(name, cc)
        assert row["stack"] == row["spills"] == 0, row
        if name.startswith("conv_"):
            assert row["blocks"] >= 2, row
            assert row["ffma_per_lds"] >= 8, row
            assert row["ffma_share"] >= 0.7, row


def test_without_its_tools_inspect_says_what_to_install():
    code = ("import sys; sys.modules['numba_cuda'] = None; from cuda_kernels.inspect import main; raise SystemExit(main(['--cc', '8.0']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pip install" in done.stderr, done.stderr


if __name__ == "__main__":
    simulate(sys.argv[1])
