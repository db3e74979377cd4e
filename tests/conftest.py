"""Tests of the cuda backend are skipped where there is no GPU, and say so."""
from __future__ import annotations

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(item, "callspec", None) and item.callspec.params.get("backend") == "cuda":
        from cuda_kernels import is_available
        found = is_available()
        if not found:
            pytest.skip(f"needs a GPU: {found.reason}")
