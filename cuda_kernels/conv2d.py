"""Convolution on a GPU, as a ladder: four kernels with the same result, each a step faster than the one before.

    1  naive       one thread computes one output
    2  im2col      the pixels under the kernel are copied into a matrix, and tiles of it shared between threads
    3  implicit    no copy: each block gathers its tile itself; each thread keeps 8×8 sums in registers; two buffers
    4  network     channels last, loads of 128 bits, no index arithmetic in the inner loop, everything else in the epilogue

All see a convolution as one matrix product (M, L) @ (L, K): M = N·P·Q pixels out, L = R·S·C products a pixel, K output channels.
`npresnet/ops/conv.py` is the same operation to read; `python -m cuda_kernels.inspect` prints the figures that the rungs quote (for
compute capability 8.0). What decides them: each cycle a multiprocessor starts one instruction of each of 4 warps of 32 threads, so at
most 128 FFMA (multiply-adds; it has units for 64 on 7.5 and 8.0, for 128 on 9.0 and 10.0), but serves only 32 floats of shared memory.
With 128 units every other instruction takes the place of an FFMA. So count instructions.

Axes: N pictures, C channels, H×W pixels in, K output channels, R×S kernel, P×Q pixels out.
Source: S. Boehm 2022, "How to optimize a CUDA matmul kernel for cuBLAS-like performance"; NVIDIA, CUTLASS "Implicit GEMM convolution".
"""
from __future__ import annotations

import numpy as np

from .backend import ALIGN, FLAT, INT, cuda, cuda_types, fma_outer, jit, load4, load4_if, store4
from .norm import finish

MATRIX, PICTURES = cuda_types.float32[:, ::1], cuda_types.float32[:, :, :, ::1]
i32, f32 = np.int32, np.float32
ZEROS = (f32(0),) * 64                                            # fresh accumulators: 8 pixels × 8 channels


# --- 1: one thread, one output ----------------------------------------------------------------------------------------------------------

@jit((PICTURES, PICTURES, FLAT, PICTURES, INT, INT, INT), (32, 8))
def naive(x, weight, bias, y, stride, pad, dilation):
    """x (N, C, H, W), weight (K, C, R, S), bias (K,) → y (N, K, P, Q): the definition. Thread (column, row, picture·channel).

    Every product reads both its factors from memory: two loads, and the tests of the border, for one multiply-add.
    Of 100 instructions in its main loop 2 multiply; the others find out where the next factors lie.
    """
    n, c, h, w = x.shape
    _, k_all, p, q = y.shape
    column, row, nk = cuda.grid(3)
    if column >= q or row >= p or nk >= n * k_all:
        return
    picture, k = nk // k_all, nk % k_all
    total = bias[k]
    for channel in range(c):
        for r in range(weight.shape[2]):
            for s in range(weight.shape[3]):
                y_in, x_in = row * stride + r * dilation - pad, column * stride + s * dilation - pad
                if 0 <= y_in < h and 0 <= x_in < w:
                    total += x[picture, channel, y_in, x_in] * weight[k, channel, r, s]
    y[picture, k, row, column] = total


# --- 2: im2col, and a product of tiles in shared memory ---------------------------------------------------------------------------------

SIDE = 16


@jit((PICTURES, MATRIX) + (INT,) * 7, (32, 8))
def im2col(x, columns, r_all, s_all, p, q, stride, pad, dilation):
    """x (N, C, H, W) → columns (C·R·S, N·P·Q), border pixels 0. Thread (pixel out, product).

    Neighbouring threads write neighbouring pixels, so a warp's 32 writes are one transaction.
    """
    n, c, h, w = x.shape
    pixel, product = cuda.grid(2)
    if pixel >= n * p * q or product >= c * r_all * s_all:
        return
    channel, tap = product // (r_all * s_all), product % (r_all * s_all)
    picture, row, column = pixel // (p * q), pixel // q % p, pixel % q
    y_in, x_in = row * stride + tap // s_all * dilation - pad, column * stride + tap % s_all * dilation - pad
    value = f32(0)
    if 0 <= y_in < h and 0 <= x_in < w:
        value = x[picture, channel, y_in, x_in]
    columns[product, pixel] = value


@jit((MATRIX, MATRIX, FLAT, MATRIX), (SIDE, SIDE))
def tiled_gemm(a, b, bias, y):
    """a (K, L) @ b (L, M) + bias (K,) → y (K, M). A block of 16×16 threads computes 16×16 outputs.

    It changes where factors come from: 16×16 of each matrix are fetched once into shared memory and read there 16 times, so memory
    is asked for a sixteenth. Still every multiply-add needs two loads from shared memory, which serves a quarter of what it should:
    16 % of the main loop are FFMA, 0.8 for each load from shared memory.
    """
    tile_a = cuda.shared.array((SIDE, SIDE), f32)
    tile_b = cuda.shared.array((SIDE, SIDE), f32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    m, k = cuda.grid(2)
    total = f32(0)
    for start in range(0, a.shape[1], SIDE):
        tile_a[ty, tx] = a[k, start + tx] if k < a.shape[0] and start + tx < a.shape[1] else f32(0)
        tile_b[ty, tx] = b[start + ty, m] if m < b.shape[1] and start + ty < b.shape[0] else f32(0)
        cuda.syncthreads()                                        # the tiles are whole
        for i in range(SIDE):
            total += tile_a[ty, i] * tile_b[i, tx]
        cuda.syncthreads()                                        # and all have read them
    if k < y.shape[0] and m < y.shape[1]:
        y[k, m] = total + bias[k]


# --- 3: implicit product, register tiles, two buffers -----------------------------------------------------------------------------------

TILE, DEPTH = 64, 8                                               # 64 pixels × 64 channels a block of 64 threads, 8 products a step
BUFFER = TILE * DEPTH
BOTH = 2 * BUFFER


@cuda.jit(device=True)
def pixel_at(x, product, pixel, rs, s_all, p, q, stride, pad, dilation):
    """The factor of x (N, C, H, W) in product (C, R, S) of output pixel (N, P, Q); 0 on the border and past the end."""
    n, c, h, w = x.shape
    channel, tap = product // rs, product % rs
    picture, row, column = pixel // (p * q), pixel // q % p, pixel % q
    y_in, x_in = row * stride + tap // s_all * dilation - pad, column * stride + tap % s_all * dilation - pad
    if picture < n and channel < c and 0 <= y_in < h and 0 <= x_in < w:
        return x[picture, channel, y_in, x_in]
    return f32(0)


@cuda.jit(device=True)
def eight(tile, at):
    """Eight floats of shared memory."""
    return tile[at], tile[at + 1], tile[at + 2], tile[at + 3], tile[at + 4], tile[at + 5], tile[at + 6], tile[at + 7]


@cuda.jit(device=True)
def put_row(sums, y, bias, k, pixel, pq):
    """Write eight channels of one pixel, from k on, to y (N, K, P·Q)."""
    if pixel < y.shape[0] * pq:
        for j in range(8):
            if k + j < y.shape[1]:
                y[pixel // pq, k + j, pixel % pq] = sums[j] + bias[k + j]


@jit((PICTURES, MATRIX, FLAT, cuda_types.float32[:, :, ::1]) + (INT,) * 7, TILE, 8)
def implicit_gemm(x, weight, bias, y, rs, s_all, p, q, stride, pad, dilation):
    """x (N, C, H, W), weight (K, C·R·S), bias (K,) → y (N, K, P·Q). A block of 64 threads: 64 pixels × 64 channels.

    It changes three things. The matrix of rung 2 is never written: each thread works out which pixel stands in it. Each thread sums
    8×8 outputs in registers, so 16 factors fetched from shared memory give 64 multiply-adds, not one. And there are two buffers: while
    one is multiplied the other is filled, one barrier a step instead of two.
    37 % of the loop that multiplies are FFMA, 4 for each load from shared memory. What is left: before it, a second loop divides out
    anew where each of the 16 factors that a thread fetches lies.
    """
    tile_x = cuda.shared.array(BOTH, f32)
    tile_w = cuda.shared.array(BOTH, f32)
    t = cuda.threadIdx.x
    m0, k0 = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    my_m, my_k = t % 8 * 8, t // 8 * 8
    products = weight.shape[1]
    acc = ZEROS
    half = 0
    for start in range(0, products, DEPTH):
        for i in range(DEPTH):                                    # thread t fetches pixel t and channel t of the tile
            product = start + i
            tile_x[half + i * TILE + t] = pixel_at(x, product, m0 + t, rs, s_all, p, q, stride, pad, dilation)
            tile_w[half + i * TILE + t] = weight[k0 + t, product] if k0 + t < weight.shape[0] and product < products else f32(0)
        cuda.syncthreads()
        for i in range(DEPTH):
            acc = fma_outer(acc, eight(tile_x, half + i * TILE + my_m), eight(tile_w, half + i * TILE + my_k))
        half = BUFFER - half
    k, m, pq = k0 + my_k, m0 + my_m, p * q
    put_row(acc[0:8], y, bias, k, m, pq)
    put_row(acc[8:16], y, bias, k, m + 1, pq)
    put_row(acc[16:24], y, bias, k, m + 2, pq)
    put_row(acc[24:32], y, bias, k, m + 3, pq)
    put_row(acc[32:40], y, bias, k, m + 4, pq)
    put_row(acc[40:48], y, bias, k, m + 5, pq)
    put_row(acc[48:56], y, bias, k, m + 6, pq)
    put_row(acc[56:64], y, bias, k, m + 7, pq)


# --- 4: what the network runs -----------------------------------------------------------------------------------------------------------

@cuda.jit(device=True)
def multiply(acc, tile_x, at_x, half_m, tile_w, at_w, half_k):
    """64 more products a thread: eight pixels, four by four in either half of the tile, times eight channels."""
    return fma_outer(acc, load4(tile_x, at_x) + load4(tile_x, i32(at_x + half_m)), load4(tile_w, at_w) + load4(tile_w, i32(at_w + half_k)))


@cuda.jit(device=True)
def put(sums, m, k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags):
    """Finish eight channels of pixel m, four from k on and four half a tile further."""
    at = i32((split * pixels + m) * k_all + k)
    if m < pixels and k < k_all:
        finish(sums[0:4], at, k, bias, residual, scale, shift, y, y2, flags)
    if m < pixels and k + half_k < k_all:
        finish(sums[4:8], i32(at + half_k), i32(k + half_k), bias, residual, scale, shift, y, y2, flags)


def network_kernel(name: str, tile_m: int, tile_k: int, pointwise: bool = False, rows: bool = False):
    """Make rung 4 for blocks of tile_m pixels × tile_k channels, 64 sums a thread. `pointwise`: for 1×1 without padding. `rows`: for
    pictures of at most four channels, where a step of eight products takes two taps of a kernel row instead of eight channels of one.

    It changes: (a) activations are (N, H, W, C) and weights (R·S·C, K), so four channels lie together and every load and store is one
    instruction of 128 bits: 4 of them from shared memory give 64 multiply-adds. (b) Where a thread's pixels begin, and at which taps
    they are inside the picture (a bit a row, a bit a column), is worked out once before the loop; in it one addition moves all on.
    (c) Loads for the next step start before this step's products and arrive behind them. (d) Bias, shortcut and the next batch norm and
    ReLU are applied to the sums while they are in registers (`norm.finish`), which saves writing and reading them again. (e) The eight
    products of a step are written out: 512 FFMA behind one another. (f) Where there are few pixels, blocks split the products too (split-K)
    (`share` steps each, along the grid's third axis) and leave partial sums to `norm.sum_splits`. 79 to 83 % of the main loop are FFMA,
    16 for each load from shared memory, 140 to 153 registers, no stack; held to 128 registers it spilled 12 to 40 bytes.

    kernel(x, weight, bias, residual, scale, shift, y, y2: flat float32; the rest int32). x (N, H, W, c), c a multiple of 4; weight as
    `pack_weight` makes it; bias, scale, shift (k_all,), k_all a multiple of 4; residual, y, y2 (pixels, k_all), where pixels = N·P·Q; flags
    as `norm.finish`. Grid: (⌈pixels / tile_m⌉, ⌈k_all / tile_k⌉, ⌈steps / share⌉), steps as `count_steps` says; if the third is more than
    1, flags is RAW and y (splits, pixels, k_all). No array may have 2³¹ floats or more, and R, S are at most 31.
    """
    threads = tile_m * tile_k // 64
    pitch = tile_m + 4                                            # 4 more: the 32 transposed stores of a warp then hit 32 banks
    buf_x, buf_w = pitch * DEPTH, tile_k * DEPTH
    both_x, both_w = 2 * buf_x, 2 * buf_w
    half_m, half_k, across = tile_m // 2, tile_k // 2, tile_m // 8
    next_pixel, next_row = threads // 2, threads * 4 // tile_k
    two_w = next_row < DEPTH                                      # a thread fetches 2 × 4 floats of x, and 1 × 4 or 2 × 4 weights

    def kernel(x, weight, bias, residual, scale, shift, y, y2, pixels, h, w, c, k_all, p, q, r_all, s_all, stride, pad, dilation,
               share, flags):
        tile_x = cuda.shared.array(both_x, f32, ALIGN)
        tile_w = cuda.shared.array(both_w, f32, ALIGN)
        t = i32(cuda.threadIdx.x)
        m0, k0, split = i32(cuda.blockIdx.x * tile_m), i32(cuda.blockIdx.y * tile_k), i32(cuda.blockIdx.z)

        half_step = i32(t % 2)                                    # which half of a step's eight products this thread fetches
        group = i32(0) if rows else i32(half_step * 4)            # the first of its channels
        into_x = i32(half_step * 4 * pitch + t // 2)
        into_w = i32(t * 4)
        pixel0, pixel1 = i32(m0 + t // 2), i32(m0 + t // 2 + next_pixel)
        row0, col0 = i32(pixel0 // q % p * stride - pad), i32(pixel0 % q * stride - pad)
        row1, col1 = i32(pixel1 // q % p * stride - pad), i32(pixel1 % q * stride - pad)
        at0 = i32(((pixel0 // (p * q) * h + row0) * w + col0) * c + group)                # may lie before x: then no bit is set
        at1 = i32(((pixel1 // (p * q) * h + row1) * w + col1) * c + group)
        rows0 = cols0 = rows1 = cols1 = i32(0)
        if not pointwise:
            for i in range(r_all):
                rows0 |= i32(0 <= row0 + i * dilation < h) << i
                rows1 |= i32(0 <= row1 + i * dilation < h) << i
            for i in range(s_all):
                cols0 |= i32(pixel0 < pixels and 0 <= col0 + i * dilation < w) << i
                cols1 |= i32(pixel1 < pixels and 0 <= col1 + i * dilation < w) << i

        depth, wide = i32((c + DEPTH - 1) // DEPTH), i32((s_all + 1) // 2)                # steps a tap; or, `rows`: steps a kernel row
        steps = i32(r_all * wide) if rows else i32(r_all * s_all * depth)
        step, end = i32(split * share), i32(min(split * share + share, steps))
        if rows:
            r, s, channel = i32(step // wide), i32(step % wide * 2 + half_step), i32(0)
        else:
            tap = i32(step // depth)
            r, s, channel = i32(tap // s_all), i32(tap % s_all), i32(step % depth * DEPTH + group)
        if pointwise:
            in0, in1 = pixel0 < pixels, pixel1 < pixels
            offset = i32(channel - group)
        else:
            in0, in1 = bool(rows0 >> r & cols0 >> s & 1), bool(rows1 >> r & cols1 >> s & 1)
            offset = i32((r * w + s) * dilation * c + channel - group)
        k = i32(k0 + t * 4 % tile_k)
        in_k = k < k_all
        at_w = i32((step * DEPTH + t * 4 // tile_k) * k_all + k)

        x0 = load4_if(x, i32(at0 + offset), in0 and channel < c)
        x1 = load4_if(x, i32(at1 + offset), in1 and channel < c)
        w0 = load4_if(weight, at_w, in_k)
        w1 = w0
        if two_w:
            w1 = load4_if(weight, i32(at_w + next_row * k_all), in_k)
        my_x, my_w = i32(t % across * 4), i32(t // across * 4)
        acc = ZEROS
        half = i32(0)
        while step < end:
            base_x, base_w = i32(half * buf_x), i32(half * buf_w)
            to = i32(base_x + into_x)
            tile_x[to] = x0[0]
            tile_x[to + pitch] = x0[1]
            tile_x[to + 2 * pitch] = x0[2]
            tile_x[to + 3 * pitch] = x0[3]
            to = i32(to + next_pixel)
            tile_x[to] = x1[0]
            tile_x[to + pitch] = x1[1]
            tile_x[to + 2 * pitch] = x1[2]
            tile_x[to + 3 * pitch] = x1[3]
            store4(tile_w, i32(base_w + into_w), w0[0], w0[1], w0[2], w0[3])
            if two_w:
                store4(tile_w, i32(base_w + into_w + threads * 4), w1[0], w1[1], w1[2], w1[3])
            cuda.syncthreads()                                    # one a step: the other buffer was read before the last one

            step = i32(step + 1)
            more = step < end
            at_w = i32(at_w + DEPTH * k_all)
            if rows:                                              # on to the next two taps of the row, or the next row
                s = i32(s + 2)
                if s >= 2 * wide:
                    s, r = half_step, i32(r + 1)
            else:
                channel = i32(channel + DEPTH)
                if not pointwise and channel >= depth * DEPTH:    # on to the next tap
                    channel = group
                    s = i32(s + 1)
                    if s == s_all:
                        s, r = i32(0), i32(r + 1)
            if pointwise:
                offset = i32(channel - group)
            else:
                in0, in1 = bool(rows0 >> r & cols0 >> s & 1), bool(rows1 >> r & cols1 >> s & 1)
                offset = i32((r * w + s) * dilation * c + channel - group)
            x0 = load4_if(x, i32(at0 + offset), in0 and more and channel < c)
            x1 = load4_if(x, i32(at1 + offset), in1 and more and channel < c)
            w0 = load4_if(weight, at_w, in_k and more)
            if two_w:
                w1 = load4_if(weight, i32(at_w + next_row * k_all), in_k and more)

            fx, fw = i32(base_x + my_x), i32(base_w + my_w)
            acc = multiply(acc, tile_x, fx, half_m, tile_w, fw, half_k)
            acc = multiply(acc, tile_x, i32(fx + pitch), half_m, tile_w, i32(fw + tile_k), half_k)
            acc = multiply(acc, tile_x, i32(fx + 2 * pitch), half_m, tile_w, i32(fw + 2 * tile_k), half_k)
            acc = multiply(acc, tile_x, i32(fx + 3 * pitch), half_m, tile_w, i32(fw + 3 * tile_k), half_k)
            acc = multiply(acc, tile_x, i32(fx + 4 * pitch), half_m, tile_w, i32(fw + 4 * tile_k), half_k)
            acc = multiply(acc, tile_x, i32(fx + 5 * pitch), half_m, tile_w, i32(fw + 5 * tile_k), half_k)
            acc = multiply(acc, tile_x, i32(fx + 6 * pitch), half_m, tile_w, i32(fw + 6 * tile_k), half_k)
            acc = multiply(acc, tile_x, i32(fx + 7 * pitch), half_m, tile_w, i32(fw + 7 * tile_k), half_k)
            half = i32(1 - half)

        m, k = i32(m0 + my_x), i32(k0 + my_w)
        put(acc[0:8], m, k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        put(acc[8:16], i32(m + 1), k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        put(acc[16:24], i32(m + 2), k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        put(acc[24:32], i32(m + 3), k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        m = i32(m + half_m)
        put(acc[32:40], m, k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        put(acc[40:48], i32(m + 1), k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        put(acc[48:56], i32(m + 2), k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)
        put(acc[56:64], i32(m + 3), k, half_k, split, pixels, k_all, bias, residual, scale, shift, y, y2, flags)

    kernel.__name__ = name
    return jit((FLAT,) * 8 + (INT,) * 14, threads, 384 // threads)(kernel)                # at most 168 registers; 128 would spill


TILES = (128, 64), (64, 64)                                       # pixels × channels of a block
GENERAL = {tile: network_kernel("conv_{}x{}".format(*tile), *tile) for tile in TILES}
POINTWISE = {tile: network_kernel("conv_{}x{}_1x1".format(*tile), *tile, pointwise=True) for tile in TILES}
ROWS = {tile: network_kernel("conv_{}x{}_rows".format(*tile), *tile, rows=True) for tile in TILES}


def form(c: int, r: int, s: int, pad: int, dilation: int) -> dict:
    """Which form of rung 4 serves a convolution with C channels: one of the three tables above."""
    return POINTWISE if r == s == 1 and pad == 0 else ROWS if c <= 4 and dilation == 1 else GENERAL


def count_steps(kernels: dict, c: int, r: int, s: int) -> int:
    """Steps of eight products that a form takes."""
    return r * ((s + 1) // 2) if kernels is ROWS else r * s * (-(-c // DEPTH))


def pack_weight(weight: np.ndarray, rows: bool = False) -> np.ndarray:
    """weight (K, C, R, S) → flat (R · S · C, K) float32 for rung 4; K filled up with zeros to a multiple of 4, C to one of 8. For the
    form `rows` C is filled up to 4, and S to a multiple of 2."""
    k, c, r, s = weight.shape
    more_s, more_c = (s % 2, 4 - c) if rows else (0, -c % DEPTH)
    padded = np.pad(weight.transpose(2, 3, 1, 0), ((0, 0), (0, more_s), (0, more_c), (0, -k % 4)))
    return np.ascontiguousarray(padded, np.float32).ravel()
