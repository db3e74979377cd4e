"""The questions of chapter 5, norm, ReLU and folding."""
from __future__ import annotations

import numpy as np
from course import Question, close_to, one_of, shape_differs

from npresnet import ops
from npresnet.graph import build_graph
from npresnet.lower.folding import EPS, scale_and_shift
from npresnet.variants import DEMO

# A batch norm after a convolution with a bias (5e), and one without variance (5f, 5g, 5h).
_CONV_BIAS = np.array([0.5, -2.0, 2.0])
_BN = {"bn.weight": np.array([2.0, 1.0, -1.0]), "bn.bias": np.array([0.0, 1.0, 3.0]),
       "bn.running_mean": np.array([1.0, -1.0, 0.5]), "bn.running_var": np.array([4.0, 0.25, 1.0])}
_FLAT = {"bn.weight": np.array([1.5]), "bn.bias": np.array([0.25]),
         "bn.running_mean": np.array([0.7]), "bn.running_var": np.array([0.0])}


def _forgotten_root() -> np.ndarray:
    """The answer to 5e of someone who divides by the variance, (K,)."""
    scale = _BN["bn.weight"] / (_BN["bn.running_var"] + EPS)
    return (_CONV_BIAS - _BN["bn.running_mean"]) * scale + _BN["bn.bias"]


def _folded_norms() -> int:
    """How many norms of the demo go into the convolution before them."""
    graph = build_graph(DEMO)
    return sum(step.kind == "conv" and graph.folds(step) for step in graph.steps)


QUESTIONS: dict[str, Question] = {
    "5a": Question(
        close_to(lambda: (0.15 * np.sqrt(64)) ** 20, 0.01),
        "One layer multiplies the spread by σ·√n, and factors are multiplied.",
        ((close_to(lambda: 0.15 * np.sqrt(64)), "That is one layer. There are 20."),
         (close_to(lambda: 20 * 0.15 * np.sqrt(64)),
          "Each layer multiplies what the one before gave: factors aren't added."),
         (close_to(lambda: (0.15 * 64) ** 20, 0.01),
          "Random products partly cancel out: the root of n counts, not n."))),
    "5b": Question(
        lambda answer: tuple(answer) in ((4, 8, 1, 1), (4, 8)),
        "How many channels go in, and how many come out? Outputs stand first: (K, C, 1, 1).",
        ((lambda answer: tuple(answer) in ((8, 4, 1, 1), (8, 4)),
          "Turn it round: a weight is (K, C, R, S), with the outputs first."),
         (lambda answer: 32 in tuple(answer),
          "The channels in between are summed over. Do they show from outside?"))),
    "5c": Question(
        close_to(_folded_norms),
        "Count for one block: which of its norms follow a convolution directly?",
        ((close_to(lambda: 49), "Those would be all. What stands before norm1?"),
         (close_to(lambda: 48), "Those would be all within blocks. What stands before norm1?"),
         (close_to(lambda: _folded_norms() + 1), "The last norm: does it follow a convolution?"),
         (close_to(lambda: 16), "More than one in each block."))),
    "5d": Question(
        one_of("norm2", "stages.0.blocks.0.norm2"),
        "Which layer is the first that depends on a folded weight?",
        ((one_of("conv1", "stages.0.blocks.0.conv1"),
          "The fault is there, but a folded convolution gives something else than before and isn't "
          "compared. Where does the fault show first?"),
         (one_of("norm1", "stages.0.blocks.0.norm1"), "Is norm1 folded?"),
         (one_of("norm3", "stages.0.blocks.0.norm3"), "An earlier norm is folded, too."))),
    "5e": Question(
        close_to(lambda: ops.batch_norm(_CONV_BIAS[None], *_BN.values())[0], 1e-3),
        "Write y = scale·(Σ w·pixel + b) + shift, and multiply out. What doesn't depend on pixels?",
        ((shape_differs(lambda: _CONV_BIAS), "Three numbers are wanted, one a channel."),
         (close_to(lambda: scale_and_shift(_BN, "bn")[1], 1e-3),
          "That is the shift alone: the convolution's own bias is missing."),
         (close_to(lambda: scale_and_shift(_BN, "bn")[1] + _CONV_BIAS, 1e-3),
          "The convolution's bias goes through the norm, too: it is not just added."),
         (close_to(_forgotten_root, 1e-3), "Is running_var the spread, or its square?"))),
    "5f": Question(
        close_to(lambda: ops.batch_norm(np.array([[0.7]]), *_FLAT.values())[0, 0], 1e-3),
        "Subtract the mean first. What is left to be divided?",
        ((close_to(lambda: 0), "Something is added after the division."),)),
    "5g": Question(
        lambda answer: isinstance(answer, str) and one_of("b", "nan")(answer),
        "What is divided by what? Answer with a letter.",
        ((one_of("a", "inf", "infinity"),
          "That is a number divided by 0. Here the number is special, too."),
         (one_of("c", "0.25"), "The division comes first. Try it in NumPy."),
         (one_of("nan"), "Write it as text: a letter, in quotes."))),
    "5h": Question(
        close_to(lambda: scale_and_shift(_FLAT, "bn")[0][0], 1e-3),
        "The scale is the weight over the root of var + ε.",
        ((close_to(lambda: 1.5 / 1e-5, 1e-3), "The root is missing."),
         (close_to(lambda: 1 / np.sqrt(1e-5), 1e-3), "The weight is missing."))),
}
