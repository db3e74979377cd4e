"""The questions of chapter 12, the CPU to the roofline."""
from __future__ import annotations

from course import Question, close_to, one_of

MACS = 128 * 128 * 9 * 28 * 28                         # of the chapter's layer


def flop_per_byte(c: int, k: int, taps: int, pixels: int) -> float:
    """Of a convolution that reads its picture and weights once and writes its output once."""
    return 2 * k * c * taps * pixels / (4 * (c * pixels + k * c * taps + k * pixels))


QUESTIONS: dict[str, Question] = {
    "12a": Question(
        close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28), 0.02),
        "FLOP are two for each multiply-add. Bytes: the picture, the weights and the output, four "
        "for each number.",
        ((close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(128, 128, 9, 28 * 28) * 4, 0.02),
          "These are FLOP for each number: a number has four bytes."),
         (close_to(lambda: 2 * MACS / (4 * (128 * (30 * 30 + 28 * 28) + 128 * 128 * 9)), 2e-3),
          "Count the picture without its border: 28×28."),
         (close_to(lambda: 2 * MACS / (4 * 2 * 128 * 28 * 28), 0.02),
          "The weights are read as well."))),
    "12b": Question(one_of("c"), "Which of the three would still be there if the layer had 10 "
                                 "weights only? And which, if each product went to a sum of its "
                                 "own?"),
    "12c": Question(one_of("c"), "Count all that happens for a vector, not the arithmetic alone."),
    "12d": Question(
        close_to(lambda: flop_per_byte(2048, 512, 1, 49), 0.02),
        "As in section 1, with R·S = 1. Which of the three has the most bytes?",
        ((close_to(lambda: flop_per_byte(2048, 512, 1, 49) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(2048, 512, 9, 49), 0.02), "The kernel is 1×1."))),
    "12e": Question(one_of("b"), "Count both: loads for each multiply-add, and steps until the "
                                 "same sum is needed again."),
}
