"""The questions of chapter 8, how it learned."""
from __future__ import annotations

from typing import Any

import numpy as np
from course import Question, close_to, one_of

import npresnet

_SMOOTHING = 0.3


def _problem() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A small head to train: weight (K, C), bias (K,), x (N, C), labels (N,)."""
    rng = np.random.default_rng(8)
    return (rng.standard_normal((4, 5)), rng.standard_normal(4), rng.standard_normal((7, 5)),
            np.array([3, 0, 1, 2, 1, 3, 1]))


def _targets(labels: np.ndarray, k: int, smoothing: float, spared: bool = False) -> np.ndarray:
    """Wanted shares, (N, K). spared: the right name gets nothing of what is spread: a slip."""
    right = np.eye(k)[labels]
    return (right * (1 - smoothing) + (1 - right) * smoothing / (k - 1) if spared
            else right * (1 - smoothing) + smoothing / k)


def _slopes(targets: np.ndarray, h: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean cross-entropy of `_problem`, by finite differences: (K, C) and (K,)."""
    weight, bias, x, _ = _problem()

    def loss() -> float:
        p = npresnet.softmax(x @ weight.T + bias)
        return float(-(targets * np.log(p)).sum(axis=1).mean())

    def of(array: np.ndarray) -> np.ndarray:
        found = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            kept, losses = array[at], []
            for nudge in (h, -h):
                array[at] = kept + nudge
                losses.append(loss())
            array[at] = kept
            found[at] = (losses[0] - losses[1]) / (2 * h)
        return found

    return of(weight), of(bias)


def _gives(factor: float = 1, **targets: Any) -> Any:
    """A test: a function that gives the right slopes, times `factor`. targets: of `_targets`."""
    def test(answer: Any) -> bool:
        *arrays, labels = _problem()
        wanted = _slopes(_targets(labels, 4, **{"smoothing": _SMOOTHING} | targets))
        given = answer(*arrays, labels, _SMOOTHING)
        return len(given) == 2 and all(close_to(lambda w=w: factor * w, 1e-5)(g)
                                       for g, w in zip(given, wanted))
    return test


def _weight_alone(answer: Any) -> bool:
    """Whether the first of the two arrays is right."""
    *arrays, labels = _problem()
    wanted = _slopes(_targets(labels, 4, _SMOOTHING))[0]
    return close_to(lambda: wanted, 1e-5)(answer(*arrays, labels, _SMOOTHING)[0])


def _from(right_share: float, other_share: float) -> Any:
    """A test: the weight's slopes are made of p − t, with these two shares in t."""
    def test(answer: Any) -> bool:
        weight, bias, x, labels = _problem()
        right = np.eye(4)[labels]
        t = right_share * right + other_share * (1 - right)       # need not sum to 1
        wanted = (npresnet.softmax(x @ weight.T + bias) - t).T @ x / len(x)
        return close_to(lambda: wanted, 1e-5)(answer(weight, bias, x, labels, _SMOOTHING)[0])
    return test


def _is_pair_of_arrays(answer: Any) -> bool:
    weight, bias, x, labels = _problem()
    given = answer(weight, bias, x, labels, _SMOOTHING)
    return (isinstance(given, (tuple, list)) and len(given) == 2
            and np.shape(given[0]) == weight.shape and np.shape(given[1]) == bias.shape)


def _least(k: int, smoothing: float = 0.1, **targets: Any) -> Any:
    """The shares −t·ln t of the least loss with k classes: (K,), the right name first."""
    t = _targets(np.array([0]), k, smoothing, **targets)[0]
    return -t * np.log(t)


def _walk(rate: float = 0.25, uphill: bool = False) -> float:
    """Where w stands on 5w² − 20w + 21 after three steps from 3."""
    w = 3.0
    for _ in range(3):
        w -= (-rate if uphill else rate) * (10 * w - 20)
    return w


def _first(value: float) -> Any:
    """A test: a pair with this number in front."""
    return lambda answer: len(answer) == 2 and abs(answer[0] - value) < 1e-6


def _second(value: float) -> Any:
    """A test: a pair with this number in second place."""
    return lambda answer: len(answer) == 2 and abs(answer[1] - value) < 1e-6


QUESTIONS: dict[str, Question] = {
    "8a": Question(
        close_to(lambda: np.log(10), 2e-3), "What is the share of one of ten? Then −ln of that.",
        ((close_to(lambda: 0.1), "That is the share p. The loss is −ln p."),
         (close_to(lambda: -np.log(10), 2e-3), "The sign: a loss is never negative."),
         (close_to(lambda: 1.0), "That is with the logarithm to base 10. ln has base e."),
         (close_to(lambda: 10.0), "That is 1/p. The logarithm is still to come."),
         (close_to(lambda: -np.log(0.9), 2e-3), "That is with the share of the nine wrong names."),
         (close_to(lambda: np.log2(10), 2e-3), "That is with the logarithm to base 2. ln has "
                                               "base e."))),
    "8b": Question(
        close_to(lambda: 0.5 - 0.1 * -8), "Put the three numbers into the rule, signs included.",
        ((close_to(lambda: 0.5 + 0.1 * -8), "That is uphill. Minus a negative slope is what?"),
         (close_to(lambda: 0.1 * 8), "That is how far it moves. Where does it stand then?"),
         (close_to(lambda: 1.5), "That is the bottom. Does one step lead there? Use the rule."),
         (close_to(lambda: 0.5 + 8), "That is the whole slope. How much of it is a step?"))),
    "8c": Question(
        one_of("b"), "What does the Sobel kernel answer to a flat picture? Which kernels do, too?",
        ((one_of("a"), "Are there other kernels that answer flat pictures in the same way?"),
         (one_of("c"), "Does the kernel of the start answer flat pictures rightly? If not, the "
                       "slope isn't 0."))),
    "8d": Question(
        one_of("c"), "Think of what the layers before the head were trained for.",
        ((one_of("a"), "By guessing, without any example. Do ten examples say nothing?"),
         (one_of("b"), "The embeddings aren't pixels: what were they made to tell apart?"))),
    "8e": Question(
        _gives(), "Start with p − t, (N, K). Each weight's slope is that times its feature, mean "
                  "over the pictures.",
        ((lambda a: not callable(a), "A function is wanted: it will be called on other numbers."),
         (lambda a: not _is_pair_of_arrays(a),
          "Two arrays are wanted, of the shapes of the weight and of the bias."),
         (_gives(-1), "The sign: it should point uphill. Gradient descent subtracts it."),
         (_gives(7), "That is the sum over the pictures. The loss is their mean."),
         (_gives(smoothing=0.0), "That is without smoothing. What is the wanted share now?"),
         (_gives(spared=True), "Every name gets smoothing/K, the right one as well."),
         (_from(1 - _SMOOTHING, _SMOOTHING / 4), "Do the wanted shares of a picture sum to 1?"),
         (_weight_alone, "The weight's slopes are right. In place of a feature, what is the bias "
                         "multiplied by?"),
         (_from(0.91, 0.01), "0.91 and 0.01 hold for ten classes and a smoothing of 0.1. "
                                      "The check uses others."))),
    "8f": Question(
        lambda a: _first(1 / 5)(a) and _second(_walk())(a),
        "Write the loss as a·(w − …)² + …, and use the table of section 4.",
        ((lambda a: not isinstance(a, (tuple, list, np.ndarray)) or len(a) != 2,
          "Two numbers are wanted: the rate, and where w stands."),
         (_first(1 / 10), "With that rate it is there in one step. It may be larger."),
         (_first(2 / 5), "How large is the slope of a·w²? It has a 2 in it."),
         (lambda a: not _first(1 / 5)(a), "The rate: which number of the loss is a?"),
         (_second(_walk() - 2), "That is the distance from the bottom. Where is the bottom?"),
         (_second(_walk(0.2)), "The rate is right. But the three steps are made with 0.25."),
         (_second(2 + 3.375), "Does each step end on the side of the bottom where it began?"),
         (_second(_walk(uphill=True)), "That is uphill: the slope is subtracted."),
         (lambda a: True, "The rate is right. For w, do three steps by hand: the slope is "
                          "10w − 20."))),
    "8g": Question(
        close_to(lambda: _least(1000).sum(), 2e-4),
        "Section 6 does it for ten classes. What are the wanted shares here, and how many?",
        ((lambda a: float(a) == 0, "At p = 1 for the right name, what does ln of the others cost?"),
         (close_to(lambda: _least(10).sum(), 1e-3), "That is with ten classes."),
         (lambda a: 0.0002 < abs(a - _least(1000).sum()) < 0.0006 or abs(a - 1.01) < 1e-6,
          "Close. Give three decimals or more."),
         (lambda a: abs(a - _least(1000)[:2].sum()) < 1e-5, "And how many other names are there?"),
         (lambda a: float(a) > 40, "Do the wanted shares sum to 1? There are a thousand of them."),
         (lambda a: 0.1052 < a < 0.1055, "That is −ln of the right name's share. Now there is a "
                                         "share t for each of 1,000 names."),
         (close_to(lambda: _least(1000)[0], 1e-3), "That is the right name's part. There are 999 "
                                                   "others."),
         (close_to(lambda: _least(1000, spared=True).sum(), 1e-4),
          "Nearly: smoothing/K goes to every name, the right one as well."),
         (close_to(lambda: -_least(1000).sum(), 1e-4), "The sign: a loss is never negative."),
         (close_to(lambda: _least(1000).sum() / np.log(2), 1e-4), "ln is the logarithm to base "
                                                                  "e."))),
}
