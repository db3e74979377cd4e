"""Winograd's convolution: a 3×3, stride-1 convolution with 2.25 or 4 times fewer multiplications. The fast engine's transforms.

An m×m tile of outputs comes from n×n inputs, n = m + 2. Both the inputs d and the kernel g are transformed, multiplied place by
place (summed over the channels: n² small matrix products), and transformed back:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

                            multiplications an output      places n²    error (float32, largest seen)
    direct                            9                        –             1e-7
    m = 2  F(2×2, 3×3)              16/4 = 4                  16             3e-7
    m = 4  F(4×4, 3×3)             36/16 = 2.25               36             3e-6

The kernels are transformed once, in float64 (packing.py). Inputs and products are transformed here, VL channels at a time, by
straight-line vector code written out from the matrices: a 0 costs nothing and a ±1 no multiplication.

Source: Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, sections 4.1 and 4.3.
"""
from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .kernels import F32, I64

MATRICES: dict[int, dict[str, list]] = {
    2: dict(BT=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
            G=[[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
            AT=[[1, 1, 1, 0], [0, 1, -1, -1]]),
    4: dict(BT=[[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1]],
            G=[[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6],
               [0, 0, 1]],
            AT=[[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
}


def _combine(b, V, row, values):
    """Σ row[i] · values[i], one instruction a term where it can be."""
    VL, total = V.count, None
    for factor, value in zip(row, values):
        if factor == 0:
            continue
        if total is None:
            total = value if factor == 1 else b.fmul(ir.Constant(V, [float(factor)] * VL), value)
        elif abs(factor) == 1:
            total = b.fadd(total, value) if factor > 0 else b.fsub(total, value)
        else:
            total = b.fadd(total, b.fmul(ir.Constant(V, [float(factor)] * VL), value))
    return total


def make_transforms(m: int, VL: int):
    """The two transforms of F(m×m, 3×3) for VL channels of one tile, as Numba intrinsics (int64 arguments, addresses in bytes, strides
    in floats):

    forward(i, src, row, pixel, dst, plane)            n×n pixels of src → row i of Bᵀ d B, place (i, j) at dst + (i·n + j)·plane
    backward(src, plane, dst, row, pixel, bias, high, wide)   Aᵀ M A + bias, ReLU → the first high×wide of m×m pixels of dst
    """
    n, V = m + 2, ir.VectorType(F32, VL)
    BT, AT = MATRICES[m]["BT"], MATRICES[m]["AT"]

    def at(b, address, offset):
        return b.bitcast(b.gep(b.inttoptr(address, F32.as_pointer()), [offset]), V.as_pointer())

    def load(b, address, offset):
        value = b.load(at(b, address, offset))
        value.align = 4
        return value

    def place(b, i, row, j, pixel):
        return b.add(b.mul(row, ir.Constant(I64, i)), b.mul(pixel, ir.Constant(I64, j)))

    @intrinsic
    def forward(typingctx, i, src, row, pixel, dst, plane):
        sig = types.void(*[types.int64] * 6)

        def codegen(ctx, b, sig, args):
            which, src, row, pixel, dst, plane = args
            done = b.append_basic_block("done")
            choice = b.switch(which, done)
            for i in range(n):
                choice.add_case(ir.Constant(I64, i), b.append_basic_block(f"row{i}"))
                b.position_at_end(choice.cases[-1][1])
                half = [_combine(b, V, BT[i], [load(b, src, place(b, k, row, j, pixel)) if BT[i][k] else None for k in range(n)])
                        for j in range(n)]
                for j in range(n):
                    b.store(_combine(b, V, BT[j], half), at(b, dst, b.mul(plane, ir.Constant(I64, i * n + j)))).align = 4
                b.branch(done)
            b.position_at_end(done)
            return ctx.get_dummy_value()

        return sig, codegen

    @intrinsic
    def backward(typingctx, src, plane, dst, row, pixel, bias, high, wide):
        sig = types.void(*[types.int64] * 8)

        def codegen(ctx, b, sig, args):
            src, plane, dst, row, pixel, bias, high, wide = args
            M = [[load(b, src, b.mul(plane, ir.Constant(I64, i * n + j))) for j in range(n)] for i in range(n)]
            shift, zero = load(b, bias, ir.Constant(I64, 0)), ir.Constant(V, [0.0] * VL)
            half = [[_combine(b, V, row, [M[k][j] for k in range(n)]) for j in range(n)] for row in AT]
            for i, values in enumerate([_combine(b, V, row, half[i]) for row in AT] for i in range(m)):
                for j, value in enumerate(values):
                    y = b.fadd(value, shift)
                    y = b.select(b.fcmp_ordered("<", y, zero), zero, y)                   # NaN compares false and stays
                    inside = b.and_(b.icmp_signed("<", ir.Constant(I64, i), high), b.icmp_signed("<", ir.Constant(I64, j), wide))
                    with b.if_then(inside, likely=True):
                        b.store(y, at(b, dst, place(b, i, row, j, pixel))).align = 4
            return ctx.get_dummy_value()

        return sig, codegen

    return forward, backward
