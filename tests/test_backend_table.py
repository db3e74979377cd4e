"""The table of backends: its tolerances are the design's, and "auto" goes through it in order."""
from __future__ import annotations

import pytest
from helpers import BACKENDS as TESTED
from helpers import LAYER_TOLERANCE, LOGITS_TOLERANCE

from npresnet.backend import BACKENDS, choose_backend
from npresnet.commands.compare import TOLERANCES
from npresnet.errors import DeviceError, MissingDependencyError


def test_tolerances():
    """(layers, logits), as they come and exact: the design's section "Numbers must agree"."""
    both = {name: ((entry.tolerance.layers, entry.tolerance.logits),
                   (entry.exact_tolerance.layers, entry.exact_tolerance.logits))
            for name, entry in BACKENDS.items()}
    assert both == {"numpy": ((5e-6, 5e-6), (5e-6, 5e-6)),
                    "numba": ((1e-4, 5e-5), (1e-5, 1e-5)),
                    "cuda": ((1e-5, 1e-5), (1e-5, 1e-5))}
    assert list(BACKENDS) == TESTED
    assert {name: own[0] for name, (own, _) in both.items()} == LAYER_TOLERANCE
    assert {name: own[1] for name, (own, _) in both.items()} == LOGITS_TOLERANCE


def test_what_compare_holds_the_reference_to():
    assert TOLERANCES == {"timm": 5e-6, "numba": 1e-4, "cuda": 1e-5}


@pytest.mark.parametrize("error, chosen", [
    (None, "cuda"), (DeviceError("no GPU"), "numba"),
    (MissingDependencyError("no numba-cuda"), "numba")])
def test_auto_takes_a_gpu_that_can_run(monkeypatch, error, chosen):
    def check():
        if error:
            raise error

    monkeypatch.delenv("NPRESNET_BACKEND", raising=False)
    monkeypatch.setattr("cuda_kernels.check_available", check)
    assert choose_backend("auto") == chosen
    assert choose_backend("numpy") == "numpy" and choose_backend("numba") == "numba"
