"""The questions of chapter 13, Winograd, fusion, memory."""
from __future__ import annotations

from typing import Any

import numpy as np
from course import Question, close_to

from npresnet import ops

# The block of 13b and 13c: floats of its wide and its narrow maps.
_WIDE, _NARROW = 64 * 40 * 40, 16 * 40 * 40

# The four activations of 13e: size, first and last step.
_FOUR = ((100, 0, 2), (300, 1, 1), (150, 2, 3), (250, 3, 3))


def _row(k: int, infinity: int) -> list[int]:
    """What 13d asks for, for output number k, and with this in the last place."""
    return [p ** k for p in (0, 1, -1, 2)] + [infinity]


def _overlap(offsets: Any) -> bool:
    """Whether two of the four that are alive at once have a place in common."""
    bases = np.asarray(offsets, np.float64)
    pairs = [(i, j) for j in range(4) for i in range(j)
             if _FOUR[i][1] <= _FOUR[j][2] and _FOUR[j][1] <= _FOUR[i][2]]
    return any(bases[i] + _FOUR[i][0] > bases[j] and bases[j] + _FOUR[j][0] > bases[i]
               for i, j in pairs)


def _top(offsets: Any) -> float:
    """How large an arena is with these offsets."""
    return float(max(base + size for base, (size, *_) in zip(np.asarray(offsets), _FOUR)))


def _is_packed(offsets: Any) -> bool:
    """Whether the four lie in the least that the most crowded step allows."""
    least = max(sum(size for size, first, last in _FOUR if first <= step <= last)
                for step in range(4))
    return (np.shape(offsets) == (4,) and min(offsets) >= 0 and not _overlap(offsets)
            and _top(offsets) == least)


def _multiplications(tiles: float, places: int = 36) -> float:
    return tiles * places * 64 * 64


QUESTIONS: dict[str, Question] = {
    "13a": Question(
        close_to(lambda: 16.0),
        "How many filters of rows are left when F(2, 3) is used outside? What does each cost?",
        ((close_to(lambda: 36.0), "That is the direct way."),
         (close_to(lambda: 4.0), "Those are filters of whole rows. Each takes multiplications."),
         (close_to(lambda: 8.0), "They don't add up: within *each* filter it is used again."),
         (close_to(lambda: 24.0), "Use it within the filters as well, not only outside."))),
    "13b": Question(
        close_to(lambda: 2 * 2 * 4 * _WIDE),
        "How many numbers has the map, and how many bytes? How often is it read, and written?",
        ((close_to(lambda: 4 * _WIDE), "Is that the map's bytes, or all that is moved, in numbers? "
                                       "Both count: the bytes, and how often they are moved."),
         (close_to(lambda: 2 * 4 * _WIDE), "Does each pass read and write, and are there two?"),
         (close_to(lambda: 3 * 4 * _WIDE), "As passes of their own: the ReLU reads again what the "
                                           "norm has written."),
         (close_to(lambda: 2 * 2 * 4 * _WIDE / 1e6, 0.01), "In bytes, not in megabytes."))),
    "13c": Question(
        close_to(lambda: 3 * _WIDE),
        "Go through the steps. What must be there in each? X is needed until step 4.",
        ((close_to(lambda: 4 * _WIDE + 2 * _NARROW), "Not all six are alive at the same time."),
         (close_to(lambda: _WIDE), "More than one is alive at a time."),
         (close_to(lambda: 2 * _WIDE + _NARROW), "One step is more crowded. What does it read?"),
         (close_to(lambda: 2 * _WIDE), "What a step reads and what it writes are both there."),
         (close_to(lambda: 4 * 3 * _WIDE), "In floats, not in bytes."))),
    "13d": Question(
        close_to(lambda: ops.winograd_matrices(3).AT[2]),
        "What is output number 2 of the geometric row 1, p, p², …? Once for each point.",
        ((lambda row: np.shape(row) != (5,), "Five numbers are wanted, one for each point."),
         (close_to(lambda: _row(2, 0)), "Which output sees the row 0, 0, 0, 0, 1?"),
         (close_to(lambda: [1, *_row(2, 1)[1:]]), "What is 0²?"),
         (close_to(lambda: _row(1, 0)), "That is y₁. They are numbered from 0."),
         (close_to(lambda: _row(1, 1)), "That has the powers of y₁. They are numbered from 0."),
         (close_to(lambda: _row(3, 1)), "One power too many: they are numbered from 0."))),
    "13e": Question(
        _is_packed,
        "Which two steps are the most crowded? In those, something has to lie at an end.",
        ((lambda offsets: np.shape(offsets) != (4,), "Four offsets are wanted: of a, b, c, d."),
         (lambda offsets: min(offsets) < 0, "An offset can't be below 0."),
         (_overlap, "Two that are alive in the same step overlap. Draw the steps side by side."),
         (lambda offsets: _top(offsets) > 400, "Nothing overlaps, but it can be done with less. "
                                               "Which one should lie at an end of the arena?"))),
    "13f": Question(
        close_to(lambda: _multiplications(9), 1e-9),
        "How many tiles does it take, and how many products has each, for each pair of channels?",
        ((close_to(lambda: _multiplications(100 / 16), 1e-9),
          "There are no parts of tiles: one that hangs over is computed whole."),
         (close_to(lambda: _multiplications(4), 1e-9), "Those tiles don't cover all outputs."),
         (close_to(lambda: _multiplications(100, 9), 1e-9), "That is the direct way."),
         (close_to(lambda: _multiplications(9, 6), 1e-9), "That is one row. A tile has two "
                                                          "dimensions."),
         (close_to(lambda: _multiplications(9, 16), 1e-9), "A tile of 4×4 outputs takes more "
                                                           "products than outputs."),
         (close_to(lambda: _multiplications(25, 16), 1e-9), "That is F(2×2)."),
         (close_to(lambda: 9 * 36, 1e-9), "That is for one pair of channels."))),
}
