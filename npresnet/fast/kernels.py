"""The inner loop of the fast engine: a convolution tile in LLVM vector instructions, emitted through Numba. It explains no network;
`npresnet/ops/conv.py` is its readable twin.

A tile is MR output pixels next to each other in a row, times NR = NV·VL output channels (NV vectors of VL floats). All of it lives in
registers while the loop walks over kernel taps and input channels. One step takes one float from each of MR pixels, and NR weights:

                 NR weights  w[k, 0:NR]
    x[0, k] ──▶  acc[0, 0:NR]  +=  x[0, k] · w[k, 0:NR]
    x[1, k] ──▶  acc[1, 0:NR]  +=  x[1, k] · w[k, 0:NR]           2·MR·NR flops for MR + NR loaded floats
      ⋮
    x[MR−1, k] ▶ acc[MR−1, :]  +=  …

Pixels lie `lda` floats apart, so the same code serves every stride. A k×k convolution is k runs (one kernel row each, whose taps lie
behind one another) or k·k runs over the same pixels: the tile gets their offsets, and no im2col copy is ever made.

Sources: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"; Dukhan 2019, "The Indirect Convolution
Algorithm", arXiv 1907.02129.
"""
from __future__ import annotations

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .target import FMA

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
POINTER = F32.as_pointer()


def make_tile(sizes: tuple[int, ...], NV: int, VL: int):
    """The tile as a Numba intrinsic (all arguments are int64; addresses in bytes, strides in floats). It has code for each of `sizes` pixels,
    the largest first, times NV·VL channels, and takes the smallest that holds `rows` pixels.

    tile(rows, pa, lda, offs, nruns, run, pa2, lda2, first2, pb, ahead, bias, lo, pc, ldc, pr, ldr, scale, shift, pd, ldd)

    acc[i, :] = bias + Σ over runs r, k < run of a[i·lda + offs[r] + k] · b[r·run + k, :]     for every pixel i of the tile
                where runs from number first2 on read a second input: a2[i·lda2 + offs[r] + k]
    If pd is 0:   c[i·ldc, :] = max(acc, lo)                                lo: 0 for a ReLU, else 1 (no bound)
    else:         s = acc + r[i·ldr, :] (pr 0: no r);  c[i·ldc, :] = s;  d[i·ldd, :] = max(s · scale + shift, 0)
    for pixels i < rows. All pixels of the tile are read, only `rows` of them are written. While it runs it prefetches 16 floats a
    step from `ahead` on: the weights of whoever comes next.
    """
    V = ir.VectorType(F32, VL)

    @intrinsic
    def tile(typingctx, rows, pa, lda, offs, nruns, run, pa2, lda2, first2, pb, ahead, bias, lo, pc, ldc, pr, ldr, scale, shift, pd, ldd):
        sig = types.void(*[types.int64] * 21)

        def codegen(ctx, b, sig, args):
            done = b.append_basic_block("written")
            for smaller in (*sizes[1:], 0):                       # the largest size, unless the next smaller one will do
                size = sizes[sizes.index(smaller) - 1] if smaller else sizes[-1]
                if smaller:
                    here, other = b.append_basic_block(f"tile{size}"), b.append_basic_block("smaller")
                    b.cbranch(b.icmp_signed(">", args[0], ir.Constant(I64, smaller)), here, other)
                    b.position_at_end(here)
                _emit_tile(b, V, size, NV, args)
                b.branch(done)
                b.position_at_end(other if smaller else done)
            return ctx.get_dummy_value()

        return sig, codegen

    return tile


def _emit_tile(b, V, MR: int, NV: int, args) -> None:
    """The instructions of a tile of MR pixels."""
    rows, pa, lda, offs, nruns, run, pa2, lda2, first2, pb, ahead, bias, relu, pc, ldc, pr, ldr, scale, shift, pd, ldd = args
    VL = V.count
    fused = cgutils.get_or_insert_function(b.module, ir.FunctionType(V, [V] * 3), f"llvm.fma.v{VL}f32")
    fetch = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32]), "llvm.prefetch.p0f32")
    fma = lambda x, y, z: b.call(fused, [x, y, z]) if FMA else b.fadd(b.fmul(x, y), z)
    const = lambda v: ir.Constant(I64, v)
    pointer = lambda address: b.inttoptr(address, POINTER)

    def load(p, at):
        value = b.load(b.bitcast(b.gep(p, [at]), V.as_pointer()))
        value.align = 4
        return value

    def store(value, p, at):
        b.store(value, b.bitcast(b.gep(p, [at]), V.as_pointer())).align = 4

    def splat(scalar):
        one = b.insert_element(ir.Constant(V, ir.Undefined), scalar, ir.Constant(I32, 0))
        return b.shuffle_vector(one, ir.Constant(V, ir.Undefined), ir.Constant(ir.VectorType(I32, VL), [0] * VL))

    def at_least(value, bound):                                   # NaN compares false and stays
        return b.select(b.fcmp_ordered("<", value, bound), bound, value)

    pa, pa2, pb, ahead, pc, pr, pd = map(pointer, (pa, pa2, pb, ahead, pc, pr, pd))
    bias, scale, shift = map(pointer, (bias, scale, shift))
    offs = b.inttoptr(offs, I64.as_pointer())
    start = b.block
    initial = [load(bias, const(j * VL)) for j in range(NV)]
    outer, inner, latch, done = (b.append_basic_block(n) for n in ("run", "k", "latch", "done"))
    b.branch(outer)

    b.position_at_end(outer)                                      # one run of input floats
    r, q0, next0 = b.phi(I64), b.phi(POINTER), b.phi(POINTER)
    acc0 = [[b.phi(V) for _ in range(NV)] for _ in range(MR)]
    for phi, value in ((r, const(0)), (q0, pb), (next0, ahead)):
        phi.add_incoming(value, start)
    for row in acc0:
        for phi, value in zip(row, initial):
            phi.add_incoming(value, start)
    second = b.icmp_signed(">=", r, first2)
    base, ld = b.gep(b.select(second, pa2, pa), [b.load(b.gep(offs, [r]))]), b.select(second, lda2, lda)
    b.branch(inner)

    b.position_at_end(inner)                                      # k over the run
    k, q, following = b.phi(I64), b.phi(POINTER), b.phi(POINTER)
    acc = [[b.phi(V) for _ in range(NV)] for _ in range(MR)]
    for phi, value in ((k, const(0)), (q, q0), (following, next0)):
        phi.add_incoming(value, outer)
    w = [load(q, const(j * VL)) for j in range(NV)]
    new = []
    for i in range(MR):
        x = splat(b.load(b.gep(base, [b.add(b.mul(ld, const(i)), k)])))
        new.append([fma(x, w[j], acc[i][j]) for j in range(NV)])
    b.call(fetch, [following, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])     # to read, into the second-level cache
    k1, q1, next1 = b.add(k, const(1)), b.gep(q, [const(NV * VL)]), b.gep(following, [const(16)])
    for phi, value in ((k, k1), (q, q1), (following, next1)):
        phi.add_incoming(value, inner)
    for i in range(MR):
        for j in range(NV):
            acc[i][j].add_incoming(acc0[i][j], outer)
            acc[i][j].add_incoming(new[i][j], inner)
    b.cbranch(b.icmp_signed("<", k1, run), inner, latch)

    b.position_at_end(latch)
    r1 = b.add(r, const(1))
    for phi, value in ((r, r1), (q0, q1), (next0, next1)):
        phi.add_incoming(value, latch)
    for i in range(MR):
        for j in range(NV):
            acc0[i][j].add_incoming(new[i][j], latch)
    b.cbranch(b.icmp_signed("<", r1, nruns), outer, done)

    b.position_at_end(done)
    zero = ir.Constant(V, [0.0] * VL)
    bound = b.select(b.icmp_signed("==", relu, const(0)), zero, ir.Constant(V, [float("-inf")] * VL))
    two = b.icmp_unsigned("!=", b.ptrtoint(pd, I64), const(0))
    residual = b.icmp_unsigned("!=", b.ptrtoint(pr, I64), const(0))

    def write_one(i, values):
        for j in range(NV):
            store(at_least(values[j], bound), pc, b.add(b.mul(ldc, i), const(j * VL)))

    def write_two(i, values):
        for j in range(NV):
            store(values[j], pc, b.add(b.mul(ldc, i), const(j * VL)))
            y = fma(values[j], load(scale, const(j * VL)), load(shift, const(j * VL)))
            store(at_least(y, zero), pd, b.add(b.mul(ldd, i), const(j * VL)))

    def write_sum(i, values):
        write_two(i, [b.fadd(values[j], load(pr, b.add(b.mul(ldr, i), const(j * VL)))) for j in range(NV)])

    def write(pixels):
        """`pixels`: calls what it is given with (index, values) of each pixel to write."""
        with b.if_else(two) as (both, one):
            with both:
                with b.if_else(residual) as (plus, alone):
                    with plus:
                        pixels(write_sum)
                    with alone:
                        pixels(write_two)
            with one:
                pixels(write_one)

    def all_of_them(write_pixel):                                 # straight out of the registers
        for i in range(MR):
            write_pixel(const(i), new[i])

    def some_of_them(write_pixel):
        with cgutils.for_range(b, rows, intp=I64) as loop:
            write_pixel(loop.index, [b.load(b.gep(spilled, [const(0), b.add(b.mul(loop.index, const(NV)), const(j))])) for j in range(NV)])

    with b.if_else(b.icmp_signed("==", rows, const(MR)), likely=True) as (full, partial):
        with full:
            write(all_of_them)
        with partial:                                             # through the stack, as many pixels as there are
            spilled = cgutils.alloca_once(b, ir.ArrayType(V, MR * NV))
            for i in range(MR):
                for j in range(NV):
                    b.store(new[i][j], b.gep(spilled, [const(0), const(i * NV + j)]))
            write(some_of_them)


@intrinsic
def fetch_add(typingctx, address, value):
    """Add `value` to the int64 at `address`, atomically; returns what was there before."""
    sig = types.int64(types.int64, types.int64)

    def codegen(ctx, b, sig, args):
        return b.atomic_rmw("add", b.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return sig, codegen


@intrinsic
def load_acquire(typingctx, address):
    """The int64 at `address`, as another thread last wrote it."""
    sig = types.int64(types.int64)

    def codegen(ctx, b, sig, args):
        return b.load_atomic(b.inttoptr(args[0], I64.as_pointer()), "acquire", 8)

    return sig, codegen


@intrinsic
def ticks(typingctx):
    """A clock of the processor's own, in units of its own, the same for all threads."""
    sig = types.int64()

    def codegen(ctx, b, sig, args):
        return b.call(b.module.declare_intrinsic("llvm.readcyclecounter", (), ir.FunctionType(I64, [])), [])

    return sig, codegen


@intrinsic
def give_way(typingctx):
    """Let another thread have the processor."""
    sig = types.void()

    def codegen(ctx, b, sig, args):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), name), [])
        return ctx.get_dummy_value()

    return sig, codegen
