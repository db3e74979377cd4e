"""Winograd's convolution in NumPy against the definition, and the engine's matrices against the
derivation."""
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from npresnet import ops
from npresnet.ops.winograd import coefficients

SIZES = [(1, 1, 3, 3, 0), (2, 3, 7, 10, 1), (1, 5, 4, 13, 0), (3, 2, 1, 1, 1), (1, 4, 9, 9, 2),
         (2, 1, 1, 8, 1)]


def exact(matrix: np.ndarray) -> list[list[Fraction]]:
    """As fractions: the thirds and twenty-fourths that floats come close to."""
    return [[Fraction(float(value)).limit_denominator(1000) for value in row] for row in matrix]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_matrices_are_an_identity(m):
    """In fractions, for every single pixel and tap: y[i] = Σ d[i + k] · g[k], no more, no less."""
    AT, G, BT = map(exact, ops.winograd_matrices(m))
    n = m + 2
    for i in range(m):
        for pixel in range(n):
            for tap in range(3):
                share = sum(AT[i][k] * G[k][tap] * BT[k][pixel] for k in range(n))
                assert share == (pixel == i + tap), (i, pixel, tap)
    assert all(float(v).is_integer() for v in np.ravel(ops.winograd_matrices(m).BT))


def test_four_multiplications_by_hand():
    """d = (1, 2, 3, 4), g = (1, 10, 100): 1 + 20 + 300 and 2 + 30 + 400."""
    d, g = np.array([1.0, 2, 3, 4]), np.array([1.0, 10, 100])
    assert ops.winograd_f23(d, g).tolist() == [321, 432]
    AT, G, BT = ops.winograd_matrices(2)
    assert (AT @ ((G @ g) * (BT @ d))).tolist() == [321, 432]


def test_f23_counts_four():
    """Multiplications of pixels, counted: halves of the kernel's sums don't count."""
    class Pixel(float):
        count = 0

        def __add__(self, other):
            return Pixel(float(self) + other)

        def __sub__(self, other):
            return Pixel(float(self) - other)

        def __mul__(self, other):
            Pixel.count += 1
            return float(self) * other

    ops.winograd_f23([Pixel(v) for v in (1, 2, 3, 4)], [1.0, 10.0, 100.0])
    assert Pixel.count == 4


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SIZES)
def test_against_the_definition(shape, m):
    n, c, h, w, padding = shape
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((n, c, h, w)), rng.standard_normal((4, c, 3, 3))
    bias = rng.standard_normal(4)
    want = ops.conv2d_naive(x, weight, bias, padding=padding)
    y = ops.winograd_conv2d(x, weight, bias, padding, m)
    delta = np.abs(y - want).max() / np.abs(want).max()
    print(f"Δ {delta:.1e}")
    assert y.shape == want.shape and delta < 1e-13


@pytest.mark.parametrize("m, limit", [(2, 1e-6), (4, 1e-5)])
def test_in_float32(m, limit):
    """What it costs: more digits, the larger the tile."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 64, 28, 28), np.float32)
    weight = rng.standard_normal((32, 64, 3, 3), np.float32)
    want = ops.conv2d(x.astype(np.float64), weight.astype(np.float64), padding=1)
    delta = {each: np.abs(ops.winograd_conv2d(x, weight, padding=1, m=each) - want).max()
             / np.abs(want).max() for each in (1, m)}
    print(delta)
    assert ops.winograd_conv2d(x, weight, padding=1, m=m).dtype == np.float32
    assert 1e-8 < delta[m] < limit


def test_the_input_stays_as_it_is():
    x = np.random.default_rng(7).standard_normal((1, 2, 6, 6), np.float32)
    x.flags.writeable = False
    ops.winograd_conv2d(x[:, :, ::-1], np.ones((1, 2, 3, 3), np.float32))


def test_wrong_arguments():
    x, weight = np.zeros((1, 2, 5, 5)), np.zeros((1, 2, 3, 3))
    for bad in (0, 5):
        with pytest.raises(ValueError, match=f"m = 1 to 4, not {bad}"):
            ops.winograd_conv2d(x, weight, m=bad)
    for args in ((x[0], weight), (x, weight[:, :1]), (x, np.zeros((1, 2, 5, 5)))):
        with pytest.raises(ValueError, match=r"weight \(K, C, 3, 3\)"):
            ops.winograd_conv2d(*args)
    with pytest.raises(ValueError, match="doesn't fit"):
        ops.winograd_conv2d(x[:, :, :2], weight)


def test_coefficients():
    assert coefficients([1, -1]) == [-1, 0, 1] and coefficients([]) == [1]


@pytest.mark.parametrize("m", [2, 4])
def test_the_engine_has_the_same_matrices(m):
    """But for signs that meet each other."""
    fast = pytest.importorskip("npresnet.fast.winograd")
    own = {name: np.array(value, float) for name, value in fast.MATRICES[m].items()}
    AT, G, BT = ops.winograd_matrices(m)
    for name, matrix in dict(AT=AT, G=G, BT=BT).items():
        np.testing.assert_array_equal(np.abs(own[name]), np.abs(matrix))
    signs = [np.sign(np.sum(own["BT"][k] * BT[k])) * np.sign(np.sum(own["G"][k] * G[k]))
             * np.sign(np.sum(own["AT"][:, k] * AT[:, k])) for k in range(m + 2)]
    assert signs == [1] * (m + 2)
