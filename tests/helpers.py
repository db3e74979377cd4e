"""What test files share: one comparison, and random weights and pictures, alike on any machine."""
from __future__ import annotations

import os
from contextlib import contextmanager

import numpy as np
import pytest

from npresnet import variants

BACKENDS = ["numpy", "numba", "cuda"]                             # cuda: see conftest.py
LAYER_TOLERANCE = {"numpy": 5e-6, "numba": 1e-4, "cuda": 1e-5}
LOGITS_TOLERANCE = {"numpy": 5e-6, "numba": 5e-5, "cuda": 1e-5}


def slow_unless(quick, values) -> list:
    """Parameters for pytest, of which all but those in `quick` are marked slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow)
            for value in values]


def assert_close(what: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> float:
    """Assert the same shape and dtype, and values within tolerance.

    Δ, the largest difference as a share of the largest magnitude, is at most `tolerance`. NaN has
    to meet NaN, Inf the same Inf. Prints how much of the tolerance was used, and returns Δ.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, wanted {want.dtype}"
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=what)
    stray = np.count_nonzero(~np.isfinite(got[finite]))
    assert stray == 0, f"{what}: {stray} values are not finite"
    scale = np.abs(want[finite]).max(initial=0.0) or 1.0
    difference = np.abs(got[finite].astype(np.float64) - want[finite])
    delta = float(difference.max(initial=0.0) / scale)
    used = 100 * delta / tolerance
    print(f"{what}: Δ = {delta:.1e}, {used:.0f} % of the tolerance {tolerance:g}")
    assert delta <= tolerance, f"{what}: Δ = {delta:.2e} is more than {tolerance:g}"
    return delta


def random_state(shapes: dict[str, tuple], seed: int) -> dict[str, np.ndarray]:
    """He weights, and batch norms away from the identity, so that no layer is trivial.

    The same on every machine.
    """
    state = {}
    for i, name in enumerate(sorted(shapes)):
        rng = np.random.default_rng([seed, i])
        shape = shapes[name]
        if name.endswith(variants.COUNTER):
            state[name] = np.array(1, np.int64)
        elif len(shape) == 4:
            sigma = np.float32(np.sqrt(2 / np.prod(shape[1:])))
            state[name] = rng.standard_normal(shape, np.float32) * sigma
        elif name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif name.endswith(".weight"):
            state[name] = rng.uniform(0.6, 1.3, shape).astype(np.float32)
        else:
            state[name] = (0.3 * rng.standard_normal(shape)).astype(np.float32)
    return state


def random_pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal noise (N, C, H, W) float32, the same on every machine."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def awkward_picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Pixels (height, width, 3) uint8, smooth and sharp parts, the same on every machine."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, (x * 2 + 255 - y) % 256], -1)
    noise = np.random.default_rng(seed).integers(0, 64, (height, width, 3))
    return ((waves + noise) % 256).astype(np.uint8)


@contextmanager
def unprivileged():
    """Root may read and write everything: be nobody for a while."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)
