"""Run real plans with memory that nobody may touch right behind workspace, weights and pictures.

    python tests/fast_guarded.py CASE

Reading a float too many ends the process, so `test_fast_workspace.py` runs this file in one of its
own. Only Linux has mprotect in this form.
"""
from __future__ import annotations

import ctypes
import dataclasses
import mmap
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from helpers import random_pictures, random_state

from npresnet.fast import engine as engine_module
from npresnet.fast import packing
from npresnet.fast import plan as plan_module
from npresnet.fast.engine import Engine
from npresnet.graph import build_graph
from npresnet.lower.placement import place
from npresnet.network import Network
from npresnet.variants import VARIANTS

KEPT: list[mmap.mmap] = []
FILLED = np.float32(3e30)                                         # what stands in it before


def guarded(size: int, _make=None) -> np.ndarray:
    """Stands in for `memory.aligned`: `size` float32, and then a page that nobody may touch."""
    room = -(-4 * size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE)
    KEPT.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start + room), mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    array = np.frombuffer(memory, np.float32, size, room - 4 * size)
    array[:] = FILLED
    return array


def picture(x: np.ndarray) -> np.ndarray:
    """The same picture in guarded memory."""
    there = guarded(x.size).reshape(x.shape)
    there[:] = x
    return there


def graph_of(name: str, width: float = 0.125, **options):
    variant = dataclasses.replace(VARIANTS[name], width=width, depths=(1, 2, 1, 1))
    return build_graph(variant, num_classes=7, **options)


def check(engine: Engine, h: int, w: int, what: str) -> None:
    """A pass of one picture and one of three, against the reference."""
    graph = engine.graph
    x = random_pictures(3, graph.in_chans, h, w, seed=h + w)
    reference = Network(graph.variant, engine.params, output_stride=graph.output_stride)
    want = reference.forward(x)
    x = picture(x)
    together, = engine.maps(x, [graph.last])
    alone = [engine.maps(x[i:i + 1], [graph.last])[0] for i in range(3)]
    for got in (together, np.concatenate(alone)):
        delta = np.abs(got[:, :, 0, 0] - want).max() / np.abs(want).max()
        print(f"{what}, {h}×{w}: Δ = {delta:.1e}", flush=True)
        assert delta <= 5e-5, what


# --- cases ----------------------------------------------------------------------------------------


def real_places() -> None:
    """Plans as they are, of many sizes and networks."""
    cases = [("resnetv2_50", {}), ("resnetv2_18d", {}), ("resnetv2_50t", {}),
             ("resnetv2_34", dict(in_chans=1)), ("resnetv2_50", dict(output_stride=8)),
             ("resnetv2_18d", dict(output_stride=16)), ("resnetv2_50", dict(width=0.5))]
    for name, options in cases:
        graph = graph_of(name, **options)
        state = random_state(graph.parameter_shapes(), 1)
        for exact in (False, True):
            engine = Engine(graph, state, exact=exact, num_threads=2)
            for h, w in ((33, 40), (1, 1), (65, 31), (64, 64), (7, 97), (96, 98)):
                check(engine, h, w, f"{name}, {options}, exact={exact}")


def each_one_last() -> None:
    """Every tensor in turn at the workspace's end, all others where they fit below it."""
    turn = count = 0

    def last_of_all(tensors) -> int:
        """Stands in for `place`: the tensor number `turn` lies above all others."""
        nonlocal count
        tensors = list(tensors)
        count = len(tensors)
        chosen = tensors[turn % count]
        below = [tensor for tensor in tensors if tensor is not chosen]
        chosen.base = place(below)
        return chosen.base + chosen.size

    cases = [("resnetv2_50", {}), ("resnetv2_18d", {}), ("resnetv2_50d", dict(output_stride=8))]
    for name, options in cases:
        graph = graph_of(name, **options)
        state = random_state(graph.parameter_shapes(), 1)
        for exact in (False, True):
            turn, count = 0, 1
            while turn < count:
                with patch.object(plan_module, "place", last_of_all):
                    engine = Engine(graph, state, exact=exact, num_threads=1)
                    h, w = [(33, 40), (64, 51), (17, 30)][turn % 3]
                    check(engine, h, w, f"{name}, {options}, tensor {turn} last, exact={exact}")
                turn += 1
            print(f"{name}: each of {count} tensors was the last", flush=True)


def a_float_too_many() -> None:
    """What the others rest on: reading behind a guarded array ends the process."""
    array = guarded(1000)
    end = array.ctypes.data + array.nbytes
    print("inside", ctypes.c_float.from_address(end - 4).value, flush=True)
    print("behind", ctypes.c_float.from_address(end).value)


CASES = {case.__name__: case for case in (real_places, each_one_last, a_float_too_many)}

if __name__ == "__main__":
    with patch.object(engine_module, "aligned", guarded), patch.object(packing, "aligned", guarded):
        CASES[sys.argv[1]]()
    print("done")
