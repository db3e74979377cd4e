"""The CUDA path without a GPU: kernels and networks in the simulator, what the compiler makes of them, plans, and what is said where
something is missing. Where there is a GPU, the same cases run on it; where there is none, they are skipped and say so.

The cases themselves stand in `cuda_cases.py`.
"""
from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import random_pictures

import npresnet
from cuda_kernels import is_available
from npresnet.errors import DeviceError, MissingDependencyError
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, parameter_shapes, pretrained_cfg

ROOT = Path(__file__).resolve().parents[1]
CASES = re.findall(r"\w+", re.search(r"^CASES = .* in \(([^)]*)\)", (ROOT / "tests" / "cuda_cases.py").read_text(), re.M | re.S)[1])
needs_numba_cuda = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed: no CUDA kernel is tested")
no_gpu = pytest.mark.skipif(bool(is_available()), reason="there is a GPU: what is said without one can't be seen")


@needs_numba_cuda
@pytest.mark.parametrize("case", CASES)
def test_in_the_simulator(case):
    done = subprocess.run([sys.executable, ROOT / "tests" / "cuda_cases.py", case], env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
                          capture_output=True, text=True, timeout=400)
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
@pytest.mark.parametrize("cc", ["7.5", "8.0", "9.0", "10.0"])
def test_compiled_kernels(cc):
    from cuda_kernels.inspect import MissingTool, inspect, kernels, table, tool
    try:
        tool("ptxas"), tool("nvdisasm")
    except MissingTool as missing:
        pytest.skip(str(missing))
    rows = [inspect(kernel, cc) for kernel in kernels().values()]
    print(table(rows))
    for row in rows:
        assert row["stack"] == row["spills"] == 0, row
        if row["kernel"].startswith("conv_"):
            assert row["blocks"] >= kernels()[row["kernel"]].resident >= 3, row
            assert row["ffma_per_lds"] >= 8 and row["ffma_share"] >= 0.7, row
    assert {row["kernel"] for row in rows} >= set(re.findall(r"^def (\w+)\(", (ROOT / "cuda_kernels" / "pool.py").read_text(), re.M)) - {
        "larger", "larger4"}, "a kernel isn't inspected"


# --- plans ------------------------------------------------------------------------------------------------------------------------------

def plan_of(name, n, h, w, *, width=1.0, gpu="A100", **options):
    from cuda_kernels.performance import GPUS
    from cuda_kernels.plan import Plan
    variant = dataclasses.replace(VARIANTS[name], width=width)
    return Plan(variant, parameter_shapes(variant, global_pool=options.get("global_pool", "avg")), n, 3, h, w, GPUS[gpu],
                **dict(wanted=["head.fc"]) | options)


@needs_numba_cuda
@pytest.mark.parametrize("name", list(VARIANTS))
def test_plans(name):
    """Nothing is read before it is written or after it is gone, nothing overlaps, every product is somebody's, and none is missing."""
    from cuda_kernels import conv2d
    from cuda_kernels.plan import Activation
    rng = np.random.default_rng(len(name))
    for wanted in (["head.fc"], ["stages.1", "norm"], ["stem.pool"], None):
        n, h, w = int(rng.integers(1, 70)), int(rng.integers(1, 300)), int(rng.integers(1, 300))
        stride, gpu = int(rng.choice([8, 16, 32])), str(rng.choice(["T4", "A100", "H100", "B200"]))
        plan = plan_of(name, n, h, w, gpu=gpu, output_stride=stride, wanted=wanted)
        alive = {}
        for i, launch in enumerate(plan.launches):
            assert len(launch.args) == len(launch.kernel.signature), launch.kernel.name
            assert all(0 < blocks < 65536 for blocks in launch.grid[1:]) and 0 < launch.grid[0] < 2**31
            for y in launch.args:
                if isinstance(y, Activation):
                    alive.setdefault(id(y), y)
                    assert y.first <= i <= y.last and y.base % 64 == 0 and y.base + y.floats <= plan.size
            if launch.kernel.name.startswith("conv"):
                (h_in, w_in, _, k, p, q, r, s, *_), share = launch.args[9:20], launch.args[20]
                c = launch.args[0].c
                table = next(t for t in (conv2d.GENERAL, conv2d.POINTWISE, conv2d.ROWS) if launch.kernel in t.values())
                steps = conv2d.count_steps(table, c, r, s)
                assert (launch.grid[2] - 1) * share < steps <= launch.grid[2] * share
        tensors = sorted(alive.values(), key=lambda y: y.base)
        for i, a in enumerate(tensors):
            for b in tensors[i + 1:]:
                assert b.base >= a.base + a.size or a.last < b.first or b.last < a.first, "two activations in one place at one time"
        assert set(plan.outputs) == set(wanted or ())
    model = npresnet.create_model(name, backend="numpy")
    total = sum(launch.expected.gflop for launch in plan_of(name, 1, 75, 99).launches)
    assert total == pytest.approx(2 * model.summary((3, 75, 99)).macs / 1e9, rel=1e-3)    # the summary leaves out the classifier


@needs_numba_cuda
def test_a_kept_plan_has_the_traces_layers_in_its_order():
    for name, options in (("resnetv2_50", {}), ("resnetv2_18d", dict(output_stride=8)), ("resnetv2_34", {}), ("resnetv2_101d", {})):
        variant = dataclasses.replace(VARIANTS[name], width=0.125)
        model = ResNetV2(variant, pretrained_cfg(variant, "test"), num_classes=5, backend="numpy", **options)
        layers = model.trace(random_pictures(2, 3, 33, 34))
        plan = plan_of(name, 2, 33, 34, width=0.125, wanted=None, **options)
        assert list(plan.tensors) == list(layers)
        for path, y in plan.tensors.items():
            assert path == "head.fc" or layers[path].shape == (y.n, y.c, y.h, y.w), path


@needs_numba_cuda
def test_the_model_of_a_gpu_by_hand():
    """Two waves of blocks and a rest; and what waits for its loads."""
    from cuda_kernels.performance import ARRIVAL, ENDS, GPU, STEP, gpu_like
    gpu = GPU("g", (9, 0), 10, 128, 2.0, 1000)
    work = 128 / 32 * STEP / 4                                    # the schedulers' time, longer than 512 cycles of multiply-adds
    assert gpu.sums_us(128, 3, 65, 7) == pytest.approx((2 * (7 * 3 * work + ENDS) + 7 * max(work, ARRIVAL) + ENDS) / 2000)
    assert gpu.sums_us(64, 6, 1, 100) == pytest.approx((100 * ARRIVAL + ENDS) / 2000)
    assert gpu.moved_us(250_000) == pytest.approx(1.0) and gpu.tflops == pytest.approx(5.12)
    assert gpu_like("x", (8, 9), 54).lanes == 128 and gpu_like("x", (8, 9), 54).gb_s == pytest.approx(1555 / 2)
    assert gpu_like("x", (7, 5), 40).lanes == 64 and gpu_like("x", (12, 0), 148).gb_s == 8000


@needs_numba_cuda
def test_inspect_forecasts(capsys):
    from cuda_kernels.inspect import main
    assert main(["--gpu", "A100", "--batch", "1", "64", "--json"]) == 0
    one, many = json.loads(capsys.readouterr().out)
    assert one["input_size"] == [1, 3, 224, 224] and many["gpu"]["name"] == "A100" and one["measured_ms"] is None
    assert many["ms_a_picture"] < one["ms_a_picture"] and sum(launch["us"] for launch in one["launches"]) == pytest.approx(1e3 * one["ms"])
    assert 8.2 / 19.5 < many["ms_a_picture"] < 8.2 / 19.5 * 1.25  # near to its arithmetic, never below
    assert main(["--gpu", "T4", "--batch", "2"]) == 0
    text = capsys.readouterr().out
    assert "stages.3.blocks.2.conv3" in text and "None of its figures was measured on a GPU" in text
    with pytest.raises(SystemExit):
        main(["--gpu", "A100", "--batch", "0"])


# --- what is said where something is missing --------------------------------------------------------------------------------------------

def in_python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_without_numba_cuda_everything_says_what_to_install():
    hidden = "import sys, importlib.util as u; old = u.find_spec; u.find_spec = lambda n, *a: None if n == 'numba_cuda' else old(n, *a)\n"
    hidden += "sys.modules['numba_cuda'] = None\n"
    done = in_python(hidden + "from cuda_kernels.inspect import main; raise SystemExit(main(['--cc', '8.0']))")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pip install" in done.stderr, done.stderr
    done = in_python(hidden + "import npresnet\nprint(npresnet.create_model('demo').backend)\n"
                     "try: npresnet.create_model('demo', backend='cuda')\nexcept npresnet.MissingDependencyError as e: print(e)")
    assert done.stdout.startswith("numba\n") and "pip install 'numba-cuda[cu13]'" in done.stdout, done.stdout + done.stderr


@needs_numba_cuda
def test_without_its_tools_inspect_says_what_to_install(monkeypatch, capsys):
    from cuda_kernels import inspect
    monkeypatch.setattr(inspect, "find_spec", lambda name: None)
    assert inspect.main(["--cc", "8.0"]) == 1
    assert "nvidia-cuda-nvcc" in (said := capsys.readouterr().err) and said.count("\n") == 1


@no_gpu
def test_without_a_gpu_the_backend_says_why(monkeypatch):
    monkeypatch.delenv("NPRESNET_BACKEND", raising=False)
    with pytest.raises((DeviceError, MissingDependencyError), match="backend 'cuda' can't be used: .*numba"):
        npresnet.create_model("demo", backend="cuda")
    assert npresnet.create_model("demo").backend == "numba"


@needs_numba_cuda
@no_gpu
def test_a_runner_without_a_gpu_says_why():
    from cuda_kernels.runner import Runner
    with pytest.raises(DeviceError, match="no NVIDIA driver or no GPU"):
        Runner(VARIANTS["resnetv2_18"], {})


@pytest.mark.parametrize("capability, usable", [((7, 0), False), ((7, 5), True), ((12, 1), True)])
@needs_numba_cuda
def test_devices_that_are_too_old(capability, usable, monkeypatch):
    from numba import cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "get_current_device", lambda: SimpleNamespace(name=b"GPU", compute_capability=capability))
    found = is_available()
    assert bool(found) == usable and ("7.5 or newer" in found.reason) != usable and "GPU" in found.reason


@needs_numba_cuda
def test_drivers_errors_are_one_line():
    from numba.cuda.cudadrv.driver import CudaAPIError

    from cuda_kernels.runner import device_errors
    for error, words in ((CudaAPIError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"), "out of memory on the GPU"),
                         (CudaAPIError(999, "Call to x\nresults in UNKNOWN"), "the GPU's driver: CudaAPIError: .* results in UNKNOWN")):
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
    with pytest.raises(npresnet.NpresnetError, match="^/some/where: .*UnpicklingError.*delete that folder$"), compiled_code(kernel):
        raise UnpicklingError("truncated")
    with pytest.raises(MemoryError), compiled_code(kernel):
        raise MemoryError


@needs_numba_cuda
def test_a_driver_that_records_no_graph_is_told_of(monkeypatch):
    from cuda_kernels import backend
    closed = []

    def refuse():
        raise RuntimeError("not supported")
    builder = SimpleNamespace(begin_building=refuse, close=lambda: closed.append(True))
    monkeypatch.setattr(backend.cuda, "current_context", lambda: SimpleNamespace(device=SimpleNamespace(id=0)))
    monkeypatch.setattr("cuda.core.Device", lambda i: SimpleNamespace(set_current=lambda: None, create_graph_builder=lambda: builder))
    with pytest.warns(UserWarning, match="no CUDA graph could be recorded .*one by one"):
        assert backend.record([]) is None
    assert closed == [True]


def test_device_arrays_are_not_taken_silently_by_other_backends():
    there = SimpleNamespace(__cuda_array_interface__={})
    with pytest.raises(ValueError, match="GPU's memory: create the model with backend='cuda'"):
        npresnet.create_model("demo", backend="numpy")(there)
