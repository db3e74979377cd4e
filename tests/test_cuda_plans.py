"""Plans for the GPU, and forecasts of what they take, without a GPU."""
from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec

import numpy as np
import pytest
from helpers import random_pictures, slow_unless

import npresnet
from npresnet.graph import build_graph
from npresnet.model import ResNetV2
from npresnet.variants import VARIANTS, pretrained_cfg

needs_numba_cuda = pytest.mark.skipif(
    find_spec("numba_cuda") is None, reason="numba-cuda is not installed: no CUDA kernel is tested")


# --- plans ----------------------------------------------------------------------------------------

def plan_of(name, n, h, w, *, width=1.0, gpu="A100", wanted=("head.fc",), **options):
    from cuda_kernels.performance import GPUS
    from cuda_kernels.plan import Plan
    graph = build_graph(dataclasses.replace(VARIANTS[name], width=width), **options)
    return Plan(graph, n, 3, h, w, GPUS[gpu], wanted=wanted)


@needs_numba_cuda
@pytest.mark.parametrize("name", slow_unless(["resnetv2_18", "resnetv2_50t"], VARIANTS))
def test_plans(name):
    """Nothing is read before it is written or after it is gone, and nothing overlaps.

    Every product of a convolution is one block's, and none is missing.
    """
    from cuda_kernels import conv2d
    from cuda_kernels.plan import Activation
    rng = np.random.default_rng(len(name))
    for wanted in (["head.fc"], ["stages.1", "norm"], ["stem.pool"], None):
        n, h, w = int(rng.integers(1, 70)), int(rng.integers(1, 300)), int(rng.integers(1, 300))
        stride = int(rng.choice([8, 16, 32]))
        gpu = str(rng.choice(["T4", "A100", "H100", "B200"]))
        plan = plan_of(name, n, h, w, gpu=gpu, output_stride=stride, wanted=wanted)
        alive = {}
        for i, launch in enumerate(plan.launches):
            assert len(launch.args) == len(launch.kernel.signature), launch.kernel.name
            assert 0 < launch.grid[0] < 2**31
            assert all(0 < blocks < 65536 for blocks in launch.grid[1:])
            for y in launch.args:
                if isinstance(y, Activation):
                    alive.setdefault(id(y), y)
                    assert y.first <= i <= y.last
                    assert y.base % 64 == 0 and y.base + y.floats <= plan.size
            if launch.kernel.name.startswith("conv"):
                r, s, *_, share = launch.args[15:21]              # between: stride, pad, dilation
                tables = conv2d.GENERAL, conv2d.POINTWISE, conv2d.ROWS
                table = next(t for t in tables if launch.kernel in t.values())
                steps = conv2d.count_steps(table, launch.args[0].c, r, s)
                assert (launch.grid[2] - 1) * share < steps <= launch.grid[2] * share
        tensors = sorted(alive.values(), key=lambda y: y.base)
        for i, a in enumerate(tensors):
            for b in tensors[i + 1:]:
                apart = b.base >= a.base + a.size or a.last < b.first or b.last < a.first
                assert apart, "two activations in one place at one time"
        assert set(plan.outputs) == set(wanted or ())
        outputs = [y for y, _ in plan.outputs.values()]
        kept = plan.tensors.values() if wanted is None else outputs
        for y in kept:                                            # there when the pass is over
            assert y.last >= len(plan.launches), "what is put out may be lost"
    model = npresnet.create_model(name, backend="numpy")
    total = sum(launch.expected.gflop for launch in plan_of(name, 1, 75, 99).launches)
    # The summary leaves out the classifier.
    assert total == pytest.approx(2 * model.summary((3, 75, 99)).macs / 1e9, rel=1e-3)


@needs_numba_cuda
def test_a_kept_plan_has_the_traces_layers_in_its_order():
    for name, options in (("resnetv2_50", {}), ("resnetv2_18d", dict(output_stride=8)),
                          ("resnetv2_34", {}), ("resnetv2_101d", {})):
        variant = dataclasses.replace(VARIANTS[name], width=0.125)
        cfg = pretrained_cfg(variant, "test")
        model = ResNetV2(variant, cfg, num_classes=5, backend="numpy", **options)
        layers = model.trace(random_pictures(2, 3, 33, 34))
        plan = plan_of(name, 2, 33, 34, width=0.125, wanted=None, **options)
        assert list(plan.tensors) == list(layers)
        for path, y in plan.tensors.items():
            assert path == "head.fc" or layers[path].shape == (y.n, y.c, y.h, y.w), path


# --- forecasts ------------------------------------------------------------------------------------

@needs_numba_cuda
def test_the_model_of_a_gpu_by_hand():
    """Two waves of blocks and a rest; and what waits for its loads."""
    from cuda_kernels.performance import ARRIVAL, ENDS, GPU, STEP, gpu_like
    gpu = GPU("g", (9, 0), 10, 128, 2.0, 1000)
    # The schedulers' time, longer than the 512 cycles of the multiply-adds.
    work = 128 / 32 * STEP / 4
    cycles = 2 * (7 * 3 * work + ENDS) + 7 * max(work, ARRIVAL) + ENDS
    assert gpu.sums_us(128, 3, 65, 7) == pytest.approx(cycles / 2000)
    assert gpu.sums_us(64, 6, 1, 100) == pytest.approx((100 * ARRIVAL + ENDS) / 2000)
    assert gpu.moved_us(250_000) == pytest.approx(1.0) and gpu.tflops == pytest.approx(5.12)
    half_an_a100 = gpu_like("x", (8, 9), 54)
    assert half_an_a100.lanes == 128 and half_an_a100.gb_s == pytest.approx(1555 / 2)
    assert gpu_like("x", (7, 5), 40).lanes == 64 and gpu_like("x", (12, 0), 148).gb_s == 8000


@needs_numba_cuda
def test_inspect_forecasts(capsys):
    from cuda_kernels.inspect import main
    assert main(["--gpu", "A100", "--batch", "1", "64", "--json"]) == 0
    one, many = json.loads(capsys.readouterr().out)
    assert one["input_size"] == [1, 3, 224, 224] and one["measured_ms"] is None
    assert many["gpu"]["name"] == "A100" and many["ms_a_picture"] < one["ms_a_picture"]
    total = sum(launch["us"] for launch in one["launches"])
    assert total == pytest.approx(1e3 * one["ms"])
    arithmetic = 8.2 / 19.5
    assert arithmetic < many["ms_a_picture"] < arithmetic * 1.25
    assert main(["--gpu", "T4", "--batch", "2"]) == 0
    text = capsys.readouterr().out
    assert "stages.3.blocks.2.conv3" in text
    assert "None of its figures was measured on a GPU" in text
    with pytest.raises(SystemExit):
        main(["--gpu", "A100", "--batch", "0"])
    assert main(["--gpu", "A100", "--json"]) == 0
    usual = json.loads(capsys.readouterr().out)
    assert [forecast["input_size"][0] for forecast in usual] == [1, 8, 64]
    assert usual[0] == one and usual[2] == many


@needs_numba_cuda
def test_every_launch_costs_its_start():
    """What multiplies nothing takes the time of its bytes, and 2 µs; a pass has the sum of all."""
    forecast = plan_of("resnetv2_50d", 8, 224, 224, gpu="A100").forecast()
    moving = [launch for launch in forecast.launches if not launch.gflop]
    assert {launch.layer for launch in moving} >= {"pictures", "stem.pool", "head.global_pool"}
    for launch in moving:
        assert launch.us == pytest.approx(launch.megabytes / 1555e-3 + 2.0), launch.layer
    assert all(launch.us > 2.0 for launch in forecast.launches)
    gflop = sum(launch.gflop for launch in forecast.launches)
    assert forecast.as_dict()["tflops"] == pytest.approx(gflop / forecast.ms)
    assert forecast.as_dict()["ms_a_picture"] == pytest.approx(forecast.ms / 8)


@needs_numba_cuda
def test_the_main_loop_by_hand():
    """Of two loops with the same multiply-adds the inner one; what does nothing isn't counted."""
    from cuda_kernels.inspect import main_loop
    code = [(0, "MOV", None), (16, "LDG.E", None), (32, "LDS.128", None), (48, "FFMA", None),
            (64, "NOP", None), (80, "FFMA.FTZ", None), (96, "BRA", 32), (112, "IADD3", None),
            (128, "BRA", 16), (144, "FADD", None), (160, "BRA", 144), (176, "EXIT", None)]
    assert main_loop(code) == ["LDS.128", "FFMA", "FFMA.FTZ", "BRA"]
    assert main_loop(code[:6]) == [] and main_loop([(0, "BRA", 16), (16, "EXIT", None)]) == []
