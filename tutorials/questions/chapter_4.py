"""The questions of chapter 4, channels and im2col."""
from __future__ import annotations

from typing import Any

import numpy as np
from course import Question, close_to, shape_differs

from npresnet import ops


def _piled_up() -> np.ndarray:
    """The answer to 4d: each pixel as often as it stands in the columns, (4, 4)."""
    places = ops.im2col(np.arange(16.0).reshape(1, 1, 4, 4), 3)[0].astype(int)    # (9, 4)
    pile = np.zeros(16)
    np.add.at(pile, places, places + 1.0)
    return pile.reshape(4, 4)


def _bill() -> list[int]:
    """The answer to 4e: MACs, bytes, and bytes of the columns."""
    x, weight = np.zeros((1, 128, 28, 28), np.float32), np.zeros((128, 128, 3, 3), np.float32)
    columns = ops.im2col(x, 3, padding=1)[0]                                      # (C·R·S, P·Q)
    return [len(weight) * columns.size, 2 * x.nbytes + weight.nbytes, columns.nbytes]


def _off_by(place: int, *factors: float) -> Any:
    """A slip in 4e: one of its numbers is wrong by one of these factors."""
    return lambda bill: any(abs(bill[place] / _bill()[place] - factor) < 1e-6 for factor in factors)


QUESTIONS: dict[str, Question] = {
    "4a": Question(
        close_to(lambda: ops.conv2d(np.zeros((2, 3, 7, 6)), np.zeros((4, 3, 3, 3)), stride=2,
                                    padding=1).shape),
        "The pictures stay, each kernel gives a map, and chapter 3 has the formula for the stops.",
        ((lambda shape: len(shape) != 4, "Four numbers are wanted: (N, K, P, Q)."),
         (lambda shape: shape[1] == 12, "The slices of a kernel aren't kept apart: their answers "
                                        "are added up."),
         (lambda shape: shape[1] == 3, "The second number counts maps. What gives one map?"),
         (close_to(lambda: (2, 4, 3, 4)), "Height comes before width."),
         (lambda shape: tuple(shape[2:]) == (7, 6), "That would be stride 1."))),
    "4b": Question(
        close_to(lambda: ops.conv2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3)),
                                    padding=2)[0, 0, 1, 1]),
        "Draw the picture, and the square of 3×3 at each of its stops. Which squares hold the "
        "pixel?",
        ((close_to(lambda: 9.0), "Nine is how many pixels a stop sees. How many stops see this "
                                 "pixel?"),
         (close_to(lambda: 1.0), "That is so for a corner of the picture."),
         (close_to(lambda: 2.0), "That is so on the rim of the picture. Is this pixel there?"))),
    "4c": Question(
        close_to(lambda: ops.conv2d(np.full((1, 3, 1, 1), -1.0), np.ones((1, 3, 1, 1))).item()),
        "Each number of the kernel is multiplied by the same pixel. Which number is black?",
        ((close_to(lambda: 0.0), "In the file black is 0, but the network sees it normalised."),
         (close_to(lambda: 3.0), "That is the answer to white."))),
    "4d": Question(
        close_to(_piled_up),
        "Print how often you add to each pixel: it should be once in the corners, and the columns "
        "stand in the order of the stops, (0, 0), (0, 1), (1, 0), (1, 1).",
        ((shape_differs(_piled_up), "A picture of 4×4 is wanted."),
         (close_to(lambda: np.arange(1.0, 17).reshape(4, 4)),
          "That is the picture itself. Where stops overlap, numbers are added (+=), not "
          "overwritten (=)."))),
    "4e": Question(
        close_to(_bill, 1e-12),
        "Count numbers first. MACs: numbers out, times what each of them sums. Input and output "
        "have a number for each channel and pixel, the weights K·C·R·S, the columns "
        "(C·R·S)·(P·Q).",
        ((lambda bill: np.shape(bill) != (3,), "Three numbers are wanted: [MACs, bytes, bytes of "
                                               "the columns]."),
         (_off_by(0, 2), "The first counts a multiplication with its addition as one, not two."),
         (_off_by(0, 1 / 128), "For the MACs: each number out sums over all input channels."),
         (_off_by(1, 1 / 4), "For the bytes: how many bytes has a float32?"),
         (lambda bill: bill[1] == 8 * 128 * 784, "For the bytes: the weights count, too."),
         (lambda bill: bill[1] == 4 * (128 * 784 + 128 * 128 * 9),
          "For the bytes: input and output both count."),
         (_off_by(2, 1 / 4), "For the columns: how many bytes has a float32?"),
         (_off_by(2, 1 / 128), "A column holds what the kernel sees in all input channels."))),
}
