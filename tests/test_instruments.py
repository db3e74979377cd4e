"""Two runs held against each other: what is compared, what is not, and how it is told."""
from __future__ import annotations

import json

import numpy as np
import pytest

import npresnet
from npresnet.instruments.comparison import Comparison


def one(x, y, **options):
    """What is said of a single layer that is x in one run and y in the other."""
    layer, = npresnet.compare({"x": np.array(x)}, {"x": np.array(y)}, **options).layers
    return layer


def trace(*paths: str) -> dict[str, np.ndarray]:
    return {path: np.ones((1, 2)) for path in paths}


# --- the numbers ----------------------------------------------------------------------------------


def test_p99_by_hand():
    x, y = np.zeros(200), np.zeros(200)
    x[0] = -8.0                                                   # the scale
    y[0] = -8.0
    y[-3:] = 4.0, 2.0, 1.0                                        # 2 of 200 may be larger
    layer = one(x, y)
    assert (layer.max_delta, layer.p99_delta) == (4 / 8, 1 / 8)
    assert (layer.mean_delta, layer.scale) == (7 / 8 / 200, 8.0)
    y[-3] = 0.0
    y[-4] = 4.0
    y[-2:] = 2.0, 0.0
    assert one(x, y).p99_delta == 0                               # 198 of 200 are equal


@pytest.mark.parametrize("count, rank", [(1, 1), (99, 99), (100, 99), (101, 100), (1000, 990)])
def test_p99_is_one_of_the_differences(count, rank):
    """The smallest that 99 % of them do not exceed: of 1 … n, divided by n."""
    y = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert one(np.zeros(count), y).p99_delta == rank / count


def test_p99_of_what_is_not_finite():
    x, y = np.ones(300), np.ones(300)
    y[:3] = np.inf, np.nan, -np.inf                               # one in a hundred
    layer = one(x, y)
    assert (layer.max_delta, layer.p99_delta, layer.mean_delta) == (np.inf, 0.0, np.inf)
    y[3] = np.nan
    assert one(x, y).p99_delta == np.inf
    x[:] = y
    assert one(x, y).p99_delta == 0
    assert one(np.zeros(0), np.zeros(0)).p99_delta == 0
    plain = npresnet.compare({"x": np.ones(2)}, {"x": np.full(2, np.nan)}).as_dict()
    assert plain["layers"][0]["p99_delta"] == "inf" and json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize("x, y, scale", [
    ([1.0, -2.0], [1.0, -8.0], 8.0),
    ([1.0, -8.0], [1.0, -2.0], 8.0),
    ([0.0, 0.0], [0.0, 3.0], 3.0),
    ([np.inf, 1.0], [np.inf, -4.0], 4.0),
    ([np.nan, 4.0], [np.nan, 1.0], 4.0),
    ([-0.0, 0.0], [0.0, 0.0], 0.0),
    (np.array([1.0, 2.0], "f"), np.array([1e-30, 6.0]), 6.0),
], ids=str)
def test_the_larger_magnitude_may_be_in_either_run(x, y, scale):
    """The same share of the same scale, whichever of the two comes first."""
    a, b = one(x, y), one(y, x)
    print(a)
    assert a.scale == b.scale == scale
    largest = max(abs(p - q) for p, q in zip(x, y) if np.isfinite([p, q]).all())
    assert a.max_delta == b.max_delta == (largest / scale if scale else 0.0)


@pytest.mark.parametrize("share, agrees", [(4.9e-6, True), (5.1e-6, False)])
def test_the_tolerance_is_the_references_unless_given(share, agrees):
    a, b = {"x": np.array([2.0, 0.0])}, {"x": np.array([2.0, 2 * share])}
    result = npresnet.compare(a, b)
    assert result.tolerance == 5e-6 and (result.first_divergence is None) == agrees
    assert npresnet.compare(a, b, 6e-6).first_divergence is None
    assert npresnet.compare(a, b, 4e-6).first_divergence == "x"
    assert npresnet.compare(a, b, share / 2).tolerance == share / 2


def test_what_is_just_at_the_tolerance_agrees():
    a, b = {"x": np.array([4.0, 0.0])}, {"x": np.array([4.0, 1.0])}
    assert npresnet.compare(a, b, 0.25).first_divergence is None
    assert npresnet.compare(a, b, np.nextafter(0.25, 0)).first_divergence == "x"


def test_the_first_in_the_first_runs_order_and_the_largest_of_all():
    a = {path: np.array([1.0, 0.0]) for path in "abcd"}
    b = {path: np.array([1.0, delta]) for path, delta in zip("dcba", (0.3, 0.5, 0.2, 0.0))}
    result = npresnet.compare(a, b, 0.25, ("one", "two"))
    assert [layer.max_delta for layer in result.layers] == [0.0, 0.2, 0.5, 0.3]
    assert (result.first_divergence, result.max_delta) == ("c", 0.5)
    assert (result.names, result.order) == (("one", "two"), tuple("abcd"))
    assert npresnet.compare(b, a, 0.25).first_divergence == "d"
    assert npresnet.compare(a, b).names == ("the first run", "the second run")


# --- what was not compared ------------------------------------------------------------------------


@pytest.mark.parametrize("a, b, order", [
    ("abcd", "abcd", "abcd"),
    ("abcd", "ad", "abcd"),
    ("ad", "abcd", "abcd"),
    ("acd", "abd", "acbd"),                                       # b or c first? the first run's
    ("bc", "abcd", "abcd"),
    ("ace", "bcdef", "abcdef"),
    ("ab", "bxa", "xab"),                                         # in the first run's order
    ("a", "zya", "zya"),
])
def test_order(a, b, order):
    """Forward order of both, whichever of them has a layer."""
    result = npresnet.compare(trace(*a), trace(*b))
    common = set(a) & set(b)
    assert "".join(result.order) == order
    assert [layer.path for layer in result.layers] == [path for path in a if path in common]
    assert "".join(result.not_compared) == "".join(p for p in order if p not in common)
    rows = str(result).splitlines()[2:-1]
    assert "".join(row[0] for row in rows) == order
    assert [row.endswith("  not compared") for row in rows] == [p not in common for p in order]


def test_what_was_not_compared_counts_for_nothing():
    a, b = trace("in", "fused", "out"), trace("in", "extra", "out", "more")
    a["fused"] = np.full(3, np.nan)
    result = npresnet.compare(a, b, 1e-4)
    assert (result.only_a, result.only_b) == (("fused",), ("extra", "more"))
    assert result.max_delta == 0 and result.first_divergence is None and len(result.layers) == 2
    plain = result.as_dict()
    assert plain["not_compared"] == ["fused", "extra", "more"]
    assert (plain["only_a"], plain["only_b"]) == (["fused"], ["extra", "more"])
    assert str(result).splitlines()[-1] == (
        "2 layers agree within 0.0001; the largest Δ is 0.0e+00; not compared: "
        "1 that the second run does not compute, 2 that the first run does not compute")


def test_the_verdict():
    def verdict(a: dict, b: dict) -> str:
        return str(npresnet.compare(a, b, 1e-4, ("numpy", "numba"))).splitlines()[-1]

    both, wrong = trace("a", "b", "c"), trace("a", "b", "c")
    wrong["b"] = np.array([[1.0, 0.5]])
    agree = "; the largest Δ is 0.0e+00"
    assert verdict(both, both) == f"all 3 layers agree within 0.0001{agree}"
    lacks = "not compared: 1 that numba does not compute"
    assert verdict(both, trace("a", "c")) == f"2 layers agree within 0.0001{agree}; {lacks}"
    lacks = "not compared: 1 that numpy does not compute"
    assert verdict(trace("a", "c"), both) == f"2 layers agree within 0.0001{agree}; {lacks}"
    assert verdict(both, wrong) == "first to diverge: b (tolerance 0.0001)"
    assert verdict(trace("b", "c"), wrong) == f"first to diverge: b (tolerance 0.0001); {lacks}"


def test_the_table_of_a_comparison():
    a = {"x": np.array([1.0, -4.0, 2.0]), "fused": np.ones(5), "y": np.array([[np.nan]])}
    b = {"x": np.array([1.0, -4.0, 3.0]), "y": np.array([[0.5]])}
    assert str(npresnet.compare(a, b, tolerance=0.2)) == "\n".join([
        "layer  shape    max Δ    p99 Δ   mean Δ  largest |x|",
        "────────────────────────────────────────────────────────────────────────",
        "x      3      2.5e-01  2.5e-01  8.3e-02            4  ◀ first to diverge",
        "fused                                                       not compared",
        "y      1×1        inf      inf      inf          0.5                   ◀",
        "first to diverge: x (tolerance 0.2); not compared: "
        "1 that the second run does not compute"])
    assert isinstance(npresnet.compare(a, b), Comparison)
