"""The questions of chapter 7, the whole network."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from course import Question, close_to, one_of

import npresnet
from npresnet.graph import build_graph
from npresnet.summary import summarise


def wider() -> tuple[float, float]:
    """By which factors the demo's parameters and MACs grow if it is twice as wide."""
    model = npresnet.create_model("demo", backend="numpy")
    own = model.summary()
    graph = build_graph(replace(model.variant, width=2 * model.variant.width),
                        num_classes=model.num_classes)
    twice = summarise(graph, own.input_size, graph.last)
    return twice.params / own.params, twice.macs / own.macs


def costliest() -> Any:
    """The demo's layer with the most MACs."""
    model = npresnet.create_model("demo", backend="numpy")
    return max(model.summary().layers, key=lambda layer: layer.macs)


QUESTIONS: dict[str, Question] = {
    "7a": Question(
        close_to(lambda: 5.0), "Start at 160 and halve once for each stride of 2.",
        ((close_to(lambda: 10.0), "One halving is missing. Did you count the max pool?"),
         (close_to(lambda: 20.0), "Two are missing. The stem halves twice."),
         (close_to(lambda: 40.0), "That is after the stem. Stages halve, too."),
         (close_to(lambda: 7.0), "That is so for 224 pixels. The demo's picture is smaller."))),
    "7b": Question(
        close_to(lambda: 3.0), "Weights of a block grow with the square of its channels.",
        ((close_to(lambda: 2.0), "It has the most blocks. But how large are they?"),
         (close_to(lambda: 0.0, 0.0), "It has the most pixels. Does a weight know of those?"))),
    "7c": Question(
        close_to(wider, 3e-3), "Divide the sums of the wide plan by the demo's, both at 160×160.",
        ((close_to(lambda: (2.0, 2.0), 0.02), "A layer's outputs double, and so do its inputs."),
         (close_to(lambda: (4.0, 4.0), 2e-3), "A good estimate. Which layer's input stays? Count."),
         (lambda a: np.allclose(a, wider()[::-1], rtol=3e-3), "The parameters come first."),
         (close_to(wider, 0.03), "Close. Give two decimals."))),
    "7d": Question(
        lambda answer: answer == costliest().path, "Sort `model.summary().layers` by `macs`.",
        ((lambda a: str(a).startswith("stages.3"), "It has many weights. How many stops?"),
         (one_of("stem"), "That is a part of the network. Give the path of one layer."))),
    "7e": Question(
        close_to(lambda: costliest().macs / costliest().params),
        "At how many places of the output is one weight used?",
        ((close_to(lambda: 49.0), "Those are the places of the kernel, not of the output."),
         (close_to(lambda: 1600.0), "That is after the max pool. What does the layer put out?"),
         (close_to(lambda: 80.0), "Along one axis. The output has two."))),
}
