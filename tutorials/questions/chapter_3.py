"""The questions of chapter 3, convolution by hand."""
from __future__ import annotations

from typing import Any

import numpy as np
from course import Question, close_to, shape_differs

from npresnet import ops


def _small() -> np.ndarray:
    """The picture of 3e, (5, 6)."""
    return (np.arange(30) ** 2 % 11).reshape(5, 6).astype(np.float32)


def _blurred(mode: Any) -> np.ndarray:
    """It, blurred with a frame of 2 pixels of a mode of `np.pad`: (5, 6)."""
    framed = np.pad(_small(), 2, mode=mode)
    return ops.conv2d(framed[None, None], np.full((1, 1, 5, 5), 1 / 25, np.float32))[0, 0]


def _answer_to(kernel: Any, across: int) -> float:
    """What a 3×3 kernel answers to a picture row + across · column, of its largest number."""
    r, s = np.indices((3, 3))
    kernel = np.asarray(kernel, np.float64)
    return float((kernel * (r + across * s)).sum() / max(1e-30, np.abs(kernel).max()))


def _is_flat(kernel: Any) -> bool:
    """Whether a 3×3 kernel answers 0 where all pixels are the same."""
    kernel = np.asarray(kernel, np.float64)
    return bool(abs(kernel.sum()) <= 1e-5 * np.abs(kernel).max())


def _is_diagonal(kernel: Any) -> bool:
    return (np.shape(kernel) == (3, 3) and _is_flat(kernel) and _answer_to(kernel, 1) > 1e-3
            and abs(_answer_to(kernel, -1)) <= 1e-5)


QUESTIONS: dict[str, Question] = {
    "3a": Question(
        close_to(lambda: ops.conv2d(np.array([7.0, 7, 3]).reshape(1, 1, 1, 3),
                                    np.array([-1.0, 0, 1]).reshape(1, 1, 1, 3)).item()),
        "Multiply the numbers one by one with −1, 0 and 1, then add the three products up.",
        ((close_to(lambda: 4.0), "Which of the outer numbers is taken away from which? Look at the "
                                 "signs."),
         (close_to(lambda: 0.0), "That is an answer where nothing changes. Here the row falls."))),
    "3b": Question(
        close_to(lambda: ops.conv2d(np.ones((1, 1, 4, 5)), np.ones((1, 1, 3, 3)),
                                    padding=1)[0, 0, 0, 0]),
        "Draw the nine places of the kernel, and mark those that lie on the picture.",
        ((close_to(lambda: 9.0), "That is the middle. In the corner some places lie in the frame, "
                                 "and the frame is made of zeros."),
         (close_to(lambda: 6.0), "That is a stop at one edge. A corner lies at two."))),
    "3c": Question(
        close_to(lambda: ops.output_size(8, 3, 2, 1)),
        "How long is the padded picture? Where does the first stop begin, and where the last?",
        ((close_to(lambda: 5.0), "The last of yours doesn't fit: an unfinished step is dropped."),
         (close_to(lambda: 3.0), "Is the first stop counted, and is there padding on both sides?"),
         (close_to(lambda: 8.0), "That would be stride 1."))),
    "3d": Question(
        _is_diagonal,
        "It should be positive where the picture gets brighter towards the bottom right: smaller "
        "numbers in the top left, larger ones in the bottom right.",
        ((shape_differs(lambda: np.zeros((3, 3))), "A table of 3×3 numbers is wanted."),
         (lambda kernel: not _is_flat(kernel), "On a flat picture it isn't 0: what do its nine "
                                               "numbers add up to?"),
         (lambda kernel: abs(_answer_to(kernel, -1)) > 1e-5,
          "It answers to pictures that get brighter towards the bottom left. Is it the same as its "
          "own transpose?"))),
    "3e": Question(
        close_to(lambda: _blurred("reflect"), 1e-4),
        "Print your frame. The outermost picture pixels stand in it once, their neighbours twice.",
        ((lambda answer: np.ndim(answer) == 4,
          "Two axes are wanted: take the picture out of its batch, [0, 0]."),
         (close_to(lambda: 25 * _blurred("reflect"), 1e-4),
          "Each of the kernel's numbers is 1/25."),
         (shape_differs(_small), "The result should be as large as the input: is the frame 2 "
                                 "pixels wide, and does the convolution add none?"),
         (close_to(lambda: _blurred("constant"), 1e-4), "Its border gets darker: the frame is made "
                                                        "of zeros."),
         (close_to(lambda: _blurred("symmetric"), 1e-4),
          "The outermost pixels come twice. The mirror stands in the middle of them."),
         (close_to(lambda: _blurred("edge"), 1e-4), "Your frame repeats the outermost pixels. A "
                                                    "mirror also shows what lies behind them."))),
}
