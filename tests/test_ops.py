"""Every operation against PyTorch, its naive form and numbers worked out by hand."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import assert_close
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from npresnet import ops

TOLERANCE = 2e-6                                                  # of PyTorch's long float32 sums
small = settings(max_examples=60, deadline=None)
one_or_two = st.integers(1, 2)


def array(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def t(x):
    return None if x is None else torch.from_numpy(np.array(x))


def in_float64(function, *arrays, **options):
    """PyTorch's answer summed in float64.

    Where a sum cancels, its float32 answer is off by more than any tolerance.
    """
    doubles = (None if a is None else t(a).double() for a in arrays)
    return function(*doubles, **options).float().numpy()


@st.composite
def convolutions(draw):
    """x, weight, bias and geometry of a convolution that fits."""
    groups = draw(st.integers(1, 3))
    n = draw(st.integers(0, 3))
    c, k = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    geometry = dict(stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
                    padding=(draw(st.integers(0, 3)), draw(st.integers(0, 3))),
                    dilation=(draw(one_or_two), draw(one_or_two)))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    for size, kernel, p, d in zip((h, w), (r, s), geometry["padding"], geometry["dilation"]):
        assume(size + 2 * p >= d * (kernel - 1) + 1)
    seed = draw(st.integers(0, 99))
    bias = array(k, seed=seed) if draw(st.booleans()) else None
    weight = array(k, c // groups, r, s, seed=seed + 1)
    return array(n, c, h, w, seed=seed), weight, bias, geometry | {"groups": groups}


@small
@given(convolutions())
def test_conv2d_is_pytorchs(case):
    x, weight, bias, geometry = case
    before = x.copy()
    y = ops.conv2d(x, weight, bias, **geometry)
    want = in_float64(F.conv2d, x, weight, bias, **geometry)
    assert_close("conv2d against PyTorch", y, want, 2e-7)
    np.testing.assert_array_equal(x, before)


@settings(max_examples=25, deadline=None)
@given(convolutions())
def test_conv2d_is_its_definition(case):
    x, weight, bias, geometry = case
    got = ops.conv2d(x, weight, bias, **geometry)
    want = ops.conv2d_naive(x, weight, bias, **geometry)
    assert_close("conv2d against its loops", got, want, 2e-7)


@small
@given(convolutions())
def test_im2col_is_unfold(case):
    x, weight, _, geometry = case
    assume(len(x))                                                # unfold takes no empty batch
    geometry = {key: value for key, value in geometry.items() if key != "groups"}
    got = ops.im2col(x, weight.shape[2:], **geometry)
    np.testing.assert_array_equal(got, F.unfold(t(x), weight.shape[2:], **geometry).numpy())


def test_conv2d_by_hand():
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)    # 1 2 3 / 4 5 6 / 7 8 9
    weight = np.array([[[[1, 0], [0, -1]]]], np.float32)          # upper left minus lower right
    np.testing.assert_array_equal(ops.conv2d(x, weight)[0, 0], [[1 - 5, 2 - 6], [4 - 8, 5 - 9]])
    y = ops.conv2d(x, weight, np.array([10], "f"), stride=2, padding=1)
    np.testing.assert_array_equal(y[0, 0], [[10 - 1, 10 - 3], [10 - 7, 10 + 5 - 9]])
    np.testing.assert_array_equal(ops.conv2d(x, weight, dilation=2)[0, 0], [[1 - 9]])


def test_conv2d_seven_by_seven_stride_two_at_the_border():
    """The stem's own geometry, on odd and even sizes, one pixel included."""
    weight = array(4, 3, 7, 7)
    for h, w in ((1, 1), (1, 8), (7, 7), (8, 9), (33, 225)):
        x = array(3, 3, h, w, seed=h)
        want = F.conv2d(t(x), t(weight), None, 2, 3).numpy()
        assert_close(f"7×7 on {h}×{w}", ops.conv2d(x, weight, None, 2, 3), want, TOLERANCE)


def test_sums_are_rounded_once():
    """Sums that cancel, whatever their order: float32 accumulation loses them."""
    rng = np.random.default_rng(0)
    large, small = (rng.standard_normal((8, count), np.float32) for count in (500, 24))
    x = rng.permuted(np.concatenate([1e4 * large, -1e4 * large, small], 1), axis=1)
    want = np.array([[math.fsum(row)] for row in x.astype(float).tolist()])
    ones = np.ones((1, 1024), np.float32)
    got = ops.conv2d(x[:, :, None, None], ones[:, :, None, None])
    np.testing.assert_allclose(got[:, :, 0, 0], want, rtol=1e-6)
    np.testing.assert_allclose(ops.linear(x, ones), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conv2d_keeps_the_dtype_and_takes_any_layout(dtype):
    x, weight = array(2, 6, 9, 8, dtype=dtype), array(4, 6, 3, 3, dtype=dtype)
    want = ops.conv2d(x, weight, padding=1)
    assert want.dtype == dtype
    wide = array(2, 6, 9, 16, dtype=dtype)
    wide[..., ::2] = x
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for layout in (wide[..., ::2], np.asfortranarray(x), channels_last):
        layout.flags.writeable = False
        np.testing.assert_array_equal(ops.conv2d(layout, weight, padding=1), want)


def test_a_picture_doesnt_depend_on_its_batch():
    x, weight = array(3, 8, 11, 7), array(16, 8, 3, 3)
    alone = np.concatenate([ops.conv2d(picture[None], weight, padding=1) for picture in x])
    np.testing.assert_array_equal(ops.conv2d(x, weight, padding=1), alone)


def test_nan_and_inf_go_where_pytorch_sends_them():
    x, weight = array(1, 2, 6, 6), array(3, 2, 3, 3)
    x[0, 0, 2, 2], x[0, 1, 5, 5] = np.nan, np.inf
    got = ops.conv2d(x, weight, padding=1)
    want = F.conv2d(t(x), t(weight), padding=1).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(ops.relu(x), F.relu(t(x)).numpy())
    np.testing.assert_array_equal(ops.max_pool2d(x, 3, 2, 1), F.max_pool2d(t(x), 3, 2, 1).numpy())
    np.testing.assert_array_equal(ops.max_pool2d(x, 3, 2, 1), ops.max_pool2d_naive(x, 3, 2, 1))
    got = ops.softmax(x.reshape(2, 36))
    want = F.softmax(t(x).reshape(2, 36), -1).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@st.composite
def pools(draw):
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    geometry = dict(stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
                    padding=tuple(draw(st.integers(0, k // 2)) for k in kernel),
                    ceil_mode=draw(st.booleans()))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    for size, k, p, s in zip((h, w), kernel, geometry["padding"], geometry["stride"]):
        assume(size + 2 * p + (s - 1 if geometry["ceil_mode"] else 0) >= k)
    n, c = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return array(n, c, h, w, seed=draw(st.integers(0, 99))), kernel, geometry


@small
@given(pools(), one_or_two)
def test_max_pool_is_pytorchs_and_its_definition(case, dilation):
    x, kernel, geometry = case
    for size, k, p in zip(x.shape[2:], kernel, geometry["padding"]):
        assume(size + 2 * p >= dilation * (k - 1) + 1 or dilation == 1)
    geometry = geometry | {"dilation": dilation}
    got = ops.max_pool2d(x, kernel, **geometry)
    np.testing.assert_array_equal(got, F.max_pool2d(t(x), kernel, **geometry).numpy())
    np.testing.assert_array_equal(got, ops.max_pool2d_naive(x, kernel, **geometry))


@small
@given(pools(), st.booleans())
def test_avg_pool_is_pytorchs_and_its_definition(case, count):
    x, kernel, geometry = case
    geometry = geometry | {"count_include_pad": count}
    got = ops.avg_pool2d(x, kernel, **geometry)
    assert_close("avg_pool2d", got, F.avg_pool2d(t(x), kernel, **geometry).numpy(), 1e-6)
    want = ops.avg_pool2d_naive(x, kernel, **geometry)
    assert_close("avg_pool2d against its loops", got, want, 1e-6)


def test_pools_by_hand():
    x = -np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)   # a border of zeros would win
    np.testing.assert_array_equal(ops.max_pool2d(x, 3, 2, 1)[0, 0], [[-1, -2], [-4, -5]])
    y = ops.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    np.testing.assert_array_equal(y[0, 0], [[-3, -4.5], [-7.5, -9]])
    y = ops.avg_pool2d(x, 3, 2, 1)
    np.testing.assert_array_equal(y[0, 0, 0], [-np.float32(12) / 9, -np.float32(16) / 9])


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 5, 7, 2), (2, 2, 7, 7), (0, 4, 3, 3)])
def test_global_pools_are_timms_definitions(shape):
    x = array(*shape)
    avg, peak = F.adaptive_avg_pool2d(t(x), 1), t(x).amax((2, 3), keepdim=True)
    wanted = {"avg": avg, "max": peak, "avgmax": 0.5 * (avg + peak),
              "catavgmax": torch.cat([avg, peak], 1), "": t(x)}
    for kind, want in wanted.items():
        assert_close(f"global pool {kind!r}", ops.global_pool(x, kind), want.numpy(), 5e-7)
    with pytest.raises(ValueError, match="unknown global_pool 'mean'"):
        ops.global_pool(x, "mean")


@small
@given(st.integers(0, 3), st.integers(1, 6), st.integers(0, 5), st.integers(0, 99))
def test_batch_norm_is_pytorchs(n, c, side, seed):
    x, (weight, bias, mean) = array(n, c, side, side + 1, seed=seed), array(3, c, seed=seed + 1)
    var = np.abs(array(c, seed=seed + 2))
    want = F.batch_norm(t(x), t(mean), t(var), t(weight), t(bias), False, 0.0, 1e-5).numpy()
    assert_close("batch_norm", ops.batch_norm(x, weight, bias, mean, var), want, 1e-6)


def test_batch_norm_is_pytorchs_to_the_last_bit():
    """Where the processor has a fused multiply-add, PyTorch uses it: the two must be equal."""
    x, (weight, bias, mean) = array(2, 64, 30, 31) * 3, array(3, 64, seed=1)
    var = np.abs(array(64, seed=2)) + np.float32(0.1)
    want = F.batch_norm(t(x), t(mean), t(var), t(weight), t(bias), False, 0.0, 1e-5).numpy()
    different = (ops.batch_norm(x, weight, bias, mean, var) != want).mean()
    processor = torch.backends.cpu.get_cpu_capability()
    print(f"{100 * different:.1f} % of the results differ in the last bit ({processor})")
    assert different == 0 or processor not in ("AVX2", "AVX512")


def test_batch_norm_by_hand():
    x = np.array([[[[3.0]], [[5.0]]]], np.float32)
    vectors = np.array([[2, 1], [1, 0], [1, 5], [4, 16]], np.float32)  # weight, bias, mean, var
    y = ops.batch_norm(x, *vectors, eps=0.0)
    np.testing.assert_array_equal(y.ravel(), [(3 - 1) / 2 * 2 + 1, 0])


@small
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_linear_is_pytorchs(n, c, k, with_bias, seed):
    x, weight = array(n, c, seed=seed), array(k, c, seed=seed + 1)
    bias = array(k, seed=seed + 2) if with_bias else None
    want = in_float64(F.linear, x, weight, bias)
    assert_close("linear", ops.linear(x, weight, bias), want, 2e-7)


@small
@given(st.integers(1, 4), st.integers(1, 20), st.sampled_from([1e-3, 1.0, 300.0]),
       st.integers(0, 99))
def test_softmax_is_pytorchs(n, k, scale, seed):
    x = array(n, k, seed=seed) * np.float32(scale)
    assert_close("softmax", ops.softmax(x), F.softmax(t(x), -1).numpy(), 1e-6)


def test_softmax_by_hand():
    y = ops.softmax(np.log(np.array([1.0, 2.0, 5.0])))
    np.testing.assert_allclose(y, [1 / 8, 2 / 8, 5 / 8])
    np.testing.assert_array_equal(ops.softmax(np.array([1e38, 1e38], np.float32)), [0.5, 0.5])


@pytest.mark.parametrize("axis", [(), (-1,), (0,), (1,), (2,)])
def test_softmax_along_an_axis(axis):
    """The last one unless another is asked for."""
    x = array(2, 3, 4)
    want = F.softmax(t(x), *axis or (-1,)).numpy()
    assert_close("softmax", ops.softmax(x, *axis), want, 1e-6)


X = np.zeros((1, 4, 5, 5), np.float32)


@pytest.mark.parametrize("call, words", [
    (lambda: ops.conv2d(X[0], np.zeros((1, 4, 3, 3))),
     r"expected x of shape \(N, C, H, W\), got \(4, 5, 5\)"),
    (lambda: ops.conv2d(X, np.zeros((1, 3, 3, 3))), "wants 3 input channels, x has 4"),
    (lambda: ops.conv2d(X, np.zeros((4, 4, 3))), r"expected weight of shape"),
    (lambda: ops.conv2d(X, np.zeros((4, 4, 3, 3)), np.zeros(3)), r"expected bias of shape \(4,\)"),
    (lambda: ops.conv2d(X, np.zeros((4, 2, 3, 3)), groups=3), "in 3 groups"),
    (lambda: ops.conv2d(X, np.zeros((1, 4, 7, 7))), "doesn't fit into 5"),
    (lambda: ops.conv2d(X, np.zeros((1, 4, 3, 3)), stride=0), "stride 0"),
    (lambda: ops.max_pool2d(X, 3, padding=2), "padding 2 is more than half"),
    (lambda: ops.max_pool2d(X, 7), "doesn't fit"),
    (lambda: ops.avg_pool2d(X, 12, 2, 1, ceil_mode=True), "doesn't fit"),
    (lambda: ops.batch_norm(X, *[np.zeros(3)] * 4), "four vectors"),
    (lambda: ops.linear(np.zeros((2, 3)), np.zeros((4, 5))), "expected x"),
    (lambda: ops.topk(np.zeros(3), 4), "k = 4"),
])
def test_shapes_that_dont_fit_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
