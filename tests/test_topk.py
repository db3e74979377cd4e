"""The k largest: against PyTorch, and orders written down by hand."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from npresnet import ops


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_topk_is_pytorchs(dtype):
    x = np.random.default_rng(3).permutation(60).reshape(3, 20).astype(dtype)
    for k in (0, 1, 5, 20):
        values, indices = ops.topk(x, k)
        want = torch.topk(torch.from_numpy(x), k)
        np.testing.assert_array_equal(values, want.values)
        np.testing.assert_array_equal(indices, want.indices)
    np.testing.assert_array_equal(ops.topk(x)[1], torch.topk(torch.from_numpy(x), 5).indices)


def test_topk_orders_ties_and_nan():
    values, indices = ops.topk(np.array([1.0, np.nan, 3.0, np.inf, 3.0, -np.inf]), 6)
    np.testing.assert_array_equal(indices, [1, 3, 2, 4, 0, 5])
    assert torch.topk(torch.tensor([1.0, np.nan, 3.0, np.inf]), 2).indices.tolist() == [1, 3]
    np.testing.assert_array_equal(values, [np.nan, np.inf, 3, 3, 1, -np.inf])


@pytest.mark.parametrize("values, dtypes, order", [
    ([3, 0, 255, 1, 254, 255], ["u1", "u2", "i8"], [2, 5, 4, 0, 3, 1]),
    ([0, 2**16 - 1, 2**15, 2**15 - 1], ["u2", "u4", "i4"], [1, 2, 3, 0]),
    ([1, 2**64 - 1, 0, 2**63, 2**63 - 1], ["u8"], [1, 3, 4, 0, 2]),
    ([0, -128, 127, -1, -127], ["i1", "i2", "i8"], [2, 0, 3, 4, 1]),
    ([-1, -2**63, 2**63 - 1, 0], ["i8"], [2, 3, 0, 1]),
    ([False, True, False, True, True], ["?"], [1, 3, 4, 0, 2]),
], ids=str)
def test_topk_of_whole_numbers_and_truths(values, dtypes, order):
    """The order by hand: unsigned numbers and the smallest signed one have no negative."""
    for dtype in dtypes:
        x = np.array([values, values], dtype)
        for k in range(len(values) + 1):
            top, indices = ops.topk(x, k)
            assert top.dtype == x.dtype and indices.dtype == np.int64
            assert indices.tolist() == [order[:k]] * 2
            assert top.tolist() == [[values[i] for i in order[:k]]] * 2
