"""The fast engine's parts: tiles at every edge on guarded memory, transforms, packing, the planner, threads, and other processors' code."""
from __future__ import annotations

import ctypes
import dataclasses
import mmap
import multiprocessing
import os
import shutil
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
from npresnet.fast import loops, memory, packing, plan, target, winograd
from npresnet.fast.engine import Engine
from npresnet.network import Network
from npresnet.variants import VARIANTS, parameter_shapes

ROOT = Path(__file__).resolve().parents[1]
GUARD = np.float32(-12345.678)


@njit
def call_tile(rows, a, lda, offs, run, a2, lda2, first2, b, ahead, bias, lo, c, ldc, r, ldr, scale, shift, d, ldd):
    """Call a tile on plain addresses."""
    loops.tile(rows, a, lda, offs.ctypes.data, offs.size, run, a2, lda2, first2, b, ahead, bias, lo, c, ldc, r, ldr, scale, shift, d, ldd)


@njit
def call_transform(m, i, src, row, pixel, dst, plane, bias, high, wide):
    """Transform one Winograd tile, VL channels, between plain addresses: row i of the places, or if that is negative back."""
    if m == 4 and i < 0:
        loops.backward4(src, plane, dst, row, pixel, bias, high, wide)
    elif m == 4:
        loops.forward4(i, src, row, pixel, dst, plane)
    elif i < 0:
        loops.backward2(src, plane, dst, row, pixel, bias, high, wide)
    else:
        loops.forward2(i, src, row, pixel, dst, plane)


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


def tile_case(rows, nruns, nruns2, run, stride, relu, two, residual, seed, place):
    """Run a tile on arrays that `place` puts into memory; returns (what it should give, what it gave)."""
    rng = np.random.default_rng(seed)
    mr, nr = min(size for size in target.SIZES if size >= rows), target.NR                # as many pixels are read
    pitch, pitch2 = run + 3, run + 5
    a = rng.standard_normal(((mr - 1) * stride + nruns, pitch), np.float32)
    a2 = rng.standard_normal((mr - 1 + max(nruns2, 1), pitch2), np.float32)
    b, (bias, scale, shift) = rng.standard_normal((nruns + nruns2, run, nr), np.float32), rng.standard_normal((3, nr), np.float32)
    offs = np.concatenate([np.arange(nruns) * pitch, np.arange(nruns2) * pitch2])
    r = rng.standard_normal((rows, nr + 5), np.float32)
    c, d = np.full((rows, nr + 7), GUARD), np.full((rows, nr + 2), GUARD)
    last, last2 = (v.reshape(-1)[:v.size - v.shape[1] + run] for v in (a, a2))            # up to the last float that a tile may read
    A, A2, B, C, D, R, BIAS, SCALE, SHIFT = (place(v) for v in (last, last2, b, c, d, r, bias, scale, shift))
    nowhere = 8                                                                           # asking for it in advance must do no harm
    call_tile(rows, A.at, stride * pitch, offs, run, A2.at, pitch2, nruns, B.at, nowhere, BIAS.at, 0 if relu else 1, C.at, nr + 7,
              R.at if residual else 0, nr + 5, SCALE.at, SHIFT.at, D.at if two else 0, nr + 2)
    x = [[a[i * stride + j, :run] for j in range(nruns)] + [a2[i + j, :run] for j in range(nruns2)] for i in range(rows)]
    want = np.einsum("irk,rkn->in", np.array(x, np.float64), b) + bias
    if two and residual:
        want = want + r[:, :nr]
    first = np.maximum(want, 0) if relu and not two else want
    return (first, np.maximum(want * scale + shift, 0)), (C.array, D.array)


class Plain:
    """An array between two guard bands, which `check` finds untouched or not."""

    def __init__(self, values: np.ndarray):
        self.whole = np.full(values.size + 256, GUARD, np.float32)
        self.array = self.whole[128:128 + values.size].reshape(values.shape)
        self.array[:] = values
        self.at = self.array.ctypes.data

    def check(self):
        assert (self.whole[:128] == GUARD).all() and (self.whole[-128:] == GUARD).all(), "a guard band was written to"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, target.MR), st.integers(1, 4), st.integers(0, 3), st.integers(1, 40), st.integers(1, 3), st.booleans(), st.booleans(),
       st.booleans(), st.integers(0, 9))
def test_tile_at_every_edge(rows, nruns, nruns2, run, stride, relu, two, residual, seed):
    kept = []
    def place(values):
        kept.append(Plain(values))
        return kept[-1]
    (first, second), (c, d) = tile_case(rows, nruns, nruns2, run, stride, relu, two, residual, seed, place)
    nr = target.NR
    assert_close("tile", c[:, :nr], first.astype(np.float32), 2e-6)
    assert (c[:, nr:] == GUARD).all() and (d[:, nr:] == GUARD).all(), "written beside the panel"
    if two:
        assert_close("second output", d[:, :nr], second.astype(np.float32), 4e-6)
    else:
        assert (d == GUARD).all()
    for array in kept:
        array.check()


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect as Linux has it")
@pytest.mark.parametrize("two", [False, True])
def test_tile_reads_nothing_behind_its_arrays(two):
    for rows in range(1, target.MR + 1):
        (first, _), (c, _) = tile_case(rows, 3, 2, 21, 2, True, two, rows % 2, rows, Page)
        assert_close("tile", c[:, :target.NR], first.astype(np.float32), 2e-6)


def test_tile_lets_nan_and_inf_through():
    nr, mr = target.NR, target.MR
    a, b = np.ones((mr, 4), np.float32), np.ones((4, nr), np.float32)
    a[1, 2], a[2, 0], a[3, 1] = np.nan, np.inf, -np.inf
    A, B, Z, C = (Plain(v) for v in (a, b, np.zeros(nr, np.float32), np.zeros((mr, nr), np.float32)))
    call_tile(mr, A.at, 4, np.zeros(1, np.int64), 4, A.at, 4, 1, B.at, B.at, Z.at, 0, C.at, nr, 0, 0, 0, 0, 0, 0)
    assert np.isnan(C.array[1]).all() and (C.array[2] == np.inf).all() and (C.array[3] == 0).all() and (C.array[0] == 4).all()


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_is_convolution(m):
    """The matrices themselves, in float64: Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A is the 3×3 convolution of d with g."""
    rng, matrices = np.random.default_rng(0), {key: np.array(value, np.float64) for key, value in winograd.MATRICES[m].items()}
    d, g = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    product = (matrices["G"] @ g @ matrices["G"].T) * (matrices["BT"] @ d @ matrices["BT"].T)
    np.testing.assert_allclose(matrices["AT"] @ product @ matrices["AT"].T, ops.conv2d(d[None, None], g[None, None])[0, 0], atol=1e-12)


@pytest.mark.parametrize("make", [Plain, pytest.param(Page, marks=pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect"))])
@pytest.mark.parametrize("m", [2, 4])
def test_transforms_at_every_edge(m, make):
    """Bᵀ d B and Aᵀ M A + bias, ReLU, against the matrices; only the high × wide pixels that are asked for are written."""
    rng, n, vl = np.random.default_rng(m), m + 2, target.VL
    BT, AT = (np.array(winograd.MATRICES[m][name], np.float64) for name in ("BT", "AT"))
    d, M = rng.standard_normal((2, n, n, vl + 3), np.float32)
    bias = rng.standard_normal(vl, np.float32)
    for high, wide in np.ndindex(m + 1, m + 1):
        kept = [make(v) for v in (d.reshape(-1)[:-3], np.full((n * n, vl), GUARD), M.reshape(-1)[:-3], bias, np.full((m, m, vl), GUARD))]
        src, dst, products, shift, y = kept
        for i in range(n):
            call_transform(m, i, src.at, n * (vl + 3), vl + 3, dst.at, vl, 0, 0, 0)
        want = np.einsum("ik,klc,jl->ijc", BT, d[:, :, :vl], BT).reshape(n * n, vl).astype(np.float32)
        assert_close("forward", dst.array, want, 1e-6)
        call_transform(m, -1, products.at, m * vl, vl, y.at, vl + 3, shift.at, high, wide)
        want = np.maximum(np.einsum("ik,klc,jl->ijc", AT, M[:, :, :vl], AT) + bias, 0).astype(np.float32)
        inside = np.zeros((m, m, 1), bool)
        inside[:high, :wide] = True
        assert (y.array[~np.broadcast_to(inside, y.array.shape)] == GUARD).all(), "written outside of the picture"
        assert_close("backward", np.where(inside, y.array, 0), np.where(inside, want, 0), 1e-6)
        for array in kept:
            make is Page or array.check()


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
    weight, scale = np.arange(2 * 3 * 2, dtype=np.float32).reshape(2, 3, 2), np.array([1.0, 10.0])                # (K, C, R·S)
    panels = np.full((1, 8, target.NR), GUARD)
    packing.pack(weight, scale, 1, panels)
    np.testing.assert_array_equal(panels[0, 1:7, 0], [0, 2, 4, 1, 3, 5])                  # tap by tap, each with all channels
    np.testing.assert_array_equal(panels[0, 1:7, 1], [60, 80, 100, 70, 90, 110])
    assert not panels[0, 1:7, 2:].any() and (panels[0, [0, 7]] == GUARD).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 140), st.sampled_from([1, 9, 49]), st.integers(0, 9))
def test_packing_any_shape(k, c, taps, seed):
    rng, nr = np.random.default_rng(seed), target.NR
    weight, scale = rng.standard_normal((k, c, taps), np.float32), rng.standard_normal(k)
    padded = np.zeros((-(-k // nr) * nr, c, taps))
    padded[:k] = weight * scale[:, None, None]
    out = np.full((len(padded) // nr, taps * c, nr), GUARD)
    packing.pack(weight, scale, 0, out)
    np.testing.assert_array_equal(out, padded.reshape(-1, nr, c, taps).transpose(0, 3, 2, 1).reshape(out.shape).astype(np.float32))
    if taps == 9:
        for m in (2, 4):
            G = np.array(winograd.MATRICES[m]["G"], np.float64)
            out = np.full((len(G) ** 2, len(padded) // nr, c, nr), GUARD)
            packing.pack_winograd(weight, scale, G, out)
            want = np.einsum("ir,kcrs,js->ijkc", G, padded.reshape(-1, c, 3, 3), G).reshape(len(G) ** 2, -1, nr, c).swapaxes(2, 3)
            assert_close(f"G g Gᵀ, m = {m}", out, want.astype(np.float32), 1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=12))
def test_tensors_in_use_together_never_overlap(cases):
    tensors = [memory.Tensor(1, 1, w, 5, first=first, last=first + length) for w, first, length in cases]
    size = memory.place(tensors)
    for i, a in enumerate(tensors):
        assert a.base % 16 == 0 and 0 <= a.base and a.base + a.size <= size
        for b in tensors[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert a.base + a.size <= b.base or b.base + b.size <= a.base
    most = max(sum(t.size for t in tensors if t.first <= i <= t.last) for i in range(16))
    assert most <= size <= sum(t.size for t in tensors)


@pytest.mark.parametrize("name", ["resnetv2_18d", "resnetv2_50"])
@pytest.mark.parametrize("h, w", [(75, 99), (224, 224)])
def test_nothing_depends_on_what_was_in_the_workspace(name, h, w):
    """Not the zeros around a tensor either, nor what is left of the tensor that lay there before."""
    variant = dataclasses.replace(VARIANTS[name], width=0.25)
    engine = Engine(variant, random_state(parameter_shapes(variant), 1), num_threads=2)
    x = random_pictures(1, 3, h, w)
    want = engine.forward(x)
    assert np.isfinite(want).all()
    engine.forward(np.concatenate([x, x]))                                                # each thread with a workspace of its own
    for ready in sum(engine.plans.values(), []):
        ready.workspace[:] = np.nan
    np.testing.assert_array_equal(engine.forward(np.concatenate([x, x, x])), np.concatenate([want, want, want]))


def test_a_plan_ends_where_its_outputs_do():
    model = npresnet.create_model("demo", backend="numba", features_only=True, out_indices=(0, 2))
    x = random_pictures(1, 3, 96, 96)
    maps = model(x)
    done = next(iter(model._network.plans.values()))[0].plan.work[-1].layer
    assert done.startswith("stages.1.blocks.3.conv3"), done
    for a, b in zip(maps, npresnet.create_model("demo", backend="numpy", features_only=True, out_indices=(0, 2))(x)):
        assert_close("feature map", a, b, 1e-4)


def test_a_picture_does_not_depend_on_its_batch():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    x = random_pictures(5, 3, 97, 64)
    np.testing.assert_array_equal(model(x), np.concatenate([model(x[i:i + 1]) for i in range(5)]))


def test_plan_reports_what_is_done():
    model = npresnet.create_model("demo", backend="numba", num_threads=1)
    report = model.plan((3, 64, 96))
    shown, summary = str(report), model.summary((3, 64, 96))
    print(shown)
    assert abs(sum(l.gflop for l in report.layers) - 2 * summary.macs / 1e9) < 1e-9
    assert [l.layer for l in report.layers][:3] == ["input", "stem.conv", "stem.pool"] and report.layers[-1].layer == "head.fc"
    assert len({l.layer for l in report.layers}) == len(report.layers)
    assert {l.algorithm for l in report.layers} >= {"direct 1×1", "direct 3×3", "direct 7×7", "max pool", "mean"}
    assert all(l.ms > 0 and l.megabytes > 0 for l in report.layers) and report.peak > 0 and report.bandwidth > 0
    assert all(l.computed >= l.gflop * 0.9 for l in report.layers if l.algorithm.startswith("direct"))
    assert not any(l.algorithm.startswith("F(") for l in npresnet.create_model("demo", backend="numba", exact=True).plan((3, 64, 64)).layers)
    with pytest.raises(ValueError, match="numba"):
        npresnet.create_model("demo", backend="numpy").plan()


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
    model = npresnet.create_model("demo", backend="numba", num_threads=1)
    x = random_pictures(2, 3, 97, 64)
    want = model(x)
    other = npresnet.create_model("demo", backend="numba", num_threads=threads)
    assert other._network.threads <= os.cpu_count()
    other._network.threads = threads                                                      # though there may be fewer cores
    for pictures in (x, x[:1], np.concatenate([x] * 4)):
        np.testing.assert_array_equal(other(pictures), np.concatenate([want] * 4)[:len(pictures)])
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


def test_a_spawned_worker_has_threads_of_its_own():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    x = random_pictures(3, 3, 64, 64)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(model.forward, (x,)), model(x))


def classify(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `npresnet classify` in a process of its own, with the package in `folder`."""
    return subprocess.run([sys.executable, "-m", "npresnet", "classify", "--json", str(ROOT / "tutorials" / "photo.jpg")], capture_output=True,
                          text=True, cwd=folder, timeout=120, env=os.environ | dict(PYTHONPATH=str(folder)) | environment)


@pytest.mark.skipif(sys.platform != "linux", reason="nobody can write to Linux's /proc")
def test_without_a_folder_for_compiled_code(tmp_path):
    """It compiles, says so, and goes on."""
    for package in ("npresnet", "cuda_kernels"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "npresnet" / "fast" / "__pycache__").write_text("no folder")
    done = classify(tmp_path, NUMBA_CACHE_DIR="/proc/no/such/folder", HOME="/proc/no/such/home", XDG_CACHE_HOME="/proc/no/such/cache")
    assert done.returncode == 0 and "tench" in done.stdout, done.stderr
    assert done.stderr.count("compiling the fast engine") == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.rglob("*.nbi"))


def test_compiled_code_is_kept_and_damage_reported(tmp_path):
    first, second = (classify(ROOT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert "compiling the fast engine" in first.stderr and second.stderr == "", second.stderr
    assert first.stdout == second.stdout and "tench" in first.stdout
    for path in tmp_path.rglob("*run_*.nbc"):
        path.write_bytes(path.read_bytes()[:1000])
    third = classify(ROOT, NUMBA_CACHE_DIR=str(tmp_path))
    assert third.returncode == 1 and "delete that folder" in third.stderr and str(tmp_path) in third.stderr, third.stderr
    assert len(third.stderr.splitlines()) == 1


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
