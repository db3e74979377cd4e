"""Winograd's 3×3 convolution in plain NumPy: fewer multiplications for the same result.

Two neighbouring outputs of a filter with three taps take six multiplications. Four are enough:

    y0 = d0·g0 + d1·g1 + d2·g2        m1 = (d0 − d2) · g0
    y1 = d1·g0 + d2·g1 + d3·g2        m2 = (d1 + d2) · (g0 + g1 + g2)/2
                                      m3 = (d2 − d1) · (g0 − g1 + g2)/2
    y0 = m1 + m2 + m3                 m4 = (d1 − d3) · g2
    y1 = m2 − m3 − m4

This is F(2, 3). What stands beside the kernel is worked out once for all pictures, and what stands
beside the pixels are sums and differences. With three matrices it reads

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]                                   ⊙: place by place

and in two dimensions, done along the rows and along the columns,

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A                            m×m outputs from n×n pixels, n = m + 2

With many channels the products of one place are summed over C: n² small matrix products.

                        multiplications an output
    direct                       9
    F(2×2, 3×3)           4² / 2² = 4
    F(4×4, 3×3)           6² / 4² = 2.25      and larger numbers on the way: less exact

Where the matrices come from: see `winograd_matrices`. `npresnet/fast/winograd.py` is the same in
vector code.

Axes: N pictures, C channels, H×W pixels in, K output channels, P×Q pixels out.
Source: Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308;
Winograd 1980, "Arithmetic Complexity of Computations".
"""
from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import NamedTuple

import numpy as np

from .conv import output_size, pad2d, windows

POINTS = (0, 1, -1, 2, -2)                                        # and infinity
TAPS = 3


class WinogradMatrices(NamedTuple):
    """AT (m, n): from products to outputs. G (n, 3): from the kernel. BT (n, n): from the pixels.
    float64, n = m + 2."""
    AT: np.ndarray
    G: np.ndarray
    BT: np.ndarray


def winograd_f23(d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Two outputs of three taps g (3,) over four pixels d (4,), by four multiplications: (2,)."""
    m1 = (d[0] - d[2]) * g[0]
    m2 = (d[1] + d[2]) * ((g[0] + g[1] + g[2]) / 2)
    m3 = (d[2] - d[1]) * ((g[0] - g[1] + g[2]) / 2)
    m4 = (d[1] - d[3]) * g[2]
    return np.array([m1 + m2 + m3, m2 - m3 - m4])


def winograd_matrices(m: int) -> WinogradMatrices:
    """The matrices of F(m, 3), m = 1 to 4, worked out in fractions and rounded once.

    Two polynomials are multiplied by the values that they have at some points: at each point one
    multiplication gives the value of the product, and n values determine its n coefficients. Its
    degree may count as a point of its own, "infinity", whose value is the leading coefficient.
        g(p) = g0 + g1·p + g2·p²                 a row of G for each point p; infinity: (0, 0, 1)
        coefficients from values                 by Lagrange: N_p(x) / N_p(p), where N_p(x) is the
                                                 product of (x − q) over all other points q
    A filter is that multiplication read backwards, which turns every matrix on its side: BT holds
    the coefficients of N_p, and AT the powers of the points. The 1 / N_p(p) goes into G, which is
    computed once, so that BT and AT are whole numbers.
    """
    if not 1 <= m <= len(POINTS) - 1:
        raise ValueError(f"there are matrices for m = 1 to {len(POINTS) - 1}, not {m}")
    n, points = m + TAPS - 1, POINTS[:m + TAPS - 2]               # n − 1 points, and infinity
    AT, G, BT = np.zeros((m, n)), np.zeros((n, TAPS)), np.zeros((n, n))
    for i, p in enumerate(points):
        others = [q for q in points if q != p]
        scale = Fraction(1, prod(p - q for q in others))          # 1 / N_p(p)
        G[i] = [float(scale * p**k) for k in range(TAPS)]
        AT[:, i] = [p**k for k in range(m)]
        BT[i, :n - 1] = coefficients(others)
    G[-1, -1] = AT[-1, -1] = 1                                    # infinity
    BT[-1] = coefficients(points)
    return WinogradMatrices(AT, G, BT)


def coefficients(roots: list[int] | tuple[int, ...]) -> list[int]:
    """Of the product of (x − q) over the roots q, the constant one first."""
    product = [1]
    for q in roots:
        product = [low - q * high for low, high in zip([0, *product], [*product, 0])]
    return product


def winograd_conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None,
                    padding: int = 0, m: int = 2) -> np.ndarray:
    """`conv2d` with 3×3 kernels and stride 1, in tiles of m×m outputs: (N, C, H, W) → (N, K, P, Q).

    weight (K, C, 3, 3), bias (K,) or None. The result has x's dtype, and so has everything on the
    way but the kernels' transform, which is computed in float64: that is how engines do it, and
    shows what it costs in digits.
    Raises ValueError on shapes that don't fit, and if m isn't 1 to 4.
    """
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[1:] != (x.shape[1], TAPS, TAPS):
        raise ValueError(f"expected x (N, C, H, W) and weight (K, C, 3, 3), got {x.shape} and "
                         f"{weight.shape}")
    AT, G, BT = winograd_matrices(m)
    AT, BT = AT.astype(x.dtype), BT.astype(x.dtype)               # whole numbers: nothing is lost
    N, C, H, W = x.shape
    K, n = len(weight), m + TAPS - 1
    P, Q = (output_size(size, TAPS, 1, padding) for size in (H, W))
    down, across = -(-P // m), -(-Q // m)                         # tiles, the last ones perhaps cut
    # Tiles overlap by two pixels; where the last one reaches beyond the border, it finds zeros.
    padded = pad2d(x, padding, padding + down * m - P, padding, padding + across * m - Q)
    d = windows(padded, (n, n), (m, m), (1, 1), (down, across))   # (N, C, n, n, down, across)
    V = np.einsum("ik,nckldt,jl->ijcndt", BT, d, BT, optimize=True)       # Bᵀ d B
    V = V.reshape(n * n, C, N * down * across)                            # (n·n, C, tiles)
    U = np.einsum("ik,ockl,jl->ijoc", G, weight, G, optimize=True)        # G g Gᵀ, in float64
    U = U.astype(x.dtype).reshape(n * n, K, C)                            # (n·n, K, C)
    M = (U @ V).reshape(n, n, K, N, down, across)                         # n·n matrix products
    y: np.ndarray = np.einsum("ik,klondt,jl->noditj", AT, M, AT, optimize=True)    # Aᵀ M A
    y = y.reshape(N, K, down * m, across * m)[:, :, :P, :Q]       # the last tiles may be cut
    return y if bias is None else y + bias.reshape(1, K, 1, 1)
