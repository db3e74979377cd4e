"""The questions of chapter 10, do the numbers agree."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from course import Question, close_to, one_of
from planted_bugs import ANSWERS, broken, port

import npresnet
from npresnet.network import Network

PHOTO = Path(__file__).parents[1] / "photo.jpg"
_TARGET = "stages.1.blocks.2.norm3"                               # where 10k's bug has to be found


@cache
def _demo() -> tuple[npresnet.ResNetV2, np.ndarray]:
    """The reference, and the photograph as it wants it."""
    model = npresnet.create_model("demo", backend="numpy")
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    return model, transform(npresnet.load_image(PHOTO))[None]


@cache
def _good() -> dict[str, np.ndarray]:
    model, x = _demo()
    return model.trace(x)


def _delta(layers: Mapping[str, np.ndarray]) -> float:
    """The largest Δ of any layer from the reference's."""
    return npresnet.compare(_good(), layers).max_delta


@cache
def _innocent() -> float:
    """The largest Δ of changes that are no mistakes."""
    model, x = _demo()
    engines = [npresnet.create_model("demo", exact=exact).trace(x) for exact in (False, True)]
    moved = model.trace(np.nextafter(x, np.float32(np.inf)))
    return max(map(_delta, (port().trace(x), moved, *engines)))


@cache
def _planted() -> dict[int, float]:
    """Bug → its largest Δ."""
    _, x = _demo()
    return {number: _delta(broken(number).trace(x)) for number in range(1, 6)}


# --- the planted bugs -----------------------------------------------------------------------------


def _layer(answer: Any) -> str:
    return str(answer[0]).strip()


def _letter(answer: Any) -> str:
    return str(answer[1]).strip().lower()


def _is_pair(answer: Any) -> bool:
    return isinstance(answer, (tuple, list)) and len(answer) == 2


def _bug(number: int, hint: str, **hints: str) -> Question:
    """The question for `broken(number)`. hint: what to say if both, or the kind, are wrong. hints:
    letter → what to say of that letter instead."""
    path, letter = ANSWERS[number]

    def place(answer: Any) -> int:
        return list(_good()).index(_layer(answer))

    return Question(
        lambda a: _is_pair(a) and (_layer(a), _letter(a)) == (path, letter), hint,
        ((lambda a: not _is_pair(a), "Two things are wanted: the layer's path, and a letter."),
         (lambda a: _layer(a) not in _good(), "There is no layer of that name in the trace."),
         (lambda a: place(a) > list(_good()).index(path),
          "Something differs earlier already. Which is the first layer to diverge?"),
         (lambda a: _layer(a) != path, "That layer agrees, but for its rounding. Look further on."),
         (lambda a: len(_letter(a)) != 1, "The layer is right. Now a letter of the list."),
         (lambda a: _letter(a) not in "abcdefghij", "The layer is right. The list ends at j."),
         *((lambda a, kind=kind: _letter(a) == kind, text) for kind, text in hints.items())))


# --- the others -----------------------------------------------------------------------------------


def _pair(first: float, last: float) -> Callable[[Any], bool]:
    return lambda a: len(a) == 2 and a[0] == first and a[1] == last


def _measures(absolute: float, each: float, share: float) -> Callable[[Any], bool]:
    """A test: these three, each to within two per cent of itself."""
    return lambda a: len(a) == 3 and bool(
        np.allclose(np.asarray(a, float), (absolute, each, share), rtol=0.02, atol=0))


def _names(*wanted: str) -> Callable[[Any], bool]:
    """A test: the last parts of these layers' names, in any order."""
    return lambda a: (isinstance(a, (list, tuple, set))
                      and sorted(str(name).split(".")[-1] for name in a) == sorted(wanted))


def _passing(limit: float) -> set[int]:
    return {number for number, delta in _planted().items() if delta <= limit}


def _is_set(wanted: Callable[[], set[int]]) -> Callable[[Any], bool]:
    return lambda a: (isinstance(a, (list, tuple, set)) and all(n == int(n) for n in a)
                      and {int(n) for n in a} == wanted() and len(a) == len(wanted()))


def _plant(answer: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The demo's tensors, and what the student's function makes of them."""
    model, _ = _demo()
    return model.state_dict(), dict(answer(model.state_dict()))


def _writes_in_place(answer: Any) -> bool:
    """Whether it tries to change an array that is read-only."""
    try:
        _plant(answer)
    except ValueError as error:
        return "read-only" in str(error)
    return False


def _changed(answer: Any) -> int:
    """How many numbers it changes. Raises if names or shapes differ."""
    before, after = _plant(answer)
    if before.keys() != after.keys():
        raise ValueError("other names")
    return sum(int((before[name] != np.asarray(after[name]).reshape(before[name].shape)).sum())
               for name in before)


def _planted_trace(answer: Any) -> dict[str, np.ndarray]:
    model, x = _demo()
    layers: dict[str, np.ndarray] = {}
    Network(model.variant, _plant(answer)[1], tap=layers.__setitem__).forward(x)
    return layers


def _named(answer: Any) -> str | None:
    """The first layer that compare names."""
    return npresnet.compare(_good(), _planted_trace(answer)).first_divergence


def _keeps_names(answer: Any) -> bool:
    five = [np.argsort(-layers["head.fc"].ravel())[:5]
            for layers in (_good(), _planted_trace(answer))]
    return np.array_equal(*five)


QUESTIONS: dict[str, Question] = {
    "10a": Question(
        _pair(2**24, 2**24 + 4), "How far apart are neighbours in float32 from 2²⁴ on? Go step by "
                                 "step, and round after each.",
        ((lambda a: len(a) != 2, "Two numbers are wanted."),
         (_pair(2**24 + 4, 2**24 + 4), "In real numbers, yes. Can a float32 hold 2²⁴ + 1?"),
         (_pair(2**24 + 4, 2**24), "The other way round: when do the ones meet the large number?"),
         (_pair(2**24, 2**24), "From the last, the ones are added to each other first."))),
    "10b": Question(
        _measures(0.01, 1.0, 0.01 / 100.01), "Take the two differences first, then divide: by "
        "nothing, each by its own number, and the larger by the largest.",
        ((lambda a: np.shape(a) != (3,), "Three numbers are wanted."),
         (_measures(0.01, 0.5, 0.01 / 100.01), "Per element: divide by a's number. That was b's."),
         (lambda a: _measures(0.01, a[1], 0.01 / 100.01)(a) and a[1] < 1,
          "Per element: look at the second output. Which share of it is the difference?"),
         (lambda a: _measures(0.01, 1.0, a[2])(a),
          "For the layer, both come from the whole of it: the largest difference, and the largest "
          "number."),
         (_measures(0.001, 1.0, 0.01 / 100.01), "Which of the two differences is the larger?"))),
    "10c": Question(
        _names("conv1", "conv2", "conv3"), "Go through the seven. Who reads its output as it is?",
        ((lambda a: isinstance(a, str), "A list of names is wanted."),
         (_names("conv1", "conv2"),
          "Those are folded. A third is used for one thing only, and at once."),
         (_names("conv1", "conv2", "conv3", "block"),
          "Does the next block read nothing of this one?"),
         (_names("conv1", "conv2", "norm3"), "Two are right. What does conv3 read?"),
         (_names("norm1", "norm2", "norm3"),
          "Folding removes a norm's work. But the next layer reads what comes after the ReLU. "
          "Whose output does nobody read?"),
         (_names("norm2", "norm3"),
          "The norm is multiplied into another layer's weights. Whose own output is gone then?"))),
    "10d": Question(
        close_to(lambda: 0.1, 0.01), "The worst case: the first falls as far as it may, and the "
                                     "second rises. When do they meet?",
        ((close_to(lambda: 0.2, 0.01), "Both may move, towards each other."),
         (close_to(lambda: 1 / 9, 0.01), "Each may move by d · 3.0, the second as well."),
         (close_to(lambda: 0.3, 0.01), "That is how far a logit may move. As a share of 3.0?"),
         (close_to(lambda: 0.6, 0.01), "That is the lead. Which share of 3.0, and for how many?"))),
    "10e": _bug(1, "The layer is right. Look where on the map it differs, and with which sign."),
    "10f": _bug(2, "The layer is right. Write your kind as code. Does it predict the wrong numbers "
                   "to the fifth digit?"),
    "10g": _bug(3, "The layer is right. Is anything clipped? And how large is the difference, "
                   "channel by channel?",
                c="The layer is right. This picture's own mean and variance would move the numbers "
                  "up and down. Which sign do you see?"),
    "10h": _bug(4, "The layer is right. Its weights are, too: a convolution has more than those.",
                h="The layer is right. How large is its kernel, and does that need a padding?"),
    "10i": _bug(5, "The layer is right. How large is the difference, and which sign has it?"),
    "10j": Question(
        _is_set(lambda: _passing(0.02)), "Print the largest Δ of each bug, over all layers. Which "
                                         "stay below 0.02?",
        ((lambda a: isinstance(a, (int, str)), "A list is wanted, even if it has one."),
         (_is_set(lambda: set(_planted()) - _passing(0.02)), "Those fail. Which pass?"),
         (_is_set(lambda: _passing(0.02) | {1}), "One of them passes at the logits, but not at "
                                                 "every layer."),
         (lambda a: set(a) < _passing(0.02), "Those pass. There are more."))),
    "10k": Question(
        lambda a: _changed(a) == 1 and _named(a) == _TARGET and _keeps_names(a),
        "Write a function that takes a state dict and returns one with the same names and shapes.",
        ((lambda a: not callable(a), "A function is wanted: it will be called."),
         (_writes_in_place, "It writes into an array of the model. Copy that array first."),
         (lambda a: 0 < len(_plant(a)[1]) < len(_plant(a)[0]),
          "Tensors are missing: return the others as well, as they are."),
         (lambda a: _changed(a) == 0, "Nothing is different."),
         (lambda a: _changed(a) > 1, "More than one number is different."),
         (lambda a: _named(a) is None,
          "The change doesn't show: too small, or cut off by the ReLU."),
         (lambda a: _named(a) != _TARGET,
          "Another layer is named first. Whose tensors does the wanted layer read?"),
         (lambda a: not _keeps_names(a), "It is found where it should be, but the five names "
                                         "change. Plant something smaller."))),
    "10l": Question(
        lambda a: np.ndim(a) == 0 and 1.2 * _innocent() < a < 0.8 * min(_planted().values()),
        "Take the largest Δ of the innocent changes and the smallest of the bugs.",
        ((lambda a: np.ndim(a) != 0, "One number is wanted."),
         (lambda a: a <= _innocent(), "An innocent change fails with that."),
         (lambda a: a >= min(_planted().values()), "A bug passes with that."),
         (lambda a: a > 0, "That is at the very edge. Another photograph may fall off it."))),
    "10m": Question(
        close_to(lambda: 1e-3, 0.03), "Write down the norm's formula, put in the four vectors, and "
                                      "solve it for what is left.",
        ((close_to(lambda: 1e-5, 0.03), "That is what it should be. What is it in the port?"),
         (close_to(lambda: np.sqrt(1e-3), 0.03), "A root has to be undone."),
         (one_of("b"), "A number is wanted, measured."))),
}
