"""Each rung of the ladder on the CPU computes the convolution; the figures are for the reader."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npresnet import ops

PATH = Path(__file__).resolve().parents[1] / "tutorials" / "cpu_ladder.py"
ladder = pytest.importorskip("cpu_ladder", reason="the ladder is written in Numba")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_each_rung_against_the_definition(number):
    """A small layer, whose last tile of pixels isn't full, and whose border must not leak."""
    rung = ladder.RUNGS[number]
    x, w = ladder.make_layer(c=5, k=2 * ladder.NR, size=17)
    want = ops.conv2d_naive(x[None, :, :5], w)[0]                 # the first three rows
    arrays = rung.arrange(x, w)
    assert arrays[2].size >= len(w) * 17 * 17
    arrays[2][:] = np.nan                                         # nothing is left as it was
    rung.kernel(*arrays)
    y = rung.result(arrays[2])
    delta = np.abs(y[:, :3] - want).max() / np.abs(want).max()
    print(f"{rung.name}: Δ {delta:.1e}, whole {ladder.difference(rung, x, w):.1e}")
    assert y.shape == (len(w), 17, 17) and delta < 1e-6
    assert ladder.difference(rung, x, w) < 1e-6


@pytest.mark.slow
def test_there_are_six_and_a_difference_is_seen():
    assert len(ladder.RUNGS) == 6
    x, w = ladder.make_layer(c=3, k=ladder.NR, size=9)
    wrong = ladder.RUNGS[0]._replace(kernel=lambda x, w, y: ladder.loops(x, w[:, :, ::-1], y))
    assert ladder.difference(wrong, x, w) > 0.1


@pytest.mark.slow
def test_as_a_command():
    done = subprocess.run([sys.executable, PATH, "2"], capture_output=True, text=True,
                          timeout=300, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    print(done.stdout)
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "loops"], ["2", "order"]]
    assert lines[3].startswith("The roof: ") and "multiply-adds alone" in lines[3]
    wrong = subprocess.run([sys.executable, PATH, "7"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr
