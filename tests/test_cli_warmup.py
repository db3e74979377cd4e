"""`npresnet warmup`: afterwards nothing is left to compile, for any user; and who computes when."""
from __future__ import annotations

import json

import pytest
from cli_helpers import run

from npresnet import backend
from npresnet.backend import BACKENDS, quickest


@pytest.mark.slow
def test_afterwards_nothing_is_compiled(tmp_path, photos):
    """Also where nothing can be written later."""
    env = dict(NUMBA_CACHE_DIR=str(tmp_path / "code"))
    first = run("warmup", "--json", env=env)
    assert first.returncode == 0 and b"compiling the fast engine" in first.stderr
    assert json.loads(first.stdout)["folder"] == str(tmp_path / "code" / "npresnet")
    again = run("warmup", env=env)
    assert again.returncode == 0 and again.stderr == b""
    assert again.stdout.startswith(b"ready in ") and b"kept in " in again.stdout
    for path in (tmp_path / "code").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = run("classify", "--backend", "numba", str(photos / "a.png"), env=env)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_where_nothing_can_be_kept_it_says_so(tmp_path):
    (tmp_path / "file").touch()
    done = run("warmup", env=dict(NUMBA_CACHE_DIR=str(tmp_path / "file")))
    assert done.returncode == 0 and b"it can't be kept in" in done.stdout


def test_a_handful_is_the_references_and_many_are_the_engines(monkeypatch):
    """By the table's own figures: what is sooner done."""
    monkeypatch.delenv("NPRESNET_BACKEND", raising=False)
    for compiled in (True, False):
        monkeypatch.setattr("npresnet.fast.compiled_code_is_kept", lambda kept=compiled: kept)
        small, large = 1e6, 1e15
        assert quickest("numba", small) == "numpy" and quickest("numba", large) == "numba"
        pace, own = BACKENDS["numba"].pace, BACKENDS["numpy"].pace
        start = pace.start + (0 if compiled else pace.compiling)
        even = start / (1 / own.rate - 1 / pace.rate)
        assert quickest("numba", even * 0.99) == "numpy"
        assert quickest("numba", even * 1.01) == "numba"
    assert quickest("numpy", large) == "numpy"
    monkeypatch.setenv("NPRESNET_BACKEND", "numba")
    assert quickest("numba", small) == "numba"
    assert backend.REFERENCE == "numpy"
