"""Compiled code on disk: after any change to a source that goes into it, the old code never
runs."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ANSWER = """
import json, sys
import numpy as np
from numba.core import event
import npresnet
from npresnet.fast import target
compiled = event.install_recorder("numba:compile")
x = np.random.default_rng(0).standard_normal((1, 3, 97, 131), np.float32)
with compiled as record:
    logits = npresnet.create_model("demo", backend="numba", num_threads=1)(x)
want = npresnet.create_model("demo", backend="numpy")(x)
delta = float(np.abs(logits - want).max() / np.abs(want).max())
print(json.dumps(dict(delta=delta, compiled=len(record.buffer), vl=target.VL,
                      imported="numba.np.linalg" in sys.modules)))
"""
# A fault in each source that the engine's compiled code is made of. All keep the file's length.
FAULTS = {
    "kernels.py": ("b.call(fused, [x, y, z])", "b.call(fused, [x, y, y])"),
    "winograd.py": ("y = b.fadd(value, shift)", "y = b.fsub(value, shift)"),
    "loops.py": ("y[c] += x[c]", "y[c] -= x[c]"),
    "packing.py": ("np.float32(own[c, tap] * factor)", "np.float32(own[c, tap] - factor)"),
}


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the two packages, free of compiled code."""
    for package in ("npresnet", "cuda_kernels"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    """Edit a file so that neither its length nor its date gives it away, as pip may install it."""
    before, text = path.stat(), path.read_text("utf-8")
    assert text.count(old) >= 1 and len(old) == len(new), f"{path.name} has changed: {old!r}"
    path.write_text(text.replace(old, new), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for compiled in path.parent.glob("__pycache__/*.pyc"):        # Python's own go by the date
        compiled.unlink()


def in_python(folder: Path, code: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    env = clean | dict(PYTHONPATH=str(folder), XDG_CACHE_HOME=str(folder / ".cache"),
                       HOME=str(folder), LOCALAPPDATA=str(folder / ".cache")) | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(folder: Path) -> dict:
    """What a process of its own computes, and how many functions it had to compile."""
    return json.loads(in_python(folder, ANSWER))


@pytest.mark.slow
def test_an_edit_of_any_source_compiles_anew(copy):
    first, second = answer(copy), answer(copy)
    print("compiled", first["compiled"], "then", second["compiled"], "delta", first["delta"])
    assert first["compiled"] > 0 and second["compiled"] == 0
    assert first["delta"] == second["delta"] < 5e-5
    for name, (right, wrong) in FAULTS.items():
        path = copy / "npresnet" / "fast" / name
        replace(path, right, wrong)
        broken = answer(copy)
        print(f"{name}: delta {broken['delta']:.2g}")
        assert not broken["delta"] < 1e-2, f"the code compiled before the edit of {name} still ran"
        replace(path, wrong, right)
    third = answer(copy)
    assert third["delta"] == first["delta"]


@pytest.mark.slow
def test_nothing_is_left_beside_the_sources(copy):
    """`pip uninstall` would leave it there; and code is found again wherever the sources stand."""
    before = answer(copy)
    assert before["compiled"] and not [path for path in copy.rglob("*.nb[ci]")
                                       if not path.is_relative_to(copy / ".cache")]
    there = copy / "elsewhere"
    for package in ("npresnet", "cuda_kernels"):
        shutil.copytree(copy / package, there / package)
    shutil.copytree(copy / ".cache", there / ".cache")
    after = answer(there)
    assert after["compiled"] == 0 and after["delta"] == before["delta"]


@pytest.mark.slow
def test_to_load_code_takes_nothing_that_compiling_needs(copy):
    """All that Numba can compile takes longer to import than everything else; it comes when some
    function has to be compiled after others were loaded."""
    first, second = answer(copy), answer(copy)
    assert first["imported"] and second["compiled"] == 0
    assert not second["imported"], "Numba's own library was imported to load compiled code"
    for path in (copy / ".cache" / "npresnet").glob("run_*"):
        path.unlink()
    third = answer(copy)
    print("compiled", first["compiled"], "then", second["compiled"], "then", third["compiled"])
    assert 0 < third["compiled"] < first["compiled"]
    assert first["delta"] == second["delta"] == third["delta"] < 5e-5


@pytest.mark.slow
def test_other_vector_constants_compile_anew(copy):
    """As an upgrade over the old wheel: narrower tiles, which old code would overrun."""
    first = answer(copy)
    target = copy / "npresnet" / "fast" / "target.py"
    for wide in ("(14, 8, 7, 4)", "(6, 4, 3)", "(4, 2)"):
        replace(target, wide, wide.replace("14", "12").replace("6", "5").replace("(4,", "(3,"))
    second = answer(copy)
    assert second["compiled"] > 0 and second["delta"] < 5e-5 and first["vl"] == second["vl"]


def test_only_their_own_wing_goes_into_compiled_functions():
    """The digest covers a wing's own files: constants from elsewhere would go unseen."""
    from npresnet.fast import kernels, loops, packing, report, target, winograd
    for module in (kernels, loops, packing, report, target, winograd):
        for name, function in vars(module).items():
            if not hasattr(function, "py_func"):
                continue
            for used in function.py_func.__code__.co_names:
                value = function.py_func.__globals__.get(used)
                home = getattr(getattr(value, "py_func", value), "__module__", None) or ""
                assert not home.startswith("npresnet") or home.startswith("npresnet.fast"), (
                    f"{module.__name__}.{name} uses {used} of {home}")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda isn't installed")
def test_cuda_kernels_are_kept_under_the_digest_of_their_sources(copy):
    code = ("from cuda_kernels import conv2d; kernel = conv2d.naive\n"
            "print(kernel._cache._impl.filename_base)")
    first = in_python(copy, code)
    assert in_python(copy, code) == first
    for path in sorted((copy / "cuda_kernels").glob("*.py")):
        text = path.read_text("utf-8")
        path.write_text(text + "\n# changed\n", "utf-8")
        assert in_python(copy, code) != first, f"{path.name} doesn't count"
        path.write_text(text, "utf-8")
    assert in_python(copy, code) == first
