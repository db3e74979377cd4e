"""The one function that the fast engine compiles: it walks over the planned operations, together with its fellow threads.

Every thread runs `run` over the same table of operations. Inside an operation each has a share of the tasks (a few tiles each), always
the same part of the picture, so that it finds in its own cache what it wrote one operation before: what another core has written
takes several times as long to read, and longer still to write to. Tasks are drawn from an atomic counter; who is done with the own
share steals from the others' (work stealing), and behind the operation they wait for each other. Nothing is allocated and no Python is touched, so the
interpreter's lock is free.

        thread 0   ▓▓▓ ▓▓▓ ▓▓▓│▓▓ ▓▓ ▓▓│…
        thread 1   ▓▓▓ ▓▓▓▓▓▓ │▓▓ ▓▓   │…        │ wait for all
                   conv1       conv2

An operation is a row of int64: see the constants below. Places are in floats from the start of the workspace (activations) or of the
weights.
"""
from __future__ import annotations

import numpy as np

from .kernels import fetch_add, give_way, load_acquire, make_tile, ticks
from .target import NR, NV, SIZES, VL, compiled
from .winograd import make_transforms

tile = make_tile(SIZES, NV, VL)
forward2, backward2 = make_transforms(2, VL)
forward4, backward4 = make_transforms(4, VL)

INPUT, BORDER, CONV, MAXPOOL, AVGPOOL, WINOGRAD, WINOGRAD_IN, WINOGRAD_OUT, GLOBALPOOL = range(9)
# Columns of an operation. TASKS come first; what the others mean depends on the kind, as the functions below read them.
(KIND, TASKS, PICTURES, P, Q, SRC, SRC_PICTURE, SRC_ROW, SRC_PIXEL, DST, DST_PICTURE, DST_ROW, DST_PIXEL,
 RES, RES_PICTURE, RES_ROW, RES_PIXEL, TWO, TWO_PICTURE, TWO_ROW, TWO_PIXEL, SCALE, SHIFT, WEIGHT, PANELS, PANEL, BIAS, LINEAR,
 SRC2, SRC2_PICTURE, SRC2_ROW, SRC2_PIXEL, FIRST2, OFFS, NRUNS, RUN, STEP, TILES_A_TASK, PANELS_A_TASK, PANELS_OUTER, CHANNELS,
 CHANNELS_OUT, H, W, STRIDE, ALL_COUNT, WEIGHT_PICTURE, M, WIDTH) = range(49)
V, V_PLANE, V_PIXEL, PRODUCT, PRODUCT_PLANE, PRODUCT_PIXEL = RES, RES_PICTURE, RES_PIXEL, TWO, TWO_PICTURE, TWO_PIXEL      # of WINOGRAD
COLUMNS = 49


@compiled
def conv_tile(op, index, panel, nth, offs, ws, weights):
    """One tile of a convolution: pixel tile `index`, channel panel `panel`; the panel's `nth` tile."""
    across = (op[Q] + op[STEP] - 1) // op[STEP]
    q = index % across * op[STEP]
    row = index // across
    picture, p = row // op[P], row % op[P]
    pixels = min(op[STEP], op[Q] - q)
    src = ws + 4 * (op[SRC] + picture * op[SRC_PICTURE] + p * op[SRC_ROW] + q * op[SRC_PIXEL])
    src2 = ws + 4 * (op[SRC2] + picture * op[SRC2_PICTURE] + p * op[SRC2_ROW] + q * op[SRC2_PIXEL])
    dst = ws + 4 * (op[DST] + picture * op[DST_PICTURE] + p * op[DST_ROW] + q * op[DST_PIXEL] + panel * NR)
    res, two, scale, shift = 0, 0, weights, weights
    if op[TWO] >= 0:
        if op[RES] >= 0:
            res = ws + 4 * (op[RES] + picture * op[RES_PICTURE] + p * op[RES_ROW] + q * op[RES_PIXEL] + panel * NR)
        two = ws + 4 * (op[TWO] + picture * op[TWO_PICTURE] + p * op[TWO_ROW] + q * op[TWO_PIXEL] + panel * NR)
        scale, shift = weights + 4 * (op[SCALE] + panel * NR), weights + 4 * (op[SHIFT] + panel * NR)
    w = weights + 4 * (op[WEIGHT] + picture * op[WEIGHT_PICTURE] + panel * op[PANEL])
    bias = weights + 4 * (op[BIAS] + panel * NR)
    steps, half = op[PANEL] // NR, (op[PANELS] + 1) // 2              # what to prefetch, a cache line a step:
    if op[PANELS_OUTER]:                                              # the next panel, over this one's first tiles
        ahead = w + 4 * op[PANEL] + nth * steps * 64 if nth < NR // 16 else w
    elif panel < half or two == 0:                                    # or what the next pixels' outputs replace, over this one's panels
        ahead = dst + 4 * (op[STEP] * op[DST_PIXEL] - panel * NR) + panel * steps * 64
    else:
        ahead = two + 4 * (op[STEP] * op[TWO_PIXEL] - panel * NR) + (panel - half) * steps * 64
    tile(pixels, src, op[SRC_PIXEL], offs + 8 * op[OFFS], op[NRUNS], op[RUN], src2, op[SRC2_PIXEL], op[FIRST2], w, ahead, bias, op[LINEAR],
         dst, op[DST_PIXEL], res, op[RES_PIXEL], scale, shift, two, op[TWO_PIXEL])


@compiled
def conv(op, task, offs, ws, weights):
    """A block of tiles × panels; the operand that is used again soonest is walked over in the inner loop."""
    blocks = (op[PANELS] + op[PANELS_A_TASK] - 1) // op[PANELS_A_TASK]
    first_panel, first_tile = task % blocks * op[PANELS_A_TASK], task // blocks * op[TILES_A_TASK]
    tiles = op[PICTURES] * op[P] * ((op[Q] + op[STEP] - 1) // op[STEP])
    last_panel, last_tile = min(first_panel + op[PANELS_A_TASK], op[PANELS]), min(first_tile + op[TILES_A_TASK], tiles)
    if op[PANELS_OUTER]:
        for panel in range(first_panel, last_panel):
            for index in range(first_tile, last_tile):
                conv_tile(op, index, panel, index - first_tile, offs, ws, weights)
    else:
        for index in range(first_tile, last_tile):
            for panel in range(first_panel, last_panel):
                conv_tile(op, index, panel, index - first_tile, offs, ws, weights)


@compiled
def take_in(op, task, x, ws):
    """One row of a picture (C, H, W) into the workspace as (W, C)."""
    picture, row, channels, width = task // op[H], task % op[H], op[CHANNELS], op[W]
    start = op[DST] + picture * op[DST_PICTURE] + row * op[DST_ROW]
    dst = ws[start:start + width * channels]
    for c in range(channels):
        src = x[((picture * channels + c) * op[H] + row) * width:][:width]
        for w in range(width):
            dst[w * channels + c] = src[w]


@compiled
def zero_border(op, task, ws):
    """One row of a tensor's border: of the tensor's own H rows the WIDTH pixels to the left, and what is right of its W pixels."""
    start = op[DST] - op[WIDTH] * (op[DST_ROW] + op[DST_PIXEL]) + task * op[DST_ROW]
    row, pixel = ws[start:start + op[DST_ROW]], op[DST_PIXEL]
    if op[WIDTH] <= task < op[WIDTH] + op[H]:
        row[:op[WIDTH] * pixel] = 0
        row[(op[WIDTH] + op[W]) * pixel:] = 0
    else:
        row[:] = 0


@compiled
def normalise(op, picture, p, q, y, ws, weights):
    """The second output of a pooled pixel: max(y · scale + shift, 0)."""
    n = op[CHANNELS]
    start = op[TWO] + picture * op[TWO_PICTURE] + p * op[TWO_ROW] + q * op[TWO_PIXEL]
    two, scale, shift = ws[start:start + n], weights[op[SCALE]:op[SCALE] + n], weights[op[SHIFT]:op[SHIFT] + n]
    for c in range(n):
        value = y[c] * scale[c] + shift[c]
        two[c] = np.float32(0) if value < 0 else value


@compiled
def max_pool(op, task, ws, weights):
    """One row of 3×3 maxima, stride 2, one pixel of −∞ around; NaN wins."""
    picture, p, n = task // op[P], task % op[P], op[CHANNELS]
    for q in range(op[Q]):
        start = op[DST] + picture * op[DST_PICTURE] + p * op[DST_ROW] + q * op[DST_PIXEL]
        y = ws[start:start + n]
        y[:] = -np.inf
        for i in range(max(2 * p - 1, 0), min(2 * p + 2, op[H])):
            for j in range(max(2 * q - 1, 0), min(2 * q + 2, op[W])):
                start = op[SRC] + picture * op[SRC_PICTURE] + i * op[SRC_ROW] + j * op[SRC_PIXEL]
                x = ws[start:start + n]
                for c in range(n):
                    y[c] = x[c] if (x[c] > y[c]) | (x[c] != x[c]) else y[c]
        normalise(op, picture, p, q, y, ws, weights)


@compiled
def avg_pool(op, task, ws):
    """One row of 2×2 means; what lies outside counts for nothing, or with ALL_COUNT as zeros."""
    picture, p, n = task // op[P], task % op[P], op[CHANNELS]
    for q in range(op[Q]):
        start = op[DST] + picture * op[DST_PICTURE] + p * op[DST_ROW] + q * op[DST_PIXEL]
        y = ws[start:start + n]
        y[:] = 0
        count = 0
        for i in range(op[STRIDE] * p, min(op[STRIDE] * p + 2, op[H])):
            for j in range(op[STRIDE] * q, min(op[STRIDE] * q + 2, op[W])):
                start = op[SRC] + picture * op[SRC_PICTURE] + i * op[SRC_ROW] + j * op[SRC_PIXEL]
                x = ws[start:start + n]
                count += 1
                for c in range(n):
                    y[c] += x[c]
        share = np.float32(1) / np.float32(4 if op[ALL_COUNT] else count)
        for c in range(n):
            y[c] *= share


@compiled
def transform(op, i, first, last, dst, plane, pixel, ws):
    """Tiles first … last of the input, transformed: place (i, j) of the t-th of them goes to dst + (i·n + j)·plane + t·pixel."""
    m = op[M]
    for t in range(first, last):
        row, column = t // op[Q], t % op[Q]
        src, to = ws + 4 * (op[SRC] + row * m * op[SRC_ROW] + column * m * op[SRC_PIXEL]), dst + 4 * (t - first) * pixel
        for c in range(0, op[CHANNELS], VL):
            if m == 4:
                forward4(i, src + 4 * c, op[SRC_ROW], op[SRC_PIXEL], to + 4 * c, plane)
            else:
                forward2(i, src + 4 * c, op[SRC_ROW], op[SRC_PIXEL], to + 4 * c, plane)


@compiled
def transform_back(op, first, last, src, plane, pixel, channel, count, ws, weights):
    """`count` channels from `channel` on of tiles first … last, from src, transformed back, with bias and ReLU; at the right and bottom
    edge only what lies inside."""
    m = op[M]
    for t in range(first, last):
        row, column = t // op[Q], t % op[Q]
        high, wide = min(m, op[H] - row * m), min(m, op[W] - column * m)
        dst = ws + 4 * (op[DST] + row * m * op[DST_ROW] + column * m * op[DST_PIXEL] + channel)
        for c in range(0, count, VL):
            tile_at, bias = src + 4 * ((t - first) * pixel + c), weights + 4 * (op[BIAS] + channel + c)
            if m == 4:
                backward4(tile_at, plane, dst + 4 * c, op[DST_ROW], op[DST_PIXEL], bias, high, wide)
            else:
                backward2(tile_at, plane, dst + 4 * c, op[DST_ROW], op[DST_PIXEL], bias, high, wide)


@compiled
def winograd(op, task, me, offs, ws, weights):
    """Some tiles, from the input to the output; what lies between stays in this thread's own part of the scratch (V, PRODUCT)."""
    places = (op[M] + 2) * (op[M] + 2)
    first, last = task * op[TILES_A_TASK], min((task + 1) * op[TILES_A_TASK], op[P] * op[Q])
    v = ws + 4 * (op[V] + me * places * op[V_PLANE])
    product = ws + 4 * (op[PRODUCT] + me * places * op[PRODUCT_PLANE])
    for i in range(op[M] + 2):
        transform(op, i, first, last, v, op[V_PLANE], op[V_PIXEL], ws)
    for panel in range(op[PANELS]):
        for place in range(places):
            w = weights + 4 * (op[WEIGHT] + place * op[WEIGHT_PICTURE] + panel * op[PANEL])
            for t in range(0, last - first, op[STEP]):
                src = v + 4 * (place * op[V_PLANE] + t * op[V_PIXEL])
                dst = product + 4 * (place * op[PRODUCT_PLANE] + t * op[PRODUCT_PIXEL])
                tile(min(op[STEP], last - first - t), src, op[V_PIXEL], offs + 8 * op[OFFS], 1, op[RUN], src, op[V_PIXEL], 1,
                     w, w + 4 * op[WEIGHT_PICTURE], weights + 4 * op[SHIFT], 1, dst, op[PRODUCT_PIXEL], 0, 0, 0, 0, 0, 0)
        transform_back(op, first, last, product, op[PRODUCT_PLANE], op[PRODUCT_PIXEL], panel * NR, min(NR, op[CHANNELS_OUT] - panel * NR),
                       ws, weights)


@compiled
def winograd_in(op, task, ws):
    """One row of tiles, transformed, into DST, whose pictures are the places: of n² places the n of one row, so that a thread makes those
    that it is going to multiply. What another core has written or read last takes long to write to."""
    i, row, across = task // op[P], task % op[P], op[Q]
    transform(op, i, row * across, (row + 1) * across, ws + 4 * (op[DST] + row * across * op[DST_PIXEL]), op[DST_PICTURE], op[DST_PIXEL], ws)


@compiled
def winograd_out(op, task, ws, weights):
    """One row of tiles, transformed back from SRC, whose pictures are the places."""
    first = task * op[Q]
    transform_back(op, first, first + op[Q], ws + 4 * (op[SRC] + first * op[SRC_PIXEL]), op[SRC_PICTURE], op[SRC_PIXEL], 0, op[CHANNELS_OUT],
                   ws, weights)


@compiled
def global_pool(op, task, ws):
    """Means over all pixels, of VL channels."""
    n = min(VL, op[CHANNELS] - task * VL)
    start = op[DST] + task * VL
    y = ws[start:start + n]
    y[:] = 0
    for i in range(op[H]):
        for j in range(op[W]):
            start = op[SRC] + i * op[SRC_ROW] + j * op[SRC_PIXEL] + task * VL
            x = ws[start:start + n]
            for c in range(n):
                y[c] += x[c]
    for c in range(n):
        y[c] /= np.float32(op[H] * op[W])


@compiled
def run_task(op, task, me, offs, weights, ws, x, offs_at, weights_at, ws_at):
    """One task of an operation."""
    if op[KIND] == CONV:
        conv(op, task, offs_at, ws_at, weights_at)
    elif op[KIND] == INPUT:
        take_in(op, task, x, ws)
    elif op[KIND] == WINOGRAD_IN:
        winograd_in(op, task, ws_at)
    elif op[KIND] == WINOGRAD_OUT:
        winograd_out(op, task, ws_at, weights_at)
    elif op[KIND] == MAXPOOL:
        max_pool(op, task, ws, weights)
    elif op[KIND] == BORDER:
        zero_border(op, task, ws)
    elif op[KIND] == WINOGRAD:
        winograd(op, task, me, offs_at, ws_at, weights_at)
    elif op[KIND] == GLOBALPOOL:
        global_pool(op, task, ws)
    else:
        avg_pool(op, task, ws)


@compiled
def run(ops, offs, weights, ws, x, sync, threads, me):
    """Run the operations `ops` (n, COLUMNS) together with the other threads that were given the same arguments.

    offs int64: offsets of the convolutions' runs. weights, ws (workspace), x (pictures) float32, flat. sync (n + 1, threads + 1, 16)
    int64 zeros, a cache line a counter: for each operation how many tasks of each thread's share were drawn, and how many threads
    are done, followed by when the last of them was (`ticks`); in the last row, when the first thread came. If the first number of the
    last row isn't 0, a thread doesn't come at all, and nobody waits for it.
    """
    offs_at, weights_at, ws_at, line = offs.ctypes.data, weights.ctypes.data, ws.ctypes.data, 128
    sync_at = sync.ctypes.data
    if me == 0:
        fetch_add(sync_at + ops.shape[0] * (threads + 1) * line + 8, ticks())
    for i in range(ops.shape[0]):
        op, counters = ops[i], sync_at + i * (threads + 1) * line
        for j in range(threads):                                  # first the own share, whose input is in the own cache; then the others'
            owner = (me + j) % threads
            first, last = owner * op[TASKS] // threads, (owner + 1) * op[TASKS] // threads
            task = first + fetch_add(counters + owner * line, 1)
            while task < last:
                run_task(op, task, me, offs, weights, ws, x, offs_at, weights_at, ws_at)
                task = first + fetch_add(counters + owner * line, 1)
        done, waited = fetch_add(counters + threads * line, 1) + 1, 0
        if done == threads:
            fetch_add(counters + threads * line + 8, ticks())
        while done < threads:
            waited += 1
            if waited > 4096:
                give_way()
                if load_acquire(sync_at + ops.shape[0] * (threads + 1) * line) != 0:
                    return
            done = load_acquire(counters + threads * line)
