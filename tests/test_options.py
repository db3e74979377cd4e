"""Options that a model passes on are seen where they take effect."""
from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import random_pictures
from twins import pair, torch_run

import npresnet
from npresnet.backend import BACKENDS, choose_backend
from npresnet.fast import loops
from npresnet.fast import plan as plan_module
from npresnet.fast.engine import Engine
from npresnet.reference import Reference
from npresnet.variants import find_variant, pretrained_cfg

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# --- the backend ----------------------------------------------------------------------------------


def test_the_tolerances_are_the_designs():
    """The largest Δ of each layer and of the logits, by default and with exact=True."""
    def figures(tolerance):
        return tolerance.layers, tolerance.logits

    found = {name: (figures(entry.tolerance), figures(entry.exact_tolerance))
             for name, entry in BACKENDS.items()}
    assert found == {"numpy": ((5e-6, 5e-6), (5e-6, 5e-6)),
                     "numba": ((1e-4, 5e-5), (1e-5, 1e-5)),
                     "cuda": ((1e-5, 1e-5), (1e-5, 1e-5))}


@pytest.mark.parametrize("name, kind", [("numpy", Reference), ("numba", Engine)])
def test_the_environment_chooses_the_backend(name, kind, monkeypatch):
    monkeypatch.setenv("NPRESNET_BACKEND", name)
    model = npresnet.create_model("demo")
    assert model.backend == name and type(model._engine) is kind and name in repr(model)
    assert npresnet.create_model("demo", backend="auto").backend == name


def test_an_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("NPRESNET_BACKEND", "numpy")
    assert npresnet.create_model("demo", backend="numba").backend == "numba"
    assert choose_backend("numba") == "numba"
    monkeypatch.setenv("NPRESNET_BACKEND", "abacus")
    assert choose_backend("numpy") == "numpy"
    with pytest.raises(ValueError, match="unknown backend 'abacus'"):
        npresnet.create_model("demo")
    monkeypatch.setenv("NPRESNET_BACKEND", "")                    # as if it weren't set
    assert choose_backend("auto") in ("cuda", "numba")


@pytest.mark.slow
def test_a_new_process_takes_the_backend_from_the_environment():
    code = "import npresnet\nprint(npresnet.create_model('demo').backend)"
    for name in ("numpy", "numba"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              timeout=120, env=os.environ | {"NPRESNET_BACKEND": name})
        assert done.stdout == f"{name}\n", done.stderr


# --- threads --------------------------------------------------------------------------------------


class Calls(list):
    """meet: where all threads wait for each other first, so that none does another's work."""
    meet: threading.Barrier | None = None


@pytest.fixture
def crews(monkeypatch):
    """Calls of the compiled function: (the calling thread, of how many, which of them)."""
    calls = Calls()
    run = loops.run

    def watched(ops, *args):
        if len(ops):                                              # or it is only being loaded
            calls.append((threading.get_ident(), args[-2], args[-1]))
            if calls.meet is not None:
                calls.meet.wait(60)
        run(ops, *args)

    watched.stats = run.stats
    monkeypatch.setattr(loops, "run", watched)
    return calls


@pytest.mark.parametrize("num_threads", [1, 2])
def test_num_threads_is_how_many_threads_compute(num_threads, crews):
    """One picture by all of them together, of two pictures each by one of them."""
    model = npresnet.create_model("demo", backend="numba", num_threads=num_threads)
    threads = min(num_threads, CORES)
    x = random_pictures(2, 3, 33, 40)
    model(x[:1])
    assert sorted(me for _, _, me in crews) == list(range(threads))
    assert {together for _, together, _ in crews} == {threads}
    assert len({thread for thread, _, _ in crews}) == threads
    crews.clear()
    crews.meet = threading.Barrier(threads)
    model(x)
    assert [(together, me) for _, together, me in crews] == [(1, 0)] * 2
    assert len({thread for thread, _, _ in crews}) == threads
    crews.clear()
    crews.meet = None
    model.trace(x[:1])
    assert len({thread for thread, _, _ in crews}) == threads == len(crews)


@pytest.mark.slow
@pytest.mark.skipif(CORES < 2, reason="needs two cores to tell one thread from two")
def test_numba_num_threads_is_the_default_and_cores_are_the_limit():
    code = ("import npresnet\n"
            "for n in (None, 1, 2, 999):\n"
            "    model = npresnet.create_model('demo', backend='numba', num_threads=n)\n"
            "    print(model._engine.threads)")
    clean = {key: value for key, value in os.environ.items() if key != "NUMBA_NUM_THREADS"}
    for value, default in (({}, CORES), ({"NUMBA_NUM_THREADS": "1"}, 1)):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              timeout=120, env=clean | value)
        assert done.stdout.split() == [str(default), "1", "2", str(CORES)], done.stderr


def test_num_threads_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="OPENBLAS_NUM_THREADS"):
        npresnet.create_model("demo", backend="numpy", num_threads=2)


# --- exact ----------------------------------------------------------------------------------------


def kinds(engine: Engine) -> set[int]:
    """Kinds of operations in all plans that an engine has made, from the table that it runs."""
    crews = engine.plans.values()
    return {int(kind) for crew in crews for ready in crew for kind in ready.plan.ops[:, loops.KIND]}


def test_exact_runs_no_winograd(monkeypatch):
    """Neither together nor alone, nor for maps; its bits are those of an engine that has none."""
    winograd = {loops.WINOGRAD, loops.WINOGRAD_IN, loops.WINOGRAD_OUT}
    x = random_pictures(3, 3, 97, 131)
    make = dict(backend="numba", num_threads=2)
    usual, exact = (npresnet.create_model("demo", exact=exact, **make) for exact in (False, True))
    results = [[model(x), model(x[:1]), *model.forward_intermediates(x)[1]]
               for model in (usual, exact)]
    assert kinds(usual._engine) & winograd, "the usual one has to use it for this to test anything"
    assert not kinds(exact._engine) & winograd
    monkeypatch.setattr(plan_module.Plan, "_winograd", lambda *_: 0)
    without = npresnet.create_model("demo", **make)
    want = [without(x), without(x[:1]), *without.forward_intermediates(x)[1]]
    for got, bits in zip(results[1], want, strict=True):
        np.testing.assert_array_equal(got, bits)
    assert not np.array_equal(results[0][0], want[0])
    print(f"Winograd moves the logits by {np.abs(results[0][0] - want[0]).max():.1e}")


# --- channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_chans", [1, 4])
def test_the_summary_is_of_pictures_with_so_many_channels(in_chans):
    model, twin = pair("resnetv2_50", "numpy", in_chans=in_chans)
    table = model.summary()
    assert table.input_size == (in_chans, 224, 224)
    assert table.params == sum(parameter.numel() for parameter in twin.parameters())
    stem = table.layers[0]
    assert (stem.path, stem.params, stem.macs) == ("stem.conv", in_chans * 8 * 49,
                                                   in_chans * 8 * 49 * 112 * 112)
    assert f"{in_chans}×224×224 in" in str(table)
    with pytest.raises(ValueError, match=f"pictures of {in_chans} channels"):
        model.summary((3, 64, 64))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_the_plan_is_of_pictures_with_so_many_channels(in_chans, monkeypatch):
    for measured in ("peak", "bandwidth"):
        monkeypatch.setattr(f"npresnet.fast.engine.{measured}", lambda threads: 100.0)
    model, twin = pair("resnetv2_18", "numba", in_chans=in_chans, depths=(1, 1, 1, 1))
    report = model.plan()
    assert report.input_size == (in_chans, 224, 224)
    stem = next(layer for layer in report.layers if layer.layer == "stem.conv")
    assert stem.gflop == pytest.approx(2e-9 * in_chans * 8 * 49 * 112 * 112)
    x = random_pictures(1, in_chans, 40, 40)
    np.testing.assert_allclose(model(x), torch_run(twin, x), atol=1e-4)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50.a1h_in1k", "resnetv2_152d",
                                  "resnetv2_34d.ra4_e3600_r384_in1k", "demo"])
def test_timms_prefix_changes_nothing(name):
    assert find_variant(f"timm/{name}") == find_variant(name)
    if name in ("resnetv2_18", "demo"):
        plain, prefixed = (npresnet.create_model(f"{before}{name}", backend="numpy")
                           for before in ("", "timm/"))
        assert prefixed.variant == plain.variant and prefixed.pretrained_cfg == plain.pretrained_cfg


def test_other_prefixes_are_unknown():
    for name in ("timm/", "timm/timm/resnetv2_18", "hf/resnetv2_18", "timm/resnetv2_18.a1h_in1k"):
        with pytest.raises(ValueError, match="unknown model"):
            find_variant(name)


def test_weights_without_a_tag_are_the_first_published():
    for prefix in ("", "timm/"):
        assert find_variant(f"{prefix}resnetv2_34d")[1] == "ra4_e3600_r224_in1k"
    variant, tag = find_variant("timm/resnetv2_50")
    assert pretrained_cfg(variant, tag)["hf_hub_id"] == "timm/resnetv2_50.a1h_in1k"
