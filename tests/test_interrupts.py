"""An interrupt or a timeout in the midst of a call: it takes effect, and the next call is right."""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import random_pictures

import npresnet
from npresnet.fast import engine as engine_module
from npresnet.fast.engine import Engine

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of this kind")
ROOT = Path(__file__).resolve().parents[1]


class Stop(Exception):
    """What the signal's handler raises."""


@pytest.fixture
def stopping():
    """The alarm raises Stop in the main thread."""
    def stop(*_):
        raise Stop

    was = signal.signal(signal.SIGALRM, stop)
    yield
    while True:
        with suppress(Stop):
            signal.setitimer(signal.ITIMER_REAL, 0)
            break
    signal.signal(signal.SIGALRM, was)


@contextmanager
def alarm_in(seconds: float, again: float = 0.0):
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return random_pictures(9, 3, 64, 64)


@pytest.fixture(scope="module")
def want(pictures) -> np.ndarray:
    return npresnet.create_model("demo", backend="numba", num_threads=2)(pictures)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [engine_module.ALONE, 0])
def test_a_call_ends_with_the_picture_at_hand(stopping, pictures, want, alone, monkeypatch):
    """By the engine's own threads, whether each has pictures of its own or all have one."""
    monkeypatch.setattr(engine_module, "ALONE", alone)
    model = npresnet.create_model("demo", backend="numba", num_threads=2)
    np.testing.assert_array_equal(model(pictures), want)
    run, main, ran, left = Engine._run, threading.main_thread().ident, [], threading.Event()

    def run_and_stop(self, *args):
        ran.append(threading.get_ident())
        if len(ran) == 5:
            signal.pthread_kill(main, signal.SIGALRM)
        if len(ran) >= 5:
            assert left.wait(60)
        run(self, *args)

    monkeypatch.setattr(Engine, "_run", run_and_stop)
    with pytest.raises(Stop):
        model(np.concatenate([pictures] * 50))
    left.set()
    np.testing.assert_array_equal(model(pictures[:3]), want[:3])
    print(f"{len(ran)} pictures were computed in all")
    assert main not in ran and len(ran) <= 5 + 1 + 3              # 1: in the other thread


@pytest.mark.slow
@pytest.mark.parametrize("again", [0, 0.0004])
@pytest.mark.parametrize("n, most", [(1, 0.004), (9, 0.03)])
def test_at_any_moment(stopping, pictures, want, n, most, again):
    """Also in what a first one brings about: `again` seconds after it the next ones come."""
    model, moments, hit = npresnet.create_model("demo", backend="numba"), random.Random(1), 0
    for _ in range(40):
        try:
            with alarm_in(moments.uniform(1e-5, most), again):
                model(pictures[:n])
        except Stop:
            hit += 1
        with suppress(Stop):
            signal.setitimer(signal.ITIMER_REAL, 0)
        np.testing.assert_array_equal(model(pictures[:n]), want[:n])
    print(f"{hit} of 40 calls were interrupted")
    assert hit


@pytest.mark.slow
def test_in_the_first_call(stopping, pictures, want):
    moments, hit = random.Random(2), 0
    for _ in range(10):
        model = npresnet.create_model("demo", backend="numba")
        try:
            with alarm_in(moments.uniform(1e-4, 0.1)):
                model(pictures)
        except Stop:
            hit += 1
        np.testing.assert_array_equal(model(pictures), want)
    assert hit


def test_while_other_threads_call(stopping, pictures, want):
    model, moments, over = npresnet.create_model("demo", backend="numba"), random.Random(3), []
    wrong: list[int] = []

    def call(n):
        while not over:
            if not np.array_equal(model(pictures[:n]), want[:n]):
                wrong.append(n)

    threads = [threading.Thread(target=call, args=(n,)) for n in (1, 4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with suppress(Stop), alarm_in(moments.uniform(1e-4, 0.05)):
            model(pictures)
    np.testing.assert_array_equal(model(pictures), want)
    over.append(True)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


COMPILING = """
import json, signal, sys, threading, time
import numpy as np
import npresnet
from numba.core import event

class Stop(Exception):
    pass

def stop(*_):
    raise Stop

signal.signal(signal.SIGALRM, stop)
main, begun = threading.main_thread().ident, []

class Interrupt(event.Listener):
    def on_start(self, event):
        begun.append(event)
        if len(begun) in (1, 4, 9):
            signal.pthread_kill(main, signal.SIGALRM)

    def on_end(self, event):
        pass

x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
model, stopped = npresnet.create_model("demo", backend="numba", num_threads=1), 0
with event.install_listener("numba:compile", Interrupt()):
    while True:
        try:
            y = model(x)
            break
        except Stop:
            stopped += 1
            if "leave" in sys.argv:
                sys.exit(3)
want = npresnet.create_model("demo", backend="numpy")(x)
print(json.dumps([stopped, float(np.abs(y - want).max() / np.abs(want).max())]))
"""


def while_compiling(folder: Path, *args: str) -> subprocess.CompletedProcess:
    env = os.environ | dict(NUMBA_CACHE_DIR=str(folder), PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, "-c", COMPILING, *args], env=env, cwd=folder,
                          capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_while_it_compiles(tmp_path):
    done = while_compiling(tmp_path)
    assert done.returncode == 0, done.stderr
    stopped, delta = json.loads(done.stdout)
    assert stopped == 3 and delta <= 5e-5


@pytest.mark.slow
def test_nobody_waits_at_the_end_for_what_is_being_compiled(tmp_path):
    done = while_compiling(tmp_path, "leave")
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert not list(tmp_path.rglob("run_task_*")), "it went on to the end of compiling"


def test_the_answer_to_a_second_interrupt():
    """It comes where the first one is dealt with: the job is known to be over all the same."""
    from npresnet.lower.crew import Crew

    crew, seen = Crew(1), []

    class Twice(Exception):
        pass

    def work(job):
        seen.append(job)
        while not job.over:
            time.sleep(0.001)

    def handler(*_):
        raise Twice

    was = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Twice), alarm_in(0.02, 0.0002):
            crew.do(work)
    finally:
        while True:
            with suppress(Twice):
                signal.setitimer(signal.ITIMER_REAL, 0)
                break
        signal.signal(signal.SIGALRM, was)
    assert crew.do(lambda job: "next") == "next" and seen[0].over
    crew.dismiss()
