"""The fast engine's kernels: tiles, Winograd transforms, packing, and the placing of tensors."""
from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from npresnet import ops
from npresnet.fast import loops, memory, packing, target, winograd
from npresnet.lower import placement

GUARD = np.float32(-12345.678)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect as Linux has it")


@njit
def call_tile(rows, a, lda, offs, run, a2, lda2, first2, b, ahead, bias, lo,
              c, ldc, r, ldr, scale, shift, d, ldd):
    """Call a tile on plain addresses."""
    loops.tile(rows, a, lda, offs.ctypes.data, offs.size, run, a2, lda2, first2, b, ahead, bias, lo,
               c, ldc, r, ldr, scale, shift, d, ldd)


@njit
def call_transform(m, i, src, row, pixel, dst, plane, bias, high, wide):
    """Transform one Winograd tile of VL channels between plain addresses.

    Forward, this is row i of the tile's places; a negative i means the way back.
    """
    if m == 4 and i < 0:
        loops.backward4(src, plane, dst, row, pixel, bias, high, wide)
    elif m == 4:
        loops.forward4(i, src, row, pixel, dst, plane)
    elif i < 0:
        loops.backward2(src, plane, dst, row, pixel, bias, high, wide)
    else:
        loops.forward2(i, src, row, pixel, dst, plane)


class Plain:
    """An array between two guard bands; `check` asserts that they are untouched."""

    def __init__(self, values: np.ndarray):
        self.whole = np.full(values.size + 256, GUARD, np.float32)
        self.array = self.whole[128:128 + values.size].reshape(values.shape)
        self.array[:] = values
        self.at = self.array.ctypes.data

    def check(self):
        before, behind = self.whole[:128], self.whole[-128:]
        assert (before == GUARD).all() and (behind == GUARD).all(), "a guard band was written to"


class Page:
    """A float32 array that ends exactly where an unmapped page begins.

    Reading or writing one float more ends the process.
    """

    def __init__(self, values: np.ndarray):
        size = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, size + mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(start + size), mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        flat = np.frombuffer(self.map, np.float32, values.size, size - values.nbytes)
        self.array = flat.reshape(values.shape)
        self.array[:] = values
        self.at = self.array.ctypes.data


# --- tiles ----------------------------------------------------------------------------------------

def tile_case(rows, nruns, nruns2, run, stride, relu, two, residual, seed, place):
    """Run a tile on arrays that `place` puts into memory; return (right outputs, its outputs)."""
    rng = np.random.default_rng(seed)
    nr = target.NR
    mr = min(size for size in target.SIZES if size >= rows)       # as many pixels are read
    pitch, pitch2 = run + 3, run + 5
    a = rng.standard_normal(((mr - 1) * stride + nruns, pitch), np.float32)
    a2 = rng.standard_normal((mr - 1 + max(nruns2, 1), pitch2), np.float32)
    b = rng.standard_normal((nruns + nruns2, run, nr), np.float32)
    bias, scale, shift = rng.standard_normal((3, nr), np.float32)
    offs = np.concatenate([np.arange(nruns) * pitch, np.arange(nruns2) * pitch2])
    r = rng.standard_normal((rows, nr + 5), np.float32)
    c, d = np.full((rows, nr + 7), GUARD), np.full((rows, nr + 2), GUARD)

    # Each input stops at the last float that a tile may read.
    last, last2 = (v.reshape(-1)[:v.size - v.shape[1] + run] for v in (a, a2))
    arrays = last, last2, b, c, d, r, bias, scale, shift
    A, A2, B, C, D, R, BIAS, SCALE, SHIFT = (place(v) for v in arrays)
    nowhere = 8                                                   # prefetching it must do no harm
    call_tile(rows, A.at, stride * pitch, offs, run, A2.at, pitch2, nruns, B.at, nowhere,
              BIAS.at, 0 if relu else 1, C.at, nr + 7, R.at if residual else 0, nr + 5,
              SCALE.at, SHIFT.at, D.at if two else 0, nr + 2)

    x = [[a[i * stride + j, :run] for j in range(nruns)] + [a2[i + j, :run] for j in range(nruns2)]
         for i in range(rows)]
    want = np.einsum("irk,rkn->in", np.array(x, np.float64), b) + bias
    if two and residual:
        want = want + r[:, :nr]
    first = np.maximum(want, 0) if relu and not two else want
    return (first, np.maximum(want * scale + shift, 0)), (C.array, D.array)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.integers(1, target.MR), st.integers(1, 4), st.integers(0, 3), st.integers(1, 40),
       st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9))
def test_tile_at_every_edge(rows, nruns, nruns2, run, stride, relu, two, residual, seed):
    kept = []

    def place(values):
        kept.append(Plain(values))
        return kept[-1]

    wants, (c, d) = tile_case(rows, nruns, nruns2, run, stride, relu, two, residual, seed, place)
    first, second = wants
    nr = target.NR
    assert_close("tile", c[:, :nr], first.astype(np.float32), 2e-6)
    assert (c[:, nr:] == GUARD).all() and (d[:, nr:] == GUARD).all(), "written beside the panel"
    if two:
        assert_close("second output", d[:, :nr], second.astype(np.float32), 4e-6)
    else:
        assert (d == GUARD).all()
    for array in kept:
        array.check()


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("two", [False, True])
def test_tile_reads_nothing_behind_its_arrays(two):
    for rows in range(1, target.MR + 1):
        (first, _), (c, _) = tile_case(rows, 3, 2, 21, 2, True, two, rows % 2, rows, Page)
        assert_close("tile", c[:, :target.NR], first.astype(np.float32), 2e-6)


@pytest.mark.slow
def test_tile_lets_nan_and_inf_through():
    nr, mr = target.NR, target.MR
    a, b = np.ones((mr, 4), np.float32), np.ones((4, nr), np.float32)
    a[1, 2], a[2, 0], a[3, 1] = np.nan, np.inf, -np.inf
    zeros, out = np.zeros(nr, np.float32), np.zeros((mr, nr), np.float32)
    A, B, Z, C = (Plain(v) for v in (a, b, zeros, out))
    offs = np.zeros(1, np.int64)
    call_tile(mr, A.at, 4, offs, 4, A.at, 4, 1, B.at, B.at, Z.at, 0, C.at, nr, 0, 0, 0, 0, 0, 0)
    assert np.isnan(C.array[1]).all() and (C.array[2] == np.inf).all()
    assert (C.array[3] == 0).all() and (C.array[0] == 4).all()


# --- Winograd's transforms ------------------------------------------------------------------------

@pytest.mark.parametrize("m", [2, 4])
def test_winograd_is_convolution(m):
    """Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A is the 3×3 convolution of d with g: the matrices, in float64."""
    rng = np.random.default_rng(0)
    matrices = winograd.MATRICES[m]
    AT, BT, G = (np.array(matrices[name], np.float64) for name in ("AT", "BT", "G"))
    d, g = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    product = (G @ g @ G.T) * (BT @ d @ BT.T)
    want = ops.conv2d(d[None, None], g[None, None])[0, 0]
    np.testing.assert_allclose(AT @ product @ AT.T, want, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Plain, pytest.param(Page, marks=on_linux)])
@pytest.mark.parametrize("m", [2, 4])
def test_transforms_at_every_edge(m, make):
    """Bᵀ d B, and ReLU(Aᵀ M A + bias), against the matrices.

    Only the high × wide pixels that are asked for may be written.
    """
    rng = np.random.default_rng(m)
    n, vl = m + 2, target.VL
    BT, AT = (np.array(winograd.MATRICES[m][name], np.float64) for name in ("BT", "AT"))
    d, M = rng.standard_normal((2, n, n, vl + 3), np.float32)
    bias = rng.standard_normal(vl, np.float32)
    for high, wide in np.ndindex(m + 1, m + 1):
        transformed, out = np.full((n * n, vl), GUARD), np.full((m, m, vl), GUARD)
        arrays = d.reshape(-1)[:-3], transformed, M.reshape(-1)[:-3], bias, out
        kept = [make(v) for v in arrays]
        src, dst, products, shift, y = kept
        for i in range(n):
            call_transform(m, i, src.at, n * (vl + 3), vl + 3, dst.at, vl, 0, 0, 0)
        want = np.einsum("ik,klc,jl->ijc", BT, d[:, :, :vl], BT).reshape(n * n, vl)
        assert_close("forward", dst.array, want.astype(np.float32), 1e-6)

        call_transform(m, -1, products.at, m * vl, vl, y.at, vl + 3, shift.at, high, wide)
        want = np.maximum(np.einsum("ik,klc,jl->ijc", AT, M[:, :, :vl], AT) + bias, 0)
        want = want.astype(np.float32)
        inside = np.zeros((m, m, 1), bool)
        inside[:high, :wide] = True
        outside = ~np.broadcast_to(inside, y.array.shape)
        assert (y.array[outside] == GUARD).all(), "written outside of the picture"
        assert_close("backward", np.where(inside, y.array, 0), np.where(inside, want, 0), 1e-6)
        if make is Plain:
            for array in kept:
                array.check()


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_let_nan_through(m):
    """A NaN among a channel's products reaches that channel's pixels, behind the ReLU, too."""
    n, vl = m + 2, target.VL
    products, zeros = np.ones((n, n, vl), np.float32), np.zeros(vl, np.float32)
    products[1, 1, vl - 1] = np.nan                               # all pixels take something of it
    M, Z, Y = (Plain(v) for v in (products, zeros, np.zeros((m, m, vl), np.float32)))
    call_transform(m, -1, M.at, m * vl, vl, Y.at, vl, Z.at, m, m)
    assert np.isnan(Y.array[..., -1]).all() and np.isfinite(Y.array[..., :-1]).all()


# --- packing --------------------------------------------------------------------------------------

def test_packing_by_hand():
    weight = np.arange(12, dtype=np.float32).reshape(2, 3, 2)     # (K, C, R·S)
    scale = np.array([1.0, 10.0])
    panels = np.full((1, 8, target.NR), GUARD)
    packing.pack(weight, scale, 1, panels)
    # One tap after the other, each with all channels.
    np.testing.assert_array_equal(panels[0, 1:7, 0], [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(panels[0, 1:7, 1], [60, 80, 100, 70, 90, 110])
    assert not panels[0, 1:7, 2:].any() and (panels[0, [0, 7]] == GUARD).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 140), st.sampled_from([1, 9, 49]), st.integers(0, 9))
def test_packing_any_shape(k, c, taps, seed):
    rng = np.random.default_rng(seed)
    nr = target.NR
    weight, scale = rng.standard_normal((k, c, taps), np.float32), rng.standard_normal(k)
    padded = np.zeros((-(-k // nr) * nr, c, taps))
    padded[:k] = weight * scale[:, None, None]
    out = np.full((len(padded) // nr, taps * c, nr), GUARD)
    packing.pack(weight, scale, 0, out)
    want = padded.reshape(-1, nr, c, taps).transpose(0, 3, 2, 1).reshape(out.shape)
    np.testing.assert_array_equal(out, want.astype(np.float32))
    if taps == 9:
        for m in (2, 4):
            G = np.array(winograd.MATRICES[m]["G"], np.float64)
            out = np.full((len(G) ** 2, len(padded) // nr, c, nr), GUARD)
            packing.pack_winograd(weight, scale, G, out)
            want = np.einsum("ir,kcrs,js->ijkc", G, padded.reshape(-1, c, 3, 3), G)
            want = want.reshape(len(G) ** 2, -1, nr, c).swapaxes(2, 3)
            assert_close(f"G g Gᵀ, m = {m}", out, want.astype(np.float32), 1e-6)


# --- tensors in the workspace ---------------------------------------------------------------------

@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 5)),
                min_size=1, max_size=12))
def test_tensors_in_use_together_never_overlap(cases):
    tensors = [memory.Tensor(1, 1, w, 5, first=first, last=first + length)
               for w, first, length in cases]
    size = placement.place(tensors)
    for i, a in enumerate(tensors):
        assert a.base % 16 == 0 and 0 <= a.base and a.base + a.size <= size
        for b in tensors[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert a.base + a.size <= b.base or b.base + b.size <= a.base
    most = max(sum(t.size for t in tensors if t.first <= i <= t.last) for i in range(16))
    assert most <= size <= sum(t.size for t in tensors)
