"""A ladder from plain loops to the speed of the machine: one convolution, one change a rung.

    python tutorials/cpu_ladder.py          all rungs
    python tutorials/cpu_ladder.py 3        rung 3, and the one below it

The layer is `stages.1.blocks.1.conv2` of ResNetV2-50: 128 channels in and out, 28×28 pixels, a 3×3
kernel, one pixel of zeros around it; 116 million multiply-adds. Every rung is plain Numba on one
core, is checked against `npresnet.ops.conv2d`, and is timed. The roof is what one core reaches in
multiply-adds that wait for nothing: no memory, and no result that isn't there yet. It is measured
by code of its own, `multiply_adds`, and no convolution reaches it.

Axes: C channels, H×W pixels in (with the border), K output channels, R×S kernel, P×Q pixels out.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from npresnet import ops
from npresnet.fast.kernels import make_tile
from npresnet.fast.target import FMA, MR, NR, NV, SIZES, VL

C, K, SIZE, TAPS = 128, 128, 28, 3
MULTIPLY_ADDS = K * C * TAPS * TAPS * SIZE * SIZE


# --- the rungs: x (C, H, W) with its border, w (K, C, 3, 3) → y (K, P, Q) -------------------------


@njit
def loops(x, w, y):
    """The definition: for every output a sum. Each addition waits for the one before it."""
    for k in range(y.shape[0]):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                total = np.float32(0)
                for c in range(x.shape[0]):
                    for r in range(3):
                        for s in range(3):
                            total += w[k, c, r, s] * x[c, p + r, q + s]
                y[k, p, q] = total


@njit
def order(x, w, y):
    """The same loops in another order: a weight is spread over a row of neighbours. They don't wait
    for each other and lie side by side, so the compiler takes a vector of them at once."""
    y[:] = 0
    for k in range(y.shape[0]):
        for c in range(x.shape[0]):
            for r in range(3):
                for s in range(3):
                    for p in range(y.shape[1]):
                        for q in range(y.shape[2]):
                            y[k, p, q] += w[k, c, r, s] * x[c, p + r, q + s]


@njit
def flat(x, w, y):
    """The compiled loop takes several vectors side by side, and a row of 28 pixels is too short for
    that. Here the plane is one long row. y has W columns, as x has; what comes out in the last two
    is thrown away."""
    W, n = x.shape[2], y.shape[1] * x.shape[2] - 2                # to the last pixel that counts
    y[:] = 0
    for k in range(y.shape[0]):
        out = y[k].reshape(-1)
        for c in range(x.shape[0]):
            plane = x[c].reshape(-1)
            for r in range(3):
                for s in range(3):
                    f, first = w[k, c, r, s], plane[r * W + s:]
                    for i in range(n):
                        out[i] += f * first[i]


@njit(fastmath={"contract"})
def fused(x, w, y):
    """`flat`, but a product is added without rounding it first: one instruction, not two."""
    W, n = x.shape[2], y.shape[1] * x.shape[2] - 2
    y[:] = 0
    for k in range(y.shape[0]):
        out = y[k].reshape(-1)
        for c in range(x.shape[0]):
            plane = x[c].reshape(-1)
            for r in range(3):
                for s in range(3):
                    f, first = w[k, c, r, s], plane[r * W + s:]
                    for i in range(n):
                        out[i] += f * first[i]


@njit(fastmath={"contract"})
def taps(x, w, y):
    """The nine taps written out: a sum is fetched and put back once for nine multiply-adds."""
    n = y.shape[1] * x.shape[2] - 2
    y[:] = 0
    for k in range(y.shape[0]):
        out = y[k].reshape(-1)
        for c in range(x.shape[0]):
            row0, row1, row2 = x[c].reshape(-1), x[c, 1:].reshape(-1), x[c, 2:].reshape(-1)
            f00, f01, f02 = w[k, c, 0, 0], w[k, c, 0, 1], w[k, c, 0, 2]
            f10, f11, f12 = w[k, c, 1, 0], w[k, c, 1, 1], w[k, c, 1, 2]
            f20, f21, f22 = w[k, c, 2, 0], w[k, c, 2, 1], w[k, c, 2, 2]
            for i in range(n):
                out[i] = (out[i] + f00 * row0[i] + f01 * row0[i + 1] + f02 * row0[i + 2]
                          + f10 * row1[i] + f11 * row1[i + 1] + f12 * row1[i + 2]
                          + f20 * row2[i] + f21 * row2[i + 1] + f22 * row2[i + 2])


def make_vectors(sizes: tuple[int, ...]) -> Callable:
    """Rung 6 for tiles of sizes[0] pixels, or of the next smaller of `sizes` where fewer are left.

    The tile is the engine's, in vector instructions: its sums, pixels × NR channels, stay in
    registers from the first weight to the last. For that x (H, W, C) and w [panel][r, s, c][NR] are
    packed in the order in which they are needed; y is (P, Q, K).
    """
    tile, high = make_tile(sizes, NV, VL), sizes[0]

    @njit
    def vectors(x, w, y):
        (_, W, C), (P, Q, K) = x.shape, y.shape
        offs = np.array([0, W * C, 2 * W * C])                    # three runs: rows of three taps
        bias = np.zeros(NR, np.float32)
        for n in range(K // NR):
            weights = w[n].ctypes.data
            for p in range(P):
                for q in range(0, Q, high):
                    rows = min(high, Q - q)
                    first, out = x[p, q:].ctypes.data, y[p, q:, n * NR:].ctypes.data
                    tile(rows, first, C, offs.ctypes.data, 3, 3 * C, first, C, 3, weights, weights,
                         bias.ctypes.data, 1, out, K, 0, 0, 0, 0, 0, 0)

    return vectors


# --- how they are called --------------------------------------------------------------------------


class Rung(NamedTuple):
    """name. kernel: the compiled function. change: what is new in it. arrange: (x, w) with border →
    the kernel's x, w and y. result: its y → (K, P, Q)."""
    name: str
    kernel: Callable
    change: str
    arrange: Callable
    result: Callable


def as_they_are(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """y (K, P, Q)."""
    return x, w, np.empty((len(w), x.shape[1] - 2, x.shape[2] - 2), np.float32)


def with_long_rows(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """y (K, P, W)."""
    return x, w, np.empty((len(w), x.shape[1] - 2, x.shape[2]), np.float32)


def packed(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """x (H, W, C), w (K/NR, 3·3·C, NR), y (P, Q, K)."""
    panels = w.reshape(len(w) // NR, NR, *w.shape[1:])            # (K/NR, NR, C, 3, 3)
    panels = panels.transpose(0, 3, 4, 2, 1).reshape(len(panels), -1, NR)
    # A tile reads MR pixels even where fewer are left: as many follow the last one.
    pixels = np.zeros((x.shape[1] * x.shape[2] + MR, len(x)), np.float32)
    pixels[:-MR] = x.transpose(1, 2, 0).reshape(-1, len(x))
    y = np.empty((x.shape[1] - 2, x.shape[2] - 2, len(w)), np.float32)
    return (pixels[:-MR].reshape(*x.shape[1:], len(x)), np.ascontiguousarray(panels), y)


def cut(y: np.ndarray) -> np.ndarray:
    """(K, P, W) → (K, P, Q)."""
    return y[:, :, :-2]


def channels_first(y: np.ndarray) -> np.ndarray:
    """(P, Q, K) → (K, P, Q)."""
    return y.transpose(2, 0, 1)


RUNGS = (
    Rung("loops", loops, "the definition, compiled", as_they_are, lambda y: y),
    Rung("order", order, "neighbouring pixels innermost", as_they_are, lambda y: y),
    Rung("flat", flat, "the plane as one long row", with_long_rows, cut),
    Rung("fused", fused, "multiply and add in one", with_long_rows, cut),
    Rung("taps", taps, "nine taps to one sum", with_long_rows, cut),
    Rung("vectors", make_vectors(SIZES), "packed; the sums never leave the registers", packed,
         channels_first),
)


def make_layer(c: int = C, k: int = K, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """x (C, H, W) float32 with a border of zeros, w (K, C, 3, 3) float32."""
    rng = np.random.default_rng(0)
    x = np.pad(rng.standard_normal((c, size, size), np.float32), ((0, 0), (1, 1), (1, 1)))
    return x, rng.standard_normal((k, c, TAPS, TAPS), np.float32) / np.float32(TAPS * c**0.5)


def difference(rung: Rung, x: np.ndarray, w: np.ndarray) -> float:
    """Δ of a rung from `ops.conv2d`, as a share of the largest output."""
    want = ops.conv2d(x[None], w)[0]                              # (K, P, Q)
    arrays = rung.arrange(x, w)
    rung.kernel(*arrays)
    return float(np.abs(rung.result(arrays[2]) - want).max() / np.abs(want).max())


def milliseconds(rung: Rung, x: np.ndarray, w: np.ndarray) -> float:
    """Median of some runs, half a second long in all."""
    arrays = rung.arrange(x, w)
    rung.kernel(*arrays)                                          # compiles
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.5:
        start = time.perf_counter()
        rung.kernel(*arrays)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


# --- the roof -------------------------------------------------------------------------------------


@intrinsic
def multiply_adds(typingctx, times, x):
    """`times` times 16 multiply-adds of vectors, each on a sum of its own: their sum (float32)."""
    sig = types.float32(types.int64, types.float32)

    def codegen(ctx, b, sig, args):
        vector = ir.VectorType(ir.FloatType(), VL)
        fma = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3),
                                             f"llvm.fma.v{VL}f32")
        i32 = ir.IntType(32)
        one = b.insert_element(ir.Constant(vector, ir.Undefined), args[1], ir.Constant(i32, 0))
        x = b.shuffle_vector(one, ir.Constant(vector, ir.Undefined),
                             ir.Constant(ir.VectorType(i32, VL), [0] * VL))
        sums = [cgutils.alloca_once_value(b, ir.Constant(vector, [float(i)] * VL))
                for i in range(16)]                               # they become registers
        with cgutils.for_range(b, args[0], intp=ir.IntType(64)):
            for each in sums:
                value = b.load(each)
                both = b.call(fma, [value, x, x]) if FMA else b.fadd(b.fmul(value, x), x)
                b.store(both, each)
        total = b.load(sums[0])
        for each in sums[1:]:
            total = b.fadd(total, b.load(each))
        return b.extract_element(total, ir.Constant(i32, 0))

    return sig, codegen


@njit
def spin(times, x):
    """`multiply_adds`, compiled."""
    return multiply_adds(times, x)


def peak() -> float:
    """GFLOP/s of one core in multiply-adds that wait for nothing; the best of sixty."""
    times, best = 2_000_000, 0.0
    spin(1, np.float32(0.5))
    for _ in range(60):
        start = time.perf_counter()
        spin(times, np.float32(0.5))
        best = max(best, 2 * 16 * VL * times / (time.perf_counter() - start) / 1e9)
    return best


def climb(first: int, last: int) -> None:
    """Check and time rungs `first` to `last`, and print a line for each."""
    x, w = make_layer()
    roof = peak()
    print(f"{'rung':<12} {'change':<44} {'Δ':>7} {'ms':>8} {'GFLOP/s':>8} {'of the roof':>12} "
          f"{'faster':>8}")
    before = 0.0
    for number, rung in enumerate(RUNGS[first - 1:last], first):
        delta, ms = difference(rung, x, w), milliseconds(rung, x, w)
        assert delta < 1e-5, f"{rung.name} computes something else: Δ {delta:.2g}"
        rate = 2e-6 * MULTIPLY_ADDS / ms
        times = f"{before / ms:7.1f}×" if before else ""
        print(f"{number} {rung.name:<10} {rung.change:<44} {delta:7.0e} {ms:8.2f} {rate:8.1f} "
              f"{rate / roof:12.1%} {times:>8}")
        before = ms
    print(f"The roof: {roof:.0f} GFLOP/s, one core, vectors of {VL} floats, multiply-adds alone. "
          "Figures of this machine, now.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rung", nargs="?", type=int, choices=range(1, len(RUNGS) + 1),
                        metavar=f"1…{len(RUNGS)}", help="this rung, and the one below it")
    rung = parser.parse_args().rung
    climb(max(rung - 1, 1) if rung else 1, rung or len(RUNGS))


if __name__ == "__main__":
    main()
