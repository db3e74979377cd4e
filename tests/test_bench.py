"""`npresnet bench`: whether it measures what it says, and says what it couldn't.

Nothing here asserts how long anything takes.
"""
from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import random_state

import npresnet
from npresnet.cli import main
from npresnet.instruments import bench, contenders
from npresnet.instruments.bench import Measurement, Result
from npresnet.instruments.contenders import CONTENDERS, OWN

MAKE_PEERS = Path(__file__).parent / "benchmarks" / "make_peers.py"
TINY = ["--model", "demo", "--size", "64", "--batch", "1", "2"]
ANSWER = dict(call_ms=[4.0, 8.0, 6.0], memory_mb=50.0, version="none 1", precision="f32",
              max_delta=1e-7)
needs_onnxruntime = pytest.mark.skipif(find_spec("onnxruntime") is None,
                                       reason="ONNX Runtime isn't installed")


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)


@pytest.fixture
def asked(monkeypatch):
    """No processes: every contender answers ANSWER. The list of jobs that they were asked to do."""
    jobs: list[dict] = []
    monkeypatch.setattr(bench, "ask", lambda job, wanted: jobs.append(job) or dict(ANSWER))
    return jobs


@pytest.fixture
def peers(tmp_path) -> Path:
    """A folder that passes for one of make_peers.py's.

    ONNX Runtime and OpenVINO will not like it.
    """
    folder = tmp_path / "peers"
    folder.mkdir()
    npresnet.create_model("demo").save(folder / "model.safetensors")
    (folder / "model.onnx").write_text("no network")
    about = dict(model="demo", input_size=[3, 64, 64], network={})
    (folder / "peers.json").write_text(json.dumps(about))
    return folder


def run(capsys, *argv) -> tuple[int, dict, list[str]]:
    """(exit code, what `bench --json` says, the lines of its complaints)."""
    code = main(["bench", "--json", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, json.loads(out), err.splitlines()


# --- what it measures -----------------------------------------------------------------------------


@pytest.mark.slow
def test_it_measures_npresnets_own(capsys, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 2)
    code, result, lines = run(capsys, *TINY, "--runs", 2, "--threads", 2)
    assert code == 0 and len(lines) == 1 and "make_peers.py" in lines[0] and "--peers" in lines[0]
    assert (result["model"], result["input_size"], result["threads"]) == ("demo", [3, 64, 64], 2)
    assert result["stopped"] == []
    measured = [(r["batch"], r["contender"]) for r in result["results"]]
    assert measured == [(batch, name) for batch in (1, 2) for name in OWN]
    for r in result["results"]:
        assert np.array(r["ms"]).shape == (2, 2) and np.min(r["ms"]) > 0      # rounds × calls
        low, high = r["quartiles_ms"]
        assert low <= r["median_ms"] <= high and r["numba_ratio"] > 0
        assert r["median_ms"] == pytest.approx(np.median(r["ms"]))
        assert r["precision"] == "f32" and r["max_delta"] <= 5e-5
        if sys.platform == "linux" and r["contender"] == "numpy":
            assert 20 < r["memory_mb"] < 100                      # its own, not this process's
    assert {r["version"].split()[0] for r in result["results"]} == {"numba", "numpy"}


def test_rounds_and_what_each_is_asked(capsys, monkeypatch, asked):
    monkeypatch.setattr(bench, "ROUNDS", 3)
    assert run(capsys, *TINY, "--only", "numpy", "numba", "numpy")[0] == 0
    order = [(job["batch"], job["contender"]) for job in asked]
    assert order == 3 * [(1, "numpy"), (1, "numba")] + 3 * [(2, "numpy"), (2, "numba")]
    assert asked[0] == dict(model="demo", weights=None, peers=None, size=(64, 64), runs=None,
                            threads=bench.available_cores(), batch=1, contender="numpy")


def test_defaults(capsys, asked, monkeypatch):
    monkeypatch.setattr(bench, "create_model",
                        lambda name, **options: npresnet.create_model("demo"))
    code, result, _ = run(capsys)
    order = [(job["batch"], job["contender"]) for job in asked]
    assert code == 0 and order == [(batch, name) for batch in (1, 8) for name in OWN]
    assert asked[0]["model"] == "resnetv2_50" and asked[0]["size"] == (160, 160)
    assert result["input_size"] == [3, 160, 160]


def test_the_processes_get_threads_and_no_settings_of_another_processor(monkeypatch):
    calls = []

    def killed(command, **options):
        calls.append(options)
        return subprocess.CompletedProcess(command, -9, b"", b"first\n\x1b[31mlast\n")

    monkeypatch.setattr(bench.subprocess, "run", killed)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    answer = bench.ask(dict(threads=3), np.zeros((1, 10), np.float32))
    assert answer == {"error": "ended by signal 9: \\x1b[31mlast"}
    environment = calls[0]["env"]
    assert "OPENBLAS_CORETYPE" not in environment
    assert {environment[name] for name in bench.THREADS} == {"3"}


@pytest.mark.parametrize("least, seconds, ms", [
    (4, 0, [3, 3, 3, 3]), (1, 0, [3]), (1, 0.01, [3, 3, 3, 3]), (3, 0.004, [3, 3, 3]),
    (0, 0.003, [3])])
def test_calls_are_timed_by_number_and_by_time(monkeypatch, least, seconds, ms):
    """On a clock that only a call moves, by 3 ms."""
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(contenders, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    given = []

    def forward(x):
        given.append(x)
        clock.now += 0.003

    assert contenders.time_calls(forward, "pictures", least, seconds) == pytest.approx(ms)
    assert given == ["pictures"] * len(ms)


def test_a_smaller_batch_is_the_first_pictures_of_a_larger_one():
    three, two = contenders.pictures(3, 32, 40), contenders.pictures(2, 32, 40)
    np.testing.assert_array_equal(three[:2], two)


# --- what it says ---------------------------------------------------------------------------------


def test_the_table():
    results = (Result("numba", 1, "f32", "numba 1", ((2.0, 4.0), (3.0,)), 100.4, 1e-6),
               Result("openvino-default", 1, "bf16", "openvino 2", ((4.0,), (4.0,)), None, 1e-2),
               Result("numpy", 8, "f32", "numpy 3", ((5.0,),), 50.0, 0.0))
    measurement = Measurement("tiny", (3, 32, 40), 1, "a processor", results, ())
    lines = [line for line in str(measurement).splitlines() if "─" not in line]
    assert [line.split() for line in lines] == [
        "tiny, pictures of 3×32×40, 1 thread, a processor".split(),
        "contender batch ms a picture quartiles numba takes max Δ memory".split(),
        "numba 1 3.00 2.50–3.50 1.00 of it 1.0e-06 100 MB".split(),
        "openvino-default (bf16) 1 4.00 4.00–4.00 0.75 of it 1.0e-02 –".split(),
        "numpy 8 5.00 5.00–5.00 – 0.0e+00 50 MB".split(),
        f"npresnet {npresnet.__version__}, numba 1, openvino 2, numpy 3".split()]
    assert measurement.as_dict()["results"][0] == dict(
        contender="numba", batch=1, precision="f32", version="numba 1", ms=((2.0, 4.0), (3.0,)),
        memory_mb=100.4, max_delta=1e-6, median_ms=3.0, quartiles_ms=(2.5, 3.5), numba_ratio=1.0)


def test_a_batch_is_counted_by_the_picture(capsys, asked):
    code, result, lines = run(capsys, *TINY, "--only", "numpy")
    assert code == 0 and lines == []
    assert [(r["ms"], r["median_ms"], r["numba_ratio"]) for r in result["results"]] == [
        ([[4, 8, 6]], 6, None), ([[2, 4, 3]], 3, None)]
    assert main(["bench", *TINY, "--only", "numpy"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("demo, pictures of 3×64×64, ")
    assert out.endswith(", none 1\n")


# --- what it can't measure ------------------------------------------------------------------------


@pytest.mark.parametrize("asked_for, code", [([], 0), (["--only", "pytorch", "numpy"], 1)])
def test_one_that_is_not_installed_is_one_line(capsys, monkeypatch, asked, peers, asked_for, code):
    for package in ("torch", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    got, result, lines = run(capsys, "--peers", peers, *asked_for)
    reason = "isn't installed: pip install torch"
    assert got == code and lines[0] == f"npresnet bench: pytorch: {reason}"
    assert len(lines) == len(result["stopped"]) == (1 if asked_for else 4)
    assert result["stopped"][0] == dict(contender="pytorch", unavailable=reason)
    measured = {r["contender"] for r in result["results"]}
    assert measured == ({"numpy"} if asked_for else set(OWN))
    for job in asked:
        assert job["weights"] == str(peers / "model.safetensors") and job["peers"] == str(peers)


@needs_onnxruntime
def test_one_that_needs_peers_says_so(capsys, asked):
    code, result, lines = run(capsys, *TINY, "--only", "onnxruntime", "numpy")
    assert code == 1 and len(result["results"]) == 2
    assert lines == ["npresnet bench: onnxruntime: needs --peers DIR, a folder that "
                     "tests/benchmarks/make_peers.py writes"]


@pytest.mark.slow
@needs_onnxruntime
def test_one_that_fails_does_not_end_the_others(capsys, peers):
    code, result, lines = run(capsys, "--peers", peers, "--only", "onnxruntime", "numpy",
                              "--runs", 1, "--batch", 1)
    assert code == 1 and [r["contender"] for r in result["results"]] == ["numpy"]
    assert len(lines) == 1 and lines[0].startswith("npresnet bench: onnxruntime, batch 1: ")
    assert "model.onnx" in lines[0]
    stop, = result["stopped"]
    assert (stop["contender"], stop["batch"]) == ("onnxruntime", 1)
    assert lines[0].endswith(stop["error"])


def test_one_that_has_nothing_to_add_is_asked_once(capsys, monkeypatch, asked):
    def ask(job, wanted):
        asked.append(job)
        return dict(unavailable="the same again")

    monkeypatch.setattr(bench, "ask", ask)
    code, result, lines = run(capsys, *TINY, "--only", "numba")
    assert code == 1 and len(asked) == 1 and result["results"] == []
    assert lines == ["npresnet bench: numba, batch 1: the same again"]


def test_openvino_in_float32_is_not_measured_twice(monkeypatch):
    for precision in ("f32", "bf16"):
        started = contenders.Started(lambda x: x, "openvino 1", precision)
        monkeypatch.setattr(contenders, "compile_openvino", lambda job, made=started: made)
        if precision == "bf16":
            assert contenders.start_openvino_default({}) is started
        else:
            with pytest.raises(contenders.Unavailable, match="float32"):
                contenders.start_openvino_default({})


@pytest.mark.slow
def test_one_that_computes_something_else_is_found_out(capsys, monkeypatch):
    monkeypatch.setattr(bench, "pictures",
                        lambda *shape: contenders.pictures(*shape) + np.float32(0.5))
    code, result, lines = run(capsys, *TINY, "--only", "numpy", "--runs", 1)
    assert code == 1 and result["results"] == [] and len(lines) == 2
    assert lines[0].startswith("npresnet bench: numpy, batch 1: computes something else: "
                               "its logits differ from the reference's by ")


def test_another_number_of_classes_is_something_else(monkeypatch):
    answer = json.dumps(ANSWER | dict(logits=[[0.0] * 9])).encode()
    monkeypatch.setattr(bench.subprocess, "run", lambda command, **options:
                        subprocess.CompletedProcess(command, 0, answer, b""))
    error = bench.ask(dict(threads=1), np.zeros((1, 10), np.float32))["error"]
    assert error.startswith("computes something else")


@pytest.mark.parametrize("argv", [
    ["--batch", "0"], ["--batch"], ["--threads", "x"], ["--runs", "-1"], ["--only", "tensorflow"],
    ["--size", "1", "2", "3"], ["--model", "resnet50"], ["--peers", "{}"], ["--peers", "{}/no"],
    ["--peers", "{}", "--size", "32"], ["--picture", "{}/no/x.png"]])
def test_wrong_usage(capsys, tmp_path, asked, argv):
    assert main(["bench", *(arg.format(tmp_path) for arg in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "npresnet bench: " in err.splitlines()[-1]
    assert "Traceback" not in err and asked == []


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"model": "demo", "network": {}}', "\ud800",
    '{"model": "demo", "network": {}, "input_size": [3, 64]}',
    '{"model": "demo", "network": 1, "input_size": [3, 64, 64]}'])
def test_a_folder_that_make_peers_did_not_write(capsys, tmp_path, text):
    (tmp_path / "peers.json").write_text(text, "utf-8", "surrogatepass")
    assert main(["bench", "--peers", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"npresnet bench: {tmp_path}: peers.json can't be used (")
    assert err.count("\n") == 1 and "make_peers.py" in err


# --- the other runtimes ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(any(find_spec(package) is None for package in ("torch", "onnx", "onnxruntime")),
                    reason="PyTorch, ONNX or ONNX Runtime isn't installed")
def test_the_other_runtimes(capsys, tmp_path):
    with pytest.warns(UserWarning, match="3 were asked for"):
        model = npresnet.create_model("demo", num_classes=3)
    shapes = {name: array.shape for name, array in model.state_dict().items()}
    model.load_state_dict(random_state(shapes, 0))
    weights = tmp_path / "demo.safetensors"
    model.save(weights)
    folder = tmp_path / "peers"
    command = [sys.executable, MAKE_PEERS, folder, "--model", "demo", "--weights", weights,
               "--size", "64", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"done: npresnet bench --peers {folder}", done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "model.onnx", "torch_twin.py", "peers.json"}
    code, result, lines = run(capsys, "--peers", folder, "--runs", 1, "--batch", 2)
    installed = [name for name, contender in CONTENDERS.items()
                 if not contender.package or find_spec(contender.package)]
    assert code == 0 and result["input_size"] == [3, 64, 40]
    assert len(lines) == len(result["stopped"])
    measured = {r["contender"] for r in result["results"]}
    assert measured | {"openvino-default"} == {*installed, "openvino-default"}
    for r in result["results"]:
        assert r["max_delta"] <= (5e-5 if r["precision"] == "f32" else 0.1), r["contender"]
