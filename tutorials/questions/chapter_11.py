"""The questions of chapter 11, what it sees."""
from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from course import Question, close_to, load_embeddings, one_of

import npresnet
from npresnet.explain import class_activation_map, occlusion

PAGODA = Path(__file__).parents[1] / "pictures" / "pagoda.jpg"
MAP = np.array([6.5, -2.5, 3.5])                                  # of the three places of 11a

# Exercise 2: pictures in a bin, how many of them are right, their mean confidence.
COUNTS = np.array([10, 20, 30, 60, 80])
RIGHT = np.array([2, 9, 15, 54, 79])
SAID = np.array([0.15, 0.35, 0.55, 0.75, 0.95])


@cache
def pagoda() -> tuple[np.ndarray, np.ndarray]:
    """The pagoda's class activation map and what covering each of its places costs, (5, 5) each."""
    model = npresnet.create_model("demo", backend="numpy")
    transform = npresnet.data.create_transform(**npresnet.data.resolve_model_data_config(model))
    x = transform(npresnet.load_image(PAGODA))[None]
    return (class_activation_map(model, x)[0, 0],
            occlusion(model, x, window=32, stride=32, score="logit")[0, 0])


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def place(values: np.ndarray) -> tuple[int, int]:
    """Row and column of the largest."""
    row, column = np.unravel_index(values.argmax(), values.shape)
    return int(row), int(column)


def disagreement() -> tuple[int, int]:
    by_map, by_square = pagoda()
    return place(np.abs(standardised(by_map) - standardised(by_square)))


def upwards() -> tuple[int, int]:
    by_map, by_square = pagoda()
    return place(standardised(by_map) - standardised(by_square))


def gaps() -> np.ndarray:
    """Share right minus confidence, a bin."""
    return RIGHT / COUNTS - SAID


@cache
def threshold() -> tuple[float, float, float]:
    """The lowest confidence in hundredths from which 98 % of the held-out pictures are right; the
    share that reaches it; how many of those are right."""
    weights = npresnet.create_model("demo", backend="numpy").state_dict()
    given = load_embeddings()
    logits = given.held_out @ weights["head.fc.weight"][:, :, 0, 0].T + weights["head.fc.bias"]
    probabilities = npresnet.softmax(logits)
    sure, right = probabilities.max(1), probabilities.argmax(1) == given.held_out_labels
    least = next(t / 100 for t in range(100) if right[sure >= t / 100].mean() >= 0.98)
    return least, float((sure >= least).mean()), float(right[sure >= least].mean())


def accepted(position: int) -> Any:
    return lambda: threshold()[position]


QUESTIONS: dict[str, Question] = {
    "11a": Question(
        close_to(lambda: MAP, 1e-3),
        "At each place: the two channels' numbers there, each times its weight, plus the bias.",
        ((close_to(lambda: MAP - 0.5, 1e-3), "The bias is missing. Each place gets it whole."),
         (close_to(lambda: MAP - 0.5 + 0.5 / 3, 1e-3),
          "Each place gets the whole bias: the mean of three times 0.5 is 0.5."),
         (close_to(lambda: MAP / 3, 1e-3), "Don't divide yet. The mean comes afterwards."),
         (close_to(lambda: MAP + [0, 6, 0], 1e-3), "One of the weights is negative."),
         (close_to(lambda: [2.5, 3.5, 1.5], 1e-3), "Each channel counts with its weight."),
         (lambda a: np.ndim(a) == 0 and float(a) == float(a), "Three numbers are wanted, before "
          "the mean."))),
    "11b": Question(
        close_to(lambda: 25.0, 1e-9), "How wide is the field of one place, how wide the picture?",
        ((close_to(lambda: 1.0, 1e-9), "A place sees much more than the square it stands for."),
         (close_to(lambda: 9.0, 1e-9), "Is a place's field only three squares wide? The box above "
          "says how wide."),
         (close_to(lambda: 427 / 32, 0.05), "That is how many squares side by side are as "
          "wide as a field. Which of the map's places have this square in their field?"))),
    "11c": Question(
        one_of("b"), "Stretching gives the smallest value the first colour, and the largest?",
        ((one_of("a"), "Pale would mean: all values near one another on the scale. Whose scale is "
          "it here?"),
         (one_of("c"), "After stretching, does 0 still have a colour of its own?"))),
    "11d": Question(
        close_to(lambda: 0.0, 1e-9), "Write a cosine as a sum of products. Of which sign are they?",
        ((close_to(lambda: -1.0, 1e-9), "That is so for arrows in general. What does "
          "a ReLU leave of them?"),
         (close_to(lambda: 1.0, 1e-9), "That is the largest."))),
    "11e": Question(
        one_of("c"), "Label smoothing (chapter 8) never rewarded an answer of 100 %. Which way "
        "does that push?",
        ((one_of("a"), "Many networks are like that. What did the targets in this one's "
          "training say?"),
         (one_of("b"), "That would be honest. But which shares did its training ask for "
          "(chapter 8)?"))),
    "11f": Question(
        close_to(disagreement, 1e-9),
        "Standardise both maps, subtract, and take the largest magnitude.",
        ((lambda a: tuple(a) == disagreement()[::-1], "The row comes first."),
         (lambda a: tuple(a) == place(pagoda()[0]), "There the map itself is largest. Are both "
          "standardised before you subtract?"),
         (lambda a: tuple(a) == upwards(), "There the map is larger by most. The other direction "
          "counts, too."),
         (lambda a: tuple(np.subtract(a, 1)) == disagreement(), "Count from 0."),
         (lambda a: np.ndim(a) == 0 and float(a) == float(a), "Two numbers: row and column. "
          "`np.unravel_index` helps."))),
    "11g": Question(
        close_to(lambda: COUNTS @ np.abs(gaps()) / COUNTS.sum(), 1e-3),
        "Of each bin: its share of all pictures, times how far right and confidence are apart.",
        ((close_to(lambda: np.abs(gaps()).mean(), 1e-3), "A bin counts by its pictures."),
         (close_to(lambda: COUNTS @ gaps() / COUNTS.sum(), 1e-3), "A gap downwards is a gap, too: "
          "they mustn't cancel."),
         (close_to(lambda: COUNTS @ np.abs(gaps()), 1e-3), "Divide by the number of pictures."),
         (close_to(lambda: 100 * (COUNTS @ np.abs(gaps())) / COUNTS.sum(), 1e-3),
          "As a share of 1, not in percent."))),
    "11h": Question(
        close_to(accepted(1), 2e-3),
        "Raise the threshold in hundredths until 98 % of those that reach it are right.",
        ((close_to(accepted(0), 1e-3), "That is the threshold. What share reaches it?"),
         (close_to(accepted(2), 1e-3), "That share of the accepted is right. How many are "
          "accepted, of all?"),
         (close_to(lambda: threshold()[1] * threshold()[2], 1e-3), "Wrong ones are accepted, too. "
          "Count all that reach the threshold."),
         (close_to(lambda: 1000 * threshold()[1], 2e-3), "As a share of 1, not a number of "
          "pictures."),
         (close_to(lambda: 100 * threshold()[1], 2e-3), "As a share of 1, not in percent."))),
}
