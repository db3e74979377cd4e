"""The CUDA path without a GPU: kernels and networks in the simulator, compiled code, and errors.

Where there is a GPU, the same cases run on it; where there is none, they are skipped and say so.
The cases themselves stand in `cuda_cases.py`; plans and forecasts are in `test_cuda_plans.py`.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace

import pytest
from helpers import slow_unless

import cuda_kernels
import npresnet
from cuda_kernels import is_available
from npresnet.errors import DeviceError, MissingDependencyError
from npresnet.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
CASES_FILE = ROOT / "tests" / "cuda_cases.py"
NAMES = re.search(r"^CASES = .* in \(([^)]*)\)", CASES_FILE.read_text(), re.M | re.S)[1]
CASES = re.findall(r"\w+", NAMES)
needs_numba_cuda = pytest.mark.skipif(
    find_spec("numba_cuda") is None, reason="numba-cuda is not installed: no CUDA kernel is tested")
no_gpu = pytest.mark.skipif(
    bool(is_available()), reason="there is a GPU: what is said without one can't be seen")


# --- kernels --------------------------------------------------------------------------------------

@pytest.mark.slow
@needs_numba_cuda
@pytest.mark.parametrize("case", slow_unless(["norms"], CASES))
def test_in_the_simulator(case):
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, CASES_FILE, case], env=env, capture_output=True,
                          text=True, timeout=400)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu(case):
    found = is_available()
    if not found:
        pytest.skip(f"needs a GPU: {found.reason}")
    import cuda_cases
    cuda_cases.CASES[case]()


@needs_numba_cuda
@pytest.mark.slow
@pytest.mark.parametrize("cc", ["7.5", "8.0", "9.0", "10.0"])
def test_compiled_kernels(cc):
    from cuda_kernels.inspect import MissingTool, inspect, kernels, table, tool
    try:
        tool("ptxas")
        tool("nvdisasm")
    except MissingTool as missing:
        pytest.skip(str(missing))
    rows = [inspect(kernel, cc) for kernel in kernels().values()]
    print(table(rows))
    for row in rows:
        assert row["stack"] == row["spills"] == 0, row
        if row["kernel"].startswith("conv_"):
            assert row["blocks"] >= kernels()[row["kernel"]].resident >= 3, row
            assert row["ffma_per_lds"] >= 8 and row["ffma_share"] >= 0.7, row
    source = (ROOT / "cuda_kernels" / "pool.py").read_text()
    pools = set(re.findall(r"^def (\w+)\(", source, re.M)) - {"larger", "larger4"}
    assert {row["kernel"] for row in rows} >= pools, "a kernel isn't inspected"


# --- what is said where something is missing ------------------------------------------------------

WITHOUT_NUMBA_CUDA = """
import sys, importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "numba_cuda" else found(name, *a)
sys.modules["numba_cuda"] = None
"""
INSPECT = """
from cuda_kernels.inspect import main
raise SystemExit(main(["--cc", "8.0"]))
"""
CREATE = """
import npresnet
print(npresnet.create_model("demo").backend)
try:
    npresnet.create_model("demo", backend="cuda")
except npresnet.MissingDependencyError as error:
    print(error)
"""


def in_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)


@pytest.mark.slow
def test_without_numba_cuda_everything_says_what_to_install():
    done = in_python(WITHOUT_NUMBA_CUDA + INSPECT)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "pip install" in done.stderr, done.stderr
    done = in_python(WITHOUT_NUMBA_CUDA + CREATE)
    said = done.stdout + done.stderr
    assert done.stdout.startswith("numba\n"), said
    assert "pip install \"numba-cuda[cu13]\"" in done.stdout, said


@needs_numba_cuda
def test_without_its_tools_inspect_says_what_to_install(monkeypatch, capsys):
    from cuda_kernels import inspect
    monkeypatch.setattr(inspect, "find_spec", lambda name: None)
    assert inspect.main(["--cc", "8.0"]) == 1
    said = capsys.readouterr().err
    assert "nvidia-cuda-nvcc" in said and said.count("\n") == 1


@no_gpu
def test_without_a_gpu_the_backend_says_why(monkeypatch):
    monkeypatch.delenv("NPRESNET_BACKEND", raising=False)
    errors = DeviceError, MissingDependencyError
    with pytest.raises(errors, match="backend 'cuda' can't be used: .*numba"):
        npresnet.create_model("demo", backend="cuda")
    assert npresnet.create_model("demo").backend == "numba"


@needs_numba_cuda
@no_gpu
def test_a_runner_without_a_gpu_says_why():
    from cuda_kernels.runner import Runner
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        Runner(VARIANTS["resnetv2_18"], {})


@pytest.mark.parametrize("capability, usable", [((7, 0), False), ((7, 5), True), ((12, 1), True)])
@needs_numba_cuda
def test_devices_that_are_too_old(capability, usable, monkeypatch):
    from numba import cuda
    device = SimpleNamespace(name=b"GPU", compute_capability=capability)
    monkeypatch.setattr(cuda_kernels, "has_driver", lambda: True)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "get_current_device", lambda: device)
    found = is_available()
    assert bool(found) == usable
    assert ("7.5 or newer" in found.reason) != usable and "GPU" in found.reason


@no_gpu
def test_a_driver_is_looked_for_before_numba_cuda_is_imported(monkeypatch):
    """Which takes it half a second, where there is none in most cases."""
    monkeypatch.delenv("NUMBA_CUDA_DRIVER", raising=False)
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setattr(cuda_kernels, "DRIVERS", ("libnothing.so",))
    monkeypatch.setitem(sys.modules, "cuda_kernels.backend", None)
    assert not is_available()
    monkeypatch.setattr(cuda_kernels, "DRIVERS", ("libnothing.so", "libc.so.6"))
    assert cuda_kernels.has_driver()
    monkeypatch.setattr(cuda_kernels, "DRIVERS", ())
    monkeypatch.setenv("NUMBA_CUDA_DRIVER", "/elsewhere/libcuda.so")
    assert cuda_kernels.has_driver()


@needs_numba_cuda
def test_drivers_errors_are_one_line():
    from numba.cuda.cudadrv.driver import CudaAPIError

    from cuda_kernels.runner import device_errors
    full = CudaAPIError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
    unknown = CudaAPIError(999, "Call to x\nresults in UNKNOWN")
    for error, words in ((full, "out of memory on the GPU"),
                         (unknown, "the GPU's driver: CudaAPIError: .* results in UNKNOWN")):
        with pytest.raises(DeviceError, match=words) as caught, device_errors():
            raise error
        assert "\n" not in str(caught.value)
    with pytest.raises(KeyError), device_errors():
        raise KeyError("not the driver's")
    with pytest.raises(DeviceError, match="needs 3 MB"), device_errors():
        raise DeviceError("out of memory on the GPU: a picture needs 3 MB")


@needs_numba_cuda
def test_damaged_compiled_code_is_named():
    from cuda_kernels.runner import compiled_code
    kernel = SimpleNamespace(stats=SimpleNamespace(cache_path="/some/where"))
    words = "^/some/where: .*UnpicklingError.*delete that folder$"
    with pytest.raises(npresnet.NpresnetError, match=words), compiled_code(kernel):
        raise UnpicklingError("truncated")
    with pytest.raises(MemoryError), compiled_code(kernel):
        raise MemoryError


@needs_numba_cuda
def test_a_driver_that_records_no_graph_is_told_of(monkeypatch):
    from cuda_kernels import backend
    closed = []

    def refuse():
        raise RuntimeError("not supported")

    context = SimpleNamespace(device=SimpleNamespace(id=0))
    builder = SimpleNamespace(begin_building=refuse, close=lambda: closed.append(True))
    device = SimpleNamespace(set_current=lambda: None, create_graph_builder=lambda: builder)
    monkeypatch.setattr(backend.cuda, "current_context", lambda: context)
    monkeypatch.setattr("cuda.core.Device", lambda i: device)
    with pytest.warns(UserWarning, match="no CUDA graph could be recorded .*one by one"):
        assert backend.record([]) is None
    assert closed == [True]


def test_device_arrays_are_not_taken_silently_by_other_backends():
    there = SimpleNamespace(__cuda_array_interface__={})
    with pytest.raises(ValueError, match="GPU's memory: create the model with backend='cuda'"):
        npresnet.create_model("demo", backend="numpy")(there)
