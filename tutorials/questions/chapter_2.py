"""The questions of chapter 2, pixels to tensor."""
from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from course import Question, close_to, one_of, shape_differs, ten_versions

ROW = [0.0, 0.0, 60.0, 240.0, 240.0, 240.0]


def _bicubic_row() -> np.ndarray:
    """ROW with half of its pixels, as Pillow does it without rounding."""
    from PIL import Image

    row = Image.fromarray(np.array([ROW], np.float32))
    return np.asarray(row.resize((3, 1), Image.Resampling.BICUBIC))[0]


def _weighted_row(stretch: float, shift: float = 0.0, share: bool = True) -> np.ndarray:
    """The same with mistakes. share: whether the weights are divided by their sum."""
    centres = 2 * np.arange(3)[:, None] + 1 + shift
    x = np.abs(np.arange(6) + 0.5 - centres) / stretch            # (3, 6) distances
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights @ ROW / (weights.sum(1) if share else stretch)


@cache
def _wrong_mean() -> tuple[int, int]:
    """Of ten versions of the photograph: how many answers change with ImageNet's mean and standard
    deviation, and how many get surer."""
    import npresnet
    from npresnet.data import IMAGENET_MEAN, IMAGENET_STD

    model = npresnet.create_model("demo", backend="numpy")
    config = npresnet.data.resolve_model_data_config(model)
    pictures = ten_versions(npresnet.load_image(Path(__file__).parents[1] / "photo.jpg")).values()
    right, wrong = (
        npresnet.softmax(model(np.stack([transform(picture) for picture in pictures])))
        for transform in (npresnet.data.create_transform(**config),
                          npresnet.data.create_transform(**config | {"mean": IMAGENET_MEAN,
                                                                     "std": IMAGENET_STD})))
    return (int((right.argmax(1) != wrong.argmax(1)).sum()),
            int((wrong.max(1) > right.max(1)).sum()))


def _is(*wanted: int) -> Any:
    """A test: these whole numbers, in this order."""
    return lambda answer: len(answer) == len(wanted) and all(a == b for a, b in zip(answer, wanted))


QUESTIONS = {
    "2a": Question(
        _is(4000, 3000, 3), "NumPy's order is height, width, channels.",
        ((lambda a: len(a) == 2, "A colour picture has a third axis: its channels."),
         (_is(3000, 4000, 3), "That is how it is stored. What does a quarter turn do to it?"))),
    "2b": Question(
        lambda answer: np.ndim(answer) == 0 and answer == 44,
        "First the short edge, rounded down, then the long edge, cut off, then half of the rest.",
        ((lambda a: a == 45, "Python rounds a half to the even neighbour."),
         (lambda a: a == 44.5, "The cut lies between pixels: which whole number does round give?"),
         (lambda a: a == 89, "That is left over in all. How much of it lies on the left?"),
         (lambda a: a == 138, "Cut from the resized picture, not from the file."))),
    "2c": Question(
        one_of("b"), "Where are the new centres? Work out which old pixels get which weight there.",
        ((one_of("a"), "That is what antialiasing gives, nearly. Without it, four pixels count."),
         (lambda a: str(a).strip().lower() not in ("a", "b", "c"), "One letter of the three."))),
    "2d": Question(
        close_to(_bicubic_row, 2e-3), "Start with the centres, (i + ½) · scale.",
        ((shape_differs(_bicubic_row), "Three numbers are wanted."),
         (close_to(lambda: _weighted_row(1), 2e-3), "The curve isn't stretched by the scale."),
         (close_to(lambda: _weighted_row(2, share=False), 2e-3),
          "At the border some pixels are missing: the weights don't sum to 1 there."),
         (close_to(lambda: _weighted_row(2, shift=0.5), 2e-3), "A pixel's centre is at i + ½."),
         (close_to(lambda: 2 * _weighted_row(2, share=False), 2e-3),
          "Divide by the sum of the weights: it isn't 1."),
         (close_to(lambda: _bicubic_row().clip(0, 255), 3e-3), "Don't round or clip."))),
    "2e": Question(
        lambda answer: tuple(answer) == _wrong_mean(),
        "Compare the first classes, and the largest probabilities, picture by picture.",
        ((lambda a: len(a) != 2, "Two numbers are wanted."),
         (lambda a: tuple(a) == _wrong_mean()[::-1],
          "The other way round: first those that change."),
         (lambda a: a[1] == 0 < _wrong_mean()[1],
          "Some do get surer: look at the largest probability of each."))),
    "2f": Question(
        lambda answer: np.asarray(answer).dtype == np.uint8
        and np.array_equal(answer, np.arange(256)),
        "Undo the steps in the reverse order: the standard deviation, the mean, the 255.",
        ((shape_differs(lambda: np.zeros(256)), "256 numbers are wanted."),
         (lambda a: np.asarray(a).dtype == np.uint8 and np.abs(a - np.arange(256.0)).max() == 1,
          "Nearly: astype cuts the fraction off."),
         (lambda a: np.abs(a - np.arange(256.0)).max() < 1e-3,
          "The values are there, the dtype isn't."))),
}

