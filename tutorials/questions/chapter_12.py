"""The questions of chapter 12, the CPU to the roofline."""
from __future__ import annotations

from course import Question, close_to, one_of


def flop_per_byte(c: int, k: int, taps: int, pixels: int, *, border: int | None = None,
                  weights: bool = True) -> float:
    """Of a convolution that reads its picture and weights once and writes its output once.

    border: the picture's pixels with its border, if that is counted by mistake. weights: whether
    they are counted.
    """
    numbers = c * (border or pixels) + weights * k * c * taps + k * pixels
    return 2 * k * c * taps * pixels / (4 * numbers)


QUESTIONS: dict[str, Question] = {
    "12a": Question(
        close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28), 0.02),
        "FLOP are two for each multiply-add. Bytes: the picture, the weights and the output, four "
        "for each number.",
        ((close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28) * 4, 0.02),
          "These are FLOP for each number: a number has four bytes."),
         (close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28, border=30 * 30), 0.02),
          "Count the picture without its border."),
         (close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28, weights=False), 0.02),
          "The weights are read as well."))),
    "12b": Question(one_of("c"), "Which of the three would still be there if the layer had 10 "
                                 "weights only? And which, if each product went to a sum of "
                                 "its own?"),
    "12c": Question(one_of("c"), "Count everything that happens for a vector, not the arithmetic "
                                 "alone."),
    "12d": Question(
        close_to(lambda: flop_per_byte(2048, 512, 1, 49), 0.02),
        "As in section 1, with R·S = 1. Which of the three has the most bytes?",
        ((close_to(lambda: flop_per_byte(2048, 512, 1, 49) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(2048, 512, 9, 49), 0.02), "The kernel is 1×1."),
         (close_to(lambda: flop_per_byte(2048, 512, 1, 49) * 4, 0.02),
          "These are FLOP for each number: a number has four bytes."),
         (close_to(lambda: flop_per_byte(2048, 512, 1, 49, border=81), 0.02),
          "A 1×1 kernel needs no border."),
         (close_to(lambda: flop_per_byte(2048, 512, 1, 49, weights=False), 0.02),
          "The weights are read as well."))),
    "12e": Question(one_of("b"), "Count the cycles of both: the loads of one step, and the wait "
                                 "until the same sum can be used again. Which is longer?"),
}
