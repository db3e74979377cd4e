"""The fast engine as a whole: plans, threads, forks, compiled code, and other processors' code."""
from __future__ import annotations

import dataclasses
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close, random_pictures, random_state
from hypothesis import given, settings
from hypothesis import strategies as st

import npresnet
from npresnet.fast import plan
from npresnet.fast.engine import Engine
from npresnet.graph import build_graph
from npresnet.network import Network
from npresnet.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]


# --- results --------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("m", [0, 2, 4])
@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_50d"])
def test_each_algorithm_is_exact_enough(name, m, monkeypatch):
    """Every 3×3 layer is forced onto one algorithm, on sizes that no tile divides."""
    monkeypatch.setattr(plan.Plan, "_winograd", lambda *_: m)
    graph = build_graph(dataclasses.replace(VARIANTS[name], width=0.25))
    state, x = random_state(graph.parameter_shapes(), 1), random_pictures(2, 3, 97, 131)
    reference: dict = {}
    Network(graph.variant, state, tap=reference.__setitem__).forward(x)
    layers = Engine(graph, state, num_threads=2).trace(x, graph.last)
    result = npresnet.compare(layers, reference, 1e-5 if m == 0 else 1e-4)
    print(f"F({m}×{m}): largest Δ {result.max_delta:.1e}")
    assert result.first_divergence is None and not result.only_a, str(result)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(VARIANTS)), st.integers(1, 90), st.integers(1, 90),
       st.sampled_from([8, 16, 32]), st.booleans(), st.integers(0, 99))
def test_any_size_any_variant(name, h, w, output_stride, exact, seed):
    variant = dataclasses.replace(VARIANTS[name], width=0.125, depths=(1, 3, 2, 3))
    graph = build_graph(variant, output_stride=output_stride)
    state = random_state(graph.parameter_shapes(), seed)
    x = random_pictures(1, 3, h, w, seed=seed)
    engine = Engine(graph, state, exact=exact, num_threads=2)
    reference: dict = {}
    network = Network(variant, state, output_stride=output_stride, tap=reference.__setitem__)
    logits = network.forward(x)
    layers = engine.trace(x, graph.last)
    result = npresnet.compare(layers, reference, 1e-5 if exact else 1e-4)
    assert result.first_divergence is None and not result.only_a, str(result)
    got, = engine.maps(x, [graph.last])
    assert_close("logits", got[:, :, 0, 0], logits, 1e-5 if exact else 5e-5)


def test_a_picture_does_not_depend_on_its_batch():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    x = random_pictures(5, 3, 97, 64)
    np.testing.assert_array_equal(model(x), np.concatenate([model(x[i:i + 1]) for i in range(5)]))


@pytest.mark.parametrize("name", ["resnetv2_18d", "resnetv2_50"])
@pytest.mark.parametrize("h, w", [(75, 99), (224, 224)])
def test_nothing_depends_on_what_was_in_the_workspace(name, h, w):
    """Neither the zeros around a tensor nor what an earlier tensor left there may matter."""
    graph = build_graph(dataclasses.replace(VARIANTS[name], width=0.25))
    engine = Engine(graph, random_state(graph.parameter_shapes(), 1), num_threads=2)
    x = random_pictures(1, 3, h, w)
    want, = engine.maps(x, [graph.last])
    assert np.isfinite(want).all()
    engine.maps(np.concatenate([x, x]), [graph.last])             # each thread gets a workspace
    for ready in sum(engine.plans.values(), []):
        ready.workspace[:] = np.nan
    got, = engine.maps(np.concatenate([x, x, x]), [graph.last])
    np.testing.assert_array_equal(got, np.concatenate([want, want, want]))


# --- plans ----------------------------------------------------------------------------------------

def test_a_plan_ends_where_its_outputs_do():
    options = dict(features_only=True, out_indices=(0, 2))
    model = npresnet.create_model("demo", backend="numba", **options)
    reference = npresnet.create_model("demo", backend="numpy", **options)
    x = random_pictures(1, 3, 96, 96)
    maps = model(x)
    done = next(iter(model._engine.plans.values()))[0].plan.work[-1].layer
    assert done.startswith("stages.1.blocks.3.conv3"), done
    for a, b in zip(maps, reference(x)):
        assert_close("feature map", a, b, 1e-4)


@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50"])
def test_a_sum_that_is_wanted_outlives_the_next(name):
    """Any block's, though the next block's sum would otherwise be written over it."""
    graph = build_graph(dataclasses.replace(VARIANTS[name], width=0.125))
    state, x = random_state(graph.parameter_shapes(), 1), random_pictures(1, 3, 64, 49)
    reference: dict = {}
    Network(graph.variant, state, tap=reference.__setitem__).forward(x)
    engine = Engine(graph, state, num_threads=1)
    for path in ["stem.pool", *(layer.path for layer in graph.layers if layer.kind == "sum")]:
        found, _ = engine.maps(x, [path, graph.last])
        assert_close(path, found, reference[path], 1e-4)


@pytest.mark.slow
def test_plan_reports_what_is_done():
    model = npresnet.create_model("demo", backend="numba", num_threads=1)
    report = model.plan((3, 64, 96))
    shown, summary = str(report), model.summary((3, 64, 96))
    print(shown)
    layers = report.layers
    names = [layer.layer for layer in layers]
    algorithms = {layer.algorithm for layer in layers}
    direct = [layer for layer in layers if layer.algorithm.startswith("direct")]
    assert abs(sum(layer.gflop for layer in layers) - 2 * summary.macs / 1e9) < 1e-9
    assert names[:3] == ["input", "stem.conv", "stem.pool"] and names[-1] == "head.fc"
    assert len(set(names)) == len(layers)
    assert algorithms >= {"direct 1×1", "direct 3×3", "direct 7×7", "max pool", "mean"}
    assert all(layer.ms > 0 and layer.megabytes > 0 for layer in layers)
    assert report.peak > 0 and report.bandwidth > 0
    assert all(layer.computed >= layer.gflop * 0.9 for layer in direct)
    exact = npresnet.create_model("demo", backend="numba", exact=True).plan((3, 64, 64))
    assert not any(layer.algorithm.startswith("F(") for layer in exact.layers)
    with pytest.raises(ValueError, match="numba"):
        npresnet.create_model("demo", backend="numpy").plan()


# --- threads and processes ------------------------------------------------------------------------

@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(threads):
    model = npresnet.create_model("demo", backend="numba", num_threads=1)
    x = random_pictures(2, 3, 97, 64)
    want = model(x)
    other = npresnet.create_model("demo", backend="numba", num_threads=threads)
    assert other._engine.threads <= os.cpu_count()
    other._engine.threads = threads                              # though there may be fewer cores
    for pictures in (x, x[:1], np.concatenate([x] * 4)):
        wanted = np.concatenate([want] * 4)[:len(pictures)]
        np.testing.assert_array_equal(other(pictures), wanted)
    with pytest.raises(ValueError, match="at least 1"):
        npresnet.create_model("demo", backend="numba", num_threads=0)


def test_many_python_threads_take_turns():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    pictures = [random_pictures(1, 3, 64, 64 + 8 * (i % 3), seed=i) for i in range(8)]
    want = [model(x) for x in pictures]
    got = [None] * 8

    def work(i):
        got[i] = model(pictures[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_its_own_threads():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    x = random_pictures(1, 3, 64, 64)
    want = model(x)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)         # a child that hangs dies
            signal.alarm(60)
            code = 0 if np.array_equal(model(x), want) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.slow
def test_a_spawned_worker_has_threads_of_its_own():
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    x = random_pictures(3, 3, 64, 64)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(model.forward, (x,)), model(x))


# --- compiled code --------------------------------------------------------------------------------

def classify(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `npresnet classify` in a process of its own, with the package in `folder`."""
    photo = str(ROOT / "tutorials" / "photo.jpg")
    command = [sys.executable, "-m", "npresnet", "classify", "--json", "--backend", "numba", photo]
    env = os.environ | dict(PYTHONPATH=str(folder)) | environment
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, env=env)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="nobody can write to Linux's /proc")
def test_without_a_folder_for_compiled_code(tmp_path):
    """It compiles, says so, and goes on."""
    for package in ("npresnet", "cuda_kernels"):
        shutil.copytree(ROOT / package, tmp_path / package,
                        ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "npresnet" / "fast" / "__pycache__").write_text("no folder")
    done = classify(tmp_path, NUMBA_CACHE_DIR="/proc/no/such/folder", HOME="/proc/no/such/home",
                    XDG_CACHE_HOME="/proc/no/such/cache")
    assert done.returncode == 0 and "tench" in done.stdout, done.stderr
    assert done.stderr.count("compiling the fast engine") == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.rglob("*.nbi"))


@pytest.mark.slow
def test_compiled_code_is_kept_and_damage_mended(tmp_path):
    first, second = (classify(ROOT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert "compiling the fast engine" in first.stderr and second.stderr == "", second.stderr
    assert first.stdout == second.stdout and "tench" in first.stdout
    for path in tmp_path.rglob("*run_*.nbc"):
        path.write_bytes(path.read_bytes()[:1000])
    third, fourth = (classify(ROOT, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert third.returncode == 0 and third.stdout == first.stdout, third.stderr
    assert len(third.stderr.splitlines()) == 1 and "compiling" in third.stderr
    assert fourth.stdout == first.stdout and fourth.stderr == "", fourth.stderr


COMPARE_BACKENDS = """
import numpy as np, npresnet
from npresnet.fast import target
print(target.VL, target.FMA)
x = np.random.default_rng(0).standard_normal((1, 3, 97, 64), np.float32)
a, b = (npresnet.create_model('demo', backend=name)(x) for name in ('numpy', 'numba'))
assert np.abs(a - b).max() <= 5e-5 * np.abs(a).max(), np.abs(a - b).max()
"""


@pytest.mark.slow
@pytest.mark.parametrize("cpu, features", [
    ("haswell", "+avx2,+fma,+avx,+sse4.2"),
    ("x86-64", "+sse2"),
])
def test_code_for_other_processors(cpu, features, tmp_path):
    if platform.machine() != "x86_64":
        pytest.skip(f"x86-64 code can't run on {platform.machine()}")
    chosen = dict(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPARE_BACKENDS], capture_output=True, text=True,
                          cwd=ROOT, timeout=120, env=os.environ | chosen)
    assert done.returncode == 0, done.stderr
    print(cpu, done.stdout)
    assert done.stdout.split()[0] == ("8" if "avx2" in features else "4")
