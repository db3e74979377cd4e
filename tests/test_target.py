"""Which vector instructions a processor is taken to have, on machines that aren't here."""
from __future__ import annotations

from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import config

from npresnet.fast import kernels, target


@pytest.fixture
def machine(monkeypatch):
    """Pretends to be another machine: its triple, and the features that LLVM reports of it."""
    def pretend(triple: str, **features: bool) -> set[str]:
        monkeypatch.setattr(llvm, "get_process_triple", lambda: triple)
        monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: features)
        monkeypatch.setattr(config, "CPU_FEATURES", None)
        monkeypatch.setattr(config, "CPU_NAME", None)
        return target.features()
    return pretend


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin23.6.0",
                                    "aarch64-pc-windows-msvc"])
def test_every_64_bit_arm_has_neon(machine, triple, monkeypatch):
    """LLVM reports no features of a Mac, nor where /proc/cpuinfo is missing."""
    assert machine(triple) == {"neon"}
    monkeypatch.setattr(config, "CPU_NAME", "neoverse-n1")
    assert target.features() == {"neon"}


def test_x86_goes_by_its_features(machine):
    assert machine("x86_64-unknown-linux-gnu") == set()
    assert machine("x86_64-apple-darwin", avx2=True, fma=True, avx512f=False) == {"avx2", "fma"}


def test_no_assembly_is_emitted():
    """Assembly needs a parser that nobody initialises on ARM: the process would be aborted."""
    text = Path(kernels.__file__).read_text("utf-8")
    assert ".asm(" not in text and "InlineAsm" not in text


@pytest.mark.slow
def test_the_clock_runs():
    from numba import njit

    @njit
    def read():
        return kernels.ticks()
    first, second = read(), read()
    assert isinstance(first, int | np.integer) and second >= first > 0
