"""Every CUDA kernel, and whole networks, on guarded memory against the NumPy reference: in Numba's simulator or on a GPU, unchanged.

    NUMBA_ENABLE_CUDASIM=1 python tests/cuda_cases.py              all of CASES; or some, by name
    NUMBA_ENABLE_CUDASIM=1 python tests/cuda_cases.py fuzz 1 100   convolutions of random geometry, from seed 1, 100 of them

The simulator has to be chosen before numba is imported, so `test_cuda.py` runs this file in a process of its own; on a machine with a GPU
it calls the same functions directly. Every buffer lies between two bands of NaN: what reads them gives NaN, what writes them is found.
The simulator is made stricter: shared memory is NaN when a block begins, and a barrier that a thread doesn't reach is an error.
"""
from __future__ import annotations

import dataclasses
import sys
import threading
from math import prod
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from helpers import LAYER_TOLERANCE, LOGITS_TOLERANCE, assert_close, random_pictures, random_state  # noqa: E402

import npresnet  # noqa: E402
from cuda_kernels import conv2d as ladder  # noqa: E402
from cuda_kernels import layout, norm, pool  # noqa: E402
from cuda_kernels.backend import cuda  # noqa: E402
from npresnet import ops  # noqa: E402
from npresnet.model import ResNetV2  # noqa: E402
from npresnet.variants import VARIANTS, pretrained_cfg  # noqa: E402

GUARDS = 64                                                       # floats of NaN before and behind every buffer
TOLERANCE = 1e-5

# n, c, h, w, k, kernel, stride, padding, dilation
GEOMETRIES = [(1, 3, 5, 7, 5, 3, 1, 1, 1), (2, 8, 6, 5, 12, 1, 1, 0, 1), (1, 5, 9, 4, 70, 3, 2, 1, 1), (1, 12, 6, 7, 9, 3, 1, 2, 2),
              (1, 2, 8, 7, 8, 7, 2, 3, 1), (2, 9, 7, 6, 4, 1, 2, 0, 1), (1, 4, 1, 1, 68, 1, 1, 0, 1)]


def stricter_simulator() -> None:
    """Mend what would hide faults, or make them: numba-cuda's simulator keeps shared memory from block to block, gives two threads that
    ask for it at the same time an array each, and lets threads miss a barrier."""
    from numba.cuda.simulator import kernel, kernelapi
    lock = threading.Lock()

    def array(self, shape, dtype, alignment=None):
        caller = sys._getframe(1)
        with lock:
            return self._allocations.setdefault((caller.f_code, caller.f_lineno), np.full(shape, np.nan, dtype))

    def run_block(self, block, *args):
        kernel._get_kernel_context().shared._allocations.clear()
        barrier, threads = threading.Barrier(prod(self._block_dim)), []

        def run_thread():
            try:
                self._f(*args)
            except BaseException:
                barrier.abort()                                   # or the others would wait for this one
                raise
        for place in np.ndindex(*self._block_dim):
            threads.append(kernel.BlockThread(run_thread, self, block, place, self._debug))
            threads[-1].syncthreads = lambda: barrier.wait(60)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = [thread.exception for thread in threads if thread.exception]
        if failed:
            raise min(failed, key=lambda found: isinstance(found[0], threading.BrokenBarrierError))[0]

    kernelapi.FakeCUDAShared.array, kernel.BlockManager.run = array, run_block


class Memory:
    """Buffers on the device, each between two bands of NaN."""

    def __init__(self):
        self.kept = []

    def put(self, values) -> object:
        """A device array with these values, that nobody may change."""
        return self._keep(np.asarray(values, np.float32), True)

    def empty(self, *shape: int) -> object:
        """A device array of NaN."""
        return self._keep(np.full(shape, np.nan, np.float32), False)

    def _keep(self, values, constant):
        whole = np.full(values.size + 2 * GUARDS, np.nan, np.float32)
        whole[GUARDS:GUARDS + values.size] = values.ravel()
        there = cuda.to_device(whole)
        self.kept.append((there, whole, constant))
        return there[GUARDS:GUARDS + values.size].reshape(*values.shape)

    def check(self, what: str) -> None:
        """No band was written to, and nothing that was put."""
        for i, (there, whole, constant) in enumerate(self.kept):
            after = there.copy_to_host()
            assert np.isnan(after[:GUARDS]).all() and np.isnan(after[-GUARDS:]).all(), f"{what}: a band of buffer {i} was written to"
            assert not constant or np.array_equal(after, whole, equal_nan=True), f"{what}: buffer {i} is an input and was changed"


def run(kernel, grid, *args) -> None:
    """Launch on blocks of the kernel's own shape; ints as the int32 that it is inspected with."""
    kernel[grid, kernel.block](*[np.int32(arg) if isinstance(arg, int) else arg for arg in args])


def channels_last(x: np.ndarray) -> np.ndarray:
    """x (N, C, H, W) → flat (N · H · W · C), C filled up with zeros to a multiple of 4."""
    padded = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, -x.shape[1] % 4)))
    return np.ascontiguousarray(padded, np.float32).ravel()


def ceil_div(n: int, by: int) -> int:
    return -(-n // by)


def draw(rng, *shapes):
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


# --- convolution ------------------------------------------------------------------------------------------------------------------------

def problem(geometry):
    """x, weight, bias and the output, raw: of a geometry."""
    n, c, h, w, k, r, stride, pad, dilation = geometry
    x, weight, bias = draw(np.random.default_rng(geometry), (n, c, h, w), (k, c, r, r), (k,))
    weight /= np.float32(np.sqrt(c * r * r))
    return x, weight, bias, ops.conv2d(x, weight, None, stride, pad, dilation)


def naive():
    for geometry in GEOMETRIES:
        x, weight, bias, want = problem(geometry)
        memory, (n, k, p, q) = Memory(), want.shape
        y = memory.empty(n, k, p, q)
        grid, block = (ceil_div(q, 4), ceil_div(p, 4), n * k), (4, 4, 1)                  # smaller than its own: fewer threads to simulate
        ladder.naive[grid, block](memory.put(x), memory.put(weight), memory.put(bias), y, *map(np.int32, geometry[6:]))
        memory.check(f"naive {geometry}")
        assert_close(f"naive {geometry}", y.copy_to_host(), want + bias.reshape(-1, 1, 1), TOLERANCE)


def im2col():
    for geometry in GEOMETRIES:
        (x, weight, bias, want), r = problem(geometry), geometry[5]
        memory, (n, k, p, q), products = Memory(), want.shape, prod(weight.shape[1:])
        columns, y = memory.empty(products, n * p * q), memory.empty(k, n * p * q)
        run(ladder.im2col, (ceil_div(n * p * q, 32), ceil_div(products, 8)), memory.put(x), columns, r, r, p, q, *geometry[6:])
        grid = ceil_div(n * p * q, ladder.SIDE), ceil_div(k, ladder.SIDE)
        run(ladder.tiled_gemm, grid, memory.put(weight.reshape(k, -1)), columns, memory.put(bias), y)
        memory.check(f"im2col {geometry}")
        got = y.copy_to_host().reshape(k, n, p, q).transpose(1, 0, 2, 3)
        assert_close(f"im2col {geometry}", got, want + bias.reshape(-1, 1, 1), TOLERANCE)


def implicit():
    for geometry in GEOMETRIES:
        (x, weight, bias, want), r = problem(geometry), geometry[5]
        memory, (n, k, p, q) = Memory(), want.shape
        y = memory.empty(n, k, p * q)
        run(ladder.implicit_gemm, (ceil_div(n * p * q, ladder.TILE), ceil_div(k, ladder.TILE)), memory.put(x),
            memory.put(weight.reshape(k, -1)), memory.put(bias), y, r * r, r, p, q, *geometry[6:])
        memory.check(f"implicit {geometry}")
        assert_close(f"implicit {geometry}", y.copy_to_host().reshape(want.shape), want + bias.reshape(-1, 1, 1), TOLERANCE)


def rung_4(geometry, flags, tile=(64, 64), splits=1):
    """One convolution on what the network runs, with what `flags` ask for behind the sum, its products shared out among `splits` blocks."""
    n, c, h, w, k, r, stride, pad, dilation = geometry
    x, weight, bias, want = problem(geometry)
    p, q = want.shape[2:]
    pixels, wide, deep = n * p * q, k + -k % 4, c + -c % 4
    residual, scale, shift = draw(np.random.default_rng([7, *geometry]), want.shape, (wide,), (wide,))
    memory, kernels = Memory(), ladder.form(c, r, r, pad, dilation)
    share = ceil_div(ladder.count_steps(kernels, c, r, r), splits)
    splits = ceil_div(ladder.count_steps(kernels, c, r, r), share)
    per_channel = [memory.put(np.pad(vector, (0, wide - len(vector)))) for vector in (bias, scale, shift)]
    behind = per_channel[0], memory.put(channels_last(residual)), *per_channel[1:]
    y, y2, nothing = memory.empty(pixels * wide), memory.empty(pixels * wide), memory.empty(4)
    kernel, grid = kernels[tile], (ceil_div(pixels, tile[0]), ceil_div(wide, tile[1]), splits)
    inputs = memory.put(channels_last(x)), memory.put(ladder.pack_weight(weight, kernels is ladder.ROWS))
    sizes = pixels, h, w, deep, wide, p, q, r, r, stride, pad, dilation, share
    if splits == 1:
        run(kernel, grid, *inputs, *behind, y, y2, *sizes, flags)
    else:
        partial = memory.empty(splits * pixels * wide)
        run(kernel, grid, *inputs, nothing, nothing, nothing, nothing, partial, nothing, *sizes, norm.RAW)
        run(norm.sum_splits, (ceil_div(pixels * wide, 4 * norm.THREADS),), partial, *behind, y, y2, pixels * wide, wide, splits, flags)
    what = f"{kernel.name} {geometry} flags {flags} splits {splits}"
    memory.check(what)
    if flags & norm.BIAS:
        want = want + bias.reshape(-1, 1, 1)
    if flags & norm.RESIDUAL:
        want = want + residual
    wants = {norm.RAW: want, norm.NORM: np.maximum(want * scale[:k].reshape(-1, 1, 1) + shift[:k].reshape(-1, 1, 1), 0)}
    for flag, out in ((norm.RAW, y), (norm.NORM, y2)):
        got = out.copy_to_host()
        if flags & flag:
            assert_close(what, got.reshape(n, p, q, wide)[..., :k].transpose(0, 3, 1, 2), wants[flag], TOLERANCE)
        else:
            assert np.isnan(got).all(), f"{what}: an output was written that nobody asked for"


def network_rung():
    B, S, R, N = norm.BIAS, norm.RESIDUAL, norm.RAW, norm.NORM
    for args in [(GEOMETRIES[0], B + R), (GEOMETRIES[0], N, (128, 64)), (GEOMETRIES[1], S + R + N, (128, 64)),
                 (GEOMETRIES[2], B + S + R + N), (GEOMETRIES[3], N), (GEOMETRIES[4], R, (128, 64)), (GEOMETRIES[5], B + N),
                 (GEOMETRIES[6], R), ((1, 4, 12, 11, 8, 3, 1, 1, 1), R, (128, 64)),
                 ((5, 8, 3, 3, 4, 3, 1, 1, 1), R),                                        # top rows among a thread's second pixels
                 ((1, 8, 17, 15, 8, 3, 2, 1, 1), R),                                      # and with a stride
                 ((1, 8, 3, 3, 36, 1, 1, 0, 1), B + R),                                   # channels end in the tile's second half
                 ((1, 8, 4, 3, 8, 1, 1, 1, 1), R)]:                                       # 1×1 with a border
        rung_4(*args)


def shared_out():
    B, S, R, N = norm.BIAS, norm.RESIDUAL, norm.RAW, norm.NORM
    for args in [((1, 24, 3, 5, 68, 3, 1, 1, 1), S + R + N, (64, 64), 5), ((2, 20, 3, 3, 8, 3, 2, 1, 1), N, (128, 64), 2),
                 ((1, 72, 1, 2, 12, 1, 1, 0, 1), B + R, (64, 64), 9), ((1, 3, 9, 8, 8, 7, 2, 3, 1), R, (64, 64), 3),
                 ((1, 16, 5, 4, 8, 3, 1, 2, 2), R, (128, 64), 4), ((1, 12, 5, 9, 8, 1, 1, 0, 1), R, (64, 64), 2)]:
        rung_4(*args)


def fuzz(seed, count):
    """Convolutions that nobody has chosen."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        r, stride, dilation = int(rng.choice([1, 1, 2, 3, 3, 5, 7])), int(rng.integers(1, 4)), int(rng.integers(1, 3))
        pad = int(rng.integers(0, r * dilation // 2 + 1))
        least = dilation * (r - 1) + 1
        n, c, k = int(rng.integers(1, 4)), int(rng.integers(1, 30)), int(rng.integers(1, 90))
        h, w = (int(rng.integers(max(1, least - 2 * pad), least + 9)) for _ in range(2))
        rung_4((n, c, h, w, k, r, stride, pad, dilation), int(rng.integers(1, 16)) | norm.RAW, ladder.TILES[i % 2], int(rng.integers(1, 6)))


# --- the other layers -------------------------------------------------------------------------------------------------------------------

def norms():
    for pixels, channels in ((1, 4), (37, 20), (129, 8)):
        x, scale, shift = draw(np.random.default_rng(pixels), (pixels, channels), (channels,), (channels,))
        x[0, 0] = np.nan
        memory = Memory()
        y = memory.empty(pixels * channels)
        run(norm.norm_act, (ceil_div(pixels * channels, 4 * norm.THREADS),), memory.put(x.ravel()), memory.put(scale), memory.put(shift), y,
            pixels * channels, channels)
        memory.check("norm_act")
        assert_close(f"norm_act {pixels}×{channels}", y.copy_to_host().reshape(x.shape), np.maximum(x * scale + shift, 0), 1e-6)


def pools():
    for n, c, h, w in ((2, 8, 7, 6), (1, 8, 4, 7), (1, 4, 1, 1), (1, 36, 5, 2)):
        x, scale, shift = draw(np.random.default_rng([n, c]), (n, c, h, w), (c,), (c,))
        x[:, 0] = -np.abs(x[:, 0]) - 1                            # a border of 0 would win here
        x[0, 1, 0, 0] = np.nan
        first = lambda flat, want: flat.copy_to_host().reshape(n, *want.shape[2:], want.shape[1]).transpose(0, 3, 1, 2)
        for flags in (norm.RAW, norm.NORM, norm.RAW + norm.NORM):
            want = ops.max_pool2d(x, 3, 2, 1)
            memory, (p, q) = Memory(), want.shape[2:]
            y, y2 = memory.empty(want.size), memory.empty(want.size)
            run(pool.max_pool, (ceil_div(want.size, 4 * norm.THREADS),), memory.put(channels_last(x)), memory.put(scale), memory.put(shift),
                y, y2, want.size, h, w, c, p, q, 3, 2, 1, flags)
            memory.check("max_pool")
            normed = np.maximum(want * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1), 0)
            for flag, got, right in ((norm.RAW, y, want), (norm.NORM, y2, normed)):
                if flags & flag:
                    assert_close(f"max_pool {x.shape}", first(got, right), right, 1e-6)
                else:
                    assert np.isnan(got.copy_to_host()).all()
        hanging_over = ops.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        zeros_count = ops.avg_pool2d(np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), 2, 1)
        for stride, all_count, want in ((2, 0, hanging_over), (1, 1, zeros_count)):
            memory, (p, q) = Memory(), want.shape[2:]
            y = memory.empty(want.size)
            run(pool.avg_pool, (ceil_div(want.size, 4 * norm.THREADS),), memory.put(channels_last(x)), y, want.size, h, w, c, p, q, stride,
                all_count)
            memory.check("avg_pool")
            assert_close(f"avg_pool {x.shape} stride {stride}", first(y, want), want, 1e-6)
        for name, kind in (("avg", pool.MEAN), ("max", pool.MAX), ("avgmax", pool.MEANMAX), ("catavgmax", pool.CATMEANMAX)):
            memory, want = Memory(), ops.global_pool(x, name)
            y = memory.empty(want.size)
            run(pool.global_pool, (ceil_div(c, 4 * pool.QUADS), n), memory.put(channels_last(x)), y, h * w, c, want.shape[1], kind)
            memory.check("global_pool")
            assert_close(f"global_pool {x.shape} {name}", first(y, want), want, 1e-6)


def layouts():
    for n, c, h, w in ((2, 3, 5, 7), (1, 37, 6, 9), (3, 4, 1, 1)):
        memory, pitch = Memory(), c + -c % 4
        x, = draw(np.random.default_rng(c), (n, c, h, w))
        wide = np.full((n, c, 2 * h, w + 2), np.nan, np.float32)
        wide[:, :, ::2, 1:-1] = x
        flat = channels_last(x)
        for there in (memory.put(x), memory.put(wide)[:, :, ::2, 1:w + 1]):               # contiguous, and with gaps
            for first in {0, n - 1}:
                y = memory.empty(flat.size // n * (n - first))
                run(layout.channels_last, (ceil_div(h * w, layout.SIDE), ceil_div(pitch, layout.SIDE), n - first), there, y, pitch, first)
                np.testing.assert_array_equal(y.copy_to_host(), flat[flat.size // n * first:])
        back = memory.empty(x.size)
        run(layout.channels_first, (ceil_div(h * w, layout.SIDE), ceil_div(c, layout.SIDE), n), memory.put(flat), back, h * w, c, pitch)
        memory.check("layouts")
        np.testing.assert_array_equal(back.copy_to_host().reshape(x.shape), x)


# --- whole networks ---------------------------------------------------------------------------------------------------------------------

def models(name: str, depths=(1, 1, 1, 1), **options) -> tuple[ResNetV2, ResNetV2]:
    """(cuda's, NumPy's) with the same random tensors: few blocks, an eighth of the width."""
    variant = dataclasses.replace(VARIANTS[name], width=0.125, depths=depths)
    cfg, options = pretrained_cfg(variant, "test"), dict(num_classes=7) | options
    ours, reference = (ResNetV2(variant, cfg, backend=backend, **options) for backend in ("cuda", "numpy"))
    for model in (ours, reference):
        model.load_state_dict(random_state(ours._shapes(), len(name)))
    return ours, reference


def apart(activations) -> int:
    """Instead of `place`: one behind the other with bands between, so that whatever runs over is seen."""
    end = GUARDS
    for y in activations:
        y.base, end = end, end + y.size + GUARDS
    return end


def check_network(ours: ResNetV2, reference: ResNetV2, x: np.ndarray, trace: bool) -> None:
    """Every layer, or the logits, with all activations between bands of NaN, and of NaN themselves before they are written."""
    from unittest.mock import patch
    runner = ours._network
    wanted = None if trace else [runner._last()]
    with patch("cuda_kernels.plan.place", apart):
        ready = runner._ready(len(x), x.shape[1:], wanted, False)
    runner.workspace.copy_to_device(np.full(runner.workspace.size, np.nan, np.float32))
    if trace:
        got, want = ours.trace(x), reference.trace(x)
        result = npresnet.compare(got, want, LAYER_TOLERANCE["cuda"])
        print(f"{ours.variant.name}: {len(result.layers)} layers, largest Δ {result.max_delta:.1e}")
        assert result.first_divergence is None and list(got) == list(want), str(result)
    else:
        assert_close(ours.variant.name, ours(x), reference(x), LOGITS_TOLERANCE["cuda"])
    used = np.zeros(runner.workspace.size, bool)
    for launch in ready.plan.launches:
        for y in launch.args:
            if hasattr(y, "floats"):
                used[y.base:y.base + y.floats] = True
    assert np.isnan(runner.workspace.copy_to_host()[~used]).all(), "a launch wrote where no activation lies"


def bottlenecks():
    ours, reference = models("resnetv2_50", depths=(2, 1, 1, 1))
    x = random_pictures(1, 3, 24, 19)
    check_network(ours, reference, x, trace=True)
    ours._set_params(ours._params)                                # a runner of its own for what is fused
    check_network(ours, reference, x, trace=False)


def basic_blocks():
    ours, reference = models("resnetv2_18d", depths=(1, 1, 1, 2), output_stride=16, in_chans=1)
    check_network(ours, reference, random_pictures(2, 1, 18, 21), trace=True)


def heads():
    """Global pools, groups of pictures, arrays on the device, empty batches, the first map alone; plans that come and go."""
    from unittest.mock import patch

    def check(what, got, want):
        assert_close(what, got, want, LOGITS_TOLERANCE["cuda"])
    features, few = random_pictures(3, 64, 2, 3), random_pictures(1, 64, 1, 2)
    with patch("cuda_kernels.runner.GROUP", 2):
        for pool_name in ("avg", "max", "avgmax", "catavgmax", ""):
            ours, reference = models("resnetv2_18", global_pool=pool_name)
            check(f"head, {pool_name!r}", ours.forward_head(features), reference.forward_head(features))
            check(f"embedding, {pool_name!r}", *(m.forward_head(features, pre_logits=True) for m in (ours, reference)))
        assert sorted(n for n, _ in ours._network.plans) == [1, 1, 2, 2]                  # three pictures in groups of at most two
        check("another size", ours.forward_head(few), reference.forward_head(few))
        check("one row", *(m.forward_head(few, pre_logits=True) for m in (ours, reference)))
        there = ours.forward_head(cuda.to_device(features))
        assert not isinstance(there, np.ndarray), "what lies on the device is answered there"
        np.testing.assert_array_equal(there.copy_to_host(), ours.forward_head(features))
        assert ours.forward_head(features[:0]).shape == (0, 7, 2, 3) and ours(np.zeros((0, 3, 40, 40), np.float32)).shape == (0, 7, 2, 2)
        nobody = np.zeros((0, 3, 33, 40), np.float32)
        assert {p: y.shape for p, y in ours.trace(nobody).items()} == {p: y.shape for p, y in reference.trace(nobody).items()}
        x = random_pictures(1, 3, 9, 12)
        (last, maps), (want, wants) = (m.forward_intermediates(x, [0], stop_early=True) for m in (ours, reference))
        check("behind the pool", last, want)
        check("the first map", *maps, *wants)
        check("after the workspace has grown", ours.forward_head(few), reference.forward_head(few))
    ours._set_params(ours._params)                                # a runner that knows no limits
    five = np.concatenate([features, features[:2]])
    with patch("cuda_kernels.runner.KEPT_PLANS", 1), patch("cuda_kernels.runner.GROUP", 4), patch("cuda_kernels.runner.LARGEST", 800):
        check("halved groups", ours.forward_head(five), reference.forward_head(five))
        assert set(ours._network.limits.values()) == {2} and [n for n, _ in ours._network.plans] == [1]


CASES = {case.__name__: case for case in (naive, im2col, implicit, network_rung, shared_out, norms, pools, layouts, bottlenecks,
                                          basic_blocks, heads)}

if __name__ == "__main__":
    stricter_simulator()
    if sys.argv[1:2] == ["fuzz"]:
        fuzz(*map(int, sys.argv[2:]))
    else:
        for name in sys.argv[1:] or CASES:
            CASES[name]()
