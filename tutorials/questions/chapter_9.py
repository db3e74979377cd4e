"""The questions of chapter 9, weights byte by byte."""
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from course import Question, close_to

import npresnet
from npresnet import demo
from npresnet.network import Network
from npresnet.tensor_files import WeightsFile
from npresnet.weights import read_weights

_HERE = Path(__file__).resolve().parents[1]

_STEM = "stem.conv.weight"


@cache
def _stem_bytes() -> tuple[int, int, int]:
    """Of the stem's tensor in the demo's file: where the data begins, its offset, and its end's."""
    with WeightsFile(demo.WEIGHTS) as file:
        return file.start, file.tensors[_STEM].begin, file.tensors[_STEM].end


def _flip_factor() -> float:
    """What flipping bit 12 of the weight in exercise 1 multiplies it by."""
    before = read_weights(demo.WEIGHTS)[_STEM][1, 0, 3, 3:4].astype(np.float16)            # (1,)
    after = (before.view(np.uint16) ^ np.uint16(1 << 12)).view(np.float16)                 # (1,)
    return float(after[0]) / float(before[0])


def _exponent_and(power: int) -> Callable[[Any], bool]:
    """A test: the exponent, and the factor of exercise 1 to this power."""
    factor = close_to(lambda: _flip_factor()**power)
    return lambda answer: str(answer[0]).strip().lower() == "exponent" and factor(answer[1])


def _exponent_times(*factors: float) -> Callable[[Any], bool]:
    """A test: the exponent, and one of these factors."""
    return lambda answer: (str(answer[0]).strip().lower() == "exponent"
                           and bool(np.isclose(answer[1], factors).any()))


@cache
def _bfloat16_delta(rounded: bool = True) -> float:
    """How far the demo's logits on the photograph move when its weights become bfloat16: rounded,
    or cut off."""
    model = npresnet.create_model("demo", backend="numpy")
    config = npresnet.data.resolve_model_data_config(model)
    photo = npresnet.load_image(_HERE / "photo.jpg")
    x = npresnet.data.create_transform(**config)(photo)[None]                     # (1, 3, H, W)
    params = model.state_dict()
    short = {name: _bfloat16(tensor, rounded) for name, tensor in params.items()}
    logits = [Network(model.variant, tensors).forward(x) for tensors in (params, short)]  # (1, 10)
    return npresnet.compare({"fc": logits[0]}, {"fc": logits[1]}).max_delta


def _bfloat16(tensor: np.ndarray, rounded: bool = True) -> np.ndarray:
    """float32 as bfloat16: the nearest, a tie to even, or cut off. Integers as they are."""
    if tensor.dtype != np.float32:
        return tensor
    bits = tensor.view(np.uint32)
    carry = 0x7FFF + (bits >> 16 & 1) if rounded else 0
    return ((bits + carry) & np.uint32(0xFFFF0000)).view(np.float32)


QUESTIONS: dict[str, Question] = {
    "9a": Question(
        close_to(lambda: sum(_stem_bytes()[:2]), 1e-9),
        "Three things lie before it: the length, the header, and the tensors in front of it.",
        ((close_to(lambda: _stem_bytes()[1], 1e-9),
          "That is counted from the start of the data. What comes before the data?"),
         (close_to(lambda: sum(_stem_bytes()[:2]) - 8, 1e-9),
          "The length itself takes bytes, too."),
         (close_to(lambda: _stem_bytes()[0] + _stem_bytes()[2], 1e-9),
          "That is where it ends. The begin stands first."))),
    "9b": Question(
        close_to(lambda: np.isnan(np.arange(2**16, dtype=np.uint16).view(np.float16)).sum(), 1e-9),
        "Look at the table's last line. How many fractions does it allow, and how many signs?",
        ((close_to(lambda: 2 * 2**10, 1e-9),
          "With a fraction of 0 it is an infinity, which is no NaN."),
         (close_to(lambda: 2**10 - 1, 1e-9), "The sign may be 0 or 1."),
         (close_to(lambda: 2**10, 1e-9), "Which fraction is no NaN? And the sign?"),
         (close_to(lambda: 1, 1e-9), "Many patterns mean NaN: any fraction but one does."))),
    "9c": Question(
        close_to(lambda: _bfloat16(np.array(257, np.float32)), 1e-9),
        "There are 8 binary digits. How far apart are the numbers that it can hold, from 2⁸ on?",
        ((close_to(lambda: 257, 1e-9), "It takes 9 binary digits: 100000001. There are 8."),
         (close_to(lambda: 258, 1e-9),
          "Both neighbours are as near. Which of them has a 0 as its last stored bit?"))),
    "9d": Question(
        close_to(lambda: 2**24, 1e-9),
        "From which power of 2 on are neighbours 2 apart, with 24 binary digits?",
        ((close_to(lambda: 2**23, 1e-9),
          "23 bits of the fraction are stored, and the 1 in front is a digit as well."),
         (close_to(lambda: 2**24 - 1, 1e-9), "One more step is possible."),
         (close_to(lambda: 2**25, 1e-9), "There neighbours are already 4 apart."),
         (close_to(lambda: np.finfo(np.float32).max, 1e-6),
          "That is the largest number. The sum stands still long before: 1 becomes too small."))),
    "9e": Question(
        _exponent_and(1),
        "Count from the right, from 0, through the fields. What is the bit worth? Is it 0 or 1?",
        ((lambda answer: not isinstance(answer, tuple | list) or len(answer) != 2,
          "Two things are wanted: the part, and the factor."),
         (_exponent_and(-1),
          "The other way: look whether the bit is 0 or 1 before the flip."),
         (lambda answer: str(answer[0]).strip().lower() != "exponent",
          "Count from the right, from 0: ten bits of fraction, five of exponent, a sign."),
         (_exponent_times(4, 1 / 4),
          "By so much E changes. What does the formula do with E?"),
         (_exponent_times(2, 1 / 2),
          "That is what the exponent's last bit does, number 10."))),
    "9f": Question(
        close_to(_bfloat16_delta, 0.02),
        "Round every float32 tensor, to nearest even, and give `compare` the two `head.fc`.",
        ((lambda answer: float(answer) == 0,
          "Nothing moved: were the rounded tensors given to the network?"),
         (close_to(lambda: _bfloat16_delta(rounded=False), 1e-3),
          "That is with the lower half cut off. To nearest even is wanted."),
         (close_to(lambda: 100 * _bfloat16_delta(), 1e-3),
          "As a share, not in per cent."))),
}
