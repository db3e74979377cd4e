"""The engine's threads: first calls together, forks, and threads that can't be had."""
from __future__ import annotations

import _thread
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import random_pictures

import npresnet
from npresnet.fast import engine as engine_module
from npresnet.fast.engine import Engine
from npresnet.lower import crew as crew_module
from npresnet.lower.crew import Crew, apart

ROOT = Path(__file__).resolve().parents[1]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return random_pictures(5, 3, 64, 64)


@pytest.fixture(scope="module")
def want(pictures) -> np.ndarray:
    return npresnet.create_model("demo", backend="numba", num_threads=2)(pictures)


def all_at_once(count: int, work) -> None:
    """work() in `count` threads that begin together; they all end."""
    barrier = threading.Barrier(count)

    def begin():
        barrier.wait(60)
        work()

    threads = [threading.Thread(target=begin, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()


# --- a crew ---------------------------------------------------------------------------------------


def test_jobs_are_done_one_after_another():
    crew, inside, done = Crew(3), [], []

    def work(job):
        inside.append(job)
        assert len(inside) == 1
        crew.together(lambda me: done.append(me), crew.threads)   # noqa: PLW0108
        inside.remove(job)
        return threading.get_ident()

    leaders: list[int] = []
    all_at_once(6, lambda: leaders.append(crew.do(work)))
    assert Counter(done) == {0: 6, 1: 6, 2: 6} and len(set(leaders)) == 1
    assert threading.get_ident() not in leaders
    crew.dismiss()


@pytest.mark.parametrize("who", [0, 1])
def test_what_is_raised_reaches_the_caller(who):
    crew = Crew(2)

    def fail(me):
        if me == who:
            raise KeyError(me)

    with pytest.raises(KeyError, match=str(who)):
        crew.do(lambda job: crew.together(fail, 2))
    assert crew.do(lambda job: crew.threads) == 2
    crew.dismiss()


def test_threads_go_with_the_engine(pictures):
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    model(pictures)
    engine, (crew,) = weakref.ref(model._engine), model._engine.crews.values()
    running = _thread._count()
    assert crew in crew_module.LEADERS and crew.leading.locked()
    del model
    gc.collect()
    assert engine() is None, "something of the last call keeps the engine"
    deadline = time.monotonic() + 60
    while _thread._count() > running - 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert crew not in crew_module.LEADERS and not crew.leading.locked()


# --- threads that can't be had --------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_as_many_threads_as_can_be_had(pictures, want, limit, monkeypatch):
    start, started = crew_module.start_new_thread, []

    def start_some(function, args):
        if function.__name__ != "run":                            # engines are made in one, too
            if len(started) >= limit:
                raise RuntimeError("can't start new thread")
            started.append(function.__name__)
        elif not limit:
            raise RuntimeError("can't start new thread")
        return start(function, args)

    monkeypatch.setattr(crew_module, "start_new_thread", start_some)
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    for n in (1, 5, 2):
        np.testing.assert_array_equal(model(pictures[:n]), want[:n])
    assert started == ["_lead", "_help"][:limit]
    results: list = []
    all_at_once(3, lambda: results.append(np.array_equal(model(pictures), want)))
    assert results == [True] * 3


def test_no_thread_of_pythons_own_kind_is_needed(pictures, want, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    np.testing.assert_array_equal(model(pictures), want)


@pytest.mark.parametrize("who", [0, 1])
def test_nobody_waits_for_a_thread_that_does_not_come(pictures, want, who, monkeypatch):
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    np.testing.assert_array_equal(model(pictures[:1]), want[:1])
    run = engine_module.L.run

    def run_or_fail(*args):
        if args[-2] > 1 and args[-1] == who:
            raise MemoryError("no memory for this thread")
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(engine_module.L, "run", run_or_fail)
        with pytest.raises(MemoryError, match="this thread"):
            model(pictures[:1])
    np.testing.assert_array_equal(model(pictures), want)


# --- first calls, and changes while others call ---------------------------------------------------


def test_first_callers_share_one_engine(pictures, want, monkeypatch):
    made, make = [], Engine.__init__

    def count(self, *args, **options):
        made.append(self)
        time.sleep(0.05)
        make(self, *args, **options)

    monkeypatch.setattr(Engine, "__init__", count)
    model = npresnet.create_model("demo", backend="numba")
    results: list = []
    all_at_once(8, lambda: results.append(np.array_equal(model(pictures), want)))
    assert results == [True] * 8 and len(made) == 1


def test_calls_meet_old_or_new_tensors(pictures, want):
    """`load_state_dict` and `reset_classifier` while other threads call: never parts of both."""
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    old = model.state_dict()
    new = old | {"head.fc.bias": old["head.fc.bias"] + np.float32(8)}
    shifted = want + np.float32(8)
    over, ended, wrong, seen = [], [], [], Counter()

    def call():
        while not over:
            y = model(pictures[:2])
            kind = ("other" if y.shape == (2, 7) else
                    "old" if np.array_equal(y, want[:2]) else
                    "new" if np.allclose(y, shifted[:2], rtol=0, atol=1e-4) else "wrong")
            seen[kind] += 1
            if kind == "wrong":
                wrong.append(y)
        ended.append(True)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(12):
        if i % 3 == 2:
            model.reset_classifier(7)
            model.reset_classifier(10)
            assert model.num_classes == 10
        model.load_state_dict(new if i % 2 else old)
    over.append(True)
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    assert ended == [True] * 2, "a caller got an exception"
    model.load_state_dict(old)
    np.testing.assert_array_equal(model(pictures), want)
    print(dict(seen))
    # A classifier that was just reset is random: its ten logits are neither.
    assert all(y.shape == (2, 10) for y in wrong)


# --- forks ----------------------------------------------------------------------------------------


def in_a_child(check) -> int:
    """The exit code of a forked child: 0 if check() is true, 14 of signals if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                           # of threads and forks
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@forks
@pytest.mark.parametrize("anew", [False, True])
def test_a_fork_while_another_thread_computes(pictures, want, anew):
    """Or, anew, makes its engine and packs its weights."""
    held, over, moments = [npresnet.create_model("demo", backend="numba", num_threads=2)], [], \
        random.Random(4)

    def call():
        while not over:
            if anew:
                held[0] = npresnet.create_model("demo", backend="numba", num_threads=2)
            held[0](pictures)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for _ in range(12):
            time.sleep(moments.uniform(0, 0.03))
            model = held[0]
            assert in_a_child(lambda model=model: np.array_equal(model(pictures), want)) == 0
    finally:
        over.append(True)
        thread.join(60)


@forks
def test_a_childs_callers_share_its_threads(pictures, want):
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    model(pictures)

    def check():
        results: list = []
        all_at_once(4, lambda: results.append(np.array_equal(model(pictures), want)))
        return results == [True] * 4 and len(crew_module.LEADERS) == 1

    assert in_a_child(check) == 0
    assert in_a_child(lambda: in_a_child(check) == 0) == 0


@forks
def test_a_fork_waits_for_what_is_being_made():
    """As an import or compiling is: in the child it would never end."""
    begun, end, made = threading.Event(), threading.Event(), []

    def make():
        begun.set()
        end.wait(60)
        made.append(True)

    thread = threading.Thread(target=apart, args=(make,))
    thread.start()
    begun.wait(60)
    threading.Timer(0.2, end.set).start()
    assert in_a_child(lambda: made and apart(lambda: 5) == 5) == 0
    thread.join(60)
    assert apart(lambda: 6) == 6


IMPORTING = """
import os, threading, time
from npresnet.lower.crew import apart

begun = threading.Event()

def load():
    begun.set()
    time.sleep(0.5)
    import concurrent.futures.thread
    import logging

thread = threading.Thread(target=apart, args=(load,))
thread.start()
begun.wait(60)
child = os.fork()
if child:
    os.waitpid(child, 0)
    thread.join(60)
"""


@forks
def test_a_fork_while_modules_are_imported_is_silent():
    env = os.environ | dict(PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
    done = subprocess.run([sys.executable, "-c", IMPORTING], env=env, capture_output=True,
                          text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
