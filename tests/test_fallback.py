"""Where Numba can't be had: "auto" is the reference and says so, "numba" says what is wrong."""
from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import random_pictures

import npresnet
from npresnet import backend, fast
from npresnet.errors import BackendWarning, MissingDependencyError, NpresnetError
from npresnet.fast import engine as engine_module
from npresnet.reference import Reference

ROOT = Path(__file__).resolve().parents[1]
PHOTO = str(ROOT / "tutorials" / "photo.jpg")


@pytest.fixture
def pictures() -> np.ndarray:
    return random_pictures(1, 3, 64, 64)


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch):
    """No GPU, and nothing in the environment that chooses."""
    monkeypatch.delenv("NPRESNET_BACKEND", raising=False)
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")


def refuse(message: str, kind: type[Exception] = ImportError):
    def load(name: str):
        raise kind(message)
    return load


def check_reference(model, pictures):
    """It works, it is the reference, and says so."""
    want = npresnet.create_model("demo", backend="numpy")(pictures)
    np.testing.assert_array_equal(model(pictures), want)
    assert model.backend == "numpy" and "backend numpy" in repr(model)
    assert type(model._engine) is Reference


@pytest.mark.parametrize("error", [
    ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.9."),
    OSError("Could not find/load shared object file 'libllvmlite.so'\nin any of 3 places"),
    AttributeError("module 'numpy' has no attribute 'long'")])
def test_numba_does_not_load(monkeypatch, pictures, error):
    monkeypatch.setattr(fast, "import_module", refuse(str(error), type(error)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = npresnet.create_model("demo")                     # which imports no Numba
    with pytest.warns(BackendWarning, match="going on with backend 'numpy'") as said:
        model(pictures)
    assert len(said) == 1 and type(error).__name__ in str(said[0].message)
    assert " ".join(str(error).split()) in str(said[0].message)
    assert len(str(said[0].message).splitlines()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_reference(model, pictures)                          # it was said once
    with pytest.warns(BackendWarning):                            # a copy looks for itself
        assert pickle.loads(pickle.dumps(model)).backend == "numpy"
    asked = npresnet.create_model("demo", backend="numba")
    for _ in range(2):
        with pytest.raises(MissingDependencyError, match="Numba doesn't load here") as raised:
            asked(pictures)
        assert len(str(raised.value).splitlines()) == 1


def test_what_is_asked_first_is_the_truth(monkeypatch, pictures):
    monkeypatch.setattr(fast, "import_module", refuse("no"))
    model = npresnet.create_model("demo")
    with pytest.warns(BackendWarning):
        assert model.backend == "numpy"
    check_reference(model, pictures)
    model.load_state_dict(model.state_dict())
    with pytest.warns(BackendWarning):
        model(pictures)


def test_numba_is_not_installed(monkeypatch, pictures):
    monkeypatch.setattr(fast, "find_spec", lambda name: None)
    with pytest.warns(BackendWarning, match="isn't installed.*going on with backend 'numpy'"):
        model = npresnet.create_model("demo")
    check_reference(model, pictures)
    with pytest.raises(MissingDependencyError, match="pip install numba"):
        npresnet.create_model("demo", backend="numba")


@pytest.mark.parametrize("value, off", [("1", True), ("2", True), ("0", False), ("", False)])
def test_numba_without_its_compiler(monkeypatch, pictures, value, off):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
    if not off:
        assert npresnet.create_model("demo").backend == "numba"
        return
    with pytest.warns(BackendWarning, match="NUMBA_DISABLE_JIT is set.*backend 'numpy'"):
        model = npresnet.create_model("demo")
    check_reference(model, pictures)
    with pytest.raises(NpresnetError, match="NUMBA_DISABLE_JIT is set"):
        npresnet.create_model("demo", backend="numba")


def test_num_threads_goes_with_what_may_be_the_reference(monkeypatch, pictures):
    monkeypatch.setattr(fast, "import_module", refuse("no"))
    model = npresnet.create_model("demo", num_threads=1)
    with pytest.warns(BackendWarning):
        model(pictures)
    check_reference(model, pictures)


def test_no_name_is_no_choice(monkeypatch):
    with pytest.raises(ValueError, match="unknown backend ''"):
        npresnet.create_model("demo", backend="")
    monkeypatch.setenv("NPRESNET_BACKEND", "auto")
    assert backend.choose_backends("auto") == ("numba", "numpy")


def test_a_simulated_gpu_is_chosen_by_nobody(monkeypatch):
    monkeypatch.setattr("cuda_kernels.check_available", lambda: None)
    assert backend.choose_backend("auto") == "numba"
    assert backend.choose_backend("cuda") == "cuda"
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    assert backend.choose_backend("auto") == "cuda"


# The command, taking the engine although the reference would answer a single picture sooner.
ENGINE_FIRST = """
import sys
from npresnet.commands import common
common.quickest = lambda name, macs: name
from npresnet.__main__ import run
sys.exit(run())
"""


def command(*args: str, run: str = "", **environment: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    start = ["-c", run] if run else ["-m", "npresnet"]
    return subprocess.run([sys.executable, *start, *args], capture_output=True, text=True,
                          cwd=ROOT, timeout=120,
                          env=env | dict(PYTHONPATH=str(ROOT)) | environment)


@pytest.mark.slow
def test_the_command_line_says_it_in_a_line(tmp_path):
    done = command("classify", "--json", PHOTO, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0 and "tench" in done.stdout, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("npresnet classify: backend 'numba' can't be used: NUMBA_DISABLE")
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1')")
    done = command("classify", "--json", PHOTO, run=ENGINE_FIRST,
                   PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 0 and "tench" in done.stdout, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Numba needs NumPy 1" in done.stderr, done.stderr
    done = command("classify", PHOTO, NUMBA_DISABLE_JIT="1", NPRESNET_BACKEND="numba")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


# --- errors that aren't the cache's ---------------------------------------------------------------


@pytest.mark.parametrize("error, want", [
    (OSError(28, "No space left on device"), NpresnetError), (MemoryError("no room"), MemoryError),
    (RuntimeError("something else"), RuntimeError)])
def test_errors_keep_their_words(monkeypatch, pictures, error, want):
    from npresnet.fast.packing import Packed

    def fail(self, together):
        raise error

    model = npresnet.create_model("demo", backend="numba", num_threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(Packed, "array", fail)
        with pytest.raises(want, match=str(error.args[-1])) as raised:
            model(pictures)
    assert len(str(raised.value).splitlines()) == 1 and "delete" not in str(raised.value)
    assert np.isfinite(model(pictures)).all()


def test_what_numba_can_not_compile_is_said_in_a_line(monkeypatch, pictures):
    from numba.core.errors import TypingError

    def fail(*_args):
        raise TypingError("no such\ntype\n" + "at all " * 200)

    model = npresnet.create_model("demo", backend="numba", num_threads=1)
    monkeypatch.setattr(engine_module.L, "run", fail)
    with pytest.raises(NpresnetError, match="TypingError: no such type at all") as raised:
        model(pictures)
    assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 500
