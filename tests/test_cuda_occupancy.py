"""What is assumed of GPUs that aren't here, by hand: whom they are like, and blocks that fit."""
from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("numba_cuda") is None,
                                reason="numba-cuda is not installed: no CUDA kernel is tested")

# compute capability, multiprocessors → multiply-adds a cycle, GHz, GB/s
LIKE = [
    ((7, 5), 40, 64, 1.59, 320.0),                                # T4 itself
    ((7, 5), 72, 64, 1.59, 576.0),                                # more of its multiprocessors
    ((8, 0), 108, 64, 1.41, 1555.0),                              # A100 itself
    ((8, 0), 54, 64, 1.41, 777.5),                                # half of it
    ((8, 6), 84, 128, 1.41, 1209.444444),                             # twice the lanes of 8.0
    ((8, 9), 128, 128, 1.41, 1842.962963),
    ((9, 0), 132, 128, 1.98, 3350.0),                             # H100 itself
    ((9, 0), 66, 128, 1.98, 1675.0),
    ((10, 0), 148, 128, 1.97, 8000.0),                            # B200 itself
    ((10, 3), 74, 128, 1.97, 4000.0),
    ((12, 0), 188, 128, 1.97, 10162.162162),                          # newer than all
]
# compute capability, threads, registers a thread, bytes of shared memory → blocks, limited by
BLOCKS = [
    # 40·32 = 1280 registers a warp, 4 warps: 5120 a block, and ⌊65536 / 5120⌋ = 12
    ("7.5", 128, 40, 0, 8, "threads"),                            # 1024 / 128
    ("8.0", 128, 40, 0, 12, "registers"),
    ("9.0", 128, 40, 0, 12, "registers"),
    ("10.0", 128, 40, 0, 12, "registers"),
    # 33·32 = 1056 are given out as 1280, 256 at a time: 8 warps take 10240
    ("7.5", 256, 33, 0, 4, "threads"),
    ("8.0", 256, 33, 0, 6, "registers"),
    ("9.0", 256, 33, 0, 6, "registers"),
    ("10.0", 256, 33, 0, 6, "registers"),
    # 48 threads are two warps: 2·2048 registers
    ("7.5", 48, 64, 0, 16, "registers, threads or blocks"),
    ("8.0", 48, 64, 0, 16, "registers"),
    # small blocks: only their number counts; a warp of 16·32 = 512 registers
    ("7.5", 32, 16, 0, 16, "blocks"),
    ("8.0", 32, 16, 0, 32, "blocks"),
    ("9.0", 32, 16, 0, 32, "blocks"),
    ("10.0", 32, 16, 0, 32, "blocks"),
    # 20 KiB: 64 / 20, and with 1 KiB for each block 164 / 21 and 228 / 21
    ("7.5", 64, 16, 20480, 3, "shared memory"),
    ("8.0", 64, 16, 20480, 7, "shared memory"),
    ("9.0", 64, 16, 20480, 10, "shared memory"),
    ("10.0", 64, 16, 20480, 10, "shared memory"),
    # exactly what there is, and a byte more
    ("7.5", 64, 16, 65536, 1, "shared memory"),
    ("7.5", 64, 16, 65537, 0, "shared memory"),
    ("8.0", 64, 16, 163 * 1024, 1, "shared memory"),
    ("8.0", 64, 16, 163 * 1024 + 1, 0, "shared memory"),
    ("9.0", 64, 16, 113 * 1024, 2, "shared memory"),
    ("9.0", 64, 16, 113 * 1024 + 1, 1, "shared memory"),
    # the largest block; 32·32 = 1024 registers a warp, 32 warps: 32768
    ("7.5", 1024, 32, 0, 1, "threads"),
    ("8.0", 1024, 32, 0, 2, "registers or threads"),
    ("8.0", 1024, 24, 0, 2, "registers or threads"),              # 24576
    ("8.0", 1024, 16, 0, 2, "threads"),                           # 16384
    ("9.0", 1024, 64, 0, 1, "registers"),                         # all 65536
    ("9.0", 1024, 65, 0, 0, "registers"),
    # 255 registers: 8160 a warp, given out as 8192
    ("8.0", 128, 255, 0, 2, "registers"),
    ("10.0", 96, 255, 0, 2, "registers"),                         # 24576 a block
]


@pytest.mark.parametrize("capability, multiprocessors, lanes, ghz, gb_s", LIKE, ids=str)
def test_a_gpu_like_one_that_is_known(capability, multiprocessors, lanes, ghz, gb_s):
    from cuda_kernels.performance import gpu_like
    found = gpu_like("some GPU", capability, multiprocessors)
    assert (found.name, found.capability) == ("some GPU", capability)
    assert (found.multiprocessors, found.lanes, found.ghz) == (multiprocessors, lanes, ghz)
    assert found.gb_s == pytest.approx(gb_s, rel=1e-6)
    assert found.tflops == pytest.approx(2e-3 * multiprocessors * lanes * ghz)


def test_the_known_gpus_figures():
    """Of NVIDIA's data sheets: float32 TFLOP/s by boost clock, and what each GPU is made of."""
    from cuda_kernels.performance import GPUS, gpu_like
    tflops = {"T4": 8.1, "A100": 19.5, "H100": 67.0, "B200": 75.0}
    assert set(GPUS) == set(tflops)
    for name, gpu in GPUS.items():
        assert gpu.tflops == pytest.approx(tflops[name], rel=0.01)
        assert gpu_like(name, gpu.capability, gpu.multiprocessors) == gpu


@pytest.mark.parametrize("cc, threads, registers, shared, count, limit", BLOCKS, ids=str)
def test_blocks_that_fit_on_a_multiprocessor(cc, threads, registers, shared, count, limit):
    from cuda_kernels.inspect import blocks
    found, by = blocks(cc, threads, registers, shared)
    assert found == count and by in limit, (found, by)


def test_every_capability_that_is_inspected_has_limits():
    from cuda_kernels.inspect import CAPABILITIES, LIMITS
    assert {cc for cc, *_ in BLOCKS} == set(CAPABILITIES) == set(LIMITS)
