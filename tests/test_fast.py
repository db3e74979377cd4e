"""The fast engine's parts: tiles at every edge on guarded memory, transforms, packing, the planner, threads, and other processors' code."""
from __future__ import annotations

import ctypes
import dataclasses
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close, random_pictures, random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

import npresnet
from npresnet import ops
from npresnet.fast import loops, plan, target, winograd
from npresnet.fast.engine import Engine
from npresnet.network import Network
from npresnet.variants import VARIANTS, parameter_shapes

ROOT = Path(__file__).resolve().parents[1]
GUARD = np.float32(-12345.678)


@njit
def call_tile(small, rows, a, lda, offs, run, b, bias, lo, c, ldc, r, ldr, scale, shift, d, ldd):
    """Call a tile on plain addresses."""
    if small:
        loops.tile_small(rows, a, lda, offs.ctypes.data, offs.size, run, b, bias, lo, c, ldc, r, ldr, scale, shift, d, ldd)
    else:
        loops.tile(rows, a, lda, offs.ctypes.data, offs.size, run, b, bias, lo, c, ldc, r, ldr, scale, shift, d, ldd)


class Page:
    """A float32 array that ends exactly where an unmapped page begins: reading or writing one float more ends the process."""

    def __init__(self, values: np.ndarray):
        size = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, size + mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + size), mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        self.array = np.frombuffer(self.map, np.float32, values.size, size - values.nbytes).reshape(values.shape)
        self.array[:] = values
        self.at = self.array.ctypes.data


def tile_case(small, rows, nruns, run, stride, relu, two, seed, place):
    """Run a tile on arrays that `place` puts into memory; returns (what it should give, what it gave, the arrays it wrote)."""
    rng = np.random.default_rng(seed)
    mr, nr = (target.MR_SMALL if small else target.MR), target.NR
    pitch = run + 3
    lda, pixels = stride * pitch, (mr - 1) * stride + nruns
    a, b = rng.standard_normal((pixels, pitch), np.float32), rng.standard_normal((nruns, run, nr), np.float32)
    bias, scale, shift = rng.standard_normal((3, nr), np.float32)
    offs = np.arange(nruns, dtype=np.int64) * pitch
    residual = rng.standard_normal((rows, nr + 5), np.float32)
    c, d = np.full((rows, nr + 7), GUARD), np.full((rows, nr + 2), GUARD)
    last = a.reshape(-1)[:(pixels - 1) * pitch + run]                                     # the last float that a tile may read
    A, B, C, D, R, BIAS, SCALE, SHIFT = (place(v) for v in (last, b, c, d, residual, bias, scale, shift))
    call_tile(small, rows, A.at, lda, offs, run, B.at, BIAS.at, 0 if relu else 1, C.at, nr + 7, R.at, nr + 5, SCALE.at, SHIFT.at,
              D.at if two else 0, nr + 2)
    x = np.stack([[a[i * stride + r, :run] for r in range(nruns)] for i in range(rows)]).astype(np.float64)
    want = np.einsum("irk,rkn->in", x, b) + bias
    if two:
        want = want + residual[:, :nr]
    first = np.maximum(want, 0) if relu and not two else want
    second = np.maximum(want * scale + shift, 0)
    return (first, second), (C.array, D.array), nr


class Plain:
    """An array between two guard bands, which `check` finds untouched or not."""

    def __init__(self, values: np.ndarray):
        self.whole = np.full(values.size + 256, GUARD, np.float32)
        self.array = self.whole[128:128 + values.size].reshape(values.shape)
        self.array[:] = values
        self.at = self.array.ctypes.data

    def check(self):
        assert (self.whole[:128] == GUARD).all() and (self.whole[-128:] == GUARD).all(), "a guard band was written to"


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 4), st.integers(1, 40), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 9))
def test_tile_at_every_edge(data, small, nruns, run, stride, relu, two, seed):
    rows = data.draw(st.integers(1, target.MR_SMALL if small else target.MR))
    kept = []
    def place(values):
        kept.append(Plain(values))
        return kept[-1]
    (first, second), (c, d), nr = tile_case(small, rows, nruns, run, stride, relu, two, seed, place)
    assert_close("tile", c[:, :nr], first.astype(np.float32), 2e-6)
    assert (c[:, nr:] == GUARD).all() and (d[:, nr:] == GUARD).all(), "written beside the panel"
    if two:
        assert_close("second output", d[:, :nr], second.astype(np.float32), 4e-6)
    else:
        assert (d == GUARD).all()
    for array in kept:
        array.check()


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect as Linux has it")
@pytest.mark.parametrize("small", [False, True])
def test_tile_reads_nothing_behind_its_arrays(small):
    for rows in range(1, (target.MR_SMALL if small else target.MR) + 1):
        for two in (False, True):
            (first, second), (c, d), nr = tile_case(small, rows, 3, 21, 2, True, two, rows, Page)
            assert_close("tile", c[:, :nr], first.astype(np.float32), 2e-6)


def test_tile_lets_nan_and_inf_through():
    nr, mr = target.NR, target.MR
    a, b = np.ones((mr, 4), np.float32), np.ones((4, nr), np.float32)
    a[1, 2], a[2, 0], a[3, 1] = np.nan, np.inf, -np.inf
    A, B, Z, C = (Plain(v) for v in (a, b, np.zeros(nr, np.float32), np.zeros((mr, nr), np.float32)))
    call_tile(False, mr, A.at, 4, np.zeros(1, np.int64), 4, B.at, Z.at, 0, C.at, nr, 0, 0, 0, 0, 0, 0)
    assert np.isnan(C.array[1]).all() and (C.array[2] == np.inf).all() and (C.array[3] == 0).all() and (C.array[0] == 4).all()


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_is_convolution(m):
    """The matrices themselves, in float64: Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A is the 3×3 convolution of d with g."""
    rng, matrices = np.random.default_rng(0), {key: np.array(value, np.float64) for key, value in winograd.MATRICES[m].items()}
    d, g = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    product = (matrices["G"] @ g @ matrices["G"].T) * (matrices["BT"] @ d @ matrices["BT"].T)
    np.testing.assert_allclose(matrices["AT"] @ product @ matrices["AT"].T, ops.conv2d(d[None, None], g[None, None])[0, 0], atol=1e-12)


@pytest.mark.parametrize("m", [0, 2, 4])
@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_50d"])
def test_each_algorithm_is_exact_enough(name, m, monkeypatch):
    """Every 3×3 layer forced onto one algorithm, on sizes that no tile divides."""
    monkeypatch.setattr(plan.Plan, "_winograd", lambda *_: m)
    variant = dataclasses.replace(VARIANTS[name], width=0.25)
    state, x = random_state(parameter_shapes(variant), 1), random_pictures(2, 3, 97, 131)
    reference: dict = {}
    Network(variant, state, tap=reference.__setitem__).forward(x)
    result = npresnet.compare(Engine(variant, state, num_threads=2).trace(x), reference, {0: 1e-5}.get(m, 1e-4))
    print(f"F({m}×{m}): largest Δ {result.max_delta:.1e}")
    assert result.first_divergence is None and not result.only_a, str(result)


def test_packing_by_hand():
    weight = np.arange(2 * 3 * 2 * 1, dtype=np.float32).reshape(2, 3, 2, 1)               # (K, C, R, S)
    panels = plan.pack(weight)
    assert panels.shape == (1, 6, target.NR)
    np.testing.assert_array_equal(panels[0, :, 0], [0, 2, 4, 1, 3, 5])                    # r, then s, then c
    np.testing.assert_array_equal(panels[0, :, 1], [6, 8, 10, 7, 9, 11])
    assert not panels[0, :, 2:].any()


def test_tensors_dont_overlap_and_borders_stay_zero():
    variant = dataclasses.replace(VARIANTS["resnetv2_18d"], width=0.25)
    engine = Engine(variant, random_state(parameter_shapes(variant), 1), num_threads=2)
    engine.forward_features(random_pictures(1, 3, 75, 99))
    ready = next(iter(engine.plans.values()))
    places = sorted((t.base, t.base + ready.plan.pictures * t.picture) for t in ready.plan.all if t not in ready.plan.scratch.values())
    assert all(end <= start for (_, end), (start, _) in zip(places, places[1:])) and places[-1][1] <= ready.plan.size
    for t in ready.plan.all:
        if t.border:
            whole = ready.workspace[t.base:t.base + t.picture].reshape(t.h + 2 * t.border + t.extra, -1, t.pitch).copy()
            whole[t.border:t.border + t.h, t.border:t.border + t.w] = 0
            assert not whole.any(), "a border was written to"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(VARIANTS)), st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 16, 32]), st.booleans(), st.integers(0, 99))
def test_any_size_any_variant(name, h, w, output_stride, exact, seed):
    variant = dataclasses.replace(VARIANTS[name], width=0.125, depths=(1, 2, 1, 1))
    state, x = random_state(parameter_shapes(variant), seed), random_pictures(1, 3, h, w, seed=seed)
    engine = Engine(variant, state, output_stride=output_stride, exact=exact, num_threads=2)
    reference: dict = {}
    logits = Network(variant, state, output_stride=output_stride, tap=reference.__setitem__).forward(x)
    result = npresnet.compare(engine.trace(x), reference, 1e-5 if exact else 1e-4)
    assert result.first_divergence is None, str(result)
    assert_close("logits", engine.forward(x), logits, 1e-5 if exact else 5e-5)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(threads):
    model = npresnet.create_model("demo", backend="numba", num_threads=threads)
    x = random_pictures(2, 3, 97, 64)
    np.testing.assert_array_equal(model(x), npresnet.create_model("demo", backend="numba", num_threads=1)(x))
    with pytest.raises(ValueError, match="at least 1"):
        npresnet.create_model("demo", backend="numba", num_threads=0)


def test_many_python_threads_take_turns():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    pictures = [random_pictures(1, 3, 64, 64 + 8 * (i % 3), seed=i) for i in range(8)]
    want, got = [model(x) for x in pictures], [None] * 8
    def work(i):
        got[i] = model(pictures[i])
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_its_own_threads():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    x = random_pictures(1, 3, 64, 64)
    want = model(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(model(x), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("cpu, features", [("haswell", "+avx2,+fma,+avx,+sse4.2"), ("x86-64", "+sse2")])
def test_code_for_other_processors(cpu, features, tmp_path):
    import platform
    if platform.machine() != "x86_64":
        pytest.skip(f"x86-64 code can't run on {platform.machine()}")
    code = ("import numpy as np, npresnet; from npresnet.fast import target; print(target.VL, target.FMA)\n"
            "x = np.random.default_rng(0).standard_normal((1, 3, 97, 64), np.float32)\n"
            "a, b = (npresnet.create_model('demo', backend=name)(x) for name in ('numpy', 'numba'))\n"
            "assert np.abs(a - b).max() <= 5e-5 * np.abs(a).max(), np.abs(a - b).max()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120,
                          env=os.environ | dict(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    print(cpu, done.stdout)
    assert done.stdout.split()[0] == ("8" if "avx2" in features else "4")
