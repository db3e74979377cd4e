"""The bench's figures are of all rounds, and each contender is given the job's threads."""
from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import npresnet
from npresnet.instruments import bench, contenders
from npresnet.instruments.bench import Measurement, Result

ROUNDS = [dict(call_ms=[8.0, 2.0], memory_mb=900.0, max_delta=2e-7),
          dict(call_ms=[4.0, 30.0, 6.0], memory_mb=100.0, max_delta=9e-7),
          dict(call_ms=[10.0, 12.0], memory_mb=120.0, max_delta=1e-7)]
COMMON = dict(version="none 1", precision="f32")
PICTURES = np.zeros((2, 3, 4, 4), np.float32)


def result_of(batch: int = 1, rounds=(0, 1, 2), **changes) -> Result:
    return Result.of("numba", batch, [ROUNDS[i] | COMMON | changes for i in rounds])


# --- figures over all rounds ----------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)], ids=str)
def test_figures_of_three_rounds_by_hand(rounds):
    """All seven calls count, whichever round they were in: 2 4 6 8 10 12 30."""
    result = result_of(rounds=rounds)
    assert result.quartiles == (5.0, 8.0, 11.0)
    assert result.max_delta == 9e-7
    assert result.memory_mb == 120.0
    assert result.ms == tuple(tuple(ROUNDS[i]["call_ms"]) for i in rounds)


def test_a_batch_divides_every_round():
    result = result_of(batch=4)
    assert result.quartiles == (1.25, 2.0, 2.75)
    assert result.ms == ((2.0, 0.5), (1.0, 7.5, 1.5), (2.5, 3.0))
    assert (result.memory_mb, result.max_delta, result.batch) == (120.0, 9e-7, 4)


def test_memory_is_the_median_of_those_that_know():
    assert result_of(rounds=(0, 1)).memory_mb == 500.0
    assert result_of(memory_mb=None).memory_mb is None
    answers = [dict(each) | COMMON for each in ROUNDS]
    answers[2]["memory_mb"] = None
    assert Result.of("numba", 1, answers).memory_mb == 500.0


def test_one_outlier_moves_no_median():
    calls = [dict(call_ms=[1.0] * 9 + [1000.0], memory_mb=5.0, max_delta=0.0) | COMMON] * 3
    assert Result.of("numba", 1, calls).quartiles == (1.0, 1.0, 1.0)


def test_ratios_are_of_medians_at_the_same_batch():
    def of(name, batch, *ms):
        return Result(name, batch, "f32", "none 1", (ms,), None, 0.0)

    measurement = Measurement("tiny", (3, 4, 4), 1, "a processor", (
        of("numba", 1, 3.0, 1.0, 50.0), of("other", 1, 4.0, 6.0, 8.0), of("numba", 8, 1.0),
        of("other", 8, 5.0), of("other", 4, 5.0)), ())
    ratios = [measurement.numba_ratio(result) for result in measurement.results]
    assert ratios == [1.0, 0.5, 1.0, 0.2, None]


def test_a_measurement_takes_every_round(monkeypatch):
    """Each contender's rounds are its own, and none of them is lost."""
    asked = []

    def ask(job, wanted):
        asked.append(job["contender"])
        i = asked.count(job["contender"]) - 1
        slower = 10 if job["contender"] == "numpy" else 1
        return ROUNDS[i] | COMMON | dict(call_ms=[slower * ms for ms in ROUNDS[i]["call_ms"]])

    monkeypatch.setattr(bench, "ask", ask)
    found = bench.measure(["numba", "numpy"], "demo", size=(32, 32), batches=[1], threads=1)
    assert asked == ["numba", "numpy"] * 3
    assert [result.quartiles[1] for result in found.results] == [8.0, 80.0]
    assert [result.memory_mb for result in found.results] == [120.0, 120.0]
    assert [result.max_delta for result in found.results] == [9e-7, 9e-7]
    rows = found.as_dict()["results"]
    assert [row["median_ms"] for row in rows] == [8.0, 80.0]
    assert [row["numba_ratio"] for row in rows] == [1.0, 0.1]


# --- threads --------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path) -> dict:
    """A job for two pictures of 4×4 and five threads, with a folder like make_peers.py's."""
    network = dict(depths=[1, 1, 1, 1], width=0.5)
    peers = dict(model="demo", input_size=[3, 4, 4], network=network)
    (tmp_path / "peers.json").write_text(json.dumps(peers))
    return dict(model="demo", weights="w.safetensors", peers=str(tmp_path), size=[4, 4], batch=2,
                threads=5)


def module(name: str, monkeypatch, **contents) -> ModuleType:
    """A module of that name to import, in place of the real one."""
    stub = ModuleType(name)
    stub.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, stub)
    return stub


def test_onnx_runtime_gets_the_jobs_threads(job, monkeypatch, tmp_path):
    made = []

    def session(path, options, providers):
        made.append((path, options, providers))
        return SimpleNamespace(run=lambda outputs, inputs: [inputs["x"] + 1])

    module("onnxruntime", monkeypatch, SessionOptions=SimpleNamespace, InferenceSession=session,
           __version__="1.2")
    started = contenders.start_onnxruntime(job)
    (path, options, providers), = made
    assert vars(options) == dict(intra_op_num_threads=5)
    assert (path, providers) == (tmp_path / "model.onnx", ["CPUExecutionProvider"])
    assert (started.version, started.precision) == ("onnxruntime 1.2", "f32")
    np.testing.assert_array_equal(started.forward(PICTURES), PICTURES + 1)


class StubNetwork:
    """Stands in for PyTorch's network: remembers what was done to it, in order."""

    def __init__(self, **arguments):
        self.done = [("made", arguments)]

    def eval(self):
        self.done.append(("eval",))
        return self

    def load_state_dict(self, state):
        self.done.append(("loaded", state))

    def __call__(self, x):
        return SimpleNamespace(numpy=lambda: x + 2)


def test_pytorch_gets_the_jobs_threads(job, monkeypatch):
    threads, networks = [], []

    def make(**arguments):
        networks.append(StubNetwork(**arguments))
        return networks[-1]

    module("torch", monkeypatch, set_num_threads=threads.append, inference_mode=nullcontext,
           from_numpy=np.copy, __version__="3.4")
    module("safetensors.torch", monkeypatch, load_file=lambda path: f"tensors of {path}")
    module("torch_twin", monkeypatch, TorchResNetV2=make)
    monkeypatch.setattr(sys, "path", list(sys.path))
    started = contenders.start_pytorch(job)
    assert threads == [5] and sys.path[0] == job["peers"]
    assert networks[0].done == [("made", dict(depths=[1, 1, 1, 1], width=0.5)), ("eval",),
                                ("loaded", "tensors of w.safetensors")]
    assert started.version == "torch 3.4"
    np.testing.assert_array_equal(started.forward(PICTURES), PICTURES + 2)


@pytest.mark.parametrize("start, hints", [
    (contenders.start_openvino, {"INFERENCE_PRECISION_HINT": "f32"}),
    (contenders.start_openvino_default, {}),
])
def test_openvino_gets_the_jobs_threads(start, hints, job, monkeypatch, tmp_path):
    shapes, settings = [], []
    precision = "f32" if hints else "bf16"

    class Compiled:
        def get_property(self, name):
            assert name == "INFERENCE_PRECISION_HINT"
            return SimpleNamespace(get_type_name=lambda: precision)

        def __call__(self, x, **shared):
            return [x + 3]

    class Core:
        def read_model(self, path):
            assert path == tmp_path / "model.onnx"
            return SimpleNamespace(reshape=shapes.append)

        def compile_model(self, network, device, config):
            settings.append((device, config))
            return Compiled()

    module("openvino", monkeypatch, Core=Core, __version__="5.6-7")
    started = start(job)
    assert shapes == [[2, 3, 4, 4]]
    assert settings == [("CPU", hints | {"INFERENCE_NUM_THREADS": 5})]
    assert (started.version, started.precision) == ("openvino 5.6", precision)
    np.testing.assert_array_equal(started.forward(PICTURES), PICTURES + 3)


@pytest.mark.parametrize("start, exact", [(contenders.start_numba, False),
                                          (contenders.start_numba_exact, True)])
def test_numba_gets_the_jobs_threads(start, exact, job, monkeypatch):
    made = []

    def create_model(name, **options):
        made.append((name, options))
        return lambda x: x

    monkeypatch.setattr("npresnet.model.create_model", create_model)
    start(job)
    assert made == [("demo", dict(weights="w.safetensors", backend="numba", exact=exact,
                                  num_threads=5))]


def test_every_contender_of_its_own_is_a_model(job):
    """None is measured under another's name."""
    own = job | dict(weights=None)
    backends = {name: contenders.CONTENDERS[name].start(own).forward for name in contenders.OWN}
    assert {name: (model.backend, model.exact) for name, model in backends.items()} == {
        "numba": ("numba", False), "numba-exact": ("numba", True), "numpy": ("numpy", False)}
    assert all(isinstance(model, npresnet.ResNetV2) for model in backends.values())
