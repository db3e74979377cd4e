"""How the contenders of `npresnet bench` are started, timed and judged, without measuring any."""
from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from npresnet.cli import main
from npresnet.instruments import bench, contenders
from npresnet.instruments.bench import Result

JOB = dict(model="demo", weights="file", threads=3, peers="folder", batch=2, size=(32, 40))
LOGITS = np.array([[1.0, -4.0, 2.0]], np.float32)


@pytest.fixture
def made(monkeypatch):
    """The models that contenders ask for, which none of them gets: (name, options) each."""
    calls: list[tuple[str, dict]] = []
    monkeypatch.setattr("npresnet.model.create_model",
                        lambda name, **options: calls.append((name, options)))
    return calls


# --- how they are started -------------------------------------------------------------------------


def test_npresnets_own_get_weights_threads_and_exactness(made):
    for name in contenders.OWN:
        contenders.CONTENDERS[name].start(JOB)
    numba = dict(weights="file", backend="numba", num_threads=3)
    assert made == [("demo", numba | dict(exact=False)), ("demo", numba | dict(exact=True)),
                    ("demo", dict(weights="file", backend="numpy"))]


def test_pytorch_gets_its_threads(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed")
    threads, loaded = [], []

    class Twin(SimpleNamespace):
        def eval(self):
            return self

        def load_state_dict(self, state):
            loaded.append(state)

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "torch_twin", SimpleNamespace(TorchResNetV2=Twin))
    monkeypatch.setattr("safetensors.torch.load_file", lambda path: path)
    monkeypatch.setattr(contenders, "read_peers", lambda folder: dict(network={"depths": [1]}))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    contenders.start_pytorch(JOB)
    assert threads == [3] and loaded == ["file"]


def test_warming_up_is_not_measured(monkeypatch):
    """Half a second of calls, then two and three calls at least; or one call, then `runs`."""
    asked = []

    def time_calls(forward, x, least, seconds):
        asked.append((least, seconds))
        return [float(len(asked))]

    started = contenders.Started(lambda x: LOGITS, "none 1")
    monkeypatch.setattr(contenders, "time_calls", time_calls)
    monkeypatch.setitem(contenders.CONTENDERS, "none", contenders.Contender(lambda job: started))
    assert contenders.work(JOB | dict(contender="none", runs=None))["call_ms"] == [2.0]
    assert contenders.work(JOB | dict(contender="none", runs=7))["call_ms"] == [4.0]
    assert asked == [(1, 0.5), (3, 2.0), (1, 0), (7, 0)]


def test_a_process_imports_nothing_from_where_it_is_called(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    answer = bench.ask(JOB | dict(contender="nobody"), LOGITS)
    assert answer == {"error": "KeyError: 'nobody'"}


def test_every_library_is_told_how_many_threads(monkeypatch):
    seen = {}

    def run(command, *, env, **options):
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, b"{}", b"")

    monkeypatch.setattr(bench.subprocess, "run", run)
    bench.ask(JOB, LOGITS)
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
             "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"]
    assert [seen.get(name) for name in names] == ["3"] * 5


# --- how they are judged --------------------------------------------------------------------------


@pytest.mark.parametrize("precision, off, right", [
    ("f32", 0.0, True), ("f32", 0.9e-3, True), ("f32", 1.1e-3, False), ("f32", 0.05, False),
    ("bf16", 0.05, True), ("bf16", 0.2, False)])
def test_how_far_logits_may_be_off(monkeypatch, precision, off, right):
    """Off by a share of the largest: in float32 a thousandth, in less a tenth."""
    logits = LOGITS + np.array([[0.0, 0.0, 4 * off]], np.float32)
    said = json.dumps(dict(logits=logits.tolist(), precision=precision)).encode()
    monkeypatch.setattr(bench.subprocess, "run", lambda command, **options:
                        subprocess.CompletedProcess(command, 0, said, b""))
    answer = bench.ask(JOB, LOGITS)
    assert ("error" not in answer) == right
    if right:
        assert answer["max_delta"] == pytest.approx(off, abs=1e-6)


def test_a_result_is_of_all_rounds():
    answers = [dict(call_ms=[4.0, 8.0], memory_mb=300.0, max_delta=2e-7),
               dict(call_ms=[6.0], memory_mb=90.0, max_delta=3e-7),
               dict(call_ms=[2.0], memory_mb=100.0, max_delta=1e-7)]
    answers = [answer | dict(precision="f32", version="none 1") for answer in answers]
    result = Result.of("none", 2, answers)
    assert result == Result("none", 2, "f32", "none 1", ((2.0, 4.0), (3.0,), (1.0,)), 100.0, 3e-7)
    assert result.quartiles == (1.75, 2.5, 3.25)


def test_three_rounds_and_the_threads_that_were_asked_for(capsys, monkeypatch):
    jobs = []
    answer = dict(call_ms=[4.0], memory_mb=None, version="none 1", precision="f32", max_delta=0.0)
    monkeypatch.setattr(bench, "ask", lambda job, wanted: jobs.append(job) or dict(answer))
    argv = ["bench", "--model", "demo", "--size", "32", "--batch", "1", "--only", "numpy"]
    for threads in (1, 5):
        del jobs[:]
        assert main([*argv, "--threads", str(threads), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["threads"] == threads
        assert [job["threads"] for job in jobs] == [threads] * 3
