"""What the CUDA cases run on: guarded device memory, a stricter simulator, and launches.

Every buffer lies between two bands of NaN: reading a band gives NaN, and a write to one is found.
"""
from __future__ import annotations

import sys
import threading
from math import prod

import numpy as np

from cuda_kernels.backend import cuda

GUARDS = 64                                                       # floats in a band of NaN


def stricter_simulator() -> None:
    """Mend what would hide faults in numba-cuda's simulator, or make them.

    It keeps shared memory from block to block, gives two threads that ask for it at the same time
    an array each, and lets threads miss a barrier. Here shared memory is NaN when a block begins,
    all threads get the same, and a barrier that a thread doesn't reach is an error.
    """
    from numba.cuda.simulator import kernel, kernelapi
    lock = threading.Lock()

    def array(self, shape, dtype, alignment=None):
        caller = sys._getframe(1)
        place = caller.f_code, caller.f_lineno
        with lock:
            return self._allocations.setdefault(place, np.full(shape, np.nan, dtype))

    def run_block(self, block, *args):
        kernel._get_kernel_context().shared._allocations.clear()
        barrier = threading.Barrier(prod(self._block_dim))
        threads = []

        def run_thread():
            try:
                self._f(*args)
            except BaseException:
                barrier.abort()                                   # the others would wait for ever
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
            # A broken barrier only follows from what went wrong in another thread.
            raise min(failed, key=lambda e: isinstance(e[0], threading.BrokenBarrierError))[0]

    kernelapi.FakeCUDAShared.array = array
    kernel.BlockManager.run = run_block


class Memory:
    """Buffers on the device, each between two bands of NaN."""

    def __init__(self):
        self.kept = []

    def put(self, values) -> object:
        """A device array with these values, which nobody may change."""
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
        """Assert that no band was written to, and nothing that was put."""
        for i, (there, whole, constant) in enumerate(self.kept):
            after = there.copy_to_host()
            bands = np.concatenate([after[:GUARDS], after[-GUARDS:]])
            unchanged = np.array_equal(after, whole, equal_nan=True)
            assert np.isnan(bands).all(), f"{what}: a band of buffer {i} was written to"
            assert not constant or unchanged, f"{what}: buffer {i} is an input and was changed"


def run(kernel, grid, *args) -> None:
    """Launch on blocks of the kernel's own shape; an int goes in as int32, as when inspected."""
    kernel[grid, kernel.block](*[np.int32(arg) if isinstance(arg, int) else arg for arg in args])


def channels_last(x: np.ndarray) -> np.ndarray:
    """x (N, C, H, W) → flat (N · H · W · C), with zeros that fill C up to a multiple of 4."""
    padded = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, -x.shape[1] % 4)))
    return np.ascontiguousarray(padded, np.float32).ravel()


def ceil_div(n: int, by: int) -> int:
    return -(-n // by)


def draw(rng, *shapes):
    """One float32 array of normal noise for each shape."""
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
