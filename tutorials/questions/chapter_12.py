"""The questions of chapter 12, the CPU to the roofline."""
from __future__ import annotations

from course import Question, close_to, one_of


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
          "These are FLOP for each number: a number has four bytes."))),
    "12b": Question(one_of("c"), "Other rungs do as many multiplications with the same weights, "
                                 "many times faster. What is new in rung 2?"),
    "12c": Question(one_of("c"), "Run it, and look what else happens for each multiply-add."),
    "12d": Question(
        close_to(lambda: flop_per_byte(2048, 512, 1, 49), 0.02),
        "As in section 1, with R·S = 1. Which of the three has the most bytes?",
        ((close_to(lambda: flop_per_byte(2048, 512, 1, 49) / 2, 0.02),
          "A multiply-add is two operations."),
         (close_to(lambda: flop_per_byte(2048, 512, 9, 49), 0.02), "The kernel is 1×1."))),
    "12e": Question(one_of("b"), "Count both: loads for each multiply-add, and steps until the "
                                 "same sum is needed again."),
}
